"""model.py against transformers: its recorded logits always, the library where it can be imported.

tests/golden/ holds seven tiny checkpoints as transformers saves them, with the logits it computes
(tests/make_golden.py writes them): Qwen3 tied and untied (sharded), Qwen2, Llama with llama3
scaling in both forms of config.json, with linear scaling, with all biases. What is read from
config.json and from the files is in test_checkpoint.py.

    pytest tests/test_model.py
    VIMPO_TEST_MODEL=path/to/checkpoint pytest tests/test_model.py -k real    # one in full size
"""

import os

import pytest
import torch
from conftest import FAMILIES, GOLDEN, draw_tokens, randn
from conftest import GOLDEN_V as V
from safetensors.torch import load_file

from model import KVCache, RMSNorm, Transformer, attention, frozen_copy, load_model, save_model

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


def golden(name):
    """-> tokens [B, T] right-padded, which positions count [B, T], transformers' logits there
    [N, V]."""
    file = load_file(GOLDEN / f"{name}.golden.safetensors")
    mask = torch.arange(file["tokens"].size(1)) < file["lengths"][:, None]
    return file["tokens"], mask, file["logits"]


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    library = pytest.importorskip("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


@torch.no_grad()
def their_logits(transformers, folder, tokens, mask=None):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=F32).eval()
    return theirs(tokens, attention_mask=None if mask is None else mask.long()).logits


