"""Sends the requests of a run when they are due and notes when each token came. One thread, sockets that do not block.

Whatever is not answered in full is an error: a lost or refused request, an answer that is cut, too short, or for another prompt.
"""
import gc
import json
import selectors
import socket
import time

from traffic import LONG

CONNECT_SECONDS = 10


class Call:
    """One request on a connection of its own, and what has come back. Times are of time.perf_counter()."""

    def __init__(self, request, server):
        self.request = request
        self.tokens = []  # when each event with text came
        self.due = self.sent = 0.0  # when it should have been sent, and when it was
        self.finish, self.usage, self.error = None, {}, None
        self.raw, self.text, self.status, self.chunked, self.done = b"", b"", 0, False, False
        body = json.dumps({"model": server.model, "prompt": request.prompt, "max_tokens": request.answer, "ignore_eos": True,
                           "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **server.fields}).encode()
        self.bytes = (b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                      b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
        self.socket = None

    def send(self, port, due, now):
        """Bodies fit the buffers of a socket of this host: this does not wait for the server."""
        self.due, self.sent = due, now
        self.socket = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(self.bytes)
        self.socket.setblocking(False)

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def receive(self, now):
        """False when nothing more will come."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError as why:
            self.error = str(why)
            return False
        if data:
            self.take(data, now)
        return bool(data) and not self.done

    def take(self, data, now):
        self.raw += data
        if not self.status and not self.take_head():
            return
        self.text += self.unchunk() if self.chunked else self.whole()
        *lines, self.text = self.text.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self.take_event(line[5:].strip(), now)
            elif line.startswith(b"error:") or (line.strip() and self.status != 200):
                self.error = line.decode(errors="replace")[:300]

    def take_head(self):
        head, end, rest = self.raw.partition(b"\r\n\r\n")
        if not end:
            return False
        self.raw, self.status = rest, int(head.split(None, 2)[1])
        self.chunked = b"transfer-encoding: chunked" in head.lower()
        return True

    def whole(self):
        got, self.raw = self.raw, b""
        return got

    def unchunk(self):
        got = b""
        while True:
            size, end, rest = self.raw.partition(b"\r\n")
            n = int(size, 16) if end else 0
            if n == 0 or len(rest) < n + 2:
                return got
            got, self.raw = got + rest[:n], rest[n + 2:]

    def take_event(self, data, now):
        if data == b"[DONE]":
            self.done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = json.dumps(event["error"])
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", []):
            if choice.get("text"):
                self.tokens.append(now)
            self.finish = choice.get("finish_reason") or self.finish

    def wrong(self):
        """What is wrong with the finished answer; None for nothing."""
        asked = self.request
        if self.status != 200:
            return f"answered {self.status or 'nothing'}: {self.error or self.text.decode(errors='replace')[:300]}"
        if self.error:
            return self.error
        if not self.done:
            return f"cut after {len(self.tokens)} events"
        if self.finish != "length":
            return f"ended with {self.finish} after {len(self.tokens)} events"
        for name, want in (("completion_tokens", asked.answer), ("prompt_tokens", len(asked.prompt))):
            if self.usage.get(name) != want:
                return f"{name} is {self.usage.get(name)} instead of {want}"
        return None


class Run:
    """One rate against one server. The window that counts begins after `warm` seconds and ends `seconds` later; arrivals go on
    until then, and streams until the last long prompt is answered, so that all of those are measured under load."""

    def __init__(self, server, traffic, warm, seconds, drain):
        self.server, self.traffic = server, traffic
        self.warm, self.seconds, self.drain = warm, seconds, drain
        self.calls, self.errors = [], []
        self.open = selectors.DefaultSelector()
        self.long_left = 0
        self.numbers = [0] * traffic.shape.streams
        self.begin = self.end = self.busy = 0.0  # busy: share of the time that this thread took of a core

    def run(self):
        waiting = [Call(r, self.server) for r in self.traffic.arrivals(self.warm + self.seconds)]
        self.long_left = len(waiting)
        gc.collect()
        gc.disable()
        start, cpu = time.perf_counter(), time.thread_time()
        self.begin, self.end = start + self.warm, start + self.warm + self.seconds
        try:
            self.serve(waiting, start)
        finally:
            gc.enable()
            for key in list(self.open.get_map().values()):
                key.data.close()
            self.open.close()
        self.busy = (time.thread_time() - cpu) / (time.perf_counter() - start)
        return self

    def serve(self, waiting, start):
        deadline = self.end + self.drain
        for stream in range(self.traffic.shape.streams):
            self.next_of(stream, start)
        while waiting or self.open.get_map():
            now = time.perf_counter()
            if now > deadline:
                self.errors.append(f"{len(self.open.get_map())} requests were not answered {self.drain:.0f} s after the last arrival")
                return
            while waiting and start + waiting[0].request.due <= now:
                call = waiting.pop(0)
                self.send(call, start + call.request.due, now)
            wake = start + waiting[0].request.due if waiting else deadline
            ready = self.open.select(max(0.0, wake - time.perf_counter()))
            now = time.perf_counter()  # what is ready was there by now; what handling the others takes is not the server's
            for key, _ in ready:
                if not key.data.receive(now):
                    self.finished(key.data, now)

    def send(self, call, due, now):
        self.calls.append(call)
        try:
            call.send(self.server.port, due, now)
        except OSError as why:
            call.error = str(why)
            self.fail(call)
            self.long_left -= call.request.stream == LONG
            return
        self.open.register(call.socket, selectors.EVENT_READ, call)

    def next_of(self, stream, now):
        request = self.traffic.of_stream(stream, self.numbers[stream])
        self.numbers[stream] += 1
        self.send(Call(request, self.server), now, now)

    def finished(self, call, now):
        self.open.unregister(call.socket)
        call.close()
        if call.wrong():
            self.fail(call)
        if call.request.stream == LONG:
            self.long_left -= 1
        elif not self.errors and (now < self.end or self.long_left):
            self.next_of(call.request.stream, now)

    def fail(self, call):
        what = "a long prompt" if call.request.stream == LONG else f"stream {call.request.stream}"
        self.errors.append(f"{what}: {call.wrong()}")
