"""Renders chat templates with jinja2, set up as transformers' apply_chat_template
sets it up, and with Baton, and compares byte for byte.

    template_render.py --renderer build/release/bin/tests/render_main [--cases N] [--seed S] [FOLDER...]
    template_render.py --write-golden tests/unit/engine/data/templates

FOLDERs hold *.jinja files; without one the committed templates serve. With
--write-golden, jinja2's answers are written for the unit tests instead.
Needs jinja2 3.1. The last line is "N passed, N failed".
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import time

os.environ["TZ"] = "UTC"
time.tzset()

import jinja2
import jinja2.ext
import jinja2.sandbox

from template_language import CASES as LANGUAGE_CASES

NOW = 1767323045  # 2026-01-02 03:04:05 UTC
DATA = pathlib.Path(__file__).resolve().parent.parent / "unit/engine/data/templates"


class GenerationTag(jinja2.ext.Extension):
    """{% generation %}, which transformers adds to mark the model's own turns."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(form):
    return time.strftime(form, time.gmtime(NOW))


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


ENV = environment()
COMPILED = {}


def expected(case):
    """{"text": ...} or {"error": ...}, as jinja2 has it."""
    variables = {"messages": case.get("messages"), "tools": case.get("tools"), "documents": None}
    variables["add_generation_prompt"] = case.get("add_generation_prompt", False)
    for token in ("bos_token", "eos_token"):
        if case.get(token):
            variables[token] = case[token]
    variables.update(case.get("variables") or {})
    source = case["template"]
    try:
        if source not in COMPILED:
            COMPILED[source] = ENV.from_string(source)
        return {"text": COMPILED[source].render(**variables)}
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"error": str(error), "raised": raised}
    except Exception as error:  # TypeError and the like, from within the template
        return {"error": str(error), "raised": False}


ODD = [
    "", " ", "\n", "  leading and trailing \n\n", "tab\there", "quotes ' and \" and \\", "{{ braces }} {% x %} {# y #}",
    "<|im_start|>system\nno<|im_end|>", "</think>", "<think>\nso\n</think>\n\nanswer", "h\u00e9llo w\u00f6rld", "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 family", "\u0627\u0644\u0633\u0644\u0627\u0645", "a\u0301 combining", "\u00a0nbsp\u00a0", "\u2028line\u2029sep",
    "\u0000nul", "\u001f\u007f\u0080control", "\ufeffbom", "\U0010ffff last", "\r\ncrlf\r\n", "<tool_response>x</tool_response>",
    "/no_think please", "/think", "&lt;html&gt; <b>&amp;</b>", "%s %d {0}", "0", "None", "\u1e9e\u00df\u0130\u0131",
]
WORDS = "the model answers a question about cities rivers numbers and small red boats".split()


def text(rng):
    if rng.random() < 0.35:
        return rng.choice(ODD)
    parts = [rng.choice(WORDS) if rng.random() < 0.8 else rng.choice(ODD) for _ in range(rng.randint(1, 12))]
    return rng.choice([" ", "\n", ""]).join(parts)


