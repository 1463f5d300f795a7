"""lib/checkpoint.py: config.json as transformers reads it, weights read and written, refusals.

tests/golden/ holds seven tiny checkpoints as transformers saves them (tests/make_golden.py writes
them): Qwen3 tied and untied (sharded), Qwen2, Llama with llama3 scaling in both forms of
config.json, with linear scaling, with all biases.

    pytest tests/test_checkpoint.py
"""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib import checkpoint
from lib.checkpoint import (
    COMPANIONS,
    read_config,
    read_weights,
    weights_digest,
    write_checkpoint,
)
from model import Transformer, load_model, save_model

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = (
    *("qwen3_tied", "qwen3_untied_sharded", "qwen2"),
    *("llama3_new", "llama3_old", "llama_linear", "llama_biases"),
)
GONE = object()  # in a table of edits to config.json: take the key away
V = 61

# config.json of published checkpoints, key for key.
PUBLISHED = {
    "Qwen2.5-7B": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "initializer_range": 0.02,
        "intermediate_size": 18944,
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "model_type": "qwen2",
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "Qwen3-4B-Base": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 32768,
        "max_window_layers": 36,
        "model_type": "qwen3",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "Llama-2-7b": {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0.dev0",
        "use_cache": True,
        "vocab_size": 32000,
    },
    "SmolLM2-135M": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "vocab_size": 49152,
    },
}
# The same networks, small: widths and depth only.
SHRUNK = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": V,
}


# --------------------------------------------------------------------------------------------------
# Helpers


