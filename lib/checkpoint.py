"""Checkpoint folders in Hugging Face's form: config.json and *.safetensors, read and written.

    config.json    -> read_config  -> Config, the sizes and switches of the network
    Config         -> rope_frequencies, how fast each pair of a head turns
    *.safetensors  -> read_weights -> {parameter name: tensor}, all checked before one is read
    write_checkpoint writes such a folder, weights_digest tells two of them apart

This file knows no network: model.py asks for tensors by name and shape. What the network can't
compute exactly (another family, sliding windows, experts, quantized weights) is refused here, with
a ValueError of one line that names the file, what was found and what was wanted.

    pytest tests/test_checkpoint.py
"""

import contextlib
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

# Files that make a checkpoint folder whole; they are copied as they are.
COMPANIONS = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"]
COMPANIONS += ["chat_template.jinja", "generation_config.json", "added_tokens.json", "merges.txt"]
WANTED = "wanted a checkpoint folder with config.json and *.safetensors"
# What Git leaves in place of a large file that was not fetched begins with these bytes.
LFS_POINTER, FETCH = b"version https:/", "a Git LFS pointer: git lfs pull fetches the file itself"


def check(right, message):
    """ValueError with this message, if something is not right."""
    if not right:
        raise ValueError(message)


class Config(NamedTuple):
    """What the network needs to know; `raw` is config.json itself, kept for saving."""

    V: int  # tokens in the vocabulary
    D: int  # width of the residual stream
    F: int  # width inside the MLP
    layers: int
    H: int  # query heads
    Hkv: int  # key/value heads, each shared by H/Hkv query heads
    Dh: int  # width of a head
    eps: float  # added to the mean square in every norm
    rope: dict  # {"rope_type", "rope_theta", and what that type needs}
    tied: bool  # the head is the embedding
    qk_norm: bool  # queries and keys are normalised in each head
    qkv_bias: bool  # the products that make queries, keys and values add a bias
    o_bias: bool  # so does the output of attention
    mlp_bias: bool  # so do the three products of the MLP
    raw: dict


# A row per family: q/k norm; the biases of q, k and v, of attention's output and of the MLP (True,
# False, or the key of config.json that says which); Hkv and Dh where config.json gives none (None:
# as many as query heads; hidden_size over the query heads).
FAMILIES = {
    "qwen3": (True, "attention_bias", "attention_bias", False, 32, 128),
    "qwen2": (False, True, False, False, 32, None),
    "llama": (False, "attention_bias", "attention_bias", "mlp_bias", None, None),
}
KINDS = "qwen3, qwen2 and llama (Qwen3, Qwen2/2.5, Llama 3.x, SmolLM2) only"

# What else could make it another network: a key, the values that don't, what this project computes.
OFF = (None, False, 0, {}, [])
CHECKS = (
    ("hidden_act", ("silu",), "silu only"),
    ("is_causal", (True,), "causal attention only"),
    ("use_sliding_window", OFF, "full attention in every layer only"),
    ("quantization_config", OFF, "plain dense weights only, every layer alike"),
    ("num_experts", OFF, "plain dense weights only, every layer alike"),
    ("per_layer_config", OFF, "plain dense weights only, every layer alike"),
    ("partial_rotary_factor", (None, 1.0), "rotations of the whole head only (1.0)"),
)

# The types of rotary positions, and the numbers that each needs beside rope_theta.
ROPE_TYPES = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def find_config(path) -> Path:
    """path/config.json. ValueError, with a hint at what went wrong, if it is not there."""
    folder, file, hint = Path(path), Path(path) / "config.json", ", and nothing is downloaded"
    if str(path).startswith("~"):
        hint = " (the shell expands ~ only outside quotes, and not behind =)"
    found = "a file, no such folder" if folder.is_file() else "no such folder"
    check(str(path) and folder.is_dir(), f"{path or repr('')}: {found}{hint}; {WANTED}")
    names = sorted(f.name for f in folder.iterdir())
    listed = "only " + ", ".join(names[:3]) + (", ..." if names[3:] else "")
    found = listed if names else "the folder is empty"
    adapter = "adapter_config.json" in names
    hint = "; merge the adapter into its base model first" if adapter else ""
    check(file.is_file(), f"{file}: not found ({found}); {WANTED}{hint}")
    return file


def read_json(file, wanted="wanted the file as it was published") -> dict:
    """The object in a JSON file; {} if there is no such file. ValueError for another content."""
    content = file.read_bytes() if file.exists() else b"{}"
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        reason = FETCH if content.startswith(LFS_POINTER) else error
        reason = reason if content else "the file is empty"
        raise ValueError(f"{file}: not valid JSON ({reason}); {wanted}") from None
    check(isinstance(found, dict), f"{file}: found a JSON {type(found).__name__}, wanted an object")
    return found


def number(file, name, value, whole=False):
    """The value, if it is a positive number; with whole=True, if it is a positive whole number."""
    # By type, not isinstance: to Python True is a number too.
    right = type(value) in ((int,) if whole else (int, float)) and 0 < value < math.inf
    wanted = "a positive whole number" if whole else "a positive number"
    check(right, f"{file}: {name} is {value!r}; wanted {wanted}")
    return value if whole else float(value)


