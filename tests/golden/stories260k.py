"""A model of llama2.c, converted to both formats, tells the story that its float32 reference tells: byte for byte, with the default settings.

Needs gguf and numpy, which build/venv has; $BATON_TEST_BIN names the folder of the programs.
"""
import http.client
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/flow"))
from cluster import SLOW, Cluster, Suite  # noqa: E402

DATA = os.path.join(ROOT, "tests/golden/stories260k")
BOS = 1


def post(c, path, **fields):
    connection = http.client.HTTPConnection("127.0.0.1", c.port, timeout=60 * SLOW)
    try:
        connection.request("POST", path, json.dumps({"model": c.model, **fields}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, body
    return body


def complete(c, prompt, max_tokens, **fields):
    return post(c, "/v1/completions", prompt=prompt, max_tokens=max_tokens, temperature=0, **fields)["choices"][0]


def tells_the_story(c, golden, tokens):
    """tokens: what each format has said so far, to which this one's are added."""
    answer = complete(c, [BOS], 200, logprobs=0)
    assert answer["text"] == golden, answer["text"]
    tokens.append(answer["logprobs"]["tokens"])
    assert tokens[-1] == tokens[0] and len(tokens[0]) == 200, tokens
    remote = c.ask("", prompt=[BOS], max_tokens=200, route="remote")
    assert remote.text == golden and remote.extra["route"] == "remote", (remote.text, remote.error)


def spaces(c, golden):
    """What begins a text has no space before it, what continues one keeps it."""
    assert golden.startswith("Once upon a time, there was")
    assert complete(c, "", 4)["text"] == "Once upon a time"
    assert complete(c, "Once upon", 2)["text"] == " a time"
    assert complete(c, "Once upon", 2, echo=True)["text"] == "Once upon a time"
    assert complete(c, [BOS], 2, echo=True)["text"] == "Once upon"
    stopped = complete(c, "Once upon", 10, stop=" time")
    assert stopped["text"] == " a", stopped


def there_and_back(c):
    for text in ("Once upon a time", " two  spaces", "caf\u00e9 \u65e5\u672c \U0001f600\n"):
        ids = post(c, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]
        assert post(c, "/detokenize", tokens=ids)["prompt"] == text, (text, ids)


def convert(folder, form):
    out = os.path.join(folder, "stories260K.gguf" if form == "gguf" else "stories260K")
    subprocess.run([sys.executable, os.path.join(ROOT, "models/convert_llama2c.py"), os.path.join(DATA, "stories260K.bin"),
                    os.path.join(DATA, "tok512.bin"), out, "--format", form], check=True)
    return out


def main():
    suite, tokens = Suite(), []
    with open(os.path.join(DATA, "golden_greedy_n200.txt"), encoding="utf-8", newline="") as f:
        golden = f.read()
    with tempfile.TemporaryDirectory() as folder:
        for form in ("gguf", "safetensors"):
            with Cluster(model=convert(folder, form)) as c:
                suite.test(f"{form}: llama2.c's story", tells_the_story, c, golden, tokens)
                suite.test(f"{form}: spaces where texts begin", spaces, c, golden)
                suite.test(f"{form}: there and back", there_and_back, c)
    suite.finish()


main()