def draw(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def golden(name):
    """-> tokens [B, T] right-padded, which positions count [B, T], transformers' logits [N, V]."""
    file = load_file(GOLDEN / f"{name}.golden.safetensors")
    mask = torch.arange(file["tokens"].size(1)) < file["lengths"][:, None]
    return file["tokens"], mask, file["logits"]


def edit_config(folder, **edits):
    file = folder / "config.json"
    raw = {**json.loads(file.read_text()), **edits}
    file.write_text(json.dumps({k: v for k, v in raw.items() if v is not GONE}))


def edit_tensors(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def shapes_of(config):
    """{name: shape} of the network's parameters."""
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def read(folder, dtype=torch.float32):
    """The weights of a folder, as model.py asks for them."""
    config = read_config(folder)
    return read_weights(folder, shapes_of(config), config.tied, "cpu", dtype)


def write_random(folder, raw, seed=0):
    """A folder with this config.json and random weights of its shapes, norms, biases included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    state, generator = {}, torch.Generator().manual_seed(seed)
    for name, shape in shapes_of(read_config(folder)).items():
        noise = torch.randn(shape, generator=generator)
        scale = 0.5 if len(shape) == 1 else shape[1] ** -0.5
        state[name] = 1 + 0.3 * noise if "norm" in name else scale * noise
    write_checkpoint(folder, state, raw)
    return folder


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    library = pytest.importorskip("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


@torch.no_grad()
def their_logits(transformers, folder, tokens, mask=None):
    load = transformers.AutoModelForCausalLM.from_pretrained
    mask = None if mask is None else mask.long()
    return load(folder, dtype=torch.float32).eval()(tokens, attention_mask=mask).logits


# --------------------------------------------------------------------------------------------------
# config.json as transformers reads it


def pair_frequency(i, Dh, rope):
    """One rotated pair, by the definition of each rope type, in Python floats."""
    f = rope["rope_theta"] ** (-2 * i / Dh)
    if rope["rope_type"] == "linear":
        return f / rope["factor"]
    if rope["rope_type"] == "llama3":
        wavelength, context = 2 * math.pi / f, rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if wavelength > context / low:
            return f / rope["factor"]
        if wavelength >= context / high:
            smooth = (context / wavelength - low) / (high - low)
            return (1 - smooth) * f / rope["factor"] + smooth * f
    return f


@pytest.mark.parametrize("name", [*PUBLISHED, *FAMILIES])
def test_rope_frequencies_follow_their_definition(tmp_path, name):
    """The three bands of llama3 mixed up, a default theta in place of the file's, theta from the
    wrong level of config.json."""
    folder = GOLDEN / name
    if name in PUBLISHED:
        folder = tmp_path
        (folder / "config.json").write_text(json.dumps(PUBLISHED[name]))
    config = read_config(folder)
    raw = json.loads((folder / "config.json").read_text())
    rope = {
        "rope_theta": raw.get("rope_theta", 10000.0),
        "rope_type": "default",
        **(raw.get("rope_scaling") or raw.get("rope_parameters") or {}),
    }
    pairs = [pair_frequency(i, config.Dh, rope) for i in range(config.Dh // 2)]
    wanted = torch.tensor(pairs, dtype=torch.float64)
    found = checkpoint.rope_frequencies(config)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


def test_published_configs_are_read_as_transformers_reads_them(transformers, tmp_path):
    """A field, or a default for an absent one, that differs from transformers' (frequencies of the
    full-size heads included)."""
    for raw in PUBLISHED.values():
        (tmp_path / "config.json").write_text(json.dumps(raw))
        config, theirs = read_config(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
        sizes = theirs.vocab_size, theirs.hidden_size, theirs.intermediate_size
        assert sizes == (config.V, config.D, config.F)
        heads = theirs.num_attention_heads, theirs.num_key_value_heads
        assert (theirs.num_hidden_layers, *heads) == (config.layers, config.H, config.Hkv)
        width = theirs.hidden_size // theirs.num_attention_heads
        assert getattr(theirs, "head_dim", width) == config.Dh
        assert (config.eps, config.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
        family = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[raw["model_type"]]
        module = getattr(transformers.models, raw["model_type"])
        modeling = getattr(module, f"modeling_{raw['model_type']}")
        rotary = getattr(modeling, f"{family}RotaryEmbedding")(theirs)
        found = checkpoint.rope_frequencies(config)
        torch.testing.assert_close(found, rotary.inv_freq, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_checkpoints_of_published_form_load_and_agree(transformers, tmp_path, name):
    """A published config.json that is refused, or read into another network, though every key in it
    is harmless."""
    head_dim = {"head_dim": 16} if "head_dim" in PUBLISHED[name] else {}
    folder = write_random(tmp_path / "m", {**PUBLISHED[name], **SHRUNK, **head_dim})
    tokens = draw(2, 33)
    with torch.no_grad():
        ours = load_model(folder)(tokens)
    assert (ours - their_logits(transformers, folder, tokens)).abs().max() < 1e-4


# What a file may leave out, say twice or say as null, and what transformers makes of it:
# (checkpoint, edits, what must be read).
LINEAR = {"type": "linear", "factor": 2.0}
ACCEPTED = [
    ("qwen2", {"sliding_window": 4, "use_sliding_window": False, "max_window_layers": 0}, {}),
    ("qwen3_tied", {"sliding_window": 4, "layer_types": ["full_attention"] * 2}, {}),
    ("llama_linear", {"sliding_window": 4}, {}),
    (
        "qwen3_tied",
        {"rms_norm_eps": GONE, "hidden_act": GONE, "attention_bias": GONE, "rope_parameters": GONE},
        {"eps": 1e-6, "rope_theta": 10000.0, "qkv_bias": False},
    ),
    (
        "qwen2",
        {
            "rms_norm_eps": GONE,
            "hidden_act": GONE,
            "rope_theta": GONE,
            "rope_scaling": GONE,
            "torch_dtype": GONE,
        },
        {"eps": 1e-6, "rope_theta": 10000.0},
    ),
    (
        "qwen2",
        {"rope_scaling": LINEAR, "rope_theta": 5},
        {"rope_type": "linear", "factor": 2, "rope_theta": 5},
    ),
    ("qwen2", {"rope_scaling": {**LINEAR, "rope_type": "default"}}, {"rope_type": "default"}),
    ("qwen2", {"rope_scaling": {"factor": 2.0}}, {"rope_type": "default"}),
    (
        "qwen2",
        {"attention_bias": False, "mlp_bias": True, "partial_rotary_factor": None},
        {"qkv_bias": True, "mlp_bias": False},
    ),
    ("qwen2", {"attention_bias": True}, {"qkv_bias": True, "o_bias": False}),
    ("qwen3_tied", {"rope_theta": 77.0}, {"rope_theta": 1e6}),
    (
        "qwen3_tied",
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    ),
    (
        "llama3_old",
        {"original_max_position_embeddings": 32},
        {"original_max_position_embeddings": 32},
    ),
    (
        "llama_linear",
        {"num_key_value_heads": GONE, "head_dim": GONE, "mlp_bias": GONE, "attention_bias": GONE},
        {"Hkv": 4, "Dh": 8},
    ),
    (
        "llama_linear",
        {"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": GONE},
        {"Hkv": 4, "Dh": 8, "tied": False},
    ),
    (
        "llama_biases",
        {"rms_norm_eps": GONE, "rope_parameters": GONE, "rope_theta": 500},
        {"eps": 1e-6, "rope_theta": 500},
    ),
    (
        "llama_linear",
        {"rope_parameters": {"rope_type": "linear", "factor": 0.5}, "rope_theta": 50.0},
        {"factor": 0.5, "rope_theta": 50.0},
    ),
]


@pytest.mark.parametrize(("name", "edits", "wanted"), ACCEPTED)
def test_absent_null_and_doubled_keys_are_read_as_transformers_reads_them(
    tmp_path, name, edits, wanted
):
    """Defaults of our own: the model would load and be another one than its makers'."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    edit_config(folder, **edits)
    config = read_config(folder)
    read(folder)
    found = {**config.rope, **config._asdict()}
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(("name", "edits", "wanted"), ACCEPTED)
def test_absent_null_and_doubled_keys_give_the_logits_of_transformers(
    transformers, tmp_path, name, edits, wanted
):
    """The table above believing something of transformers that is not so."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    edit_config(folder, **edits)
    tokens = draw(2, 40)
    with torch.no_grad():
        ours = load_model(folder)(tokens)
    assert (ours - their_logits(transformers, folder, tokens)).abs().max() < 1e-4


ABSENT_SIZES = [("qwen3", 32, 128), ("qwen2", 32, 2), ("llama", 64, 2)]  # Hkv and Dh in neither


@pytest.mark.parametrize(("kind", "Hkv", "Dh"), ABSENT_SIZES)
def test_absent_sizes_are_the_family_s_own(tmp_path, kind, Hkv, Dh):
    """Qwen's classes default to 32 key/value heads and Qwen3's to heads of 128, whatever the other
    sizes are; Llama derives both."""
    raw = {"model_type": kind, **SHRUNK, "hidden_size": 128, "num_attention_heads": 64}
    del raw["num_key_value_heads"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = read_config(tmp_path)
    assert (config.Hkv, config.Dh) == (Hkv, Dh)
    assert (config.eps, config.tied, config.rope["rope_theta"]) == (1e-6, False, 10000.0)


@pytest.mark.parametrize(("kind", "Hkv", "Dh"), ABSENT_SIZES)
def test_absent_sizes_are_those_of_transformers(transformers, kind, Hkv, Dh):
    """The table above believing something of transformers that is not so."""
    theirs = transformers.AutoConfig.for_model(kind, hidden_size=128, num_attention_heads=64)
    assert (theirs.num_key_value_heads, getattr(theirs, "head_dim", 2)) == (Hkv, Dh)
    theta = theirs.rope_parameters["rope_theta"]
    assert (theirs.rms_norm_eps, theirs.tie_word_embeddings, theta) == (1e-6, False, 10000.0)


# --------------------------------------------------------------------------------------------------
# Reading and writing


@pytest.mark.parametrize("name", FAMILIES)
def test_written_weights_are_read_bit_identical_with_the_names_of_the_files(tmp_path, name):
    """A tensor renamed, dropped, duplicated (tied heads) or rounded; a config.json that no longer
    says what the model is."""
    config, state = read_config(GOLDEN / name), read(GOLDEN / name)
    write_checkpoint(tmp_path / "saved", state, config.raw, GOLDEN / name)
    again, copy = read_config(tmp_path / "saved"), read(tmp_path / "saved")
    assert again._replace(raw={}) == config._replace(raw={})
    assert state.keys() == copy.keys()
    assert all(torch.equal(t, copy[k]) and t.dtype == copy[k].dtype for k, t in state.items())
    original = {k for file in (GOLDEN / name).glob("*.safetensors") for k in load_file(file)}
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as f:
        assert set(f.keys()) == original and f.metadata() == {"format": "pt"}
    changed = {k for k, v in again.raw.items() if v != config.raw.get(k)}
    assert changed <= {"dtype", "torch_dtype"} and config.raw.keys() <= again.raw.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_models_load_bit_identical(tmp_path, name):
    """The same through the model: a parameter that is saved under another's name, or not at all."""
    model = load_model(GOLDEN / name)
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    mine, yours = dict(model.named_parameters()), dict(again.named_parameters())
    assert mine.keys() == yours.keys()
    assert all(torch.equal(p, yours[k]) and p.dtype == yours[k].dtype for k, p in mine.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_models_give_the_same_logits_in_transformers(transformers, tmp_path, name):
    """A folder that transformers reads as another network than we do, in whatever form its
    config.json came."""
    model, (tokens, mask, _) = load_model(GOLDEN / name), golden(name)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)  # weights of its own, as after training
        ours = model(tokens)[mask]
    save_model(model, tmp_path)
    theirs = their_logits(transformers, tmp_path, tokens, mask)[mask]
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_saved_dtype_is_that_of_the_parameters(tmp_path, dtype):
    """A config.json that says fp32 of bf16 weights: loaders would take twice the memory, or
    round."""
    save_model(load_model(GOLDEN / "llama3_old", dtype=dtype), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["dtype"] == raw["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert {t.dtype for t in read(tmp_path, dtype).values()} == {dtype}


def test_saving_copies_the_tokenizer_files_and_no_others(tmp_path):
    """A checkpoint without its tokenizer or stop ids, or one that drags the old weights along."""
    source = shutil.copytree(GOLDEN / "qwen3_untied_sharded", tmp_path / "source")
    for name in (*COMPANIONS, "notes.txt"):
        (source / name).write_bytes(name.encode() * 3)
    out = tmp_path / "out" / "deeper"
    save_model(load_model(source), out)
    assert {f.name for f in out.iterdir()} == {*COMPANIONS, "config.json", "model.safetensors"}
    assert all((out / name).read_bytes() == name.encode() * 3 for name in COMPANIONS)


def test_writing_without_a_source_copies_nothing(tmp_path):
    """A model made from scratch has no folder to copy from; columns of a tensor are not contiguous,
    which safetensors refuses."""
    columns = torch.arange(12.0).view(3, 4)[:, :2]
    write_checkpoint(tmp_path / "m", {"w": columns}, {"model_type": "llama"})
    assert {f.name for f in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors"}
    assert torch.equal(load_file(tmp_path / "m" / "model.safetensors")["w"], columns)
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    assert raw == {"model_type": "llama", "dtype": "float32", "torch_dtype": "float32"}


def test_saving_over_the_folder_it_came_from_wins_over_the_older_shards(tmp_path):
    """An index left behind by a sharded checkpoint that brings the old weights back at the next
    load; a tokenizer copied onto itself."""
    folder = shutil.copytree(GOLDEN / "qwen3_untied_sharded", tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    state = read(folder)
    state["model.norm.weight"] += 1
    write_checkpoint(folder, state, read_config(folder).raw, folder)
    assert torch.equal(read(folder)["model.norm.weight"], state["model.norm.weight"])
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_a_tokenizer_that_is_a_link_to_its_source_stays(tmp_path):
    """Copying a file onto itself, which shutil refuses in the middle of a save."""
    source = shutil.copytree(GOLDEN / "qwen2", tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tokenizer.json").symlink_to(source / "tokenizer.json")
    write_checkpoint(tmp_path / "m", read(source), read_config(source).raw, source)
    assert (source / "tokenizer.json").read_text() == "{}"


def test_loaded_weights_outlive_their_file(tmp_path):
    """Tensors mapped onto the file: saving over it, or deleting it, would change or crash the
    model."""
    folder = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "m")
    state, before = read(folder), read(GOLDEN / "qwen3_tied")
    size = (folder / "model.safetensors").stat().st_size
    with open(folder / "model.safetensors", "r+b") as f:
        f.write(b"\xff" * size)
    shutil.rmtree(folder)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_all_shards_are_checked_before_the_first_tensor_is_read(tmp_path, monkeypatch):
    """Minutes of reading before a fault in the last shard is found."""
    folder = shutil.copytree(GOLDEN / "qwen3_untied_sharded", tmp_path / "m")
    last = folder / "model-00003-of-00003.safetensors"
    state = load_file(last)
    name = min(state)
    state[name] = state[name][None].clone()
    save_file(state, last, metadata={"format": "pt"})

    class Counted:
        """A safetensors file that may be asked for names, shapes and dtypes alone."""

        def __init__(self, file, framework):
            self.file = safe_open(file, framework=framework)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_slice(self, name):
            return self.file.get_slice(name)

        def get_tensor(self, name):
            pytest.fail(f"{name} was read")

    monkeypatch.setattr(checkpoint, "safe_open", Counted)
    with pytest.raises(ValueError) as caught:
        read(folder)
    one_line(caught, last, name, "shape")


def test_harmless_extras_in_old_files_are_passed_over(tmp_path):
    """Old Llama files carry inv_freq buffers, and some tied checkpoints hold their head twice: both
    load, and hold the same."""
    folder = shutil.copytree(GOLDEN / "llama3_old", tmp_path / "m")
    before = read(folder)

    def add(state):
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()

    edit_tensors(folder, add)
    after = read(folder)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied_sharded"])
def test_the_digest_is_that_of_config_and_weights_alone(tmp_path, name):
    """A run that goes on with another reference: one weight, one setting or one shard changed; or a
    digest that a moved folder or an edited tokenizer changes."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    digest = weights_digest(folder)
    assert len(digest) == 64 and digest == weights_digest(str(GOLDEN / name))
    (folder / "tokenizer.json").write_text("{}")
    assert weights_digest(folder) == digest
    for file in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert weights_digest(folder) != digest
        file.write_bytes(content)
    assert weights_digest(folder) == digest


# --------------------------------------------------------------------------------------------------
# Refusals: one line that names the file and what is wrong in it


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
REFUSED_CONFIGS = [
    ("qwen3_tied", {"model_type": "qwen3_moe"}, ["model_type", "qwen3_moe"]),
    ("qwen3_tied", {"model_type": "gpt2"}, ["model_type", "gpt2"]),
    ("qwen3_tied", {"model_type": GONE}, ["model_type"]),
    ("qwen3_tied", {"model_type": ["llama"]}, ["model_type"]),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4096}, ["use_sliding_window"]),
    ("qwen3_tied", {"use_sliding_window": True, "sliding_window": 4}, ["use_sliding_window"]),
    (
        "qwen3_tied",
        {"layer_types": ["full_attention", "sliding_attention"]},
        ["layer_types", "sliding_attention"],
    ),
    ("qwen3_tied", {"layer_types": ["linear_attention"] * 2}, ["layer_types", "linear_attention"]),
    ("qwen3_tied", {"layer_types": ["full_attention"] * 3}, ["layer_types"]),
    ("qwen3_tied", {"layer_types": 2}, ["layer_types"]),
    ("llama_linear", {"is_causal": False}, ["is_causal"]),
    ("qwen3_tied", {"num_experts": 128}, ["num_experts"]),
    ("llama_linear", {"per_layer_config": {"0": {"rms_norm_eps": 0.5}}}, ["per_layer_config"]),
    ("qwen2", {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
    ("qwen2", {"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
    ("qwen2", {"hidden_act": None}, ["hidden_act"]),
    ("qwen2", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
    ("qwen2", {"rope_scaling": YARN}, ["rope type", "yarn"]),
    ("qwen2", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ["rope type", "dynamic"]),
    (
        "qwen2",
        {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        ["rope type", "mrope"],
    ),
    ("qwen2", {"rope_scaling": {"rope_type": ["linear"], "factor": 4.0}}, ["rope type"]),
    ("qwen2", {"rope_scaling": {"type": "linear"}}, ["factor", "linear"]),
    ("qwen2", {"rope_scaling": {"type": "linear", "factor": "4"}}, ["factor", "'4'"]),
    ("qwen2", {"rope_scaling": {"type": "linear", "factor": -1.0}}, ["factor", "-1.0"]),
    ("qwen2", {"rope_scaling": "linear"}, ["rope", "'linear'"]),
    ("qwen2", {"rope_scaling": [4.0]}, ["rope", "[4.0]"]),
    (
        "qwen3_tied",
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        ["rope", "full_attention"],
    ),
    *[
        (
            "llama3_new",
            {"rope_parameters": {k: v for k, v in LLAMA3.items() if k != key}},
            [key, "llama3"],
        )
        for key in LLAMA3
        if key not in ("rope_type", "rope_theta")
    ],
    ("llama3_new", {"rope_parameters": {**LLAMA3, "factor": 0}}, ["factor", "llama3"]),
    (
        "llama3_new",
        {"rope_parameters": {**LLAMA3, "high_freq_factor": True}},
        ["high_freq_factor", "llama3"],
    ),
    (
        "llama3_new",
        {"rope_parameters": {**LLAMA3, "high_freq_factor": 0.5}},
        ["low_freq_factor", "high_freq_factor", "0.5"],
    ),
    ("qwen2", {"rope_theta": "1e6"}, ["rope_theta", "'1e6'"]),
    ("qwen2", {"rope_theta": 0}, ["rope_theta", "0"]),
    ("qwen2", {"rope_theta": None}, ["rope_theta", "None"]),
    ("qwen2", {"rms_norm_eps": None}, ["rms_norm_eps", "None"]),
    ("qwen2", {"rms_norm_eps": "1e-5"}, ["rms_norm_eps", "'1e-5'"]),
    ("qwen2", {"rms_norm_eps": -1e-5}, ["rms_norm_eps", "-1e-05"]),
    ("qwen2", {"rms_norm_eps": math.nan}, ["rms_norm_eps", "nan"]),
    ("qwen2", {"tie_word_embeddings": "false"}, ["tie_word_embeddings", "'false'"]),
    ("llama_linear", {"attention_bias": "no"}, ["attention_bias", "'no'"]),
    ("llama_linear", {"mlp_bias": "no"}, ["mlp_bias", "'no'"]),
    ("llama_linear", {"num_key_value_heads": 3}, ["4", "3", "heads"]),
    (
        "qwen2",
        {"num_attention_heads": 5, "num_key_value_heads": 5},
        ["hidden_size 32", "num_attention_heads 5"],
    ),
    ("llama_linear", {"head_dim": 7}, ["head_dim", "7"]),
    *[
        ("qwen3_tied", {key: value}, [key, repr(value)])
        for key in (*SHRUNK, "head_dim")
        for value in (0, -4, 32.0, True, "32")
    ],
    *[("qwen3_tied", {key: GONE}, [key]) for key in SHRUNK if key != "num_key_value_heads"],
]


@pytest.mark.parametrize(
    ("name", "edits", "words"),
    REFUSED_CONFIGS,
    ids=[f"{i}-{next(iter(edits))}" for i, (_, edits, _) in enumerate(REFUSED_CONFIGS)],
)
def test_configs_that_cannot_be_computed_exactly_are_refused(tmp_path, name, edits, words):
    """A silently wrong model, or a traceback that names no file; read_config alone must say it,
    before any tensor is read."""
    (tmp_path / "config.json").write_text((GOLDEN / name / "config.json").read_text())
    read_config(tmp_path)
    edit_config(tmp_path, **edits)
    with pytest.raises(ValueError) as caught:
        read_config(tmp_path)
    one_line(caught, tmp_path / "config.json", *words)


NO_OBJECTS = [b"", b"{", b'{"model_type": }', b"[]", b"17", b"null", b'"qwen3"', b"\xff\xfe{"]


@pytest.mark.parametrize("content", [*NO_OBJECTS, b"\xef\xbb\xbf{}"])
def test_config_files_that_hold_no_object_are_refused(tmp_path, content):
    """A JSON error without the file's name, or an attribute error on a list."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_config(tmp_path)
    one_line(caught, tmp_path / "config.json", "JSON")


def test_folders_that_are_none_are_refused(tmp_path):
    """A path mistyped, a file in place of a folder, a folder of something else: the name must be in
    the message."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, words in [
        ("nowhere", "no such folder"),
        ("file", "no such folder"),
        ("empty", "config.json"),
    ]:
        for load in (read_config, load_model):
            with pytest.raises(ValueError) as caught:
                load(str(tmp_path / path))
            one_line(caught, tmp_path / path, words)


def rewrite(key, change):
    """Replace tensor `key` by change(tensor); None takes it away."""

    def edit(folder):
        def inner(state):
            tensor = change(state.pop(key) if key in state else None)
            if tensor is not None:
                state[key] = tensor

        edit_tensors(folder, inner)

    return edit


def rewrite_index(change):
    def edit(folder):
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        change(index)
        file.write_text(json.dumps(index))

    return edit


def cut(bytes_left):
    def edit(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:bytes_left])

    return edit


def with_config(**edits):
    return lambda folder: edit_config(folder, **edits)


def without(name):
    return lambda folder: (folder / name).unlink()


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def second_copy(folder):
    fourth = "model-00004-of-00003.safetensors"
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / fourth)
    rewrite_index(lambda index: index["weight_map"].update(x=fourth))(folder)


def outside(folder):
    first = folder / "model-00001-of-00003.safetensors"
    shutil.copy(first, folder.parent / "outside.safetensors")
    named = {"lm_head.weight": "../outside.safetensors"}
    rewrite_index(lambda index: index["weight_map"].update(named))(folder)


Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.self_attn.q_norm.weight"
EMBEDDING = "model.embed_tokens.weight"
O_BIAS = "model.layers.0.self_attn.o_proj.bias"
TIE = "tie_word_embeddings"
SHARD = "model-00002-of-00003.safetensors"
SHARDED = "qwen3_untied_sharded"
REFUSED_FILES = {
    "missing": ("qwen3_tied", rewrite(Q, lambda t: None), [Q, "missing"]),
    "missing norm": ("qwen3_tied", rewrite(NORM, lambda t: None), [NORM, "missing"]),
    "missing head": (
        "qwen3_tied",
        with_config(tie_word_embeddings=False),
        ["lm_head.weight", "missing"],
    ),
    "surplus": ("qwen2", rewrite(O_BIAS, lambda t: torch.zeros(32)), ["o_proj.bias", "surplus"]),
    "surplus layer": ("qwen2", with_config(num_hidden_layers=1), ["model.layers.1.", "surplus"]),
    "biases the config denies": (
        "llama_biases",
        with_config(attention_bias=False),
        ["_proj.bias", "surplus"],
    ),
    "biases the file lacks": (
        "llama_linear",
        with_config(mlp_bias=True),
        ["_proj.bias", "missing", "5 more"],
    ),
    "shape": (
        "qwen3_tied",
        rewrite(Q, lambda t: t[:-1].contiguous()),
        ["model.safetensors", Q, "[63, 32]", "[64, 32]"],
    ),
    "transposed": (
        "qwen3_tied",
        rewrite(Q, lambda t: t.T.contiguous()),
        [Q, "[32, 64]", "[64, 32]"],
    ),
    "vocabulary": ("qwen2", with_config(vocab_size=64), [EMBEDDING, "[61, 32]", "[64, 32]"]),
    "integers": ("qwen3_tied", rewrite(Q, lambda t: t.to(torch.int8)), [Q, "I8"]),
    "fp8": ("qwen3_tied", rewrite(Q, lambda t: t.to(torch.float8_e4m3fn)), [Q, "F8_E4M3"]),
    "truncated": ("qwen3_tied", cut(60000), ["model.safetensors"]),
    "cut in the header": ("qwen3_tied", cut(100), ["model.safetensors"]),
    "empty file": ("qwen3_tied", cut(0), ["model.safetensors"]),
    "no weights": ("qwen3_tied", without("model.safetensors"), ["no model.safetensors"]),
    "pickle only": ("qwen3_tied", only_a_pickle, ["no model.safetensors", "pytorch_model.bin"]),
    "tied but differing": (
        "qwen3_tied",
        rewrite("lm_head.weight", lambda t: torch.ones(V, 32)),
        ["lm_head.weight", TIE],
    ),
    "tied but of another shape": (
        "qwen3_tied",
        rewrite("lm_head.weight", lambda t: torch.ones(3)),
        ["lm_head.weight", "[3]", "[61, 32]"],
    ),
    "untied said tied": (
        "llama_linear",
        with_config(tie_word_embeddings=True),
        ["lm_head.weight", TIE],
    ),
    "shard missing": (SHARDED, without(SHARD), ["index.json", SHARD]),
    "shard unlisted": (
        SHARDED,
        rewrite_index(lambda i: i.update(weight_map={"a": SHARD})),
        ["missing"],
    ),
    "shard outside": (SHARDED, outside, ["index.json", "../outside.safetensors"]),
    "tensor in two shards": (
        SHARDED,
        second_copy,
        ["another shard", "model-00004-of-00003.safetensors"],
    ),
    "index of numbers": (
        SHARDED,
        rewrite_index(lambda i: i.update(weight_map={"a": 1})),
        ["index.json", "1"],
    ),
    "index of mixed things": (
        SHARDED,
        rewrite_index(lambda i: i.update(weight_map={"a": 1, "b": "x"})),
        ["index.json"],
    ),
    "index without map": (
        SHARDED,
        rewrite_index(lambda i: i.pop("weight_map")),
        ["index.json", "weight_map"],
    ),
    "index with a list": (
        SHARDED,
        rewrite_index(lambda i: i.update(weight_map=["a"])),
        ["index.json", "weight_map"],
    ),
    "index no JSON": (
        SHARDED,
        lambda d: (d / "model.safetensors.index.json").write_text("{"),
        ["index.json"],
    ),
    "index names no tensors": (
        SHARDED,
        rewrite_index(lambda i: i.update(weight_map={"a": "config.json"})),
        ["config.json"],
    ),
    "index is empty": (SHARDED, rewrite_index(lambda i: i.update(weight_map={})), ["missing"]),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_weights_that_disagree_with_the_config_are_refused(tmp_path, case):
    """Tensors left at random, ignored, cut short or read from where they should not be."""
    name, edit, words = REFUSED_FILES[case]
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    read(folder)
    edit(folder)
    with pytest.raises(ValueError) as caught:
        read(folder)
    one_line(caught, folder, *words)
