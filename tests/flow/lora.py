"""LoRA adapters through the whole cluster: listed, asked for by name, mixed in one batch, moved between workers, and never mistaken for
one another. The adapters are random ones for the built-in model.

    lora.py
"""
import array
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from cluster import BIN, QUESTIONS, SIGKILL, STORY, TINY, Cluster, Suite, in_parallel, send_signal

ADAPTERS = {"red": (8, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
            "blue": (3, ["q_proj", "down_proj"])}


def shapes():
    """Outputs and inputs of each layer that may have an adapter."""
    with open(os.path.join(TINY, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    n, ffn = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    attention = {"q_proj": (q, n), "k_proj": (kv, n), "v_proj": (kv, n), "o_proj": (n, q)}
    mlp = {"gate_proj": (ffn, n), "up_proj": (ffn, n), "down_proj": (n, ffn)}
    return c["num_hidden_layers"], {**{f"self_attn.{k}": v for k, v in attention.items()},
                                    **{f"mlp.{k}": v for k, v in mlp.items()}}


def write_adapter(folder, seed, rank, modules):
    """As PEFT writes it; B is not zero, as it would be before training."""
    rng = random.Random(seed)
    layers, known = shapes()
    header, data = {}, b""
    for layer in range(layers):
        for name, (n_out, n_in) in known.items():
            if name.split(".")[1] not in modules:
                continue
            for side, shape in (("A", [rank, n_in]), ("B", [n_out, rank])):
                spread = 0.5 / shape[1] ** 0.5
                values = array.array("f", (rng.uniform(-spread, spread) for _ in range(shape[0] * shape[1])))
                header[f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight"] = {
                    "dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
                data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(folder)
    with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "target_modules": modules,
                   "use_rslora": False, "use_dora": False, "modules_to_save": None, "task_type": "CAUSAL_LM"}, f)


def names(c):
    """The model, and its adapters as a request names them."""
    return [c.model, c.model + ":red", c.model + ":blue"]


def ask(c, text, model, **fields):
    answer = c.ask(text, model=model, max_tokens=16, **fields)
    assert not answer.error, f"{model}: {answer.error}"
    assert answer.hashes
    return answer


def are_listed(c):
    listed = {m["id"]: m.get("parent") for m in c.get("/v1/models")["data"]}
    assert listed == {c.model: None, c.model + ":red": c.model, c.model + ":blue": c.model}, listed
    assert c.get(f"/v1/models/{c.model}:blue")["parent"] == c.model


def unknown_are_refused(c):
    for model in (c.model + ":green", c.model + ":", "other:red"):
        answer = c.ask("Hello!", model=model)
        assert answer.status == 404 and json.loads(answer.error)["error"]["code"] == "model_not_found", (model, answer.error)


def each_has_its_own_answer(c):
    """Computed here and computed elsewhere is the same, for each; no two of them are the same."""
    for text in (STORY, STORY * 4, STORY * 12):
        seen = []
        for model in names(c):
            here, there = (ask(c, text, model, route=route, no_cache=True) for route in ("local", "remote"))
            assert there.extra["route"] == "remote", there.extra
            assert here.hashes == there.hashes, model
            seen.append(here.hashes[0])
        assert len(set(seen)) == 3, seen


def batch_equals_single(c):
    calls = [(text, model) for text in QUESTIONS for model in names(c)]
    alone = [ask(c, *call).hashes for call in calls]
    for _ in range(2):
        together = in_parallel([lambda call=call: ask(c, *call).hashes for call in calls])
        assert together == alone
    c.wait_nothing_left()


def survive_a_restart(c):
    """The router keeps the name while the only decode worker is gone, and the answer is the same afterwards."""
    want = ask(c, STORY, c.model + ":red").hashes
    send_signal(c.pid("decode"), SIGKILL)
    assert ask(c, STORY, c.model + ":red").hashes == want
    c.wait_healed(1, 1)
    are_listed(c)


def only_where_it_is(sets):
    """A prefill worker without the adapter computes for the model, and not for the adapter."""
    with Cluster(sets=[s for s in sets if s.startswith("decode.")]) as c:
        assert ask(c, STORY * 4, c.model, route="remote").extra["route"] == "remote"
        want = ask(c, STORY * 4, c.model + ":red", route="remote")
        assert want.extra["route"] == "local", want.extra
    with Cluster(sets=sets) as c:
        assert ask(c, STORY * 4, c.model + ":red", route="remote").hashes == want.hashes


def other_content_is_another(folder, sets):
    """Two workers have an adapter of one name, but not the same one: neither takes the other's KV."""
    write_adapter(os.path.join(folder, "other"), 77, *ADAPTERS["red"])
    other = f"prefill.adapters=red={folder}/other,blue={folder}/blue"
    with Cluster(sets=[s for s in sets if s.startswith("decode.")] + [other]) as c:
        assert ask(c, STORY * 4, c.model + ":red", route="remote").extra["route"] == "local"
        assert ask(c, STORY * 4, c.model + ":blue", route="remote").extra["route"] == "remote"


def bad_ones_end_the_start(folder):
    """The worker says what it does not understand."""
    bad = os.path.join(folder, "dora")
    shutil.copytree(os.path.join(folder, "blue"), bad)
    with open(os.path.join(bad, "adapter_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    with open(os.path.join(bad, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump({**config, "use_dora": True}, f)
    done = subprocess.run([os.path.join(BIN, "baton-decode"), "--model", TINY, "--adapters", f"bad={bad}", "--etcd",
                           "http://127.0.0.1:1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    assert "use_dora: only null, false or empty is supported" in done.stdout + done.stderr, done


def main():
    suite = Suite()
    folder = tempfile.mkdtemp(prefix="baton-lora-")
    try:
        for seed, (name, (rank, modules)) in enumerate(ADAPTERS.items()):
            write_adapter(os.path.join(folder, name), seed, rank, modules)
        listed = f"red={folder}/red,baton-tiny:blue={folder}/blue,another:no={folder}/none"
        sets = [f"{role}.adapters={listed}" for role in ("prefill", "decode")]
        for transport in ("auto", "tcp"):
            with Cluster(sets=sets, transfer=transport) as c:
                suite.test(f"each adapter has its own answer ({transport})", each_has_its_own_answer, c)
                if transport == "tcp":
                    continue
                suite.test("adapters are listed", are_listed, c)
                suite.test("unknown adapters are refused", unknown_are_refused, c)
                suite.test("a batch equals single requests", batch_equals_single, c)
                suite.test("adapters survive a restart", survive_a_restart, c)
        suite.test("an adapter is computed only where it is", only_where_it_is, sets)
        suite.test("other content is another adapter", other_content_is_another, folder, sets)
        suite.test("bad adapters end the start", bad_ones_end_the_start, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    suite.finish()


if __name__ == "__main__":
    sys.exit(main())
