"""Makes the reference answers anew: with --check compares them with the committed ones, with --write DIR writes them there.

    tests/golden/references.sh make_references.py --check | --write DIR

What is asked (`messages`, `kind`, `expected`, `text`) is read from the committed files; the rest is the answer. --check
teacher-forces the committed greedy ids, because a near-tie may flip the top token on another processor. SmolLM2 needs
$BATON_TEST_SMOLLM2, the path of its GGUF file. The last line is "N passed, N failed, N skipped".
"""
import argparse
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "flow"))

import dequantize
from cluster import SMOLLM2, TINY, Suite
from reference_model import ReferenceModel

TOLERANCE = 1e-4  # committed values have five decimals
# name: path or None, most tokens of an answer, log-probabilities listed of each
MODELS = {"baton-tiny": (TINY, 160, 6), "smollm2": (SMOLLM2, 48, 8)}


def read_lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(model, asked, limit, listed):
    out = dict(asked)  # keeps the order of its members
    out["prompt_text"] = model.render(asked["messages"])
    out["prompt_ids"] = model.tokenize(out["prompt_text"])
    out["greedy_ids"] = model.greedy(out["prompt_ids"], limit)
    out["greedy_text"] = model.text(out["greedy_ids"])
    out["top_logprobs"] = model.top(out["prompt_ids"], out["greedy_ids"], listed)
    return out


def write(name, model, limit, listed, folder):
    write_lines(folder / name / "completions.jsonl",
                [answer(model, row, limit, listed) for row in read_lines(HERE / name / "completions.jsonl")])
    write_lines(folder / name / "tokenize.jsonl",
                [{"text": row["text"], "ids": model.tokenize(row["text"])} for row in read_lines(HERE / name / "tokenize.jsonl")])


def same(what, line, got, committed):
    assert got == committed, f"line {line}: {what} is {got!r}, committed is {committed!r}"


def check_prompts(model, rows):
    for line, row in enumerate(rows, 1):
        same("prompt_text", line, model.render(row["messages"]), row["prompt_text"])
        same("prompt_ids", line, model.tokenize(row["prompt_text"]), row["prompt_ids"])


def check_ids(model, rows):
    for line, row in enumerate(rows, 1):
        same(f"ids of {row['text']!r}", line, model.tokenize(row["text"]), row["ids"])


def check_answers(model, rows, limit):
    """Text and end of each answer."""
    for line, row in enumerate(rows, 1):
        ids = row["greedy_ids"]
        same("greedy_text", line, model.text(ids), row["greedy_text"])
        assert not set(ids[:-1]) & set(model.ends), f"line {line}: goes on after its end"
        assert ids[-1] in model.ends or len(ids) == limit, f"line {line}: {len(ids)} tokens without an end"


def check_log_probabilities(model, rows, listed):
    """The listed ids have these log-probabilities, none likelier is left out, and greedy_ids takes the first."""
    worst, count, positions = 0.0, 0, 0
    for line, row in enumerate(rows, 1):
        table = model.log_probabilities(row["prompt_ids"], row["greedy_ids"])
        same("number of positions", line, len(row["top_logprobs"]), len(table))
        for at, (got, pairs, greedy) in enumerate(zip(table, row["top_logprobs"], row["greedy_ids"])):
            same(f"greedy id at {at}", line, greedy, pairs[0][0])
            same(f"number listed at {at}", line, len({i for i, _ in pairs}), listed)
            ranked = got.topk(listed).values.tolist()
            for (token, committed), at_rank in zip(pairs, ranked):
                off = max(abs(got[token].item() - committed), abs(at_rank - committed))
                assert off <= TOLERANCE, (f"line {line}, position {at}: token {token} has {got[token].item():.6f}, its rank "
                                          f"{at_rank:.6f}, committed is {committed}")
                worst, count = max(worst, off), count + 1
        positions += len(table)
    print(f"        {positions} positions, worst of {count} log-probabilities {worst:.2e} (limit {TOLERANCE})")


def check_dequantize():
    with tempfile.TemporaryDirectory() as folder:
        dequantize.write(pathlib.Path(folder))
        for path in sorted(pathlib.Path(folder).iterdir()):
            assert path.read_bytes() == (dequantize.FOLDER / path.name).read_bytes(), f"{path.name} differs"


def check(suite, name, model, limit, listed):
    rows = read_lines(HERE / name / "completions.jsonl")
    suite.test(f"{name}: prompts and their ids", check_prompts, model, rows)
    suite.test(f"{name}: ids of texts", check_ids, model, read_lines(HERE / name / "tokenize.jsonl"))
    suite.test(f"{name}: answers", check_answers, model, rows, limit)
    suite.test(f"{name}: log-probabilities", check_log_probabilities, model, rows, listed)


def main():
    parser = argparse.ArgumentParser()
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--write", metavar="DIR", type=pathlib.Path)
    options = parser.parse_args()
    suite = Suite()
    for name, (path, limit, listed) in MODELS.items():
        if not path:
            suite.skip(name, "BATON_TEST_SMOLLM2 does not name the GGUF file")
        elif options.check:
            check(suite, name, ReferenceModel(path), limit, listed)
        else:
            suite.test(f"{name}: written", write, name, ReferenceModel(path), limit, listed, options.write)
    if options.check:
        suite.test("dequantised blocks", check_dequantize)
    suite.finish()


if __name__ == "__main__":
    main()
