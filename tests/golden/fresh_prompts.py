"""Compares the engine with transformers on prompts of which no answer is committed.

    tests/golden/references.sh fresh_prompts.py

transformers makes greedy answers, `baton model score` is teacher-forced with them: in float32 (which is the same on all kernels) every
log-probability that transformers lists first must be near; with the fast kernels and a KV cache as served the top token must nearly
always be the same. $BATON_TEST_BIN names the folder of the programs, $BATON_TEST_SMOLLM2 the GGUF file. The last line is
"N passed, N failed, N skipped".
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "flow"))

from cluster import BIN, SMOLLM2, TINY, Suite
from reference_model import ReferenceModel

TOLERANCE = 2e-3
SAME_TOP = 0.97  # of all positions there are; those asked here are a sample of them
LISTED = 8
SEARCHED = 64  # of the engine's likeliest: a listed token that is not among them is far off
ANSWER_TOKENS = 16
TARGET_LENGTHS = (100, 150, 200, 300, 400, 700, 1000, 1500)

QUESTIONS = [
    "Hello!", "Who are you?", "What is the capital of Italy?", "What is the opposite of hot?", "Which day comes after Sunday?",
    "Which month comes before June?", "Spell the word lantern.", "Repeat these words: apple river stone candle",
    "Sort these words: pear fig apple melon", "Tell me a story about a clever mouse called Ada.", "Count from 3 to 11.",
    "What is 12 minus 5?", "Name two animals that can fly.", "How many legs does a spider have?", "What colour is grass?",
    "Write a haiku about rain.", "What does a baker do?", "Give me a synonym of big.", "Why do we sleep?",
    "Translate 'thank you' to French.", "Write a C function that returns the larger of two numbers.",
    "Fill in: roses are red, violets are", "Is 17 a prime number?", "What is wrong here: me goes to school",
    "Explain what a lock is, in one sentence.", "Wer bist du?", "¿Qué hora es?", "日本の首都はどこですか。", "🦊🌙 What do these show?",
    "x = [1, 2, 3]\nprint(x[1])\nWhat is printed?", "    ", "<b>bold</b> &amp; \"quoted\" \\ text\tand a tab",
    "Answer in JSON with name and age: Ada is 36 years old.", "AAAAAAAA BBBB 0123456789 0x1f",
]
CHATS = [
    [("system", "You answer with one word."), ("user", "Is snow cold?")],
    [("system", ""), ("user", "Say something.")],
    [("user", "My name is Ben."), ("assistant", "Hello Ben."), ("user", "What is my name?")],
    [("system", "You are a pirate."), ("user", "Good morning."), ("assistant", "Arr!"), ("user", "Where is the ship?")],
    [("user", "One."), ("assistant", "Two."), ("user", "Three."), ("assistant", "Four."), ("user", "And now?")],
]


def long_chat(model, n_tokens):
    """The longest list of boxes that is rendered to at most n_tokens."""
    def chat(n):
        text = " ".join(f"Box {i} holds {i * 7919 % 9973} nails." for i in range(1, n + 1))
        return [{"role": "user", "content": f"{text} How many nails does box {n // 2} hold?"}]
    n = 2
    while len(model.tokenize(model.render(chat(n + 1)))) <= n_tokens:
        n += 1
    return chat(n)


def chats(model):
    yield from ([{"role": "user", "content": text}] for text in QUESTIONS)
    yield from ([{"role": role, "content": text} for role, text in chat] for chat in CHATS)
    yield from (long_chat(model, n) for n in TARGET_LENGTHS)


def make_answers(name, model):
    with open(HERE / name / "completions.jsonl") as f:
        committed = [json.loads(line)["prompt_ids"] for line in f]
    answers = []
    for messages in chats(model):
        prompt = model.tokenize(model.render(messages))
        assert prompt not in committed, messages
        greedy = model.greedy(prompt, ANSWER_TOKENS)
        answers.append({"prompt_ids": prompt, "greedy_ids": greedy, "top_logprobs": model.top(prompt, greedy, LISTED)})
    return answers


def score(path, answers, *options):
    """[answer][position]: the engine's likeliest as {id: log-probability}, best first."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({k: a[k] for k in ("prompt_ids", "greedy_ids")}) + "\n" for a in answers)
        file.flush()
        command = [os.path.join(BIN, "baton"), "model", "score", file.name, "--model", path, *options]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = [[dict(pairs) for pairs in json.loads(line)["top_logprobs"]] for line in out.splitlines()]
    assert [len(r) for r in rows] == [len(a["greedy_ids"]) for a in answers], "answers are missing"
    return rows


def check_float32(path, answers):
    worst, where, count = 0.0, "", 0
    rows = score(path, answers, "--f32", "--kv", "f32", "--top", str(SEARCHED))
    for line, (answer, got) in enumerate(zip(answers, rows), 1):
        for at, (pairs, likeliest) in enumerate(zip(answer["top_logprobs"], got)):
            for token, value in pairs:
                assert token in likeliest, f"prompt {line}, position {at}: token {token} is not among the {SEARCHED} likeliest"
                count += 1
                if abs(likeliest[token] - value) > worst:
                    worst = abs(likeliest[token] - value)
                    where = f"prompt {line}, position {at}, token {token}: {likeliest[token]:.6f}, transformers says {value}"
    print(f"        worst of {count} log-probabilities is off by {worst:.1e} (limit {TOLERANCE}): {where}")
    assert worst <= TOLERANCE, f"off by {worst:.1e}: {where}"


def check_fast(path, answers):
    rows = score(path, answers, "--top", "1")
    equal = [next(iter(best)) == pairs[0][0] for answer, got in zip(answers, rows) for best, pairs in zip(got, answer["top_logprobs"])]
    share = sum(equal) / len(equal)
    least = SAME_TOP - 2 * (SAME_TOP * (1 - SAME_TOP) / len(equal)) ** 0.5
    print(f"        the top token is the same in {sum(equal)} of {len(equal)} positions, {share:.1%} (at least {least:.1%}: {SAME_TOP:.0%} "
          "less two standard errors)")
    assert share >= least, f"the top token is the same in {share:.1%} only"


def main():
    suite = Suite()
    for name, path in (("baton-tiny", TINY), ("smollm2", SMOLLM2)):
        if not path:
            suite.skip(name, "BATON_TEST_SMOLLM2 does not name the GGUF file")
            continue
        answers = make_answers(name, ReferenceModel(path))
        lengths = [len(a["prompt_ids"]) for a in answers]
        print(f"{name}: {len(answers)} prompts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all", flush=True)
        suite.test(f"{name}: float32", check_float32, path, answers)
        suite.test(f"{name}: fast kernels", check_fast, path, answers)
    suite.finish()


if __name__ == "__main__":
    main()
