"""`baton kv wipe` on a live cluster: workers and manager forget a salt and zero it, another one's KV stays, and who is being
answered is answered to the end."""
import http.client
import json
import tempfile
import threading

from cluster import TINY, Cluster, Suite, admin_port, wait_for

BLOCK, PROMPT = 16, 160
SETS = ["kvbm.admission=all", "worker.fetch=always"]


def ids(first):
    return [(first + i * 7) % 1000 for i in range(PROMPT)]


def ask(c, salt, route, first=0, **fields):
    answer = c.ask("", prompt=ids(first), route=route, ignore_eos=True,
                   cache_salt=salt, **{"max_tokens": 3, **fields})
    assert not answer.error, answer.error
    assert answer.extra["route"] == route, answer.extra
    return answer


def cached(answer):
    return sum(answer.extra["timing"]["cached_tokens"].values())


def found(c, salt, first):
    """Blocks of the prompt's beginning that the manager has."""
    done = c.baton("kv", "find", "--json", "--salt", salt, "--tokens", ",".join(map(str, ids(first)[:(PROMPT - 1) // BLOCK * BLOCK])))
    assert done.returncode == 0, done
    return sum(answer["host"] for answer in json.loads(done.stdout)["answers"])


def wipe(c, *args):
    done = c.baton("kv", "wipe", "--json", *args)
    assert done.returncode == 0, done
    answers = {answer["id"]: answer for answer in json.loads(done.stdout)["answers"]}
    assert list(answers) == [w["id"] for w in c.engines()] + [c.workers("kvbm")[0]["id"]], answers
    assert all(a["wiped"] and a["slots_left"] == a["slots_bad"] == 0 for a in answers.values()), answers
    return answers


def post(c, worker, body, kind="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", admin_port(worker), timeout=20)
    try:
        connection.request("POST", "/kv/wipe", body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def a_salt_is_wiped_another_stays(c):
    full = (PROMPT - 1) // BLOCK * BLOCK
    wants = {}
    for first, route in ((0, "local"), (1, "remote")):
        for salt in ("red", "blue"):
            wants[salt, route] = ask(c, salt, route, first)
            assert cached(wants[salt, route]) == 0
            assert cached(ask(c, salt, route, first)) == full
    for first in (0, 1):
        wait_for("the manager to have it", lambda first=first: found(c, "red", first) == full // BLOCK, 20)
    answers = wipe(c, "--salt", "red")
    for worker in c.engines():
        assert answers[worker["id"]]["blocks"] >= full // BLOCK, answers
        assert answers[worker["id"]]["host_bytes"] > 0, answers
    assert answers[c.workers("kvbm")[0]["id"]]["blocks"] >= 2 * (full // BLOCK), answers
    for first, route in ((0, "local"), (1, "remote")):
        for salt, tokens in (("red", 0), ("blue", full)):
            answer = ask(c, salt, route, first)
            assert cached(answer) == tokens, f"{salt}, {route}: {answer.extra}"
            assert answer.hashes == wants[salt, route].hashes
    c.wait_nothing_left()


def who_is_being_answered_is(c, tokens):
    want = ask(c, "red", "local", 3, max_tokens=tokens, no_cache=True)
    decode, got = c.workers("decode")[0], []
    begun = threading.Event()
    thread = threading.Thread(target=lambda: got.append(ask(c, "red", "local", 3, max_tokens=tokens,
                                                            on_token=lambda *_: begun.set())))
    thread.start()
    assert begun.wait(30)
    answers = wipe(c, "--salt", "red")
    thread.join()
    assert got[0].hashes == want.hashes and len(got[0].hashes) == tokens
    assert answers[decode["id"]]["slots"] > PROMPT // BLOCK, answers
    assert cached(ask(c, "red", "local", 3)) == 0
    c.wait_nothing_left()


def everything_is_wiped(c):
    for salt in ("red", "blue"):
        assert cached(ask(c, salt, "local", 4)) == 0
    wipe(c, "--node")
    for salt in ("red", "blue"):
        assert cached(ask(c, salt, "local", 4)) == 0
    for worker in c.engines():
        metrics = c.metrics(worker)
        assert metrics['baton_worker_wipes_total{event="zeroed"}'] > 0
        assert metrics['baton_worker_wipes_total{event="begun"}'] == 3
        assert metrics['baton_worker_wipes_total{event="bad"}'] == metrics['baton_worker_wipes_total{event="late"}'] == 0


def what_makes_no_sense_is_refused(c):
    worker = c.engines()[0]
    for body, kind, code, why in (('{"all": true}', "text/plain", 415, "Content-Type"),
                                  ("{}", "application/json", 400, "one of the two"),
                                  ('{"all": true, "salt": "x"}', "application/json", 400, "one of the two"),
                                  ('{"tokens": [1]}', "application/json", 400, "no member"),
                                  ('{"salt": ""}', "application/json", 400, "not empty"),
                                  ("nothing", "application/json", 400, "no JSON object")):
        status, text = post(c, worker, body, kind)
        assert status == code and why in text, (body, status, text)


def another_key_is_told(c):
    """The manager's; what the salt means to it nobody computes, so that it would find nothing, and be done."""
    manager, full = c.workers("kvbm")[0], (PROMPT - 1) // BLOCK * BLOCK
    assert cached(ask(c, "red", "local")) == 0
    admin = [f"--admin=http://127.0.0.1:{admin_port(w)}" for w in (*c.engines(), c.workers("router")[0])]
    for command in (["find", "1,2,3", "--tokens"], ["pin", "1,2,3", "--tokens"], ["wipe"],
                    ["wipe", f"--admin=http://127.0.0.1:{admin_port(manager)}", admin[0]]):
        done = c.baton("kv", command[0], "--salt", "red", *command[1:])
        assert done.returncode == 1 and "--salt-key-file" in done.stderr and not done.stdout, done
    assert cached(ask(c, "red", "local")) == full, "it was wiped"
    done = c.baton("kv", "wipe", "--salt", "red", *admin)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(c.engines()) and not done.stderr, done
    assert not ask(c, "red", "local").extra["timing"]["cached_tokens"].get("device"), "workers have it"
    done = c.baton("kv", "wipe", "--salt", "red", *admin[:-1])
    assert done.returncode == 0 and "no router" in done.stderr, done
    done = c.baton("kv", "wipe", "--salt", "red", admin[-1])
    assert done.returncode == 1 and "routers only" in done.stderr, done
    wipe(c, "--node")


def guesses_are_erased_too(c):
    """Of a draft model, beside steps that follow one another."""
    decode = c.workers("decode")[0]
    who_is_being_answered_is(c, 80)
    assert c.count(decode, "drafted") > 0


def main():
    suite = Suite()
    with Cluster(sets=SETS) as c:
        wait_for("the links", lambda: all(c.metrics(w).get("baton_worker_links_up", 0) >= 2 for w in c.engines()), 30)
        suite.test("a salt is wiped, another stays", a_salt_is_wiped_another_stays, c)
        suite.test("who is being answered is", who_is_being_answered_is, c, 600)
        suite.test("everything is wiped", everything_is_wiped, c)
        suite.test("what makes no sense is refused", what_makes_no_sense_is_refused, c)
    with Cluster(sets=[*SETS, "decode.speculation=model", f"decode.draft_model={TINY}"]) as c:
        suite.test("guesses are erased, too", guesses_are_erased_too, c)
    with tempfile.NamedTemporaryFile() as key:
        key.write(b"another")
        key.flush()
        with Cluster(sets=[*SETS, f"kvbm.salt_key_file={key.name}"]) as c:
            suite.test("another key is told", another_key_is_told, c)
    suite.finish()


main()
