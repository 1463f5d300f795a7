"""lib/logprobs.py against the dense formulas and the authors' recorded outputs.

tests/vimpo_vectors.safetensors holds inputs and outputs of the authors' implementation: conftest.py
says which. All else is held against full [N, V] logits and autograd.

    pytest tests/test_logprobs.py
"""

import doctest

import pytest
import torch
from conftest import Watch, near, randn
from torch.distributions import Categorical, kl_divergence

import lib.logprobs
from lib.logprobs import (
    kl_from_logits,
    reference_stats,
    score_tokens,
    token_logps,
    wide_logits,
)

KINDS = {
    "kl_exact": {"kl": "exact"},
    "kl_top8": {"kl": "topk", "top_k": 8},
    "kl_k2": {"kl": "k2"},
    "kl_k3": {"kl": "k3"},
}
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


def problem(N, V=37, D=5, dtype=F64):
    """hidden [N, D], head [V, D], reference hidden and head, targets [N]."""
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(0))
    shapes = [(N, D), (V, D), (N, D), (V, D)]
    return *(randn(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)), targets


def dense_logps(hidden, head, targets, temperature=1.0):
    logits = hidden @ head.T / temperature
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def test_log_probs_and_every_kl_are_those_of_the_authors(case):
    """A KL in the wrong direction, a top-k renormalised or taken from the reference's tokens, a k3
    with the sign of its d turned."""
    valid = case["mask"] > 0
    policy, ref = case["policy_logits"][valid], case["ref_logits"][valid]
    tokens = case["tokens"][valid]
    head = torch.eye(50, dtype=F64)  # logits are hidden states under an identity head
    near(token_logps(policy, head, tokens), case["logp"][valid], 1e-9)
    dense = kl_from_logits(case["policy_logits"], case["ref_logits"])
    near(dense[valid], case["kl_exact"][valid], 1e-9)
    for name, how in KINDS.items():
        ref_logps, kl, _ = reference_stats(policy, head, ref, head, tokens, **how)
        near(ref_logps, case["ref_logp"][valid], 1e-9)
        near(kl, case[name][valid], 1e-9)


# --------------------------------------------------------------------------------------------------
# With gradient


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("N", "V"), [(0, 37), (1, 37), (1027, 37), (1500, 101)])
@pytest.mark.parametrize("frozen", ["nothing", "hidden", "head"])
def test_token_logps_and_its_gradient_are_the_dense_ones(N, V, temperature, frozen):
    """A last chunk that is dropped or counted twice, a temperature missing from backward, a frozen
    input that breaks it, N = 0."""
    hidden, head, _, _, targets = problem(N, V)
    inputs = [hidden.requires_grad_(frozen != "hidden"), head.requires_grad_(frozen != "head")]
    weights, wanted = randn(N, seed=9), [x for x in inputs if x.requires_grad]
    got = token_logps(*inputs, targets, temperature=temperature)
    want = dense_logps(*inputs, targets, temperature)
    near(got, want, 1e-12)
    grads = torch.autograd.grad(got @ weights, wanted)
    dense_grads = torch.autograd.grad(want @ weights, wanted)
    for a, b in zip(grads, dense_grads, strict=True):
        near(a, b, 1e-12)


def test_log_probs_changed_in_place_do_not_reach_the_backward_pass():
    """The normaliser is recovered from the log-probs: a caller who fills them in place (a mask, a
    clamp) would change the gradient without a word."""
    hidden, head, _, _, targets = problem(300)
    hidden.requires_grad_()
    want = torch.autograd.grad(token_logps(hidden, head, targets).sum(), hidden)[0]
    logps = token_logps(hidden, head, targets)
    total = logps.sum()
    with torch.no_grad():
        logps.zero_()
    near(torch.autograd.grad(total, hidden)[0], want, 1e-14)