def read_config(path) -> Config:
    """config.json of a checkpoint folder. An absent key means what it means to transformers.

    ValueError, in one line that names the file, for what the network can't compute exactly.
    """
    file = find_config(path)
    raw = read_json(file, WANTED)
    kind = raw.get("model_type")
    if kind is None and "settings" in raw:
        inner = file.parent / "checkpoint"
        raise ValueError(f"{file}: describes a training run; wanted the checkpoint in it, {inner}")
    # Values are looked for in tuples, not in sets or dicts: they may be anything JSON can hold.
    check(kind in tuple(FAMILIES), f"{file}: model_type is {kind!r}; this project computes {KINDS}")
    for key, plain, computed in CHECKS:
        value = raw.get(key, plain[0])
        check(value in plain, f"{file}: {key} is {value!r}; this project computes {computed}")

    def size(key):
        return number(file, key, raw.get(key), whole=True)

    def flag(switch):
        value = raw.get(switch) if isinstance(switch, str) else switch
        check(value in (None, False, True), f"{file}: {switch} is {value!r}; wanted true or false")
        return bool(value)

    V, D, F = size("vocab_size"), size("hidden_size"), size("intermediate_size")
    layers, H = size("num_hidden_layers"), size("num_attention_heads")
    types = raw.get("layer_types")
    full = types in (None, ["full_attention"] * layers)
    check(full, f"{file}: layer_types is {types!r}; wanted full_attention in every layer")

    qk_norm, qkv_bias, o_bias, mlp_bias, Hkv, Dh = FAMILIES[kind]
    Hkv, Dh = raw.get("num_key_value_heads", Hkv), raw.get("head_dim", Dh)
    divides = Dh is not None or D % H == 0
    check(divides, f"{file}: hidden_size {D} is no multiple of num_attention_heads {H}")
    Hkv = number(file, "num_key_value_heads", H if Hkv is None else Hkv, True)
    Dh = number(file, "head_dim", D // H if Dh is None else Dh, True)
    check(H % Hkv == 0, f"{file}: {H} query heads can't share {Hkv} key/value heads evenly")
    check(Dh % 2 == 0, f"{file}: head_dim is {Dh}; wanted an even number, to rotate in pairs")
    eps, rope = number(file, "rms_norm_eps", raw.get("rms_norm_eps", 1e-6)), read_rope(file, raw)
    tied, biases = flag("tie_word_embeddings"), (flag(qkv_bias), flag(o_bias), flag(mlp_bias))
    return Config(V, D, F, layers, H, Hkv, Dh, eps, rope, tied, qk_norm, *biases, raw)


def read_rope(file, raw) -> dict:
    """The settings of the rotary positions: rope_type, rope_theta and what the type needs."""
    # Older files have rope_theta and rope_scaling at the top, newer ones rope_parameters; of a file
    # with both transformers takes rope_scaling.
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    flat = isinstance(rope, dict) and not any(isinstance(value, dict) for value in rope.values())
    check(flat, f"{file}: the rope scaling is {rope!r}; wanted one flat object for all layers")
    kind, kinds = rope.get("rope_type") or rope.get("type") or "default", tuple(ROPE_TYPES)
    wanted = f"wanted one of {', '.join(kinds)}"
    check(kind in kinds, f"{file}: rope type {kind!r} is unknown; {wanted}")
    theta = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
    rope = rope | {"rope_type": kind, "rope_theta": number(file, "rope_theta", theta)}
    top = "original_max_position_embeddings"
    if kind == "llama3" and top in raw:  # at the top it goes first, as in transformers
        rope[top] = raw[top]
    for key in ROPE_TYPES[kind]:
        rope[key] = number(file, f"{key} of rope type {kind!r}", rope.get(key))
    rising = kind != "llama3" or rope["low_freq_factor"] < rope["high_freq_factor"]
    check(rising, f"{file}: low_freq_factor is not below high_freq_factor in {rope}")
    return rope


def rope_frequencies(config):
    """Radians per position of each rotated pair, [Dh/2]: theta^(-2i/Dh), then as config.rope says.

    "linear" divides all of them by `factor`. "llama3" leaves alone the fast pairs, which turn more
    than high_freq_factor times within the original context, divides by `factor` the slow ones,
    which turn less than low_freq_factor times, and blends in between.
    """
    rope, Dh = config.rope, config.Dh
    exponents = torch.arange(0, Dh, 2, dtype=torch.int64).float() / Dh  # [Dh/2]
    inv_freq = 1.0 / rope["rope_theta"] ** exponents  # [Dh/2]
    if rope["rope_type"] == "linear":
        return inv_freq / rope["factor"]
    if rope["rope_type"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * inv_freq / (2 * math.pi)  # [Dh/2]
        fast = ((turns - low) / (high - low)).clamp(0, 1)  # 1: leave alone, 0: divide
        return fast * inv_freq + (1 - fast) * inv_freq / rope["factor"]
    return inv_freq


def read_weights(path, shapes, tied, device="cpu", dtype=torch.float32) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint folder's safetensors, in one file or in shards with an index.

    shapes: {name: shape} of all that is wanted. tied: the head is the embedding, and a head in the
    files must equal it. The tensors are copies of the files' bf16, fp16, fp32 or fp64 in `dtype`.
    ValueError, in one line with file and tensor, for what is missing, surplus or of another form.
    """
    wanted = dict(shapes)
    if tied:  # some files hold the shared matrix twice
        wanted["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    # All names, shapes and dtypes come first: a fault in the last shard shows at once.
    with contextlib.ExitStack() as stack:
        found = {}  # name -> the open file that holds it
        for file in weight_files(path):
            weights = stack.enter_context(open_weights(file))
            for name in weights.keys():  # noqa: SIM118  (it is no dict)
                # Old Llama files carry the frequencies, which follow from config.json.
                if name in wanted or not name.endswith("rotary_emb.inv_freq"):
                    check(name not in found, f"{file}: tensor {name} is also in another shard")
                    check_tensor(file, name, weights.get_slice(name), wanted.get(name))
                    found[name] = weights
        missing = sorted(set(shapes) - set(found))
        if missing:
            more = f", and {len(missing) - 1} more" if missing[1:] else ""
            raise ValueError(f"{path}: tensor {missing[0]} is missing{more}; config.json wants it")
        state = {}
        for name, weights in found.items():
            state[name] = weights.get_tensor(name).to(device=device, dtype=dtype, copy=True)
    if tied:
        embedding = state["model.embed_tokens.weight"]
        same = torch.equal(state.pop("lm_head.weight", embedding), embedding)
        says = "but config.json says tie_word_embeddings"
        check(same, f"{path}: lm_head.weight differs from the embedding, {says}")
    return state


def check_tensor(file, name, stored, wants):
    """ValueError if a tensor in a file is not of the shape it should have (None: of none)."""
    if wants is None:
        raise ValueError(f"{file}: surplus tensor {name}, which config.json does not account for")
    shape, wants, dtype = list(stored.get_shape()), list(wants), stored.get_dtype()
    found = f"{file}: tensor {name} has shape {shape}"
    check(shape == wants, f"{found}; config.json wants {wants}")
    known = dtype in ("BF16", "F16", "F32", "F64")
    check(known, f"{file}: tensor {name} is {dtype}; wanted bf16, fp16 or fp32")


def open_weights(file):
    """A safetensors file, opened. ValueError if it is none."""
    try:
        return safe_open(file, framework="pt")
    except OSError as error:
        raise ValueError(f"{file}: {error}; wanted a safetensors file that can be read") from None
    except SafetensorError as error:
        with open(file, "rb") as f:
            reason = FETCH if f.read(len(LFS_POINTER)) == LFS_POINTER else error
        found = f"cut short, damaged or no safetensors file ({reason})"
        raise ValueError(f"{file}: {found}; wanted the weights as they were published") from None


def weight_files(path) -> list[Path]:
    """The safetensors files of a checkpoint folder. ValueError if there are none."""
    path = Path(path)
    # As in transformers one file goes before shards: it may have been saved beside older ones.
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            wanted = "wanted a JSON object with a weight_map from tensor to file"
            raise ValueError(f"{index}: {wanted}") from None
        for name in names:
            inside = isinstance(name, str) and Path(name).name == name and (path / name).is_file()
            check(inside, f"{index}: weight_map names {name!r}, which is not a file of {path}")
        return [path / name for name in sorted(names)]
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
    others = sorted(f.name for f in path.iterdir() if f.suffix in kinds)
    convert = "convert it with transformers' save_pretrained, or fetch what is missing"
    found = f"only {others[0]}; {convert}" if others else "and no weights in another form"
    raise ValueError(f"{path}: no model.safetensors or model.safetensors.index.json ({found})")


def write_checkpoint(path, tensors, raw, source=None):
    """Write a folder that transformers' from_pretrained loads, over an older one if there is one.

    tensors: {name: tensor on the CPU}, all of one dtype. raw: what config.json shall hold. source:
    the folder whose COMPANIONS are copied, or None.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    # Older transformers read torch_dtype, newer ones dtype; each ignores the other.
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    raw = {key: value for key, value in raw.items() if key not in ("dtype", "torch_dtype")}
    text = json.dumps(raw | {"dtype": dtype, "torch_dtype": dtype}, indent=2, ensure_ascii=False)
    (path / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in COMPANIONS if source is not None else ():
        old, new = Path(source) / name, path / name
        if old.is_file() and old.resolve() != new.resolve():
            shutil.copyfile(old, new)


def weights_digest(path) -> str:
    """One SHA-256 over the names and contents of config.json and the weights, 64 hex digits."""
    total = hashlib.sha256()
    for file in [Path(path) / "config.json", *weight_files(path)]:
        with open(file, "rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        total.update(f"{digest} {file.name}\n".encode())
    return total.hexdigest()
