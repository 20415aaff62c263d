#!/usr/bin/env python3
"""The real `openai` client against a running cluster: openai_client.py BASE_URL [MODEL].

BASE_URL is the router's address ("http://127.0.0.1:8000"), MODEL one it serves
(default: the first it lists). Ends with "N passed, N failed"; exit code 1 when
anything failed. Needs the PyPI package `openai` and at least one decode worker.
"""
import asyncio
import sys
import time
import traceback

import openai

SAY_HI = [{"role": "user", "content": "What is 4 times 5?"}]
STORY = [{"role": "user", "content": "Tell me a short story."}]
CHECKS = []


def check(fn):
    CHECKS.append(fn)
    return fn


class Env:
    def __init__(self, url, model):
        self.base = url.rstrip("/") + "/v1"
        options = dict(base_url=self.base, api_key="none", max_retries=0, timeout=60)
        self.client = openai.OpenAI(**options)
        self.make_async = lambda: openai.AsyncOpenAI(**options)
        self.model = model or self.client.models.list().data[0].id

    def chat(self, messages=SAY_HI, **kw):
        kw.setdefault("temperature", 0)
        return self.client.chat.completions.create(model=self.model, messages=messages, **kw)

    def text(self, prompt="Once upon a time", **kw):
        kw.setdefault("temperature", 0)
        return self.client.completions.create(model=self.model, prompt=prompt, **kw)


def expect(kind, fn, param=None, code=None):
    try:
        fn()
    except kind as e:
        body = e.body or {}
        assert param is None or body.get("param") == param, body
        assert code is None or body.get("code") == code, body
        assert body.get("message") and body.get("type"), body
        return e
    raise AssertionError(f"{kind.__name__} expected")


# ---- models ------------------------------------------------------------------


@check
def models_are_listed_and_found(env):
    names = [m.id for m in env.client.models.list()]
    assert env.model in names
    assert env.client.models.retrieve(env.model).object == "model"


@check
def unknown_model_is_not_found(env):
    expect(openai.NotFoundError, lambda: env.client.models.retrieve("no/such-model"), code="model_not_found")
    expect(openai.NotFoundError, lambda: env.client.chat.completions.create(model="x", messages=SAY_HI),
           param="model", code="model_not_found")


# ---- chat ----------------------------------------------------------------------


@check
def chat_answers(env):
    r = env.chat(max_tokens=30)
    assert r.object == "chat.completion" and r.id.startswith("chatcmpl-") and r.model == env.model
    assert abs(r.created - time.time()) < 60
    c = r.choices[0]
    assert c.index == 0 and c.message.role == "assistant" and c.message.content
    assert c.finish_reason in ("stop", "length") and c.logprobs is None
    u = r.usage
    assert u.prompt_tokens > 0 and u.completion_tokens > 0
    assert u.total_tokens == u.prompt_tokens + u.completion_tokens
    assert 0 <= u.prompt_tokens_details.cached_tokens < u.prompt_tokens


