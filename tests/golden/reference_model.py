"""A model as Hugging Face computes it: transformers in float32 on the CPU, its tokenizer and its chat template."""
import datetime
import json
import os
import pathlib

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")

import gguf
import tokenizers
import torch
import transformers

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)  # what a template that asks for the time is told
GGUF_SPECIAL = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
GGUF_LAYER = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
              "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
              "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
GGUF_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
              "output.weight": "lm_head.weight"}


class ReferenceModel:
    def __init__(self, path):
        load = load_gguf if str(path).endswith(".gguf") else load_folder
        self.network, self.tokenizer, self.ends = load(path)
        self.network.eval()

    def tokenize(self, text):
        """Special tokens are recognised, none is added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def render(self, messages):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True,
                                                  strftime_now=NOW.strftime)

    @torch.inference_mode()
    def greedy(self, prompt_ids, limit):
        prompt = torch.tensor([prompt_ids])
        out = self.network.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=limit,
                                    eos_token_id=self.ends, pad_token_id=self.ends[0])
        return out[0, len(prompt_ids):].tolist()

    @torch.inference_mode()
    def log_probabilities(self, prompt_ids, ids):
        """[len(ids), vocabulary]: row i is what prompt and ids before i predict for ids[i]."""
        tokens = torch.tensor([prompt_ids + ids[:-1]])
        logits = self.network(tokens, logits_to_keep=len(ids), use_cache=False).logits[0]
        return torch.log_softmax(logits.double(), dim=-1)

    def top(self, prompt_ids, ids, k):
        values, indices = self.log_probabilities(prompt_ids, ids).topk(k)
        return [[[i, round(v, 5)] for i, v in zip(*row)] for row in zip(indices.tolist(), values.tolist())]


def load_folder(path):
    path = pathlib.Path(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"),
                                                     chat_template=config["chat_template"])
    network = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    ends = json.loads((path / "generation_config.json").read_text())["eos_token_id"]
    return network, tokenizer, ends


def load_gguf(path):
    """A llama with the tokenizer of SmolLM."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama" and fields["tokenizer.ggml.pre"] == "smollm", path
    config = gguf_config(fields, tied=all(t.name != "output.weight" for t in reader.tensors))
    weights = dict(gguf_weight(tensor, config) for tensor in reader.tensors)
    network = transformers.LlamaForCausalLM(config)
    lacking, unknown = network.load_state_dict(weights, strict=False)
    assert not unknown and set(lacking) <= ({"lm_head.weight"} if config.tie_word_embeddings else set()), (lacking, unknown)
    network.tie_weights()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=gguf_tokenizer(fields),
                                                     chat_template=fields["tokenizer.chat_template"])
    return network, tokenizer, [fields["tokenizer.ggml.eos_token_id"]]


def gguf_config(fields, tied):
    def of(name):
        return fields["llama." + name]
    return transformers.LlamaConfig(
        vocab_size=of("vocab_size"), hidden_size=of("embedding_length"), intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"), num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"), max_position_embeddings=of("context_length"),
        rms_norm_eps=of("attention.layer_norm_rms_epsilon"), tie_word_embeddings=tied, dtype=torch.float32,
        rope_parameters={"rope_type": "default", "rope_theta": of("rope.freq_base")}, attn_implementation="eager")


def gguf_weight(tensor, config):
    values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    assert values.dtype == torch.float32, tensor.name
    if tensor.name in GGUF_OUTER:
        return GGUF_OUTER[tensor.name], values
    _, layer, part, kind = tensor.name.split(".")
    if part in ("attn_q", "attn_k"):
        # GGUF rotates neighbours, transformers the two halves of a head.
        heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
        rows, columns = values.shape
        values = values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return f"model.layers.{layer}.{GGUF_LAYER[part]}.{kind}", values


def gguf_tokenizer(fields):
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    out = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    out.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    out.decoder = tokenizers.decoders.ByteLevel()
    out.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True)
                            for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind in GGUF_SPECIAL])
    return out
