"""Trains the built-in model (Qwen3 architecture, 2.6 million parameters) on the generated corpus, on the CPU.

    pip install torch numpy regex
    python3 models/training/train.py OUT_FOLDER MINUTES [START_FOLDER]     # START_FOLDER: go on from an earlier result
"""
import json
import math
import os
import random
import struct
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import corpus
import tokenizer as tk

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 256, 4, 8, 4, 32, 512, 1024
THETA, EPS, MAX_POSITIONS = 100000.0, 1e-6, 4096


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS) * self.weight.float()).to(x.dtype)


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        lin = lambda i, o: nn.Linear(i, o, bias=False)
        self.input_layernorm, self.post_attention_layernorm = Norm(HIDDEN), Norm(HIDDEN)
        self.q_proj, self.k_proj = lin(HIDDEN, HEADS * HEAD_DIM), lin(HIDDEN, KV_HEADS * HEAD_DIM)
        self.v_proj, self.o_proj = lin(HIDDEN, KV_HEADS * HEAD_DIM), lin(HEADS * HEAD_DIM, HIDDEN)
        self.q_norm, self.k_norm = Norm(HEAD_DIM), Norm(HEAD_DIM)
        self.gate_proj, self.up_proj, self.down_proj = lin(HIDDEN, FFN), lin(HIDDEN, FFN), lin(FFN, HIDDEN)

    def forward(self, x, cos, sin):
        n, t, _ = x.shape
        y = self.input_layernorm(x)
        q = self.q_norm(self.q_proj(y).view(n, t, HEADS, HEAD_DIM)).transpose(1, 2)
        k = self.k_norm(self.k_proj(y).view(n, t, KV_HEADS, HEAD_DIM)).transpose(1, 2)
        v = self.v_proj(y).view(n, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (z.repeat_interleave(HEADS // KV_HEADS, 1) for z in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(a.transpose(1, 2).reshape(n, t, -1))
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm(HIDDEN)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        for layer in self.layers:
            for p in (layer.o_proj.weight, layer.down_proj.weight):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS))

    def forward(self, ids):
        t = ids.shape[1]
        freq = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        angle = torch.arange(t).float()[:, None] * freq
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin())
        return F.linear(self.norm(x), self.embed_tokens.weight).float()


def stream(tok, seed, length):
    """Endless packed rows of (ids, loss weight): answers count fully, prompts a little."""
    r = random.Random(seed)
    ids, weight = [], []
    while True:
        while len(ids) < length + 1:
            for role, text in corpus.sample(r):
                head, body = tok.encode(f"<|im_start|>{role}\n"), tok.encode(f"{text}<|im_end|>")
                w = 1.0 if role == "assistant" else 0.05
                ids += head + body + tok.encode("\n")
                weight += [0.0] * len(head) + [w] * len(body) + [0.0]
            ids.append(tok.special["<|endoftext|>"])
            weight.append(0.05)
        yield ids[:length + 1], weight[:length + 1]
        ids, weight = ids[length + 1:], weight[length + 1:]


def tensor_name(name):
    parts = name.split(".")
    if parts[0] == "layers" and parts[2] in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
        parts.insert(2, "self_attn")
    elif parts[0] == "layers" and parts[2].endswith("_proj"):
        parts.insert(2, "mlp")
    return "model." + ".".join(parts)


def load(model, folder):
    raw = open(f"{folder}/model.safetensors", "rb").read()
    size = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + size])
    with torch.no_grad():
        for name, p in model.named_parameters():
            a, b = head[tensor_name(name)]["data_offsets"]
            p.copy_(torch.frombuffer(bytearray(raw[8 + size + a:8 + size + b]), dtype=torch.bfloat16).view(p.shape).float())


