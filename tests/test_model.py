"""model.py against transformers: its recorded logits always, the library itself where it can be imported.

tests/golden/ holds seven tiny checkpoints as transformers saves them, with the logits it computes (tests/make_golden.py writes them):
Qwen3 tied and untied (sharded), Qwen2, Llama with llama3 scaling in both forms of config.json, with linear scaling, with all biases.

    pytest tests/test_model.py
    VIMPO_TEST_MODEL=path/to/checkpoint pytest tests/test_model.py -k real      # also a real checkpoint folder, in fp32
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

from model import (
    COMPANIONS,
    KVCache,
    RMSNorm,
    SharedPrompts,
    Transformer,
    frozen_copy,
    load_model,
    logits_fp32,
    read_config,
    rope_frequencies,
    save_model,
)

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("qwen3_tied", "qwen3_untied_sharded", "qwen2", "llama3_new", "llama3_old", "llama_linear", "llama_biases")
GONE = object()  # in a table of edits to config.json: take the key away
V = 61

# config.json of published checkpoints, key for key.
PUBLISHED = {
    "Qwen2.5-7B": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
        "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 152064},
    "Qwen3-4B-Base": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02,
        "intermediate_size": 9728, "max_position_embeddings": 32768, "max_window_layers": 36, "model_type": "qwen3",
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936},
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                         "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
        "use_cache": True, "vocab_size": 128256},
    "Llama-2-7b": {
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.31.0.dev0",
        "use_cache": True, "vocab_size": 32000},
    "SmolLM2-135M": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
        "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
        "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": True, "vocab_size": 49152},
}
# The same networks, small: widths and depth only.
SHRUNK = {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
          "vocab_size": V}


# ---------------------------------------------------------------------------------------------------------------------------------
# Helpers


def draw(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def golden(name):
    """-> tokens [B, T] right-padded, which positions count [B, T], transformers' logits there [N, V]."""
    file = load_file(GOLDEN / f"{name}.golden.safetensors")
    return file["tokens"], torch.arange(file["tokens"].size(1)) < file["lengths"][:, None], file["logits"]


def edit_config(folder, **edits):
    file = folder / "config.json"
    raw = {k: v for k, v in {**json.loads(file.read_text()), **edits}.items() if v is not GONE}
    file.write_text(json.dumps(raw))


