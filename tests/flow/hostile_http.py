#!/usr/bin/env python3
"""Hostile HTTP against a router, while a long stream runs beside it and must not notice.

    hostile_http.py HOST PORT [--only GROUP,...] [--max-body BYTES] [--request-timeout SECONDS] [--list]

Groups: http (framing), routes, json (bodies), fields (types and ranges), connections.
--max-body is the router's limit (8 MiB unless configured); with --request-timeout a request that never
completes must be answered 408 within that time and a second. Prints each failing case and ends with a
line 'N passed, N failed'; exits 1 when one failed.
"""
import argparse
import json
import socket
import struct
import sys
import threading
import time

PATIENCE = 20.0  # seconds for an answer
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
CRLF = b"\r\n"


# Talking to the server


class Closed(Exception):
    """The connection ended where more was expected."""


class Connection:
    def __init__(self, address, timeout=PATIENCE):
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """The server may have answered and closed before it read all; the answer counts."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            raise Closed from None
        if not data:
            raise Closed
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.more()
        part, self.buffer = self.buffer.split(mark, 1)
        return part

    def exactly(self, n):
        while len(self.buffer) < n:
            self.more()
        part, self.buffer = self.buffer[:n], self.buffer[n:]
        return part

    def ended(self):
        """Whether the server ends the connection without another byte."""
        try:
            if not self.buffer:
                self.more()
        except Closed:
            return True
        except socket.timeout:
            return False
        return False


class Answer:
    def __init__(self, status, headers, body=b""):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def read_head(connection):
    lines = connection.until(CRLF + CRLF).split(CRLF)
    version, status, _ = lines[0].split(b" ", 2)
    if version != b"HTTP/1.1":
        raise ValueError(f"status line {lines[0]!r}")
    headers = {}
    for line in lines[1:]:
        name, value = line.split(b":", 1)
        headers[name.strip().lower().decode()] = value.strip().decode()
    return Answer(int(status), headers)


def read_chunks(connection):
    """Each chunk as it comes; an end without the last chunk raises Closed."""
    while True:
        size = int(connection.until(CRLF), 16)
        data = connection.exactly(size)
        connection.until(CRLF)
        if size == 0:
            return
        yield data


def read_answer(connection, to_head=False):
    answer = read_head(connection)
    while answer.status == 100:
        answer = read_head(connection)
    if to_head:
        return answer
    if "content-length" in answer.headers:
        answer.body = connection.exactly(int(answer.headers["content-length"]))
    elif answer.headers.get("transfer-encoding") == "chunked":
        answer.body = b"".join(read_chunks(connection))
    else:
        while not connection.ended():
            answer.body, connection.buffer = answer.body + connection.buffer, b""
    return answer


def request(method, path, body=None, headers=(), content_type="application/json", version="1.1"):
    head = [f"{method} {path} HTTP/{version}", "Host: test"]
    if body is not None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        head += [f"Content-Type: {content_type}"] if content_type else []
        head += [f"Content-Length: {len(body)}"]
    head += list(headers)
    return "\r\n".join(head).encode() + CRLF + CRLF + (body or b"")


def chat_body(model, **more):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **more}


def text_body(model, **more):
    return {"model": model, "prompt": "hi", "max_tokens": 1, **more}


# The table


class Case:
    """Bytes and the statuses they must earn, in order; more than one allowed status stands in a tuple.
    closes: the server must end the connection after the last of them, without reading on."""

    def __init__(self, group, name, data, *statuses, closes=False, param=None, header=None, to_head=False):
        self.group, self.name, self.data, self.statuses = group, name, data, statuses
        self.closes, self.param, self.header, self.to_head = closes, param, header, to_head


SMUGGLED = request("GET", "/v1/models")


def line_cases():
    def bad(name, line, *status):
        head = line + b"\r\nHost: test\r\n\r\n"
        return Case("http", "line: " + name, head + SMUGGLED, *(status or (400,)), closes=True)

    yield bad("only a path", b"/v1/models")
    yield bad("no version", b"GET /v1/models")
    yield bad("no target", b"GET HTTP/1.1")
    yield bad("two spaces before the target", b"GET  /v1/models HTTP/1.1")
    yield bad("two spaces before the version", b"GET /v1/models  HTTP/1.1")
    yield bad("a tab for a space", b"GET\t/v1/models HTTP/1.1")
    yield bad("space at the end", b"GET /v1/models HTTP/1.1 ")
    yield bad("space in front", b" GET /v1/models HTTP/1.1")
    yield bad("space in the target", b"GET /v1 models HTTP/1.1")
    yield bad("a word too many", b"GET /v1/models HTTP/1.1 x")
    yield bad("another protocol", b"GET /v1/models FTP/1.1")
    yield bad("protocol in small letters", b"GET /v1/models http/1.1")
    yield bad("HTTP/1", b"GET /v1/models HTTP/1")
    yield bad("HTTP/1.10", b"GET /v1/models HTTP/1.10")
    yield bad("HTTP/01.1", b"GET /v1/models HTTP/01.1")
    yield bad("HTTP/-1.1", b"GET /v1/models HTTP/-1.1")
    yield bad("HTTP/0.9", b"GET /v1/models HTTP/0.9", 505)
    yield bad("HTTP/1.2", b"GET /v1/models HTTP/1.2", 505)
    yield bad("HTTP/2.0", b"GET /v1/models HTTP/2.0", 505)
    yield bad("HTTP/9.9", b"GET /v1/models HTTP/9.9", 505)
    yield bad("unknown method", b"BREW /v1/models HTTP/1.1", 501)
    yield bad("method in small letters", b"get /v1/models HTTP/1.1", 501)
    yield bad("method of 5000 letters", b"G" * 5000 + b" /v1/models HTTP/1.1", 501)
    yield bad("method with an at sign", b"G@T /v1/models HTTP/1.1")
    yield bad("method with a NUL", b"G\0T /v1/models HTTP/1.1")
    yield bad("CONNECT", b"CONNECT test:80 HTTP/1.1", 501)
    yield bad("asterisk for GET", b"GET * HTTP/1.1")
    yield bad("relative target", b"GET v1/models HTTP/1.1")
    yield bad("user information in the target", b"GET http://me:pw@test/v1/models HTTP/1.1")
    yield bad("another scheme", b"GET file:///etc/passwd HTTP/1.1")
    yield bad("empty authority", b"GET http:///v1/models HTTP/1.1")
    yield bad("percent NUL", b"GET /v1/models%00 HTTP/1.1")
    yield bad("percent newline", b"GET /v1/models%0d%0aX:%20y HTTP/1.1")
    yield bad("percent at the end", b"GET /v1/models% HTTP/1.1")
    yield bad("percent with one digit", b"GET /v1/models%4 HTTP/1.1")
    yield bad("percent with letters", b"GET /v1/models%zz HTTP/1.1")
    yield bad("percent to bad UTF-8", b"GET /v1/models/%ff%fe HTTP/1.1")
    yield bad("percent to overlong UTF-8", b"GET /v1/models/%c0%af HTTP/1.1")
    yield bad("percent to a surrogate", b"GET /v1/models/%ed%a0%80 HTTP/1.1")
    yield bad("raw NUL", b"GET /v1/mod\0els HTTP/1.1")
    yield bad("raw control character", b"GET /v1/mod\x01els HTTP/1.1")
    yield bad("raw bytes above ASCII", "GET /v1/modèls HTTP/1.1".encode())
    yield bad("fragment", b"GET /v1/models#x HTTP/1.1")
    yield bad("backslash", b"GET /v1\\models HTTP/1.1")
    yield bad("angle bracket", b"GET /v1/<models> HTTP/1.1")
    yield bad("target of 100 KB", b"GET /" + b"a" * 100_000 + b" HTTP/1.1", (414, 431))
    yield bad("query of 100 KB", b"GET /v1/models?" + b"a" * 100_000 + b" HTTP/1.1", (414, 431))


def head_cases():
    start = b"GET /v1/models HTTP/1.1\r\n"
    host = b"Host: test\r\n"

    def bad(name, lines, status=400):
        return Case("http", "head: " + name, start + lines + CRLF + SMUGGLED, status, closes=True)

    yield bad("no Host", b"")
    yield bad("empty Host", b"Host:\r\n")
    yield bad("Host twice", host + host)
    yield bad("Host twice, different", host + b"Host: other\r\n")
    yield bad("two names in Host", b"Host: test, other\r\n")
    yield bad("space in Host", b"Host: te st\r\n")
    yield bad("path in Host", b"Host: test/path\r\n")
    yield bad("user in Host", b"Host: me@test\r\n")
    yield bad("port of letters in Host", b"Host: test:http\r\n")
    yield bad("space before the colon", b"Host : test\r\n")
    yield bad("no colon", host + b"Authorization\r\n")
    yield bad("no name", host + b": value\r\n")
    yield bad("space in a name", host + b"X Y: z\r\n")
    yield bad("NUL in a name", host + b"X\0Y: z\r\n")
    yield bad("bytes above ASCII in a name", host + b"X\xe9: z\r\n")
    yield bad("bracket in a name", host + b"X(Y): z\r\n")
    yield bad("NUL in a value", host + b"X: y\0z\r\n")
    yield bad("control character in a value", host + b"X: y\x01z\r\n")
    yield bad("delete in a value", host + b"X: y\x7fz\r\n")
    yield bad("folded with a space", host + b"X: y\r\n z\r\n")
    yield bad("folded with a tab", host + b"X: y\r\n\tz\r\n")
    yield bad("first field folded", b" " + host)
    yield bad("line feeds alone", b"Host: test\nX: y\n")
    yield bad("carriage return inside", host + b"X: y\rZ: w\r\n")
    yield bad("carriage return before the end", host + b"X: y\r\r\n")
    yield bad("a field of 1 MB", host + b"X: " + b"y" * 1_000_000 + CRLF, 431)
    yield bad("a name of 1 MB", host + b"y" * 1_000_000 + b": x\r\n", 431)
    yield bad("1 MB of small fields", host + b"X: y\r\n" * 170_000, 431)
    yield bad("1000 fields", host + b"X: y\r\n" * 1000, 431)
    yield bad("unknown expectation", host + b"Expect: 200-ok\r\n", 417)
    yield Case("http", "head: end of line missing for ever", start + b"X: " + b"y" * 1_000_000, 431, closes=True)
    yield Case("http", "head: TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, 400, closes=True)
    yield Case("http", "head: HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505), closes=True)
    yield Case("http", "head: zeros", b"\0" * 1000, 400, closes=True)
    yield Case("http", "head: three empty lines in front", CRLF * 3 + SMUGGLED, 400, closes=True)


def length_cases(model):
    body = json.dumps(chat_body(model)).encode()
    size = str(len(body)).encode()
    start = f"POST {CHAT} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
    chunked = b"Transfer-Encoding: chunked\r\n"
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    def bad(name, lines, data, status=400):
        return Case("http", "length: " + name, start + lines + CRLF + data + SMUGGLED, status, closes=True)

    yield bad("not a number", b"Content-Length: many\r\n", body)
    yield bad("empty", b"Content-Length:\r\n", body)
    yield bad("negative", b"Content-Length: -1\r\n", body)
    yield bad("plus sign", b"Content-Length: +" + size + CRLF, body)
    yield bad("hexadecimal", b"Content-Length: 0x10\r\n", body)
    yield bad("fraction", b"Content-Length: 10.0\r\n", body)
    yield bad("two in one", b"Content-Length: %s, %s\r\n" % (size, size), body)
    yield bad("twice, equal", b"Content-Length: %s\r\n" % size * 2, body)
    yield bad("twice, different", b"Content-Length: 0\r\nContent-Length: %s\r\n" % size, body)
    yield bad("2 to the 64", b"Content-Length: 18446744073709551616\r\n", body)
    yield bad("10 to the 40", b"Content-Length: 1" + b"0" * 40 + CRLF, body)
    yield bad("1 TB", b"Content-Length: 1000000000000\r\n", body, 413)
    yield bad("2 to the 63", b"Content-Length: 9223372036854775808\r\n", body, 413)
    yield bad("beside chunked", b"Content-Length: %s\r\n" % size + chunked, whole)
    yield bad("behind chunked", chunked + b"Content-Length: %s\r\n" % size, whole)
    yield bad("zero beside chunked", b"Content-Length: 0\r\n" + chunked, whole)
    yield bad("chunked twice", chunked + chunked, whole)
    yield bad("chunked, chunked", b"Transfer-Encoding: chunked, chunked\r\n", whole, (400, 501))
    yield bad("chunked, identity", b"Transfer-Encoding: chunked, identity\r\n", whole)
    yield bad("identity", b"Transfer-Encoding: identity\r\n", body)
    yield bad("gzip", b"Transfer-Encoding: gzip\r\n", whole, (400, 501))
    yield bad("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", whole, 501)
    yield bad("xchunked", b"Transfer-Encoding: xchunked\r\n", whole)
    yield bad("chunkedx", b"Transfer-Encoding: chunkedx\r\n", whole)
    yield bad("quoted chunked", b'Transfer-Encoding: "chunked"\r\n', whole)
    yield bad("chunked with a parameter", b"Transfer-Encoding: chunked;q=1\r\n", whole, (400, 501))
    yield bad("vertical tab before chunked", b"Transfer-Encoding: \x0bchunked\r\n", whole)
    yield bad("empty coding", b"Transfer-Encoding:\r\n", whole)
    yield bad("space before the colon of the coding", b"Transfer-Encoding : chunked\r\n", whole)
    yield bad("chunk size of letters", chunked, b"xyz\r\n" + whole)
    yield bad("negative chunk", chunked, b"-5\r\n" + whole)
    yield bad("chunk size with 0x", chunked, b"0x" + whole)
    yield bad("chunk size with a plus", chunked, b"+" + whole)
    yield bad("chunk size with a space in front", chunked, b" " + whole)
    yield bad("empty chunk size", chunked, CRLF + whole)
    yield bad("chunk size ends in a line feed", chunked, whole.replace(CRLF, b"\n"))
    yield bad("chunk longer than its size", chunked, b"%x\r\n%sxx\r\n0\r\n\r\n" % (len(body), body))
    yield bad("chunk without an end", chunked, b"%x\r\n%s0\r\n\r\n" % (len(body), body))
    yield bad("chunk of 2 to the 64", chunked, b"10000000000000000\r\n" + body)
    yield bad("chunk of 2 to the 64 less one", chunked, b"ffffffffffffffff\r\n" + body, 413)
    yield bad("chunk of 1 TB", chunked, b"e8d4a51000\r\n" + body, 413)
    yield bad("chunk extension of 1 MB", chunked, b"5;" + b"x" * 1_000_000 + CRLF, (400, 413, 431))
    yield bad("trailers of 1 MB", chunked, b"%x\r\n%s\r\n0\r\nX: %s\r\n\r\n" % (len(body), body, b"y" * 1_000_000), 431)
    old = f"POST {CHAT} HTTP/1.0\r\nContent-Type: application/json\r\n".encode()
    yield Case("http", "length: chunked in HTTP/1.0", old + chunked + CRLF + whole + SMUGGLED, 400, closes=True)


def good_http_cases(model):
    body = json.dumps(chat_body(model)).encode()
    start = f"POST {CHAT} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    get = request("GET", "/v1/models")

    def good(name, data, *statuses, **more):
        return Case("http", "good: " + name, data, *(statuses or (200,)), **more)

    yield good("plain", get)
    yield good("one empty line in front", CRLF + get)
    yield good("absolute target", request("GET", "http://test/v1/models"))
    yield good("encoded path", request("GET", "/%761/models"))
    yield good("query", request("GET", "/v1/models?x=%00&y[]={z}"))
    yield good("HTTP/1.0", b"GET /v1/models HTTP/1.0\r\n\r\n", closes=True)
    yield good("HTTP/1.0 keep-alive", b"GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get, 200, 200)
    yield good("connection close", request("GET", "/v1/models", headers=["Connection: close"]) + get, 200, closes=True)
    yield good("upgrade is ignored", request("GET", "/v1/models", headers=["Connection: Upgrade", "Upgrade: h2c"]))
    yield good("bytes above ASCII in a value", request("GET", "/v1/models", headers=["X: caf\u00e9"]))
    yield good("chunked", chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    yield good("one byte a chunk", chunked + b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n")
    yield good("chunk extension and trailer", chunked + b"%X;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body))
    yield good("chunked in capitals", start + b"Transfer-Encoding: CHUNKED\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    yield good("expect 100", request("POST", CHAT, body, ["Expect: 100-continue"]))
    yield good("zeros before the length", start + b"Content-Length: 000%d\r\n\r\n%s" % (len(body), body))
    yield good("ten pipelined", get * 10, *[200] * 10)
    yield good("pipelined with work", (request("POST", CHAT, body) + get) * 3, *[200] * 6)
    yield good("a bad one ends the pipe", get + b"GET /v1/models HTTP/1.1\r\n\r\n" + get, 200, 400, closes=True)
    yield good("404 keeps the connection", request("GET", "/nothing") + get, 404, 200)
    yield good("400 of a body keeps the connection", request("POST", CHAT, b"{") + get, 400, 200)
    yield good("traceparent", request("GET", "/v1/models",
                                      headers=["traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"]))
    yield good("malformed traceparent", request("POST", CHAT, body, ["traceparent: 00-xyz"]))


def route_cases(model, max_body):
    body = chat_body(model)

    def case(name, data, *statuses, **more):
        return Case("routes", name, data, *statuses, **more)

    for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            yield case(f"{method} {path}", request(method, path), 405)
    for method in ("POST", "DELETE"):
        yield case(f"{method} /v1/models", request(method, "/v1/models", {}), 405)
    for path in ("/", "/v1", "/v1/", "/v1/chat", "/v1/chat/completions/", "//v1/models", "/v1/../v1/models",
                 "/V1/models", "/v1/models/..%2f..%2fetc%2fpasswd", "/etc/passwd", "/%2e%2e/etc/passwd"):
        yield case("unknown path " + path, request("GET", path), 404)
    yield case("unknown model in the path", request("GET", "/v1/models/no-such-model"), 404)
    yield case("the model in the path", request("GET", "/v1/models/" + model.replace("/", "%2F")), 200)
    yield case("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", (200, 204, 404, 405))
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
                         "application/jsonx", "application/xml", "json", "application/json/x"):
        yield case("content type " + content_type, request("POST", CHAT, body, content_type=content_type), 415)
    for content_type in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON ;charset=UTF-8"):
        yield case("content type " + content_type, request("POST", CHAT, body, content_type=content_type), 200)
    big = json.dumps(chat_body(model, user="x" * max_body)).encode()
    yield case("body over the limit", request("POST", CHAT, big), 413, closes=True)
    chunks = b"".join(b"10000\r\n" + b"x" * 65536 + CRLF for _ in range(max_body // 65536 + 1))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
    yield case("chunked body over the limit", head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, 413, closes=True)
    yield case("body over the limit, announced", head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
               % (max_body + 1), 413, closes=True)


def json_cases(model):
    def case(name, body, *statuses, path=CHAT, **more):
        return Case("json", name, request("POST", path, body), *(statuses or (400,)), **more)

    good = json.dumps(chat_body(model)).encode()
    for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
        yield case("empty body for " + path, b"", path=path)
        yield case("empty object for " + path, b"{}", path=path)
        yield case("array for " + path, b"[]", path=path)
        yield case("null for " + path, b"null", path=path)
    yield case("only white space", b" \r\n\t ")
    yield case("a number", b"17")
    yield case("a string", b'"hi"')
    for n in (1, 10, len(good) // 2, len(good) - 1):
        yield case(f"cut after {n} bytes", good[:n])
    yield case("text behind it", good + b"x")
    yield case("two objects", good + good)
    yield case("comma at the end", good[:-1] + b",}")
    yield case("single quotes", good.replace(b'"', b"'"))
    yield case("key without quotes", good.replace(b'"model"', b"model"))
    yield case("a comment", b"/* hi */" + good)
    yield case("byte order mark", b"\xef\xbb\xbf" + good)
    yield case("UTF-16", good.decode().encode("utf-16"))
    yield case("NUL byte", good.replace(b"hi", b"h\0i"))
    yield case("raw newline in a string", good.replace(b"hi", b"h\ni"))
    yield case("bad escape", good.replace(b"hi", b"h\\qi"))
    yield case("cut escape", good.replace(b"hi", b"h\\u12"))
    yield case("lone high surrogate", good.replace(b"hi", b"\\ud800"))
    yield case("lone low surrogate", good.replace(b"hi", b"\\udc00"))
    yield case("surrogates the wrong way round", good.replace(b"hi", b"\\udc00\\ud800"))
    yield case("bad UTF-8: a lone 0xff", good.replace(b"hi", b"\xff"))
    yield case("bad UTF-8: overlong", good.replace(b"hi", b"\xc0\x80"))
    yield case("bad UTF-8: a surrogate", good.replace(b"hi", b"\xed\xa0\x80"))
    yield case("bad UTF-8: beyond Unicode", good.replace(b"hi", b"\xf4\x90\x80\x80"))
    yield case("bad UTF-8: cut", good.replace(b"hi", b"\xe2\x82"))
    yield case("key twice", good[:-1] + b',"model":"x"}')
    for value in (b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b".5", b"+1", b"0x10", b"True"):
        yield case("temperature " + value.decode(), good[:-1] + b',"temperature":' + value + b"}")
    for field, value in ((b"temperature", b"1e999"), (b"top_p", b"-1e999"), (b"seed", b"9223372036854775808"),
                         (b"seed", b"-9223372036854775809"), (b"top_k", b"9" * 5000), (b"logit_bias", b'{"1":1e999}'),
                         (b"stop_token_ids", b"[1,1e999]"), (b"frobnicate", b'[{"a":1e999}]')):
        yield case(f"{field.decode()} {value[:40].decode()}", good[:-1] + b',"' + field + b'":' + value + b"}",
                   param=field.decode())
    yield case("seed of 63 bits", good[:-1] + b',"seed":9223372036854775807}', 200)
    yield case("10,000 brackets", good[:-1] + b',"metadata":' + b"[" * 10_000 + b"]" * 10_000 + b"}")
    yield case("10,000 open brackets", b"[" * 10_000)
    yield case("100,000 open braces", b'{"a":' * 100_000)
    yield case("emoji in escapes", good.replace(b"hi", b"\\ud83d\\ude00"), 200)
    yield case("white space around it", b" \r\n\t" + good + b"\n ", 200)
    for field in ("zz", "content[0].zz"):
        part = {"type": "text", "text": "hi", **({} if field == "zz" else {"zz": 1})}
        message = {"role": "user", "content": [part], **({"zz": 1} if field == "zz" else {})}
        for path in (CHAT, "/tokenize"):
            yield case(f"unknown {field} in a message for {path}", {**chat_body(model), "messages": [message]}, 200,
                       path=path, header=("x-baton-ignored", f"messages[0].{field}"))
    yield case("unknown field", {**chat_body(model), "frobnicate": {"a": [1]}}, 200,
               header=("x-baton-ignored", "frobnicate"))


NUMBER = ["1", True, [], {}]
INTEGER = [1.5, "1", True, [], {}]
BOOL = ["true", 1, [], {}]

# Field, values that must be refused. What OpenAI lets through as null is not among them.
COMMON_FIELDS = [
    ("temperature", NUMBER + [-0.1, -1e300, 1e6]),
    ("top_p", NUMBER + [-0.1, 1.1, 1e300]),
    ("min_p", NUMBER + [-0.1, 1.1]),
    ("top_k", INTEGER + [-2, 1e300]),
    ("frequency_penalty", NUMBER + [-1000, 1000]),
    ("presence_penalty", NUMBER + [-1000, 1000]),
    ("repetition_penalty", NUMBER + [0, -1, 1e6]),
    ("max_tokens", INTEGER + [-1, 2**63, 10**30]),
    ("min_tokens", INTEGER + [-1, 2**63]),
    ("n", INTEGER + [0, -1, 10**6, 2**63]),
    ("seed", [1.5, "1", True, [], {}, 10**30]),
    ("stream", BOOL),
    ("ignore_eos", BOOL),
    ("stop", [1, True, {}, [1], [None], [["a"]], ["a"] * 10_000]),
    ("logit_bias", ["x", 1, True, [], {"1": "x"}, {"1": 1e300}, {"x": 1}, {"-1": 1}, {"1.5": 1}, {"99999999": 1},
                    {"99999999999999999999": 1}]),
    ("stream_options", ["x", 1, True, []]),
    ("model", [1, True, [], {}, None]),
    ("user", [1, True, [], {}]),
]
CHAT_FIELDS = COMMON_FIELDS + [
    ("messages", ["hi", 1, {}, None, [], ["hi"], [1], [None], [{}], [[]], [{"role": "user"}], [{"content": "hi"}],
                  [{"role": 1, "content": "hi"}], [{"role": "emperor", "content": "hi"}],
                  [{"role": "assistant", "refusal": "no"}], [{"role": "user", "content": "hi", "name": 1}],
                  [{"role": "user", "content": 1}], [{"role": "user", "content": {}}],
                  [{"role": "user", "content": [1]}], [{"role": "user", "content": ["hi"]}],
                  [{"role": "user", "content": [{"type": "text"}]}],
                  [{"role": "user", "content": [{"type": "text", "text": 1}]}],
                  [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]]),
    ("max_completion_tokens", INTEGER + [-1, 2**63]),
    ("logprobs", [1, "true", [], {}]),
    ("top_logprobs", INTEGER + [-1, 21, 10**9]),
    ("tools", ["x", 1, {}, [1]]),
    ("chat_template_kwargs", ["x", [], {"messages": [{"role": "user", "content": "x"}]}, {"add_generation_prompt": False},
                              {"bos_token": "x"}, {"eos_token": "x"}, {"tools": []}, {"documents": []},
                              {"chat_template": "x"}, {"tokenize": False}, {"continue_final_message": True}]),
    ("response_format", ["json", 1, [], {"type": "poem"}]),
]
TEXT_FIELDS = COMMON_FIELDS + [
    ("prompt", [1, True, {}, None, [{}], [[{}]], [-1], [10**9], [1.5], [1, "a"], ["a", 1]]),
    ("logprobs", INTEGER + [-1, 10**6]),
    ("echo", BOOL),
    ("suffix", ["x"]),
    ("best_of", [3, "3", 0]),
]
TOKENIZE_FIELDS = [
    ("prompt", [1, True, {}, [], None]),
    ("messages", ["hi", 1, {}, [1], [{}]]),
    ("tools", ["x", 1, {}, [1]]),
    ("add_special_tokens", BOOL),
]
DETOKENIZE_FIELDS = [("tokens", ["1", 1, {}, None, ["1"], [1.5], [-1], [10**9], [2**63], [[1]]])]


def field_cases(model):
    def refused(path, base, field, value, **more):
        body = {**base, field: value, **more}
        shown = json.dumps(value)
        shown = shown if len(shown) < 60 else shown[:60] + "..."
        return Case("fields", f"{path} {field}={shown}", request("POST", path, body), 400, param=field)

    chat, text = chat_body(model), text_body(model)
    top = {"logprobs": True}  # without it top_logprobs is refused for another reason
    for field, values in CHAT_FIELDS:
        more = top if field == "top_logprobs" else {}
        yield from (refused(CHAT, chat, field, value, **more) for value in values)
    for field, values in TEXT_FIELDS:
        yield from (refused(TEXT, text, field, value) for value in values)
    for field, values in TOKENIZE_FIELDS:
        base = {"model": model, **({} if field == "messages" else {"prompt": "hi"})}
        yield from (refused("/tokenize", base, field, value) for value in values)
    for field, values in DETOKENIZE_FIELDS:
        yield from (refused("/detokenize", {"model": model}, field, value) for value in values)
    for field in ("model", "messages"):
        body = {key: value for key, value in chat.items() if key != field}
        yield Case("fields", f"{CHAT} without {field}", request("POST", CHAT, body), 400, param=field)
    for path, base in ((CHAT, chat), (TEXT, text)):
        yield Case("fields", f"{path} unknown model", request("POST", path, {**base, "model": "no-such"}), 404)
    long = "many words " * 200_000
    yield Case("fields", "too long a prompt", request("POST", TEXT, text_body(model, prompt=long)), 400, param="prompt")
    for field in ("max_tokens", "max_completion_tokens"):
        body = {**{key: value for key, value in chat.items() if key != "max_tokens"}, field: 2**31 - 1}
        yield Case("fields", f"too large {field}", request("POST", CHAT, body), 400, param=field)


def all_cases(model, max_body):
    return [*line_cases(), *head_cases(), *length_cases(model), *good_http_cases(model), *route_cases(model, max_body),
            *json_cases(model), *field_cases(model)]


# Running a case


def check_error(answer, param):
    """OpenAI's body; returns what is wrong with it."""
    if "json" not in answer.headers.get("content-type", ""):
        return f"status {answer.status} comes as {answer.headers.get('content-type')}"
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"the error body is {answer.body[:200]!r}"
    missing = {"message", "type", "param", "code"} - set(error)
    if missing or not error["message"]:
        return f"the error lacks {sorted(missing) or 'a message'}"
    if not error["message"][0].isupper():
        return f"the message is no sentence: {error['message']}"
    named = error["param"] or ""
    if param and not (named == param or named.startswith((param + ".", param + "["))):
        return f"param is {named!r}, not {param!r}: {error['message']}"
    return None