@check
def stream_gives_the_same_text(env):
    whole = env.chat(STORY, max_tokens=40)
    chunks = list(env.chat(STORY, max_tokens=40, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(c.choices[0].finish_reason is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1 and all(c.object == "chat.completion.chunk" for c in chunks)
    assert len(chunks) > 3, "one event a token"


@check
def stream_usage_comes_last(env):
    chunks = list(env.chat(max_tokens=10, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])
    whole = env.chat(max_tokens=10)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


@check
def cached_tokens_are_told(env):
    """A prompt under a salt of its own finds nothing; asked again, it finds what the cluster keeps, however it is told."""
    def ask(**kw):
        return env.chat(STORY, max_tokens=2, extra_body={"cache_salt": salt}, **kw)

    salt = f"conformance {time.time_ns()}"
    assert ask().usage.prompt_tokens_details.cached_tokens == 0
    again = ask().usage
    streamed = list(ask(stream=True, stream_options={"include_usage": True}))[-1].usage
    assert 0 <= again.prompt_tokens_details.cached_tokens < again.prompt_tokens
    assert streamed.prompt_tokens_details.cached_tokens == again.prompt_tokens_details.cached_tokens
    for wrong in ("", 5, "s" * 1025):
        expect(openai.BadRequestError, lambda: env.chat(extra_body={"cache_salt": wrong}), param="cache_salt")


@check
def content_may_be_parts(env):
    parts = [{"role": "user", "content": [{"type": "text", "text": SAY_HI[0]["content"]}]}]
    assert env.chat(parts, max_tokens=20).choices[0].message.content == env.chat(max_tokens=20).choices[0].message.content


@check
def several_choices(env):
    r = env.chat(STORY, n=3, temperature=1, seed=7, max_tokens=12)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert len({c.message.content for c in r.choices}) > 1
    texts = ["", "", ""]
    ends = 0
    for chunk in env.chat(STORY, n=3, temperature=1, seed=7, max_tokens=12, stream=True):
        c = chunk.choices[0]
        texts[c.index] += c.delta.content or ""
        ends += c.finish_reason is not None
    assert texts == [c.message.content for c in r.choices] and ends == 3


@check
def seed_decides(env):
    def draw(seed):
        return env.chat(STORY, temperature=1.2, seed=seed, max_tokens=24).choices[0].message.content

    assert draw(1) == draw(1)
    assert len({draw(s) for s in range(2, 8)}) > 1
    free = {env.chat(STORY, temperature=1.5, max_tokens=24).choices[0].message.content for _ in range(6)}
    assert len(free) > 1, "without a seed answers differ"


@check
def max_tokens_by_both_names(env):
    for name in ("max_tokens", "max_completion_tokens"):
        r = env.chat(STORY, **{name: 5})
        assert r.usage.completion_tokens == 5 and r.choices[0].finish_reason == "length"


@check
def stop_text_ends_the_answer(env):
    whole = env.chat(STORY, max_tokens=40).choices[0].message.content
    assert len(whole) > 12
    stop = whole[5:10]
    cut = whole[:whole.index(stop)]
    for stops in (stop, ["\u4e00", stop]):
        r = env.chat(STORY, max_tokens=40, stop=stops).choices[0]
        assert r.message.content == cut and r.finish_reason == "stop", (r, cut)
    streamed = "".join(c.choices[0].delta.content or "" for c in env.chat(STORY, max_tokens=40, stop=stop, stream=True))
    assert streamed == cut


@check
def chat_logprobs(env):
    r = env.chat(max_tokens=8, logprobs=True, top_logprobs=3).choices[0]
    entries = r.logprobs.content
    assert entries and "".join(e.token for e in entries) == r.message.content
    for e in entries:
        assert e.logprob <= 0 and bytes(e.bytes).decode(errors="replace") == e.token
        assert len(e.top_logprobs) == 3
        tops = [t.logprob for t in e.top_logprobs]
        assert tops == sorted(tops, reverse=True) and e.top_logprobs[0].token == e.token
    streamed = []
    for chunk in env.chat(max_tokens=8, logprobs=True, top_logprobs=3, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [e.token for e in streamed] == [e.token for e in entries]
    assert [e.logprob for e in streamed] == [e.logprob for e in entries]


@check
def logit_bias_forbids_a_token(env):
    first = env.chat(max_tokens=1, logprobs=True).choices[0].logprobs.content[0]
    ids = env.client.post("/../tokenize", body={"model": env.model, "prompt": first.token}, cast_to=object)["tokens"]
    r = env.chat(max_tokens=1, logprobs=True, logit_bias={str(ids[0]): -100})
    assert r.choices[0].logprobs.content[0].token != first.token


@check
def ignored_fields_are_named(env):
    r = env.client.chat.completions.with_raw_response.create(
        model=env.model, messages=SAY_HI, max_tokens=1, user="u", extra_body={"no_such_field": 1})
    assert r.headers["x-baton-ignored"] == "no_such_field"
    assert r.headers["x-request-id"]
    r = env.client.chat.completions.with_raw_response.create(
        model=env.model, messages=SAY_HI, max_tokens=1, extra_headers={"x-request-id": "my-own.id-1"})
    assert r.headers["x-request-id"] == "my-own.id-1"


# ---- completions ------------------------------------------------------------------


@check
def completion_answers(env):
    r = env.text(max_tokens=8)
    assert r.object == "text_completion" and r.choices[0].text and r.usage.completion_tokens <= 8
    assert "".join(c.choices[0].text for c in env.text(max_tokens=8, stream=True)) == r.choices[0].text


@check
def prompts_in_four_forms(env):
    texts = ["Once upon a time", "The capital of"]
    ids = [env.client.post("/../tokenize", body={"model": env.model, "prompt": t}, cast_to=object)["tokens"] for t in texts]
    single = [env.text(t, max_tokens=6).choices[0].text for t in texts]
    assert [c.text for c in env.text(texts, max_tokens=6).choices] == single
    assert [c.text for c in env.text(ids, max_tokens=6).choices] == single
    assert env.text(ids[0], max_tokens=6).choices[0].text == single[0]


@check
def echo_comes_first(env):
    plain = env.text(max_tokens=6).choices[0].text
    assert env.text(max_tokens=6, echo=True).choices[0].text == "Once upon a time" + plain
    assert env.text(max_tokens=0, echo=True).choices[0].text == "Once upon a time"


@check
def completion_logprobs(env):
    r = env.text(max_tokens=6, logprobs=2).choices[0]
    lp = r.logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset)
    assert "".join(lp.tokens) == r.text
    for i, token in enumerate(lp.tokens):
        assert r.text[lp.text_offset[i]:].startswith(token)
        assert lp.top_logprobs[i][token] == lp.token_logprobs[i]


# ---- errors ----------------------------------------------------------------------------


@check
def bad_values_are_bad_requests(env):
    bad = openai.BadRequestError
    expect(bad, lambda: env.chat(temperature=3), "temperature", "invalid_value")
    expect(bad, lambda: env.chat(top_p="x"), "top_p", "invalid_type")
    expect(bad, lambda: env.chat(n=0), "n", "invalid_value")
    expect(bad, lambda: env.chat(top_logprobs=3), "top_logprobs", "invalid_value")
    expect(bad, lambda: env.chat([]), "messages", "invalid_value")
    expect(bad, lambda: env.chat([{"role": "robot", "content": "x"}]), "messages[0].role", "invalid_value")
    expect(bad, lambda: env.chat([{"role": "user", "content": 5}]), "messages[0].content", "invalid_type")
    expect(bad, lambda: env.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
           "messages[0].content[0].type", "unsupported_parameter")


@check
def what_is_not_built_is_refused(env):
    bad, code = openai.BadRequestError, "unsupported_parameter"
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    expect(bad, lambda: env.chat(tools=[tool]), "tools", code)
    expect(bad, lambda: env.chat(response_format={"type": "json_object"}), "response_format", code)
    expect(bad, lambda: env.chat(modalities=["text", "audio"]), "modalities", code)
    expect(bad, lambda: env.text(suffix="x"), "suffix", code)
    expect(bad, lambda: env.text(best_of=3), "best_of", code)
    assert env.chat(max_tokens=1, response_format={"type": "text"}, tools=[]).choices


@check
def too_long_is_told_with_numbers(env):
    e = expect(openai.BadRequestError, lambda: env.chat(max_tokens=10_000_000), "max_tokens", "context_length_exceeded")
    assert "10000000" in e.body["message"]


# ---- async, and going away ---------------------------------------------------------------


@check
def async_client(env):
    async def run():
        client = env.make_async()
        whole = await client.chat.completions.create(model=env.model, messages=SAY_HI, temperature=0, max_tokens=16)
        stream = await client.chat.completions.create(model=env.model, messages=SAY_HI, temperature=0, max_tokens=16,
                                                      stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert text == whole.choices[0].message.content
        many = await asyncio.gather(*(client.completions.create(
            model=env.model, prompt="Once upon a time", temperature=0, max_tokens=12) for _ in range(16)))
        assert len({r.choices[0].text for r in many}) == 1
        try:
            await client.chat.completions.create(model="x", messages=SAY_HI)
            raise AssertionError("NotFoundError expected")
        except openai.NotFoundError:
            pass
        await client.close()

    asyncio.run(run())


@check
def closing_a_stream_frees_it(env):
    stream = env.chat(STORY, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert env.chat(max_tokens=4).choices[0].message.content is not None
    deadline = time.time() + 5
    while True: # the router holds nothing any more
        page = env.client._client.get(env.base[:-3] + "/metrics").text
        held = [line for line in page.splitlines() if line.startswith("baton_router_requests_held ")]
        if held and float(held[0].split()[1]) == 0:
            return
        assert time.time() < deadline, held
        time.sleep(0.05)


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    env = Env(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    failed = 0
    for fn in CHECKS:
        try:
            fn(env)
            print(f"ok   {fn.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {fn.__name__}", flush=True)
            traceback.print_exc()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