def edit_tensors(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def write_checkpoint(folder, raw, seed=0):
    """A folder with this config.json and random weights of its shapes, norms and biases included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    model, generator = Transformer(read_config(folder)), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.3 * noise if "norm" in name else 0.5 * noise if p.dim() == 1 else noise / p.size(1) ** 0.5)
    save_model(model, folder)
    return folder


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small gain nothing from a second thread, and lose a scheduler's turn at every product when the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    library = pytest.importorskip("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


@torch.no_grad()
def their_logits(transformers, folder, tokens, mask=None):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return theirs(tokens, attention_mask=None if mask is None else mask.long()).logits


# ---------------------------------------------------------------------------------------------------------------------------------
# The same logits as transformers


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_logits_are_those_transformers_recorded(name):
    """Any switch read wrongly: q/k norms, biases, grouped heads, head_dim, eps, rope type and theta, tying, shards, file dtypes."""
    tokens, mask, theirs = golden(name)
    ours = load_model(GOLDEN / name)(tokens)
    assert ours.dtype == torch.float32 and ours.shape == (*tokens.shape, V)
    assert (ours[mask] - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_tensor_of_a_file_shows_in_the_logits(name):
    """A tensor that is loaded but never used; it also shows that the test above would see any one of them wrong."""
    tokens, mask, theirs = golden(name)
    model = load_model(GOLDEN / name)
    generator = torch.Generator().manual_seed(0)
    for tensor, p in model.named_parameters():
        kept = p.clone()
        p.add_(0.1 * torch.randn(p.shape, generator=generator))
        assert (model(tokens)[mask] - theirs).abs().max() > 1e-2, tensor
        p.copy_(kept)


@pytest.mark.parametrize("name", ["llama3_new", "llama3_old", "llama_linear"])
@torch.no_grad()
def test_recorded_logits_tell_the_rope_types_apart(name):
    """Golden files too short, or with factors too mild, for a scaling that is never applied to show."""
    tokens, mask, theirs = golden(name)
    model = load_model(GOLDEN / name)
    model.config = model.config._replace(rope={**model.config.rope, "rope_type": "default"})
    assert (model(tokens)[mask] - theirs).abs().max() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(transformers, name):
    """As above against the library that is installed, on other tokens: a change on either side since the files were written."""
    tokens, lengths = draw(4, 70, seed=3), torch.tensor([70, 51, 12, 1])
    mask = torch.arange(70) < lengths[:, None]
    with torch.no_grad():
        ours = load_model(GOLDEN / name)(tokens)
    assert (ours - their_logits(transformers, GOLDEN / name, tokens, mask))[mask].abs().max() < 1e-4


@pytest.mark.skipif(not os.environ.get("VIMPO_TEST_MODEL"), reason="VIMPO_TEST_MODEL names no checkpoint folder")
@torch.no_grad()
def test_real_checkpoint_gives_the_logits_of_transformers(transformers, tmp_path):
    """What random weights hide: outlier channels, real norms, many layers; in the full forward, after saving, and decoded with a cache."""
    folder = os.environ["VIMPO_TEST_MODEL"]
    model = load_model(folder)
    tokens = torch.randint(model.config.V, (3, 48), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([48, 30, 7])
    mask = torch.arange(48) < lengths[:, None]
    ours = model(tokens)
    assert (ours - their_logits(transformers, folder, tokens, mask))[mask].abs().max() < 1e-4
    save_model(model, tmp_path)
    assert (ours - their_logits(transformers, tmp_path, tokens, mask))[mask].abs().max() < 1e-5
    cache = KVCache(model, 4, 48)
    model.hidden(tokens[:, :30], cache)
    cache.lengths[:3] = lengths.clamp(max=30)
    for _ in range(6):
        at = (torch.arange(3), cache.lengths[:3].clone())
        step = model.head(model.hidden(tokens[at][:, None], cache))[:, 0]
        cache.lengths[:3] += 1
        assert (step - ours[at]).abs().max() < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_right_padding_is_never_seen(name):
    """Attention that looks ahead, or positions counted from the wrong end: a row's logits would depend on what follows it."""
    tokens, mask, _ = golden(name)
    model = load_model(GOLDEN / name)
    logits = model(tokens)
    other = torch.where(mask, tokens, draw(*tokens.shape, seed=9))
    assert (other != tokens).any()
    torch.testing.assert_close(model(other)[mask], logits[mask], rtol=0, atol=1e-6)
    for b, n in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(model(tokens[b : b + 1, :n])[0], logits[b, :n], rtol=0, atol=1e-4)  # the row alone


# ---------------------------------------------------------------------------------------------------------------------------------
# Frequencies and published configs


def pair_frequency(i, Dh, rope):
    """One rotated pair, by the definition of each rope type, in Python floats."""
    f = rope["rope_theta"] ** (-2 * i / Dh)
    if rope["rope_type"] == "linear":
        return f / rope["factor"]
    if rope["rope_type"] == "llama3":
        wavelength, context = 2 * math.pi / f, rope["original_max_position_embeddings"]
        if wavelength > context / rope["low_freq_factor"]:
            return f / rope["factor"]
        if wavelength >= context / rope["high_freq_factor"]:
            smooth = (context / wavelength - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            return (1 - smooth) * f / rope["factor"] + smooth * f
    return f


@pytest.mark.parametrize("name", [*PUBLISHED, *FAMILIES])
def test_rope_frequencies_follow_their_definition(tmp_path, name):
    """The three bands of llama3 mixed up, a default theta in place of the file's, theta from the wrong level of config.json."""
    folder = GOLDEN / name
    if name in PUBLISHED:
        folder = tmp_path
        (folder / "config.json").write_text(json.dumps(PUBLISHED[name]))
    config = read_config(folder)
    rope = json.loads((folder / "config.json").read_text())
    rope = {"rope_theta": rope.get("rope_theta", 10000.0), "rope_type": "default",
            **(rope.get("rope_scaling") or rope.get("rope_parameters") or {})}
    wanted = torch.tensor([pair_frequency(i, config.Dh, rope) for i in range(config.Dh // 2)], dtype=torch.float64)
    torch.testing.assert_close(rope_frequencies(config).double(), wanted, rtol=1e-5, atol=0)


def test_published_configs_are_read_as_transformers_reads_them(transformers, tmp_path):
    """A field, or a default for an absent one, that differs from transformers' (frequencies of the full-size heads included)."""
    for raw in PUBLISHED.values():
        (tmp_path / "config.json").write_text(json.dumps(raw))
        config, theirs = read_config(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
        assert (theirs.vocab_size, theirs.hidden_size, theirs.intermediate_size) == (config.V, config.D, config.F)
        assert (config.layers, config.H, config.Hkv) == (theirs.num_hidden_layers, theirs.num_attention_heads, theirs.num_key_value_heads)
        width = theirs.hidden_size // theirs.num_attention_heads
        assert getattr(theirs, "head_dim", width) == config.Dh
        assert (config.eps, config.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
        family = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[raw["model_type"]]
        module = getattr(transformers.models, raw["model_type"])
        rotary = getattr(getattr(module, f"modeling_{raw['model_type']}"), f"{family}RotaryEmbedding")(theirs)
        torch.testing.assert_close(rope_frequencies(config), rotary.inv_freq, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_checkpoints_of_published_form_load_and_agree(transformers, tmp_path, name):
    """A published config.json that is refused, or read into another network, though every key in it is harmless."""
    head_dim = {"head_dim": 16} if "head_dim" in PUBLISHED[name] else {}
    folder = write_checkpoint(tmp_path / "m", {**PUBLISHED[name], **SHRUNK, **head_dim})
    tokens = draw(2, 33)
    with torch.no_grad():
        ours = load_model(folder)(tokens)
    assert (ours - their_logits(transformers, folder, tokens)).abs().max() < 1e-4


# What a file may leave out, say twice or say as null, and what transformers makes of it: (checkpoint, edits, what must be read).
ACCEPTED = [
    ("qwen2", {"sliding_window": 4, "use_sliding_window": False, "max_window_layers": 0}, {}),
    ("qwen3_tied", {"sliding_window": 4, "layer_types": ["full_attention"] * 2}, {}),
    ("qwen3_tied", {"rms_norm_eps": GONE, "hidden_act": GONE, "attention_bias": GONE, "rope_parameters": GONE},
     {"eps": 1e-6, "rope_theta": 10000.0, "qkv_bias": False}),
    ("qwen2", {"rms_norm_eps": GONE, "hidden_act": GONE, "rope_theta": GONE, "rope_scaling": GONE, "torch_dtype": GONE},
     {"eps": 1e-6, "rope_theta": 10000.0}),
    ("qwen2", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5}, {"rope_type": "linear", "factor": 2, "rope_theta": 5}),
    ("qwen2", {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}}, {"rope_type": "default"}),
    ("qwen2", {"rope_scaling": {"factor": 2.0}}, {"rope_type": "default"}),
    ("qwen2", {"attention_bias": False, "mlp_bias": True, "partial_rotary_factor": None}, {"qkv_bias": True, "mlp_bias": False}),
    ("qwen2", {"attention_bias": True}, {"qkv_bias": True, "o_bias": False}),
    ("qwen3_tied", {"rope_theta": 77.0}, {"rope_theta": 1e6}),
    ("qwen3_tied", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    ("llama3_old", {"original_max_position_embeddings": 32}, {"original_max_position_embeddings": 32}),
    ("llama_linear", {"num_key_value_heads": GONE, "head_dim": GONE, "mlp_bias": GONE, "attention_bias": GONE}, {"Hkv": 4, "Dh": 8}),
    ("llama_linear", {"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": GONE}, {"Hkv": 4, "Dh": 8, "tied": False}),
    ("llama_biases", {"rms_norm_eps": GONE, "rope_parameters": GONE, "rope_theta": 500}, {"eps": 1e-6, "rope_theta": 500}),
    ("llama_linear", {"rope_parameters": {"rope_type": "linear", "factor": 0.5}, "rope_theta": 50.0}, {"factor": 0.5, "rope_theta": 50.0}),
]


@pytest.mark.parametrize(("name", "edits", "wanted"), ACCEPTED)
def test_absent_null_and_doubled_keys_are_read_as_transformers_reads_them(tmp_path, name, edits, wanted):
    """Defaults of our own: the model would load and be another one than its makers'."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    edit_config(folder, **edits)
    config = load_model(folder).config
    read = {**config.rope, **config._asdict()}
    assert {key: read[key] for key in wanted} == wanted


@pytest.mark.parametrize(("name", "edits", "wanted"), ACCEPTED)
def test_absent_null_and_doubled_keys_give_the_logits_of_transformers(transformers, tmp_path, name, edits, wanted):
    """The table above believing something of transformers that is not so."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    edit_config(folder, **edits)
    tokens = draw(2, 40)
    with torch.no_grad():
        ours = load_model(folder)(tokens)
    assert (ours - their_logits(transformers, folder, tokens)).abs().max() < 1e-4


ABSENT_SIZES = [("qwen3", 32, 128), ("qwen2", 32, 2), ("llama", 64, 2)]  # Hkv and Dh where the file says neither


@pytest.mark.parametrize(("kind", "Hkv", "Dh"), ABSENT_SIZES)
def test_absent_sizes_are_the_family_s_own(tmp_path, kind, Hkv, Dh):
    """Qwen's classes default to 32 key/value heads and Qwen3's to heads of 128, whatever the other sizes are; Llama derives both."""
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
    assert (theirs.rms_norm_eps, theirs.tie_word_embeddings, theirs.rope_parameters["rope_theta"]) == (1e-6, False, 10000.0)


# ---------------------------------------------------------------------------------------------------------------------------------
# KV cache


# (tokens fed to every row at once, how many of them count in each row): a ragged prefill, single steps, several at once, none at all
SCHEDULE = [(20, (20, 7, 1)), (1, (1, 1, 1)), (1, (1, 0, 1)), (4, (4, 2, 1)), (1, (1, 1, 1)), (6, (0, 6, 3)), (1, (1, 1, 1))]


def run_schedule(model, cache, sequences, tighten):
    """Feed `sequences` [B, T] through the cache as SCHEDULE says -> [(row, position, logits [V])]."""
    B, seen = sequences.size(0), []
    for step, (T, counts) in enumerate(SCHEDULE):
        tokens = draw(B, T, seed=100 + step)  # what does not count is noise
        for b, n in enumerate(counts):
            start = int(cache.lengths[b])
            tokens[b, :n] = sequences[b, start : start + n]
        if tighten:
            cache.fill = int(cache.lengths[:B].max())  # the smallest bound a caller may set
        logits = model.head(model.hidden(tokens, cache))
        for b, n in enumerate(counts):
            seen += [(b, int(cache.lengths[b]) + i, logits[b, i]) for i in range(n)]
        cache.lengths[:B] += torch.tensor(counts)
    return seen


@pytest.mark.parametrize("tighten", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(name, dtype, tighten):
    """Positions or masks off by one behind ragged prompts, padding that stays visible, leftovers of a longer sequence in the same row,
    head grouping wrong on the one-token path; in float64 also anything that quietly computes in fp32."""
    model = load_model(GOLDEN / name, dtype=dtype)
    cache = KVCache(model, rows=5, capacity=40)
    model.hidden(draw(5, 40, seed=7), cache)  # earlier, longer occupants of every row
    others = cache.k[:, 3:].clone(), cache.v[:, 3:].clone()
    cache.lengths.zero_()
    if tighten:
        cache.fill = 0
    sequences = draw(3, 40, seed=8)
    full = model(sequences)
    seen = run_schedule(model, cache, sequences, tighten)
    assert len(seen) == sum(sum(counts) for _, counts in SCHEDULE)
    for b, t, logits in seen:
        assert logits.dtype == dtype
        torch.testing.assert_close(logits, full[b, t], rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-11)
    assert torch.equal(cache.k[:, 3:], others[0]) and torch.equal(cache.v[:, 3:], others[1])  # rows that took no part


@torch.no_grad()
def test_a_row_moved_to_another_place_decodes_on():
    """Anything about a row kept outside k, v and lengths: finished rows leave and the last one takes their place."""
    model = load_model(GOLDEN / "qwen3_tied")
    cache, tokens = KVCache(model, rows=3, capacity=30), draw(3, 30)
    model.hidden(tokens[:, :10], cache)
    cache.lengths += torch.tensor([10, 4, 8])
    cache.k[:, 0], cache.v[:, 0], cache.lengths[0] = cache.k[:, 2].clone(), cache.v[:, 2].clone(), cache.lengths[2].clone()
    cache.fill = int(cache.lengths[:2].max())
    step = model.head(model.hidden(tokens[[2, 1], [8, 4]][:, None], cache))[:, 0]
    torch.testing.assert_close(step[0], model(tokens[2:, :9])[0, 8], rtol=0, atol=1e-4)
    torch.testing.assert_close(step[1], model(tokens[1:2, :5])[0, 4], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------------------
# Prompts shared by their responses


@pytest.mark.parametrize("name", FAMILIES)
def test_shared_prompts_give_the_hidden_states_and_gradients_of_whole_sequences(name):
    """A response that reads the padding of its prompt or another's prompt, positions that do not go on from its length, or a gradient
    that misses one of the responses a prompt is shared by."""
    model = load_model(GOLDEN / name, dtype=torch.float64)
    prompts, lengths, owner = draw(3, 11), torch.tensor([11, 4, 0]), torch.tensor([1, 0, 0, 2, 1])
    responses = draw(5, 6, seed=1)
    weights = torch.randn(5, 6, model.config.D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def whole():
        rows = [torch.cat((prompts[g, : lengths[g]], response))[None] for g, response in zip(owner.tolist(), responses, strict=True)]
        return torch.cat([model.hidden(row)[:, -6:] for row in rows])

    def shared():
        past = SharedPrompts(model)
        model.hidden(prompts, past)
        past.share(lengths, owner)
        return model.hidden(responses, past)

    results = []
    for hidden in (whole(), shared()):
        model.zero_grad()
        (hidden * weights).sum().backward()
        results.append((hidden.detach(), {k: p.grad for k, p in model.named_parameters() if p.grad is not None}))
    (a, grads), (b, shared_grads) = results
    torch.testing.assert_close(b, a, rtol=0, atol=1e-11)
    assert grads.keys() == shared_grads.keys()
    for tensor, grad in grads.items():
        torch.testing.assert_close(shared_grads[tensor], grad, rtol=1e-9, atol=1e-9, msg=lambda m, tensor=tensor: f"{tensor}: {m}")


@torch.no_grad()
def test_shared_prompts_of_length_nought_leave_plain_sequences():
    """Prompts of one token share nothing: no keys are recorded, and none must be looked for."""
    model, responses = load_model(GOLDEN / "qwen2"), draw(4, 9)
    past = SharedPrompts(model)
    past.share(torch.zeros(2, dtype=torch.long), torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(model.hidden(responses, past), model.hidden(responses), rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------------------
# Gradients, mixed precision, frozen copies


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen2", "llama_biases"])
def test_gradients_are_those_of_finite_differences(name):
    """A parameter cut off from the loss (a cast or detach in the way), or one of two uses of a tied weight forgotten."""
    model = load_model(GOLDEN / name, dtype=torch.float64)
    tokens, mask, _ = golden(name)
    tokens, targets = tokens[1:, :17], draw(2, 17, seed=5)

    def loss():
        logps = model(tokens).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        return logps[mask[1:, :17]].mean()

    loss().backward()
    generator, h = torch.Generator().manual_seed(0), 1e-5
    for tensor, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, tensor
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            p.add_(h * direction)
            up = loss()
            p.sub_(2 * h * direction)
            down = loss()
            p.add_(h * direction)
        torch.testing.assert_close((p.grad * direction).sum(), (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen2", "llama_biases"])
def test_fp32_masters_get_fp32_gradients_from_bf16_compute(name):
    """Gradients rounded to bf16, or lost, on the way back through the casts."""
    model = load_model(GOLDEN / name)
    model.compute_dtype = torch.bfloat16
    tokens, mask, _ = golden(name)
    hidden = model.hidden(tokens)
    assert hidden.dtype == torch.bfloat16
    model.head(hidden)[mask].float().logsumexp(-1).mean().backward()
    for tensor, p in model.named_parameters():
        assert p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.abs().sum() > 0, tensor


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_copy_computes_bit_for_bit_what_the_fp32_masters_compute(name):
    """Two arithmetics: policy and reference would differ at step 0, and whitening would turn that rounding into a signal."""
    model = load_model(GOLDEN / name)
    model.compute_dtype = torch.bfloat16
    copy, tokens = frozen_copy(model), golden(name)[0]
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in copy.parameters())
    assert torch.equal(copy.hidden(tokens), model.hidden(tokens))  # with gradients recorded on one side only
    with torch.no_grad():
        before = copy(tokens)
        assert before.dtype == torch.float32 and torch.equal(before, model(tokens))
        caches = KVCache(copy, 3, 50), KVCache(model, 3, 50)
        for T in (30, 1, 5):
            a, b = (m.hidden(tokens[:, :T], cache) for m, cache in zip((copy, model), caches, strict=True))
            assert torch.equal(a, b)
            for cache in caches:
                cache.lengths += torch.tensor([T, 1, 0])
        for p in model.parameters():
            p.mul_(0.5).add_(0.25)
        assert torch.equal(copy(tokens), before) and not torch.equal(model(tokens), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_copy_shares_no_memory_even_where_no_cast_is_needed(dtype):
    """A reference that follows the policy: KL would stay 0 for ever."""
    model = load_model(GOLDEN / "qwen2", dtype=dtype)
    copy = frozen_copy(model)
    assert copy.config == model.config and copy.folder == model.folder
    assert {p.data_ptr() for p in copy.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


@torch.no_grad()
def test_bf16_compute_stays_close_to_fp32_far_into_a_context():
    """Positions or angles in bf16, which can't tell 1000 from 1003, and logits rounded to bf16."""
    model, tokens = load_model(GOLDEN / "llama3_new"), draw(1, 1200)
    exact = model(tokens)[0, 800:]
    model.compute_dtype = torch.bfloat16
    logits = model(tokens)[0, 800:]
    assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())
    error = (logits.softmax(-1) - exact.softmax(-1)).abs().sum(-1) / 2
    assert error.mean() < 0.02


def test_norm_of_bf16_is_rounded_once():
    """Squares, mean or root taken in bf16: an error of up to 1% on all of a row at once."""
    x = (3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))).bfloat16()
    exact = (x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()).bfloat16()
    assert (RMSNorm(64, 1e-6).bfloat16()(x) == exact).float().mean() > 0.99


def test_logits_fp32_sums_exact_products_of_bf16():
    """Logits rounded to bf16 between the product and the softmax."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(5, 64, generator=generator).bfloat16(), torch.randn(V, 64, generator=generator)
    exact = hidden.double() @ weight.bfloat16().double().T
    torch.testing.assert_close(logits_fp32(hidden, weight).double(), exact, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------------------
# Saving


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_models_load_bit_identical_with_the_names_of_the_files(tmp_path, name):
    """A tensor renamed, dropped, duplicated (tied heads) or rounded; a config.json that no longer says what the model is."""
    model = load_model(GOLDEN / name)
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.config._replace(raw={}) == model.config._replace(raw={})
    mine, yours = dict(model.named_parameters()), dict(again.named_parameters())
    assert mine.keys() == yours.keys()
    assert all(torch.equal(p, yours[k]) and p.dtype == yours[k].dtype for k, p in mine.items())
    original = {k for file in (GOLDEN / name).glob("*.safetensors") for k in load_file(file)}
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as f:
        assert set(f.keys()) == original and f.metadata() == {"format": "pt"}
    changed = {k for k, v in again.config.raw.items() if v != model.config.raw.get(k)}
    assert changed <= {"dtype", "torch_dtype"} and model.config.raw.keys() <= again.config.raw.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_models_give_the_same_logits_in_transformers(transformers, tmp_path, name):
    """A folder that transformers reads as another network than we do, in whatever form its config.json came."""
    model, (tokens, mask, _) = load_model(GOLDEN / name), golden(name)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)  # weights of its own, as after training
        ours = model(tokens)[mask]
    save_model(model, tmp_path)
    assert (ours - their_logits(transformers, tmp_path, tokens, mask)[mask]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_saved_dtype_is_that_of_the_parameters(tmp_path, dtype):
    """A config.json that says fp32 of bf16 weights: loaders would take twice the memory, or round."""
    save_model(load_model(GOLDEN / "llama3_old", dtype=dtype), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["dtype"] == raw["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert {p.dtype for p in load_model(tmp_path, dtype=dtype).parameters()} == {dtype}


def test_saving_copies_the_tokenizer_files_and_no_others(tmp_path):
    """A checkpoint without its tokenizer or stop ids, or one that drags the old weights along."""
    source = shutil.copytree(GOLDEN / "qwen3_untied_sharded", tmp_path / "source")
    for name in (*COMPANIONS, "notes.txt"):
        (source / name).write_bytes(name.encode() * 3)
    model = load_model(source)
    save_model(model, tmp_path / "out" / "deeper")
    assert {f.name for f in (tmp_path / "out" / "deeper").iterdir()} == {*COMPANIONS, "config.json", "model.safetensors"}
    assert all((tmp_path / "out" / "deeper" / name).read_bytes() == name.encode() * 3 for name in COMPANIONS)


def test_saving_over_the_folder_it_came_from_wins_over_the_older_shards(tmp_path):
    """An index left behind by a sharded checkpoint that brings the old weights back at the next load."""
    folder = shutil.copytree(GOLDEN / "qwen3_untied_sharded", tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    model = load_model(folder)
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    save_model(model, folder)
    assert torch.equal(load_model(folder).model.norm.weight, model.model.norm.weight)
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_loaded_weights_outlive_their_file(tmp_path):
    """Parameters mapped onto the file: saving over it, or deleting it, would change or crash the model."""
    folder = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "m")
    model, tokens = load_model(folder), draw(1, 9)
    before = model(tokens)
    size = (folder / "model.safetensors").stat().st_size
    with open(folder / "model.safetensors", "r+b") as f:
        f.write(b"\xff" * size)
    shutil.rmtree(folder)
    assert torch.equal(model(tokens), before)


# ---------------------------------------------------------------------------------------------------------------------------------
# Refusals: one line that names the file and what is wrong in it


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
REFUSED_CONFIGS = [
    ("qwen3_tied", {"model_type": "qwen3_moe"}, ["model_type", "qwen3_moe"]),
    ("qwen3_tied", {"model_type": "gpt2"}, ["model_type", "gpt2"]),
    ("qwen3_tied", {"model_type": GONE}, ["model_type"]),
    ("qwen3_tied", {"model_type": ["llama"]}, ["model_type"]),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4096}, ["use_sliding_window"]),
    ("qwen3_tied", {"use_sliding_window": True, "sliding_window": 4}, ["use_sliding_window"]),
    ("qwen3_tied", {"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding_attention"]),
    ("qwen3_tied", {"layer_types": ["linear_attention"] * 2}, ["layer_types", "linear_attention"]),
    ("qwen3_tied", {"layer_types": ["full_attention"] * 3}, ["layer_types"]),
    ("qwen3_tied", {"layer_types": 2}, ["layer_types"]),
    ("llama_linear", {"sliding_window": 4096}, ["sliding_window", "4096"]),
    ("llama_linear", {"is_causal": False}, ["is_causal"]),
    ("qwen3_tied", {"num_experts": 128}, ["num_experts"]),
    ("llama_linear", {"num_local_experts": 8}, ["num_local_experts"]),
    ("llama_linear", {"per_layer_config": {"0": {"rms_norm_eps": 0.5}}}, ["per_layer_config"]),
    ("qwen2", {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
    ("qwen2", {"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
    ("qwen2", {"hidden_act": None}, ["hidden_act"]),
    ("qwen2", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
    ("llama_linear", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
    ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, ["rope type", "yarn"]),
    ("qwen2", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ["rope type", "dynamic"]),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, ["rope type", "mrope"]),
    ("qwen2", {"rope_scaling": {"rope_type": ["linear"], "factor": 4.0}}, ["rope type"]),
    ("qwen2", {"rope_scaling": {"type": "linear"}}, ["factor", "linear"]),
    ("qwen2", {"rope_scaling": {"type": "linear", "factor": "4"}}, ["factor", "'4'"]),
    ("qwen2", {"rope_scaling": {"type": "linear", "factor": -1.0}}, ["factor", "-1.0"]),
    ("qwen2", {"rope_scaling": "linear"}, ["rope", "'linear'"]),
    ("qwen2", {"rope_scaling": [4.0]}, ["rope", "[4.0]"]),
    ("qwen3_tied", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}}, ["rope", "full_attention"]),
    *[("llama3_new", {"rope_parameters": {k: v for k, v in LLAMA3.items() if k != key}}, [key, "llama3"])
      for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")],
    ("llama3_new", {"rope_parameters": {**LLAMA3, "factor": 0}}, ["factor", "llama3"]),
    ("llama3_new", {"rope_parameters": {**LLAMA3, "high_freq_factor": True}}, ["high_freq_factor", "llama3"]),
    ("llama3_new", {"rope_parameters": {**LLAMA3, "high_freq_factor": 0.5}}, ["low_freq_factor", "high_freq_factor", "0.5"]),
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
    ("qwen2", {"num_attention_heads": 5, "num_key_value_heads": 5}, ["hidden_size 32", "num_attention_heads 5"]),
    ("llama_linear", {"head_dim": 7}, ["head_dim", "7"]),
    *[("qwen3_tied", {key: value}, [key, repr(value)]) for key in (*SHRUNK, "head_dim") for value in (0, -4, 32.0, True, "32")],
    *[("qwen3_tied", {key: GONE}, [key]) for key in SHRUNK if key != "num_key_value_heads"],
]


@pytest.mark.parametrize(("name", "edits", "words"), REFUSED_CONFIGS,
                         ids=[f"{i}-{next(iter(edits))}" for i, (_, edits, _) in enumerate(REFUSED_CONFIGS)])
def test_configs_that_cannot_be_computed_exactly_are_refused(tmp_path, name, edits, words):
    """A silently wrong model, or a traceback that names no file; read_config alone must say it, before any tensor is read."""
    (tmp_path / "config.json").write_text((GOLDEN / name / "config.json").read_text())
    read_config(tmp_path)
    edit_config(tmp_path, **edits)
    with pytest.raises(ValueError) as caught:
        read_config(tmp_path)
    one_line(caught, tmp_path / "config.json", *words)


@pytest.mark.parametrize("content", [b"", b"{", b'{"model_type": }', b"[]", b"17", b"null", b'"qwen3"', b"\xff\xfe{", b"\xef\xbb\xbf{}"])
def test_config_files_that_hold_no_object_are_refused(tmp_path, content):
    """A JSON error without the file's name, or an attribute error on a list."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_config(tmp_path)
    one_line(caught, tmp_path / "config.json", "JSON")


def test_folders_that_are_none_are_refused(tmp_path):
    """A path mistyped, a file in place of a folder, a folder of something else: the name must be in the message."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, words in [("nowhere", "no such folder"), ("file", "no such folder"), ("empty", "config.json")]:
        for read in (read_config, load_model):
            with pytest.raises(ValueError) as caught:
                read(str(tmp_path / path))
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


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def second_copy(folder):
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "model-00004-of-00003.safetensors")
    rewrite_index(lambda index: index["weight_map"].update(x="model-00004-of-00003.safetensors"))(folder)


def outside(folder):
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder.parent / "outside.safetensors")
    rewrite_index(lambda index: index["weight_map"].update({"lm_head.weight": "../outside.safetensors"}))(folder)


Q, NORM = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.q_norm.weight"
REFUSED_FILES = {
    "missing": ("qwen3_tied", rewrite(Q, lambda t: None), [Q, "missing"]),
    "missing norm": ("qwen3_tied", rewrite(NORM, lambda t: None), [NORM, "missing"]),
    "missing head": ("qwen3_tied", lambda d: edit_config(d, tie_word_embeddings=False), ["lm_head.weight", "missing"]),
    "surplus": ("qwen2", rewrite("model.layers.0.self_attn.o_proj.bias", lambda t: torch.zeros(32)), ["o_proj.bias", "surplus"]),
    "surplus layer": ("qwen2", lambda d: edit_config(d, num_hidden_layers=1), ["model.layers.1.", "surplus"]),
    "biases the config denies": ("llama_biases", lambda d: edit_config(d, attention_bias=False), ["_proj.bias", "surplus"]),
    "biases the file lacks": ("llama_linear", lambda d: edit_config(d, mlp_bias=True), ["_proj.bias", "missing", "5 more"]),
    "shape": ("qwen3_tied", rewrite(Q, lambda t: t[:-1].contiguous()), ["model.safetensors", Q, "[63, 32]", "[64, 32]"]),
    "transposed": ("qwen3_tied", rewrite(Q, lambda t: t.T.contiguous()), [Q, "[32, 64]", "[64, 32]"]),
    "vocabulary": ("qwen2", lambda d: edit_config(d, vocab_size=64), ["model.embed_tokens.weight", "[61, 32]", "[64, 32]"]),
    "integers": ("qwen3_tied", rewrite(Q, lambda t: t.to(torch.int8)), [Q, "I8"]),
    "fp8": ("qwen3_tied", rewrite(Q, lambda t: t.to(torch.float8_e4m3fn)), [Q, "F8_E4M3"]),
    "truncated": ("qwen3_tied", cut(60000), ["model.safetensors"]),
    "cut in the header": ("qwen3_tied", cut(100), ["model.safetensors"]),
    "empty file": ("qwen3_tied", cut(0), ["model.safetensors"]),
    "no weights": ("qwen3_tied", lambda d: (d / "model.safetensors").unlink(), ["no model.safetensors"]),
    "pickle only": ("qwen3_tied", only_a_pickle, ["no model.safetensors", "pytorch_model.bin"]),
    "tied but differing": ("qwen3_tied", rewrite("lm_head.weight", lambda t: torch.ones(V, 32)), ["lm_head.weight", "tie_word_embeddings"]),
    "untied said tied": ("llama_linear", lambda d: edit_config(d, tie_word_embeddings=True), ["lm_head.weight", "tie_word_embeddings"]),
    "shard missing": ("qwen3_untied_sharded", lambda d: (d / "model-00002-of-00003.safetensors").unlink(),
                      ["index.json", "model-00002-of-00003.safetensors"]),
    "shard unlisted": ("qwen3_untied_sharded", rewrite_index(lambda i: i.update(weight_map={"a": "model-00001-of-00003.safetensors"})),
                       ["missing"]),
    "shard outside": ("qwen3_untied_sharded", outside, ["index.json", "../outside.safetensors"]),
    "tensor in two shards": ("qwen3_untied_sharded", second_copy, ["another shard", "model-00004-of-00003.safetensors"]),
    "index of numbers": ("qwen3_untied_sharded", rewrite_index(lambda i: i.update(weight_map={"a": 1})), ["index.json", "1"]),
    "index of mixed things": ("qwen3_untied_sharded", rewrite_index(lambda i: i.update(weight_map={"a": 1, "b": "x"})), ["index.json"]),
    "index without map": ("qwen3_untied_sharded", rewrite_index(lambda i: i.pop("weight_map")), ["index.json", "weight_map"]),
    "index with a list": ("qwen3_untied_sharded", rewrite_index(lambda i: i.update(weight_map=["a"])), ["index.json", "weight_map"]),
    "index no JSON": ("qwen3_untied_sharded", lambda d: (d / "model.safetensors.index.json").write_text("{"), ["index.json"]),
    "index names no tensors": ("qwen3_untied_sharded", rewrite_index(lambda i: i.update(weight_map={"a": "config.json"})), ["config.json"]),
    "index is empty": ("qwen3_untied_sharded", rewrite_index(lambda i: i.update(weight_map={})), ["missing"]),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_weights_that_disagree_with_the_config_are_refused(tmp_path, case):
    """Tensors left at random, ignored, cut short or read from where they should not be."""
    name, edit, words = REFUSED_FILES[case]
    folder = shutil.copytree(GOLDEN / name, tmp_path / "m")
    load_model(folder)
    edit(folder)
    with pytest.raises(ValueError) as caught:
        load_model(folder)
    one_line(caught, folder, *words)


def test_harmless_extras_in_old_files_are_passed_over(tmp_path):
    """Llama 2 files carry inv_freq buffers, and some tied checkpoints hold their head twice: both load, and compute the same."""
    folder = shutil.copytree(GOLDEN / "llama3_old", tmp_path / "m")
    tokens, before = draw(1, 12), load_model(folder)

    def add(state):
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()

    edit_tensors(folder, add)
    assert torch.equal(load_model(folder)(tokens), before(tokens))