def check_answer(case, number, answer):
    allowed = case.statuses[number]
    allowed = allowed if isinstance(allowed, tuple) else (allowed,)
    if answer.status not in allowed:
        return f"answer {number + 1}: status {answer.status}, not {allowed}: {answer.body[:200]!r}"
    if answer.status >= 400 and not case.to_head:
        return check_error(answer, case.param)
    if case.header and case.header[1] not in answer.headers.get(case.header[0], ""):
        return f"header {case.header[0]} is {answer.headers.get(case.header[0])!r}"
    return None


def run_case(address, case):
    """What went wrong, or None."""
    with Connection(address) as connection:
        sender = threading.Thread(target=connection.send, args=(case.data,), daemon=True)
        sender.start()  # beside reading, as large requests are answered before they are read
        try:
            for number in range(len(case.statuses)):
                problem = check_answer(case, number, read_answer(connection, case.to_head))
                if problem:
                    return problem
            if case.closes and not connection.ended():
                return f"the connection goes on after the answer: {connection.buffer[:100]!r}"
        except Closed:
            return "the connection ended without an answer"
        except socket.timeout:
            return "no answer in time"
        except ValueError as error:
            return f"the answer cannot be read: {error}"
    return None


# The stream beside


class Beside(threading.Thread):
    """The same greedy stream again and again; every one must be complete and equal to the first."""

    def __init__(self, address, model):
        super().__init__(daemon=True)
        self.address, self.stopping = address, threading.Event()
        self.body = text_body(model, max_tokens=256, temperature=0, stream=True, ignore_eos=True)
        self.first = self.problem = None
        self.streams, self.events, self.longest = 0, 0, 0.0
        self.started = threading.Event()

    def read_stream(self):
        with Connection(self.address) as connection:
            connection.send(request("POST", TEXT, self.body))
            head = read_head(connection)
            if head.status != 200:
                raise ValueError(f"status {head.status}")
            text, last = b"", time.monotonic()
            for chunk in read_chunks(connection):
                now = time.monotonic()
                self.longest, last = max(self.longest, now - last), now
                self.events += 1
                self.started.set()
                text += chunk
            return self.words(text)

    @staticmethod
    def words(text):
        events = [line[6:] for line in text.decode().split("\n") if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            raise ValueError("the stream does not end with [DONE]")
        parsed = [json.loads(event) for event in events[:-1]]
        if any("error" in event for event in parsed):
            raise ValueError("an error event in the stream")
        return "".join(choice.get("text") or "" for event in parsed for choice in event.get("choices", []))

    def run(self):
        try:
            while not self.stopping.is_set():
                words = self.read_stream()
                self.first = words if self.first is None else self.first
                if words != self.first:
                    raise ValueError(f"stream {self.streams + 1} differs from the first")
                self.streams += 1
        except Closed:
            self.problem = "the stream broke off"
        except (OSError, ValueError, KeyError) as error:
            self.problem = str(error) or type(error).__name__
        self.started.set()

    def finish(self):
        self.stopping.set()
        self.join(120)
        if self.is_alive():
            return "the stream never ends"
        return self.problem


# Connections that misbehave. Each returns what went wrong, or None.


def still_answers(address):
    return run_case(address, Case("", "", request("GET", "/v1/models"), 200))


def drips(address, model):
    """A request in single bytes, a few milliseconds apart."""
    data = request("POST", CHAT, chat_body(model))
    with Connection(address) as connection:
        for at in range(len(data)):
            connection.send(data[at:at + 1])
            time.sleep(0.003)
        answer = read_answer(connection)
    return None if answer.status == 200 else f"status {answer.status}"


def half_closed_is_gone(address, model):
    """End of input after a complete request: the stream is cut short, as the client counts as gone."""
    body = text_body(model, max_tokens=256, stream=True, ignore_eos=True)
    with Connection(address) as connection:
        connection.send(request("POST", TEXT, body))
        connection.until(b"data: ")
        connection.socket.shutdown(socket.SHUT_WR)
        try:
            while b"[DONE]" not in connection.buffer:
                connection.more()
        except Closed:
            return None
    return "the stream went on to its end"


def half_closed_in_the_middle(address, model):
    data = request("POST", CHAT, chat_body(model))
    for n in (1, 20, len(data) // 2, len(data) - 1):
        with Connection(address, 5) as connection:
            connection.send(data[:n])
            connection.socket.shutdown(socket.SHUT_WR)
            if not connection.ended():
                return f"something came after {n} bytes and the end: {connection.buffer[:100]!r}"
    return None


def resets(address, model):
    """Resets before, within and after requests and in the middle of streams."""
    data = request("POST", CHAT, chat_body(model))
    stream = request("POST", TEXT, text_body(model, max_tokens=256, stream=True, ignore_eos=True))
    for n in (0, 1, 30, len(data) - 1, len(data)) * 4:
        connection = Connection(address)
        connection.send(data[:n])
        connection.reset()
    for _ in range(5):
        connection = Connection(address)
        connection.send(stream)
        connection.until(b"data: ")
        connection.reset()
    return still_answers(address)


def idle_crowd(address, model):
    crowd = [Connection(address) for _ in range(200)]
    try:
        for connection in crowd[::2]:
            connection.send(b"GET /v1/mod")
        return still_answers(address)
    finally:
        for connection in crowd:
            connection.socket.close()


def never_reads(address, model):
    """Clients that ask for much and read nothing."""
    get = request("GET", "/v1/models")
    lazy = [Connection(address, 5) for _ in range(3)]
    try:
        for connection in lazy:
            connection.socket.settimeout(0.5)
            try:
                for _ in range(200):
                    connection.socket.sendall(get * 100)
            except (socket.timeout, OSError):
                pass
        return still_answers(address)
    finally:
        for connection in lazy:
            connection.socket.close()


def slow_reader(address, model):
    """A stream read a few bytes at a time comes out whole."""
    body = text_body(model, max_tokens=64, stream=True, ignore_eos=True, temperature=0)
    with Connection(address) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.send(request("POST", TEXT, body))
        data = b""
        while b"data: [DONE]\n\n" not in data:
            piece = connection.socket.recv(64)
            if not piece:
                return "the stream broke off"
            data += piece
            time.sleep(0.002)
    return None


def times_out(address, timeout):
    """Requests that never complete are answered 408, a byte now and then or not."""
    started = time.monotonic()
    quiet, drip = Connection(address, timeout + 5), Connection(address, timeout + 5)
    quiet.send(request("POST", CHAT, b"x" * 100)[:-50])
    while time.monotonic() - started < timeout - 0.2:
        drip.send(b"G")
        time.sleep(0.1)
    for connection in (quiet, drip):
        status = read_answer(connection).status
        if status != 408:
            return f"status {status}"
        connection.socket.close()
    waited = time.monotonic() - started
    return None if waited < timeout + 2 else f"answered after {waited:.1f} s"


def connection_checks(address, model, timeout):
    for check in (drips, half_closed_is_gone, half_closed_in_the_middle, resets, idle_crowd, never_reads, slow_reader):
        yield "connections: " + check.__name__, lambda check=check: check(address, model)
    if timeout:
        yield "connections: times_out", lambda: times_out(address, timeout)


def guarded(check):
    try:
        return check()
    except Closed:
        return "the connection ended too soon"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


# The whole


def model_name(address):
    with Connection(address) as connection:
        connection.send(request("GET", "/v1/models"))
        return read_answer(connection).json()["data"][0]["id"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--only", default="http,routes,json,fields,connections")
    parser.add_argument("--max-body", type=int, default=8 << 20)
    parser.add_argument("--request-timeout", type=float, default=0)
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    return parser.parse_args()


def checks(address, model, options):
    groups = options.only.split(",")
    for case in all_cases(model, options.max_body):
        if case.group in groups:
            yield f"{case.group}: {case.name}", lambda case=case: run_case(address, case)
    if "connections" in groups:
        yield from connection_checks(address, model, options.request_timeout)


def main():
    options = arguments()
    address = (options.host, options.port)
    if options.list:
        for name, _ in checks(address, "MODEL", options):
            print(name)
        return 0
    model = model_name(address)
    beside = Beside(address, model)
    beside.start()
    beside.started.wait(60)
    passed = failed = 0
    for name, check in checks(address, model, options):
        problem = guarded(check)
        passed, failed = passed + (problem is None), failed + (problem is not None)
        if problem:
            print(f"FAILED {name}: {problem}", flush=True)
    problem = beside.finish() or (None if beside.streams else "no stream came to its end")
    passed, failed = passed + (problem is None), failed + (problem is not None)
    if problem:
        print(f"FAILED the stream beside: {problem}")
    print(f"beside: {beside.streams} streams, {beside.events} chunks, longest pause {beside.longest * 1000:.0f} ms",
          file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
