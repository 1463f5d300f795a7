"""Writes tests/golden/: tiny random checkpoints in the form transformers saves them, with the logits transformers computes from them.

    python tests/make_golden.py        # needs transformers; the tests that read the files do not

NAME/             what save_pretrained writes (one folder also sharded, two rewritten to the older keys of config.json)
NAME.golden.safetensors
    tokens [B, T] right-padded, lengths [B], logits [sum of lengths, V]: fp32, row after row, the positions within each row's length

Every tensor is drawn at random, norm weights and biases too (transformers starts them at 1 and 0, where a forgotten one would not show),
and large enough for logits of about 5, where 1e-4 is a sharp test. Widths of heads differ from D/H where the family allows it, and
the rope scalings act within the T tokens.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "golden"
LENGTHS = (44, 17, 3)
SMALL = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}


def rope(rope_type, rope_theta, **rest):
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": rope_theta, **rest}}


def llama3(rope_theta, context):
    return rope("llama3", rope_theta, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=context)


# name: (model_type, keys of the config, dtype of the file, largest shard, rewrite to the older form of config.json)
GOLDEN = {
    "qwen3_tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True, **rope("default", 1e6)}, "float32", "1GB", False),
    "qwen3_untied_sharded": ("qwen3", {"head_dim": 12, "rms_norm_eps": 1e-2}, "bfloat16", "15KB", False),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}, "float16", "1GB", True),
    "llama3_new": ("llama", llama3(500.0, 64), "bfloat16", "1GB", False),
    "llama3_old": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1, **llama3(10000.0, 128)}, "bfloat16", "1GB", True),
    "llama_linear": ("llama", {"num_key_value_heads": 4, **rope("linear", 1000.0, factor=2.5)}, "bfloat16", "1GB", False),
    "llama_biases": ("llama", {"head_dim": 10, "attention_bias": True, "mlp_bias": True}, "bfloat16", "1GB", False),
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
    """rope_theta and rope_scaling at the top, torch_dtype: config.json as written before transformers 5."""
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
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        lengths = torch.tensor(LENGTHS)
        tokens = torch.randint(SMALL["vocab_size"], (len(LENGTHS), max(LENGTHS)), generator=generator)
        mask = torch.arange(max(LENGTHS)) < lengths[:, None]
        logits = model(tokens * mask, attention_mask=mask.long()).logits[mask]
        save_file({"tokens": tokens * mask, "lengths": lengths, "logits": logits}, OUT / f"{name}.golden.safetensors")
        files = sorted(f.name for f in folder.iterdir())
        print(f"{name}: logits {list(logits.shape)}, largest {logits.abs().max():.1f}, {', '.join(files)}")
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file()) / 1e3:.0f} kB in {OUT.name}/")


if __name__ == "__main__":
    main()