def test_bf16_hidden_states_are_reduced_in_fp32():
    """A log-sum-exp in bf16 (steps of 1/32 at log 1000), or a head gradient summed over the chunks
    in bf16."""
    hidden, head, _, _, targets = problem(4096, V=1000, D=16, dtype=F32)
    hidden, head = hidden.to(BF16).requires_grad_(), (0.1 * head).requires_grad_()
    got = token_logps(hidden, head, targets)
    want = dense_logps(hidden.float(), head, targets)
    near(got, want, 1e-2)  # fp32, not bf16
    grads = torch.autograd.grad(got.mean(), (hidden, head))
    wants = torch.autograd.grad(want.mean(), (hidden, head))
    # bf16 has 8 bits; the fp32 gradient only averages their errors.
    for a, b, limit in zip(grads, wants, (2**-8, 2**-9), strict=True):
        assert a.dtype == b.dtype
        assert (a.float() - b.float()).norm() < limit * b.float().norm()


@pytest.mark.parametrize("call", ["token_logps", *KINDS])
def test_logits_of_a_whole_batch_never_exist(call):
    """One N x V tensor, or chunks that the graph keeps until they add up to one (150,000 tokens
    times the batch: out of memory)."""
    V, peaks = 2000, []
    for N in (2048, 4096):
        hidden, head, ref_hidden, ref_head, targets = problem(N, V, D=8, dtype=F32)
        with Watch() as watch:
            if call == "token_logps":
                hidden, head = hidden.requires_grad_(), head.requires_grad_()
                token_logps(hidden, head, targets).mean().backward()
            else:
                reference_stats(hidden, head, ref_hidden, ref_head, targets, **KINDS[call])
        peaks.append(watch.peak)
    assert watch.largest < 4 * N * V / 3
    assert peaks[1] - peaks[0] < 4 * 2048 * V / 10  # a further token costs far less than V logits


# --------------------------------------------------------------------------------------------------
# Without gradient


@pytest.mark.parametrize(
    "how", [*KINDS.values(), {"kl": "topk", "top_k": 37}], ids=[*KINDS, "kl_top_all"]
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_reference_stats_are_the_dense_ones_at_the_sampling_temperature(temperature, how):
    """A temperature that reaches the log-probs but not the entropy or the KL, or the policy but not
    the reference."""
    hidden, head, ref_hidden, ref_head, targets = problem(1027)
    policy = Categorical(logits=hidden @ head.T / temperature)
    reference = Categorical(logits=ref_hidden @ ref_head.T / temperature)
    stats = reference_stats(
        hidden, head, ref_hidden, ref_head, targets, temperature=temperature, **how
    )
    ref_logps, kl, entropy = stats
    near(ref_logps, dense_logps(ref_hidden, ref_head, targets, temperature), 1e-12)
    near(entropy, policy.entropy(), 1e-12)
    cooled = hidden / temperature, head, ref_hidden / temperature, ref_head
    near(kl, reference_stats(*cooled, targets, **how)[1], 1e-12)
    if how["kl"] == "exact" or how.get("top_k") == 37:  # the top 37 of 37 are all
        near(kl, kl_divergence(policy, reference), 1e-12)


def test_every_kl_follows_its_formula_in_the_docstring():
    """k2 and k3 exchanged, or a top-k whose mass is normalised to 1."""
    hidden, head, ref_hidden, ref_head, targets = problem(600)
    log_p, log_ref = (hidden @ head.T).log_softmax(1), (ref_hidden @ ref_head.T).log_softmax(1)
    d = (log_p - log_ref).gather(1, targets[:, None])[:, 0]
    top = log_p.topk(5, dim=1).indices
    terms = log_p.exp() * (log_p - log_ref)
    wanted = {"k2": d**2 / 2, "k3": (-d).exp() - 1 + d, "topk": terms.gather(1, top).sum(1)}
    for kind, want in wanted.items():
        stats = reference_stats(hidden, head, ref_hidden, ref_head, targets, kl=kind, top_k=5)
        near(stats[1], want, 1e-12)


@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=str)
@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
def test_a_policy_that_is_its_reference_has_kl_and_log_ratio_exactly_zero(how, dtype):
    """Two roads through the arithmetic: the whitened actor of the first step would then amplify
    rounding noise to unit size."""
    hidden, head, _, _, targets = problem(1027, V=501, D=16, dtype=F64 if dtype == F64 else F32)
    hidden = hidden.to(dtype).requires_grad_()
    stats = reference_stats(hidden, head, hidden, head, targets, temperature=0.7, **how)
    ref_logps, kl, entropy = stats
    near(ref_logps, token_logps(hidden, head, targets, temperature=0.7).detach())
    near(kl, torch.zeros_like(ref_logps))
    assert not any(x.requires_grad for x in stats) and entropy.min() > 0
    none, no_targets = hidden[:0], targets[:0]
    empty = reference_stats(none, head, none, head, no_targets, **how)
    for x in (*empty, token_logps(none, head, no_targets)):
        assert x.shape == (0,) and x.dtype == ref_logps.dtype