# --------------------------------------------------------------------------------------------------
# The same logits as transformers


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_logits_are_those_transformers_recorded(name):
    """Any switch read wrongly: q/k norms, biases, grouped heads, head_dim, eps, rope type and
    theta, tying, shards, file dtypes."""
    tokens, mask, theirs = golden(name)
    ours = load_model(GOLDEN / name)(tokens)
    assert ours.dtype == F32 and ours.shape == (*tokens.shape, V)
    assert (ours[mask] - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_tensor_of_a_file_shows_in_the_logits(name):
    """A tensor that is loaded but never used; it also shows that the test above would see any one
    of them wrong."""
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
    """Golden files too short, or with factors too mild, for a scaling that is never applied to
    show."""
    tokens, mask, theirs = golden(name)
    model = load_model(GOLDEN / name)
    model.config = model.config._replace(rope={**model.config.rope, "rope_type": "default"})
    assert (model(tokens)[mask] - theirs).abs().max() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(transformers, name):
    """As above against the library that is installed, on other tokens: a change on either side
    since the files were written."""
    tokens, lengths = draw_tokens(4, 70, seed=3), torch.tensor([70, 51, 12, 1])
    mask = torch.arange(70) < lengths[:, None]
    with torch.no_grad():
        ours = load_model(GOLDEN / name)(tokens)
    theirs = their_logits(transformers, GOLDEN / name, tokens, mask)
    assert (ours - theirs)[mask].abs().max() < 1e-4


@pytest.mark.skipif(
    not os.environ.get("VIMPO_TEST_MODEL"), reason="VIMPO_TEST_MODEL names no checkpoint folder"
)
@torch.no_grad()
def test_real_checkpoint_gives_the_logits_of_transformers(transformers, tmp_path):
    """What random weights hide: outlier channels, real norms, many layers; in the full forward,
    after saving, and decoded with a cache."""
    folder = os.environ["VIMPO_TEST_MODEL"]
    model = load_model(folder)
    tokens = torch.randint(model.config.V, (3, 48), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([48, 30, 7])
    mask = torch.arange(48) < lengths[:, None]
    ours = model(tokens)
    theirs = their_logits(transformers, folder, tokens, mask)
    assert (ours - theirs)[mask].abs().max() < 1e-4
    save_model(model, tmp_path)
    theirs = their_logits(transformers, tmp_path, tokens, mask)
    assert (ours - theirs)[mask].abs().max() < 1e-5
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
    """Attention that looks ahead, or positions counted from the wrong end: a row's logits would
    depend on what follows it."""
    tokens, mask, _ = golden(name)
    model = load_model(GOLDEN / name)
    logits = model(tokens)
    other = torch.where(mask, tokens, draw_tokens(*tokens.shape, seed=9))
    assert (other != tokens).any()
    torch.testing.assert_close(model(other)[mask], logits[mask], rtol=0, atol=1e-6)
    for b, n in enumerate(mask.sum(1).tolist()):
        alone = model(tokens[b : b + 1, :n])[0]
        torch.testing.assert_close(alone, logits[b, :n], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("H", "Hkv"), [(4, 4), (6, 2), (3, 1)])
def test_attention_is_softmax_of_scores_times_values(H, Hkv):
    """Scores divided by Dh, a query head that reads its neighbour's keys, a mask that is turned
    round."""
    q, k, v = randn(2, H, 5, 8), randn(2, Hkv, 7, 8, seed=1), randn(2, Hkv, 7, 8, seed=2)
    seen = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)) < 0.6
    seen[..., 0] = True
    wide_k, wide_v = (x.repeat_interleave(H // Hkv, dim=1) for x in (k, v))
    scores = (q @ wide_k.transpose(2, 3) / 8**0.5).masked_fill(~seen, -torch.inf)
    torch.testing.assert_close(attention(q, k, v, seen), scores.softmax(-1) @ wide_v)
    q = randn(2, H, 7, 8, seed=4)
    causal = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7)
    torch.testing.assert_close(attention(q, k, v), attention(q, k, v, causal))


# --------------------------------------------------------------------------------------------------
# KV cache


# Tokens fed to every row at once, and how many of them count in each row: a ragged prefill, single
# steps, several at once, none at all.
SCHEDULE = [
    (20, (20, 7, 1)),
    (1, (1, 1, 1)),
    (1, (1, 0, 1)),
    (4, (4, 2, 1)),
    (1, (1, 1, 1)),
    (6, (0, 6, 3)),
    (1, (1, 1, 1)),
]


def run_schedule(model, cache, sequences, tighten):
    """Feed `sequences` [B, T] through the cache as SCHEDULE says -> [(row, position, logits)]."""
    B, seen = sequences.size(0), []
    for step, (T, counts) in enumerate(SCHEDULE):
        tokens = draw_tokens(B, T, seed=100 + step)  # what does not count is noise
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
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(name, dtype, tighten):
    """Positions or masks off by one behind ragged prompts, padding that stays visible, leftovers of
    a longer sequence in the same row, head grouping wrong on the one-token path; in float64 also
    anything that quietly computes in fp32."""
    model = load_model(GOLDEN / name, dtype=dtype)
    cache = KVCache(model, rows=5, capacity=40)
    model.hidden(draw_tokens(5, 40, seed=7), cache)  # earlier, longer occupants of every row
    others = cache.k[:, 3:].clone(), cache.v[:, 3:].clone()
    cache.lengths.zero_()
    if tighten:
        cache.fill = 0
    sequences = draw_tokens(3, 40, seed=8)
    full = model(sequences)
    seen = run_schedule(model, cache, sequences, tighten)
    assert len(seen) == sum(sum(counts) for _, counts in SCHEDULE)
    tolerance = 1e-4 if dtype == F32 else 1e-11
    for b, t, logits in seen:
        assert logits.dtype == dtype
        torch.testing.assert_close(logits, full[b, t], rtol=0, atol=tolerance)
    # Rows that took no part.
    assert torch.equal(cache.k[:, 3:], others[0]) and torch.equal(cache.v[:, 3:], others[1])


@torch.no_grad()
def test_a_row_moved_to_another_place_decodes_on():
    """Anything about a row kept outside k, v and lengths: finished rows leave and the last one
    takes their place."""
    model = load_model(GOLDEN / "qwen3_tied")
    cache, tokens = KVCache(model, rows=3, capacity=30), draw_tokens(3, 30)
    model.hidden(tokens[:, :10], cache)
    cache.lengths += torch.tensor([10, 4, 8])
    for state in (cache.k.transpose(0, 1), cache.v.transpose(0, 1), cache.lengths):
        state[0] = state[2].clone()
    cache.fill = int(cache.lengths[:2].max())
    step = model.head(model.hidden(tokens[[2, 1], [8, 4]][:, None], cache))[:, 0]
    torch.testing.assert_close(step[0], model(tokens[2:, :9])[0, 8], rtol=0, atol=1e-4)
    torch.testing.assert_close(step[1], model(tokens[1:2, :5])[0, 4], rtol=0, atol=1e-4)


# --------------------------------------------------------------------------------------------------
# Gradients, mixed precision, frozen copies


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen2", "llama_biases"])
def test_gradients_are_those_of_finite_differences(name):
    """A parameter cut off from the loss (a cast or detach in the way), or one of two uses of a tied
    weight forgotten."""
    model = load_model(GOLDEN / name, dtype=F64)
    tokens, mask, _ = golden(name)
    tokens, targets = tokens[1:, :17], draw_tokens(2, 17, seed=5)

    def loss():
        logps = model(tokens).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        return logps[mask[1:, :17]].mean()

    loss().backward()
    generator, h = torch.Generator().manual_seed(0), 1e-5
    for tensor, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, tensor
        direction = torch.randn(p.shape, generator=generator, dtype=F64)
        with torch.no_grad():
            p.add_(h * direction)
            up = loss()
            p.sub_(2 * h * direction)
            down = loss()
            p.add_(h * direction)
        slope = (up - down) / (2 * h)
        torch.testing.assert_close((p.grad * direction).sum(), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen2", "llama_biases"])
def test_fp32_masters_get_fp32_gradients_from_bf16_compute(name):
    """Gradients rounded to bf16, or lost, on the way back through the casts."""
    model = load_model(GOLDEN / name)
    model.compute_dtype = BF16
    tokens, mask, _ = golden(name)
    hidden = model.hidden(tokens)
    assert hidden.dtype == BF16
    model.head(hidden)[mask].float().logsumexp(-1).mean().backward()
    for tensor, p in model.named_parameters():
        assert p.grad.dtype == F32 and p.grad.isfinite().all() and p.grad.abs().sum() > 0, tensor


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_copy_computes_bit_for_bit_what_the_fp32_masters_compute(name):
    """Two arithmetics: policy and reference would differ at step 0, and whitening would turn that
    rounding into a signal."""
    model = load_model(GOLDEN / name)
    model.compute_dtype = BF16
    copy, tokens = frozen_copy(model), golden(name)[0]
    assert all(p.dtype == BF16 and not p.requires_grad for p in copy.parameters())
    # With gradients recorded on one side only.
    assert torch.equal(copy.hidden(tokens), model.hidden(tokens))
    with torch.no_grad():
        before = copy(tokens)
        assert before.dtype == F32 and torch.equal(before, model(tokens))
        caches = KVCache(copy, 3, 50), KVCache(model, 3, 50)
        for T in (30, 1, 5):
            a, b = copy.hidden(tokens[:, :T], caches[0]), model.hidden(tokens[:, :T], caches[1])
            assert torch.equal(a, b)
            for cache in caches:
                cache.lengths += torch.tensor([T, 1, 0])
        for p in model.parameters():
            p.mul_(0.5).add_(0.25)
        assert torch.equal(copy(tokens), before) and not torch.equal(model(tokens), before)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_frozen_copy_shares_no_memory_even_where_no_cast_is_needed(dtype):
    """A reference that follows the policy: KL would stay 0 for ever."""
    model = load_model(GOLDEN / "qwen2", dtype=dtype)
    copy = frozen_copy(model)
    assert copy.config == model.config and copy.folder == model.folder
    mine = {p.data_ptr() for p in model.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in copy.parameters())


@torch.no_grad()
def test_bf16_compute_stays_close_to_fp32_far_into_a_context():
    """Positions or angles in bf16, which can't tell 1000 from 1003, and logits rounded to bf16."""
    model, tokens = load_model(GOLDEN / "llama3_new"), draw_tokens(1, 1200)
    exact = model(tokens)[0, 800:]
    model.compute_dtype = BF16
    logits = model(tokens)[0, 800:]
    assert logits.dtype == F32 and not torch.equal(logits, logits.bfloat16().float())
    error = (logits.softmax(-1) - exact.softmax(-1)).abs().sum(-1) / 2
    assert error.mean() < 0.02


def test_norm_of_bf16_is_rounded_once():
    """Squares, mean or root taken in bf16: an error of up to 1% on all of a row at once."""
    x = (3 * randn(50, 64, dtype=F32)).bfloat16()
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    got = RMSNorm(64, 1e-6).bfloat16()(x)
    assert (got == exact.bfloat16()).float().mean() > 0.99


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("grad", [False, True], ids=["without gradient", "with gradient"])
def test_the_head_sums_exact_products_of_bf16(make_model, grad, tied):
    """Logits rounded to bf16 between the product and the softmax, or only where a gradient is
    asked for; the other weight where the head is tied to the embedding."""
    model = make_model(tie_word_embeddings=tied)
    weight = model.get_parameter("model.embed_tokens.weight" if tied else "lm_head.weight")
    hidden = randn(2, 5, 32, dtype=F32).bfloat16().requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        logits = model.head(hidden)
    exact = hidden.double() @ weight.bfloat16().double().T
    assert logits.dtype == F32 and logits.requires_grad == grad
    torch.testing.assert_close(logits.double(), exact, rtol=0, atol=1e-5)
    if grad:
        logits.sum().backward()
        assert hidden.grad.dtype == BF16 and weight.grad.dtype == F32


def test_making_a_model_draws_no_random_numbers(make_model):
    """Seconds spent on weights that a file then overwrites; torch's global seed moved by loading a
    checkpoint."""
    config = make_model().config
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    Transformer(config)
    assert torch.equal(torch.rand(3), wanted)