def save(model, folder):
    json.dump({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
               "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": FFN,
               "vocab_size": VOCAB, "max_position_embeddings": MAX_POSITIONS, "rope_theta": THETA, "rope_scaling": None,
               "rms_norm_eps": EPS, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
               "tie_word_embeddings": True, "use_cache": True, "use_sliding_window": False, "torch_dtype": "bfloat16",
               "bos_token_id": None, "eos_token_id": VOCAB - 1, "pad_token_id": VOCAB - 3},
              open(f"{folder}/config.json", "w"), indent=1)
    json.dump({"eos_token_id": [VOCAB - 1, VOCAB - 3], "pad_token_id": VOCAB - 3, "do_sample": False},
              open(f"{folder}/generation_config.json", "w"), indent=1)
    names, blobs, offset = {}, [], 0
    for name, p in model.named_parameters():
        data = p.detach().bfloat16().contiguous().view(torch.int16).numpy().tobytes()
        names[tensor_name(name)] = {"dtype": "BF16", "shape": list(p.shape), "data_offsets": [offset, offset + len(data)]}
        blobs.append(data)
        offset += len(data)
    head = json.dumps({"__metadata__": {"format": "pt"}, **names}).encode()
    head += b" " * (-len(head) % 8)
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(blobs))


@torch.no_grad()
def generate(model, tok, turns, limit=160):
    ids = tok.encode(tk.chat(turns, True))
    start = len(ids)
    while len(ids) - start < limit:
        nxt = int(model(torch.tensor([ids]))[0, -1].argmax())
        if nxt in (VOCAB - 1, VOCAB - 3):
            break
        ids.append(nxt)
    return tok.decode(ids[start:])


def score(model, tok, seed=7, n=12):
    r, out = random.Random(seed), {}
    makers = [f for f, _ in corpus.SINGLE if f is not corpus.story]
    for make in makers:
        ok = 0
        for _ in range(n):
            ask, answer = make(r)
            ok += generate(model, tok, [("user", ask)], 140) == answer
        out[make.__name__] = ok / n
    return out


if __name__ == "__main__":
    folder, minutes = sys.argv[1], float(sys.argv[2])
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    r = random.Random(99)
    tok = tk.load(sys.argv[3]) if len(sys.argv) > 3 else tk.learn(["\n".join(t for _, t in corpus.sample(r)) for _ in range(20000)], VOCAB)
    tk.save(tok, folder)
    model = Model()
    if len(sys.argv) > 3:
        load(model, sys.argv[3])
    count = sum(p.numel() for p in model.parameters())
    print("vocab", len(tok.vocab), "parameters", count, flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    flat = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}], lr=1, betas=(0.9, 0.98))
    start, step, seen = time.time(), 0, 0
    seed = 10 * len(sys.argv)
    plan = [(0.0, 16, stream(tok, seed + 1, 256)), (0.5, 8, stream(tok, seed + 2, 512)), (0.85, 2, stream(tok, seed + 3, 2048))]  # from this share of the time on: rows, text
    while True:
        done = (time.time() - start) / (60 * minutes)
        if done >= 1:
            break
        n, text = next((n, text) for share, n, text in reversed(plan) if done >= share)
        rows = [next(text) for _ in range(n)]
        lr = 3e-3 * min(1, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * done)) * 0.97 + 0.03)
        for g in opt.param_groups:
            g["lr"] = lr
        ids = torch.tensor([a for a, _ in rows])
        weight = torch.tensor([b for _, b in rows])[:, 1:]
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1), reduction="none").view(weight.shape)
        loss = (loss * weight).sum() / weight.sum()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        seen += ids.numel()
        if step % 50 == 0:
            print(f"{time.time() - start:.0f}s step {step} tokens {seen / 1e6:.2f}M loss {loss.item():.4f} lr {lr:.5f}", flush=True)
        if step % 1000 == 0:
            save(model, folder)
            print(score(model, tok), flush=True)
    save(model, folder)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    print("final", score(model, tok, n=40), flush=True)
    for ask in ("Who are you?", "Tell me a story about a brave fox called Mira near the river.", "What is 17 plus 25?"):
        print(">", ask, "\n ", generate(model, tok, [("user", ask)]), flush=True)