def json_value(rng, depth=0):
    kind = rng.randint(0, 8 if depth < 3 else 5)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.randint(-(2**40), 2**40)
    if kind == 3:
        return rng.choice([0.0, 1.5, -2.25, 1e22, 1e-7, 123456789.125, 0.1, 1e16, 1e15, 3.0])
    if kind <= 5:
        return text(rng)
    if kind == 6:
        return [json_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    keys = [text(rng).replace("\0", "") for _ in range(rng.randint(0, 3))]
    return {key: json_value(rng, depth + 1) for key in keys}


def schema(rng, depth=0):
    kind = rng.choice(["string", "number", "integer", "boolean", "array", "object", ["string", "null"], "odd"])
    out = {"type": kind}
    if rng.random() < 0.7:
        out["description"] = text(rng)
    if rng.random() < 0.2:
        out["nullable"] = True
    if kind == "string" and rng.random() < 0.4:
        out["enum"] = [text(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.2:
        out["default"] = text(rng) if kind == "string" else json_value(rng)
    if kind == "array" and depth < 3 and rng.random() < 0.8:
        out["items"] = schema(rng, depth + 1)
    if kind == "object" and depth < 3:
        names = [rng.choice(WORDS) + str(i) for i in range(rng.randint(0, 3))]
        out["properties"] = {name: schema(rng, depth + 1) for name in names}
        if names and rng.random() < 0.6:
            out["required"] = rng.sample(names, rng.randint(0, len(names)))
    if depth < 2 and rng.random() < 0.1:
        del out["type"]
        out["oneOf"] = [schema(rng, depth + 1) for _ in range(rng.randint(1, 3))]
    return out


def tool(rng):
    parameters = schema(rng)
    parameters.update(type="object", properties={w: schema(rng, 1) for w in rng.sample(WORDS, rng.randint(0, 3))})
    function = {"name": rng.choice(WORDS), "description": text(rng), "parameters": parameters}
    if rng.random() < 0.2:
        function["return"] = {"type": "string"}
    return {"type": "function", "function": function}


def tool_call(rng):
    arguments = {w: json_value(rng) for w in rng.sample(WORDS, rng.randint(0, 3))}
    call = {"name": rng.choice(WORDS), "arguments": arguments if rng.random() < 0.8 else json.dumps(arguments)}
    if rng.random() < 0.8:
        call = {"type": "function", "function": call}
    if rng.random() < 0.9:
        call["id"] = "call%05d" % rng.randint(0, 99999)
    return call


def messages(rng):
    out = []
    if rng.random() < 0.5:
        out.append({"role": rng.choice(["system", "system", "developer"]), "content": text(rng)})
    for _ in range(rng.randint(0, 4)):
        out.append({"role": "user", "content": text(rng)})
        if rng.random() < 0.3:
            calls = [tool_call(rng) for _ in range(rng.randint(1, 2))]
            out.append({"role": "assistant", "content": rng.choice(["", None, text(rng)]), "tool_calls": calls})
            for call in calls:
                out.append({"role": "tool", "content": text(rng), "tool_call_id": call.get("id", "x")})
        if rng.random() < 0.85:
            out.append({"role": "assistant", "content": text(rng)})
            if rng.random() < 0.2:
                out[-1][rng.choice(["reasoning_content", "thinking"])] = rng.choice([None, "", text(rng)])
    if rng.random() < 0.7 or not out:
        out.append({"role": "user", "content": text(rng)})
    if rng.random() < 0.05:
        rng.choice(out)["role"] = rng.choice(["", "ipython", "assistant", "system"])
    if rng.random() < 0.05:
        rng.choice(out).pop("content")
    return out


def variables(rng):
    choices = {
        "enable_thinking": lambda: rng.choice([True, False]),
        "thinking": lambda: rng.choice([True, False]),
        "documents": lambda: [{"doc_id": rng.randint(1, 9), "text": text(rng)} for _ in range(rng.randint(0, 2))],
        "controls": lambda: rng.choice([{}, {"citations": True}, {"hallucinations": True, "length": "short"}]),
        "builtin_tools": lambda: rng.choice([[], ["browser"], ["python"], ["browser", "python"]]),
        "reasoning_effort": lambda: rng.choice(["low", "high"]),
        "model_identity": lambda: text(rng),
    }
    return {name: make() for name, make in choices.items() if rng.random() < 0.25}


def conversation(rng):
    return {
        "messages": messages(rng),
        "tools": [tool(rng) for _ in range(rng.randint(1, 3))] if rng.random() < 0.4 else None,
        "variables": variables(rng),
        "bos_token": rng.choice([None, "", "<s>"]),
        "eos_token": rng.choice(["", "</s>", "<|im_end|>"]),
        "add_generation_prompt": rng.random() < 0.6,
        "now": NOW,
    }


class Renderer:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")

    def __call__(self, case):
        request = {name: value for name, value in case.items() if value is not None}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def same(wanted, got):
    if "text" in wanted or "text" in got:
        return wanted.get("text") == got.get("text")
    return not wanted["raised"] or wanted["error"][:400] == got["error"][:400]


def load_templates(folders):
    paths = [path for folder in folders or [DATA] for path in sorted(pathlib.Path(folder).glob("*.jinja"))]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def language_cases():
    for source, given in LANGUAGE_CASES:
        used = {name: value for name, value in given.items() if name in source}
        yield {"template": source, "variables": used, "now": NOW}


def compare(args):
    renderer = Renderer(args.renderer)
    passed = failed = 0

    def check(label, case):
        nonlocal passed, failed
        wanted, got = expected(case), renderer(case)
        if same(wanted, got):
            passed += 1
            return
        failed += 1
        if failed <= 20:
            print("FAILED", label, "\n  wanted", ascii(wanted), "\n  got   ", ascii(got), file=sys.stderr)
            if args.verbose:
                print("  case  ", json.dumps(case), file=sys.stderr)

    for case in language_cases():
        check(repr(case["template"]), case)
    for name, source in load_templates(args.folders).items():
        rng = random.Random(f"{args.seed} {name}")
        for number in range(args.cases):
            check(f"{name} case {number}", dict(conversation(rng), template=source))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def golden_answer(case):
    answer = expected(case)
    if "error" in answer and not answer["raised"]:
        return {"fails": True}
    return {"raises": answer["error"]} if "error" in answer else answer


def write_lines(path, rows):
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def write_golden(folder):
    folder = pathlib.Path(folder)
    rng = random.Random(7)
    # The cases over all of Unicode would make megabytes.
    cases = [dict(case, **golden_answer(case)) for case in language_cases() if "all" not in case["variables"]]
    write_lines(folder / "language.json", cases)
    chats = []
    for name, source in load_templates([folder]).items():
        for _ in range(24):
            case = conversation(rng)
            chats.append(dict(case, file=name, **golden_answer(dict(case, template=source))))
    write_lines(folder / "chats.json", chats)
    print(f"{len(cases)} language cases and {len(chats)} chats written")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--renderer", default="build/release/bin/tests/render_main")
    parser.add_argument("--cases", type=int, default=300, help="random conversations for each template")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print the whole case that failed")
    parser.add_argument("--write-golden", metavar="FOLDER")
    args = parser.parse_args()
    return write_golden(args.write_golden) if args.write_golden else compare(args)


if __name__ == "__main__":
    sys.exit(main())
