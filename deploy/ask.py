"""Asks one question over the HTTP API, prints the streamed answer and how it went.

    python3 deploy/ask.py http://127.0.0.1:8000 "Why is the sky blue?"
"""
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import sys
import time
import urllib.error
import urllib.request

MAX_TOKENS = 256
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a cluster here is not behind the environment's proxy


def request(url, body=None):
    data = json.dumps(body).encode() if body is not None else None
    return OPENER.open(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=120)


def ask(url, question):
    model = json.load(request(url + "/v1/models"))["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": MAX_TOKENS, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "baton": {"route": "remote", "timing": True}}
    begin, first, tokens, extra, finish = time.monotonic(), None, 0, {}, None
    for line in request(url + "/v1/chat/completions", body):
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            sys.exit("error: " + event["error"]["message"])
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content") or ""
            if text and first is None:
                first = time.monotonic()
            print(text, end="", flush=True)
            extra = choice.get("baton", extra)
            finish = choice.get("finish_reason") or finish
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    end = time.monotonic()
    print(f"... (cut here, after {tokens} tokens)" if finish == "length" else "")
    first = first or end
    timing = extra.get("timing", {})
    seconds = timing.get("decode_ms", 1000 * (end - first)) / 1000  # a small answer may arrive in one piece
    rate = (tokens - 1) / seconds if tokens > 1 and seconds > 0 else 0
    print(f"[{model}: first token after {1000 * (first - begin):.0f} ms, {rate:.0f} tokens/s, "
          f"route {extra.get('route', '?')}, {timing.get('moved_bytes', 0) / 1e6:.2f} MB of KV moved "
          f"by {timing.get('transport') or 'nothing'}]")


def main():
    try:
        ask(sys.argv[1], sys.argv[2])
    except urllib.error.HTTPError as refusal:
        sys.exit(f"error: {refusal.read().decode(errors='replace').strip()} (HTTP status {refusal.code})")
    except OSError as why:
        sys.exit(f"error: {sys.argv[1]}: {why}")


main()
