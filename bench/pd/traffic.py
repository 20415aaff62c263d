"""The requests of one run, drawn from a seed: long prompts that arrive at random, beside streams that run all the time.

All configurations get the same ones. Prompts are token ids of common words in random order: every server computes as many
tokens, none finds a prefix that it knows, and answers are text, of which each token is an event.
"""
import dataclasses
import random

WORDS = """the little boat sails down a long river to the sea and a young dog runs along the green bank with an old friend of his
who tells him about the house on the hill where many people live and work all day while birds sing in high trees and rain falls
on fields of wheat that farmers have planted in spring so there will be bread for every child when winter comes with snow and wind
from far mountains over which only few have gone before to see what lies behind them or who waits there for news"""
STREAM_PROMPT = (16, 24)  # tokens; short enough for a decode worker to compute them itself


@dataclasses.dataclass
class Request:
    prompt: list
    answer: int      # tokens, no more and no fewer
    stream: int      # which of the streams, or LONG
    due: float = 0.0  # seconds after the start; streams: 0


LONG = -1


@dataclasses.dataclass
class Shape:
    """What a run is made of; ranges of tokens hold both ends."""
    words: list  # token ids of which prompts are made
    prompts: tuple
    answers: tuple
    streams: int
    stream_answers: tuple


class Traffic:
    def __init__(self, shape, seed, rate):
        self.shape, self.seed, self.rate = shape, seed, rate

    def draw(self, *what):
        """A generator of its own for everything that is named, so that no order of asking changes an answer."""
        return random.Random("/".join(map(str, (self.seed, f"{self.rate:.6f}", *what))))

    def request(self, r, prompt, answer, stream, due=0.0):
        return Request(r.choices(self.shape.words, k=r.randint(*prompt)), r.randint(*answer), stream, due)

    def arrivals(self, seconds):
        """Long prompts, as a Poisson process of `rate` a second."""
        times, at, found = self.draw("times"), 0.0, []
        while self.rate > 0:
            at += times.expovariate(self.rate)
            if at >= seconds:
                break
            found.append(self.request(self.draw("long", len(found)), self.shape.prompts, self.shape.answers, LONG, at))
        return found

    def of_stream(self, stream, number):
        """The number-th request of a stream, which it sends when the one before is answered."""
        return self.request(self.draw("stream", stream, number), STREAM_PROMPT, self.shape.stream_answers, stream)