@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=str)
def test_scoring_without_a_reference_gives_the_same_log_probs_and_entropy(dtype):
    """A second way through the arithmetic for objectives that need no reference, or a KL of 0 where
    none was taken."""
    hidden, head, ref_hidden, ref_head, targets = problem(700, dtype=F64 if dtype == F64 else F32)
    hidden, ref_hidden = hidden.to(dtype), ref_hidden.to(dtype)
    logps, _, _, entropy = score_tokens(hidden, head, ref_hidden, ref_head, targets, 0.8)
    alone = score_tokens(hidden, head, None, None, targets, 0.8)
    assert alone[1] is None and alone[2] is None
    near(alone[0], logps)
    near(alone[3], entropy)
    near(logps, token_logps(hidden, head, targets, 0.8))
    empty = score_tokens(hidden[:0], head, None, None, targets[:0])
    assert empty[0].shape == empty[3].shape == (0,)


@pytest.mark.parametrize(("dtype", "rounding"), [(F32, 5e-6), (F64, 1e-14)], ids=str)
@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2, 1.0])
def test_exact_kl_is_never_negative_by_more_than_rounding(distance, dtype, rounding):
    """A KL between distributions that do not sum to one. (It may be -1e-6 in fp32: a clamp would
    tilt the mean of rho - kappa.)"""
    hidden, head, noise, _, targets = problem(1027, V=501, D=16, dtype=dtype)
    kl = reference_stats(hidden, head, hidden + distance * noise, head, targets)[1]
    assert kl.min() > -rounding


def test_dense_kl_of_a_token_that_cannot_be_drawn_is_finite():
    """0 log 0 = NaN, where a policy rules a token out; where the reference alone does, KL is
    infinite and must not be hidden."""
    out = torch.tensor([0.0, 1.0, -torch.inf], dtype=F64)
    whole = torch.tensor([0.0, 1.0, 0.5], dtype=F64)
    near(kl_from_logits(out, out), torch.tensor(0.0, dtype=F64))
    p = out.softmax(-1)[:2]
    near(kl_from_logits(out, whole), (p * (p / whole.softmax(-1)[:2]).log()).sum(), 1e-12)
    assert kl_from_logits(whole, out) == torch.inf


@pytest.mark.parametrize("kind", ["k1", "hubert"])
def test_a_kind_of_kl_that_is_not_offered_is_refused_by_name(kind):
    """k1, which cancels rho and leaves nothing to learn, or a misspelt kind, quietly taken for
    another."""
    hidden, head, _, _, targets = problem(3)
    with pytest.raises(ValueError, match=kind):
        reference_stats(hidden, head, hidden, head, targets, kl=kind)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_wide_logits_sum_exact_products_of_bf16(temperature):
    """Logits rounded to bf16 between the product and the softmax."""
    hidden, weight = randn(5, 64, dtype=F32).to(BF16), randn(61, 64, seed=1, dtype=F32).to(BF16)
    exact = hidden.double() @ weight.double().T / temperature
    logits = wide_logits(hidden, weight, temperature)
    assert logits.dtype == F32
    near(logits.double(), exact, 1e-5)


def test_the_examples_in_the_docstrings_are_true():
    """A worked example that the code has left behind."""
    results = doctest.testmod(lib.logprobs)
    assert results.attempted > 0 and results.failed == 0
