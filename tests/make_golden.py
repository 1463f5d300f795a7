"""Writes tests/golden/: tiny random checkpoints as transformers saves them, with its logits.

    python tests/make_golden.py        # needs transformers; the tests that read the files do not

NAME/
    what save_pretrained writes (one folder also sharded, two rewritten to the older keys of
    config.json)
NAME.golden.safetensors
    tokens [B, T] right-padded, lengths [B], logits [sum of lengths, V] in fp32: row after row, the
    positions within each row's length

Every tensor is drawn at random, norm weights and biases too (transformers starts them at 1 and 0,
where a forgotten one would not show), and large enough for logits of about 5, where 1e-4 is a sharp
test. Widths of heads differ from D/H where the family allows it, and the rope scalings act within
the T tokens.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "golden"
LENGTHS = (44, 17, 3)
SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def rope(rope_type, rope_theta, **rest):
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": rope_theta, **rest}}


def llama3(rope_theta, context):
    factors = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return rope("llama3", rope_theta, **factors, original_max_position_embeddings=context)


# name: (model_type, keys of the config, dtype of the file, largest shard, whether config.json is
# rewritten to the older form)
TIED = {"tie_word_embeddings": True}
HEADS = "num_key_value_heads"
WIDE = {"head_dim": 16, **TIED, **rope("default", 1e6)}
NARROW = {"head_dim": 12, "rms_norm_eps": 1e-2}
BIASES = {"head_dim": 10, "attention_bias": True, "mlp_bias": True}
LINEAR = {HEADS: 4, **rope("linear", 1000.0, factor=2.5)}
GOLDEN = {
    "qwen3_tied": ("qwen3", WIDE, "float32", "1GB", False),
    "qwen3_untied_sharded": ("qwen3", NARROW, "bfloat16", "15KB", False),
    "qwen2": ("qwen2", {**TIED, "rms_norm_eps": 1e-5}, "float16", "1GB", True),
    "llama3_new": ("llama", llama3(500.0, 64), "bfloat16", "1GB", False),
    "llama3_old": ("llama", {**TIED, HEADS: 1, **llama3(10000.0, 128)}, "bfloat16", "1GB", True),
    "llama_linear": ("llama", LINEAR, "bfloat16", "1GB", False),
    "llama_biases": ("llama", BIASES, "bfloat16", "1GB", False),
}


@torch.no_grad()
def randomise(model, generator):
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name:
            p.copy_(1 + 0.3 * noise)
        elif name.endswith("bias"):
            p.copy_(0.5 * noise)
        elif p.dim() == 2 and ("embed" in name or "lm_head" in name):
            p.copy_(0.25 * noise)
        else:
            p.copy_((2 if "q_proj" in name else 1) * noise / p.size(1) ** 0.5)


def to_older_form(file):
    """config.json as written before transformers 5: rope_theta and rope_scaling at the top,
    torch_dtype."""
    raw = json.loads(file.read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    raw["torch_dtype"] = raw.pop("dtype")
    raw["transformers_version"] = "4.45.0"
    raw.pop("layer_types", None)
    file.write_text(json.dumps(raw, indent=2) + "\n")


@torch.no_grad()
def main():
    from transformers import AutoConfig, AutoModelForCausalLM

    for seed, (name, (kind, keys, dtype, shard, older)) in enumerate(GOLDEN.items()):
        folder, generator = OUT / name, torch.Generator().manual_seed(seed)
        shutil.rmtree(folder, ignore_errors=True)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **keys}))
        randomise(model, generator)
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
        if older:
            to_older_form(folder / "config.json")
        load = AutoModelForCausalLM.from_pretrained
        model = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
        lengths, T = torch.tensor(LENGTHS), max(LENGTHS)
        tokens = torch.randint(SMALL["vocab_size"], (len(LENGTHS), T), generator=generator)
        mask = torch.arange(T) < lengths[:, None]
        tokens = tokens * mask
        logits = model(tokens, attention_mask=mask.long()).logits[mask]
        state = {"tokens": tokens, "lengths": lengths, "logits": logits}
        save_file(state, OUT / f"{name}.golden.safetensors")
        files, largest = sorted(f.name for f in folder.iterdir()), logits.abs().max()
        print(f"{name}: logits {list(logits.shape)}, largest {largest:.1f}, {', '.join(files)}")
    size = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{size / 1e3:.0f} kB in {OUT.name}/")


if __name__ == "__main__":
    main()
