"""vimpo.py against three judges that know nothing of it: recorded outputs, exact dynamic programming, and plain loops.

tests/vimpo_vectors.safetensors holds inputs and outputs of the authors' own implementation (backprop07/VIMPO at 2aa83bc), run in
float64: four cases, tensor `i.name` belongs to case i. Their masks are prefixes, their log-ratios never reach the dual clip (nor the
clamp at 20) and their groups are never singletons, so those are covered by hand-worked tables and loops here.

    pytest tests/test_vimpo.py
"""
import doctest
import math
import pathlib

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vimpo

VECTORS = load_file(pathlib.Path(__file__).with_name("vimpo_vectors.safetensors"))
KINDS = {"kl_exact": {"kl": "exact"}, "kl_top8": {"kl": "topk", "top_k": 8}, "kl_k2": {"kl": "k2"}, "kl_k3": {"kl": "k3"}}
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


def near(a, b, tolerance=0.0):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)            # shape and dtype too


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def holes(B, T, seed=0):
    """A mask [B, T] with holes anywhere; row 1 is empty when there is one."""
    mask = torch.rand(B, T, generator=torch.Generator().manual_seed(seed + 99)) < 0.7
    mask[:, -1], mask[1:2] = True, False
    return mask


class Watch(TorchDispatchMode):
    """Counts tensor operations, the bytes of the largest tensor they made, and the most bytes alive at once, backward included."""

    def __init__(self):
        super().__init__()
        self.ops, self.largest, self.peak, self.alive = 0, 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.ops += 1
        for storage in (t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self.alive.values()))
        return out


# ---- 1. the authors' implementation -------------------------------------------------------------------------------------------------
@pytest.fixture(params=range(4), ids="case{}".format)
def case(request):
    return {name[2:]: x for name, x in VECTORS.items() if name.startswith(f"{request.param}.")}


def test_log_probs_and_every_kl_are_those_of_the_authors(case):
    """A KL in the wrong direction, a top-k renormalised or taken from the reference's tokens, a k3 with the sign of its d turned."""
    c, valid = case, case["mask"] > 0
    policy, ref, tokens, head = c["policy_logits"][valid], c["ref_logits"][valid], c["tokens"][valid], torch.eye(50, dtype=F64)
    near(vimpo.token_logps(policy, head, tokens), c["logp"][valid], 1e-9)       # logits are hidden states under an identity head
    near(vimpo.kl_from_logits(c["policy_logits"], c["ref_logits"])[valid], c["kl_exact"][valid], 1e-9)
    for name, how in KINDS.items():
        ref_logps, kl, _ = vimpo.reference_stats(policy, head, ref, head, tokens, **how)
        near(ref_logps, c["ref_logp"][valid], 1e-9)
        near(kl, c[name][valid], 1e-9)


def test_token_terms_baselines_and_advantages_are_those_of_the_authors(case):
    """beta on one half of the term, GAE that discounts from the wrong end, whitening without Bessel or with eps outside the root."""
    c, mask = case, case["mask"]
    near(vimpo.td_terms(c["logp"], c["ref_logp"], c["kl_exact"], mask, c["beta"].item()), c["token_term"], 1e-9)
    near(vimpo.group_baseline(c["rewards"], c["group"]), c["baseline"], 1e-9)
    near(vimpo.gae(c["token_term"], mask, lam=c["lam"].item()), c["advantage_raw"], 1e-9)
    near(vimpo.whiten(c["advantage_raw"], mask), c["advantage_whitened"], 1e-9)
    near(vimpo.grpo_advantages(c["rewards"], c["group"], mask), c["grpo_advantage"], 1e-9)
    near(vimpo.grpo_advantages(c["rewards"], c["group"], mask, scale=False), c["dr_grpo_advantage"], 1e-9)


def test_losses_and_their_gradients_are_those_of_the_authors_with_nothing_detached_by_the_caller(case):
    """A missing 1/2 or 1/B, a Huber loss off by its delta, a gradient that runs through the KL or the advantages into the policy."""
    c, mask, logp = case, case["mask"], case["logp"].clone().requires_grad_()
    kl, ref_logp = vimpo.kl_from_logits(c["policy_logits"], c["ref_logits"]).requires_grad_(), c["ref_logp"].clone().requires_grad_()
    td = vimpo.td_terms(logp, ref_logp, kl, mask, c["beta"].item())
    advantages = vimpo.whiten(vimpo.gae(td, mask, lam=c["lam"].item()), mask)
    ends = c["rewards"], vimpo.group_baseline(c["rewards"], c["group"])
    loss = {"value_loss": vimpo.value_loss(td, *ends, mask), "actor_loss": vimpo.ppo_loss(logp, c["old_logp"], advantages, mask),
            "huber_loss": vimpo.value_loss(td, *ends, mask, kind="huber", huber_delta=c["huber_delta"].item())}
    loss["total_loss"] = loss["value_loss"] + c["actor_coef"] * loss["actor_loss"]
    for name, got in loss.items():
        grad, *others = torch.autograd.grad(got, (logp, kl, ref_logp), retain_graph=True, allow_unused=True)
        near(got.detach(), c[name], 1e-9)
        near(grad, c[f"{name}_grad_logp"], 1e-9)
        assert others == [None, None]
    assert not advantages.requires_grad


# ---- 2. exact dynamic programming on a tree ------------------------------------------------------------------------------------------
def solved_tree(seed, beta, depth, A=3):
    """pi* of a full token tree with random 0/1 leaves and random pi_ref, by backward induction; response b is the path to leaf b.

    Returns rewards, tokens, then along each path: log pi* and log pi_ref [B, T, A], Q* [B, T, A] and V* [B, T]."""
    rewards = (randn(A**depth, seed=seed) > 0).double()
    Q, levels, leaf = rewards, [], torch.arange(A**depth)
    for t in reversed(range(depth)):
        Q, ref = Q.view(-1, A), randn(A**t, A, seed=seed + t + 1).log_softmax(-1)   # one row per state of depth t
        pi = (ref + Q / beta).log_softmax(-1)
        V = (pi.exp() * Q).sum(-1)
        levels.append([x[leaf // A ** (depth - t)] for x in (pi, ref, Q, V)])
        Q = V                                                                   # r = 0 and gamma = 1 on the way there
    tokens = torch.stack([leaf // A ** (depth - 1 - t) % A for t in range(depth)], 1)
    return rewards, tokens, *(torch.stack(x[::-1], 1) for x in zip(*levels, strict=True))


@pytest.mark.parametrize(("seed", "beta", "depth"), [(0, 1.0, 3), (1, 0.3, 4), (2, 0.05, 4)])
def test_at_the_optimal_policy_of_a_tree_the_implied_values_are_the_true_ones(seed, beta, depth):
    """Any slip in identity (1), beta log(pi*/pi_ref) - beta KL = Q* - V*: the wrong KL direction, a beta too many, a curve off by one."""
    rewards, tokens, pi, ref, Q, V = solved_tree(seed, beta, depth)
    mask, kl = torch.ones(tokens.shape), vimpo.kl_from_logits(pi, ref)
    logp, ref_logp, q = (x.gather(-1, tokens[..., None])[..., 0] for x in (pi, ref, Q))
    td = vimpo.td_terms(logp.requires_grad_(), ref_logp, kl, mask, beta)
    near(td.detach(), q - V, 1e-12)                                             # identity (1) at every state and action
    curve, root = vimpo.implied_values(td.detach(), mask, V[:, 0]), V[:, 0]
    near(curve[:, :-1], V, 1e-12)
    near(curve[:, -1] - rewards, torch.zeros_like(root), 1e-12)                 # V_T = 0 once R is paid
    loss = vimpo.value_loss(td, rewards, root, mask)
    assert 0 < root[0] < 1 and loss < 1e-24
    assert torch.autograd.grad(loss, logp)[0].abs().max() < 1e-13
    away = vimpo.td_terms(logp.detach() + 0.1 * randn(*logp.shape), ref_logp, kl, mask, beta)
    assert vimpo.value_loss(away, rewards, root, mask) > 1e-6                   # and only there


# ---- 3. the lambda-recurrence ---------------------------------------------------------------------------------------------------------
def gae_by_loop(td, mask, decay):
    out = torch.zeros(td.shape, dtype=F64)
    for b, (row, keep) in enumerate(zip(td.tolist(), mask.tolist(), strict=True)):
        tail = 0.0
        for t in reversed(range(len(row))):
            if keep[t]:
                out[b, t] = tail = row[t] + decay * tail
    return out


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize(("lam", "gamma"), [(0.0, 1.0), (0.5, 1.0), (0.9, 0.8), (1.0, 1.0), (1.0, 0.99), (1.0, 0.0)])
@pytest.mark.parametrize(("B", "T"), [(4, 1), (5, 2), (3, 7), (6, 37), (2, 64), (3, 129)])
def test_gae_is_the_recurrence_for_any_mask(B, T, lam, gamma, dtype):
    """A masked position that counts as a step of discount or leaks its term, an edge lost when T is no power of two, 0 ** 0 at lam 0."""
    td, mask = randn(B, T, seed=T, dtype=dtype), holes(B, T, seed=T)            # td is deliberately not zero where the mask is
    got = vimpo.gae(td, mask, lam=lam, gamma=gamma)
    assert got.dtype == dtype and not got[~mask].any()
    near(got.double(), gae_by_loop(td, mask, lam * gamma), 1e-12 if dtype == F64 else 2e-5)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.999, 1.0])
def test_gae_is_stable_and_cheap_at_full_size(lam):
    """A closed form that divides by lam ** t (infinite at 4096 steps), a loop over time, a T x T table."""
    td, mask = randn(64, 4096, dtype=F32), holes(64, 4096)
    with Watch() as watch:
        got = vimpo.gae(td, mask, lam=lam)
    rows = slice(0, 8)
    got, want = got[rows], gae_by_loop(td[rows], mask[rows], lam)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()                   # fp32(0.999) alone is worth 1e-5
    assert watch.ops < 400 and watch.largest < 20 * td.nbytes


# ---- 4. log-probabilities and reference statistics from hidden states -------------------------------------------------------------------
def problem(N, V=37, D=5, dtype=F64):
    """hidden [N, D], head [V, D], reference hidden and head, targets [N]."""
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(0))
    return *(randn(*shape, seed=i, dtype=dtype) for i, shape in enumerate([(N, D), (V, D), (N, D), (V, D)])), targets


def dense_logps(hidden, head, targets, temperature=1.0):
    return (hidden @ head.T / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("N", "V"), [(0, 37), (1, 37), (1027, 37), (1500, 101)])
@pytest.mark.parametrize("frozen", ["nothing", "hidden", "head"])
def test_token_logps_and_its_gradient_are_the_dense_ones(N, V, temperature, frozen):
    """A last chunk that is dropped or counted twice, a temperature missing from backward, a frozen input that breaks it, N = 0."""
    hidden, head, _, _, targets = problem(N, V)
    inputs = [x.requires_grad_(name != frozen) for name, x in (("hidden", hidden), ("head", head))]
    weights, wanted = randn(N, seed=9), [x for x in inputs if x.requires_grad]
    got, want = vimpo.token_logps(*inputs, targets, temperature=temperature), dense_logps(*inputs, targets, temperature)
    near(got, want, 1e-12)
    for a, b in zip(torch.autograd.grad(got @ weights, wanted), torch.autograd.grad(want @ weights, wanted), strict=True):
        near(a, b, 1e-12)


def test_bf16_hidden_states_are_reduced_in_fp32():
    """A log-sum-exp in bf16 (steps of 1/32 at log 1000), or a head gradient summed over the chunks in bf16."""
    hidden, head, _, _, targets = problem(4096, V=1000, D=16, dtype=F32)
    hidden, head = hidden.to(BF16).requires_grad_(), (0.1 * head).requires_grad_()
    got, want = vimpo.token_logps(hidden, head, targets), dense_logps(hidden.float(), head, targets)
    near(got, want, 1e-2)                                                       # fp32, not bf16
    grads, wants = torch.autograd.grad(got.mean(), (hidden, head)), torch.autograd.grad(want.mean(), (hidden, head))
    for a, b, limit in zip(grads, wants, (2**-8, 2**-9), strict=True):          # bf16 has 8 bits; the fp32 one only averages their errors
        assert a.dtype == b.dtype and (a.float() - b.float()).norm() < limit * b.float().norm()


@pytest.mark.parametrize("call", ["token_logps", *KINDS])
def test_logits_of_a_whole_batch_never_exist(call):
    """One N x V tensor, or chunks that the graph keeps until they add up to one (150,000 tokens times the batch: out of memory)."""
    V, peaks = 2000, []
    for N in (2048, 4096):
        hidden, head, ref_hidden, ref_head, targets = problem(N, V, D=8, dtype=F32)
        with Watch() as watch:
            if call == "token_logps":
                vimpo.token_logps(hidden.requires_grad_(), head.requires_grad_(), targets).mean().backward()
            else:
                vimpo.reference_stats(hidden, head, ref_hidden, ref_head, targets, **KINDS[call])
        peaks.append(watch.peak)
    assert watch.largest < 4 * N * V / 3
    assert peaks[1] - peaks[0] < 4 * 2048 * V / 10                              # a further token costs far less than its V logits


@pytest.mark.parametrize("how", [*KINDS.values(), {"kl": "topk", "top_k": 37}], ids=[*KINDS, "kl_top_all"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_reference_stats_are_the_dense_ones_at_the_sampling_temperature(temperature, how):
    """A temperature that reaches the log-probs but not the entropy or the KL, or the policy but not the reference."""
    hidden, head, ref_hidden, ref_head, targets = problem(1027)
    logits, ref_logits = hidden @ head.T / temperature, ref_hidden @ ref_head.T / temperature
    ref_logps, kl, entropy = vimpo.reference_stats(hidden, head, ref_hidden, ref_head, targets, temperature=temperature, **how)
    near(ref_logps, dense_logps(ref_hidden, ref_head, targets, temperature), 1e-12)
    near(entropy, torch.distributions.Categorical(logits=logits).entropy(), 1e-12)
    near(kl, vimpo.reference_stats(hidden / temperature, head, ref_hidden / temperature, ref_head, targets, **how)[1], 1e-12)
    if how["kl"] == "exact" or how.get("top_k") == 37:                          # the top 37 of 37 are all
        near(kl, torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=x) for x in (logits, ref_logits))), 1e-12)


@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=str)
@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
def test_a_policy_that_is_its_reference_has_kl_and_log_ratio_exactly_zero(how, dtype):
    """Two roads through the arithmetic: the whitened actor of the first step would then amplify rounding noise to unit size."""
    hidden, head, _, _, targets = problem(1027, V=501, D=16, dtype=F64 if dtype == F64 else F32)
    hidden = hidden.to(dtype).requires_grad_()
    ref_logps, kl, entropy = stats = vimpo.reference_stats(hidden, head, hidden, head, targets, temperature=0.7, **how)
    near(ref_logps, vimpo.token_logps(hidden, head, targets, temperature=0.7).detach())
    near(kl, torch.zeros_like(ref_logps))
    assert not any(x.requires_grad for x in stats) and entropy.min() > 0
    none, no_targets = hidden[:0], targets[:0]
    for x in (*vimpo.reference_stats(none, head, none, head, no_targets, **how), vimpo.token_logps(none, head, no_targets)):
        assert x.shape == (0,) and x.dtype == ref_logps.dtype


@pytest.mark.parametrize(("dtype", "rounding"), [(F32, 5e-6), (F64, 1e-14)], ids=str)
@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2, 1.0])
def test_exact_kl_is_never_negative_by_more_than_rounding(distance, dtype, rounding):
    """A KL between distributions that do not sum to one. (It may be -1e-6 in fp32: a clamp would tilt the mean of rho - kappa.)"""
    hidden, head, noise, _, targets = problem(1027, V=501, D=16, dtype=dtype)
    assert vimpo.reference_stats(hidden, head, hidden + distance * noise, head, targets)[1].min() > -rounding


@pytest.mark.parametrize("kind", ["k1", "hubert"])
def test_a_kind_of_kl_or_of_value_loss_that_is_not_offered_is_refused_by_name(kind):
    """k1, which cancels rho and leaves nothing to learn, or a misspelt kind, quietly taken for another."""
    hidden, head, _, _, targets = problem(3)
    with pytest.raises(ValueError, match=kind):
        vimpo.reference_stats(hidden, head, hidden, head, targets, kl=kind)
    with pytest.raises(ValueError, match=kind):
        vimpo.value_loss(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1), torch.ones(1, 1), kind=kind)


# ---- 5. token terms, whitening, groups, the surrogate ------------------------------------------------------------------------------------
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_nothing_at_a_masked_position_reaches_a_value_or_a_gradient(junk):
    """0 * NaN: what lies in the padding poisons the batch, through the value or only through backward."""
    mask, rewards = holes(4, 9), torch.tensor([1.0, 0, 1, 0], dtype=F64)

    def everything(fill):
        logp, ref, old, kl, advantages = (torch.where(mask, randn(4, 9, seed=s), fill) for s in range(5))
        td = vimpo.td_terms(logp.requires_grad_(), ref, kl, mask, 0.5)
        raw = torch.where(mask, td, fill)                                       # the others must skip too, not lean on td_terms' zeros
        scalars = [td.sum(), vimpo.value_loss(raw, rewards, rewards / 3, mask), vimpo.ppo_loss(logp, old, advantages, mask),
                   vimpo.value_loss(raw, rewards, rewards / 3, mask, kind="huber")]
        values = [td, vimpo.gae(raw, mask, lam=0.9), vimpo.whiten(raw, mask), vimpo.implied_values(raw, mask, rewards), *scalars]
        return [x.detach() for x in values] + [torch.autograd.grad(x, logp, retain_graph=True)[0] for x in scalars]

    for clean, got in zip(everything(0.0), everything(junk), strict=True):
        near(got, clean)
        assert clean.isfinite().all() and (got.shape != mask.shape or not got[~mask].any())


@pytest.mark.parametrize(("scale", "offset", "dtype"), [(1.0, 3.0, F64), (1e-4, 0.0, F64), (1e-6, 1e-3, F64), (1.0, 1000.0, F32)])
def test_whiten_gives_mean_zero_and_unit_bessel_variance_with_eps_inside_the_root(scale, offset, dtype):
    """Statistics that count the padding, eps outside the root, E[x^2] - E[x]^2 that cancels in fp32."""
    x, mask = offset + scale * randn(6, 50, dtype=dtype), holes(6, 50)
    got, var = vimpo.whiten(x, mask), x[mask].double().var().item()
    valid, tolerance = got[mask].double(), 1e-9 if dtype == F64 else 1e-3
    assert got.dtype == dtype and not got[~mask].any() and abs(valid.mean().item()) < tolerance
    assert valid.var().item() == pytest.approx(var / (var + 1e-8), rel=tolerance)


@pytest.mark.parametrize(("x", "mask"), [(0.0, [1, 1, 0]), (5.0, [0, 1, 0]), (5.0, [0, 0, 0])], ids=["zeros", "one token", "none"])
def test_whiten_of_nothing_to_compare_is_exactly_zero(x, mask):
    """0 / 0 at the first step (all terms 0), with one valid token (n - 1 = 0), with none."""
    near(vimpo.whiten(torch.full((1, 3), x), torch.tensor([mask])), torch.zeros(1, 3))


def test_groups_are_told_by_id_alone():
    """Ids taken for positions, groups assumed contiguous or equal in size, a singleton that gives 0 / 0."""
    rewards, group = torch.tensor([1.0, 0, 0, 1, 1, 0, 1], dtype=F64), torch.tensor([7, -3, 7, 10**12, -3, 7, 0])
    mean = torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 2, 1 / 3, 1], dtype=F64)
    std = torch.tensor([1 / 3, 1 / 2, 1 / 3, 0, 1 / 2, 1 / 3, 0], dtype=F64).sqrt()     # unbiased, by hand: 2/9 * 3/2 and 1/4 * 2
    near(vimpo.group_baseline(rewards, group), mean, 1e-12)
    for scale, want in ((True, (rewards - mean) / (std + 1e-6)), (False, rewards - mean)):
        near(vimpo.grpo_advantages(rewards, group, holes(7, 4), scale=scale), want[:, None] * holes(7, 4), 1e-12)


OWN = {"clip_low": 0.5, "clip_high": 0.6, "dual_clip": 3.0}


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope", "bounds"), [
    (1.0, 2.0, -2.0, -2.0, {}), (1.2, 2.0, -2.4, -2.4, {}), (1.5, 2.0, -2.56, 0.0, {}),  # a good token: gains stop at 1 + 0.28 ...
    (0.5, 2.0, -1.0, -1.0, {}), (10.5, 2.0, -2.56, 0.0, {}),                    # ... it is always pulled back up, no dual clip here
    (1.0, -2.0, 2.0, 2.0, {}), (0.9, -2.0, 1.8, 1.8, {}), (0.5, -2.0, 1.6, 0.0, {}),     # a bad token: gains stop at 1 - 0.2 ...
    (3.0, -2.0, 6.0, 6.0, {}), (9.9, -2.0, 19.8, 19.8, {}), (10.5, -2.0, 20.0, 0.0, {}),  # ... pushed down until the dual clip at 10
    (math.exp(25), -1.0, 10.0, 0.0, {}), (math.exp(-25), 1.0, -math.exp(-20), 0.0, {}),  # log-ratios are clamped to +-20
    (1.5, 1.0, -1.5, -1.5, OWN), (1.7, 1.0, -1.6, 0.0, OWN), (0.3, -1.0, 0.5, 0.0, OWN), (4.0, -1.0, 3.0, 0.0, OWN),
])
def test_ppo_loss_on_each_side_of_each_clip(ratio, advantage, loss, slope, bounds):
    """min and max or the two bounds exchanged, a dual clip on good tokens, a clip that cuts the wrong gradient, a bound not obeyed."""
    logp, mask = torch.tensor([[math.log(ratio) - 2, 5.0]], dtype=F64, requires_grad=True), torch.tensor([[1, 0]])
    advantages = torch.full((1, 2), advantage, dtype=F64, requires_grad=True)
    got = vimpo.ppo_loss(logp, torch.full((1, 2), -2.0, dtype=F64), advantages, mask, **bounds)
    near(got.detach(), torch.tensor(loss, dtype=F64), 1e-12)
    grad, into_advantages = torch.autograd.grad(got, (logp, advantages), allow_unused=True)
    near(grad, torch.tensor([[slope, 0.0]], dtype=F64), 1e-12)
    assert into_advantages is None


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_results_keep_the_dtype_of_the_input_whatever_the_mask_is_made_of(dtype):
    """A float64 mask that promotes fp32 to double, an integer mask taken for indices."""
    x, y, z = (randn(4, 6, seed=s, dtype=dtype) for s in range(3))
    rewards, group = torch.tensor([1, 0, 0, 0], dtype=dtype), torch.tensor([0, 0, 1, 1])
    results = [[vimpo.td_terms(x, y, z, m, 0.1), vimpo.implied_values(x, m, rewards), vimpo.value_loss(x, rewards, rewards / 2, m),
                vimpo.value_loss(x, rewards, rewards / 2, m, kind="huber"), vimpo.gae(x, m, lam=0.9), vimpo.whiten(x, m),
                vimpo.ppo_loss(x, y, z, m), vimpo.grpo_advantages(rewards, group, m), vimpo.group_baseline(rewards, group)]
               for m in (holes(4, 6).to(kind) for kind in (torch.bool, torch.long, F32, F64))]
    for first, *others in zip(*results, strict=True):
        assert first.dtype == dtype
        for other in others:
            near(other, first)


# ---- 6. whole-batch semantics ------------------------------------------------------------------------------------------------------------
def step(parts, order, B=8, T=11):
    """One step as a trainer takes it: advantages over the whole batch, then losses part by part. -> loss, gradient, advantages"""
    mask, rewards = holes(B, T), (randn(B, seed=4) > 0).double()
    mask[2] = False                                                             # rows 1 and 2 are empty
    logp, ref, old, kl = (0.5 * randn(B, T, seed=s)[order] for s in range(4))
    mask, rewards, group = mask[order], rewards[order], (torch.arange(B) % 3)[order]
    advantages = vimpo.whiten(vimpo.gae(vimpo.td_terms(logp, ref, kl, mask, 0.3), mask, lam=0.9), mask)
    baseline, logp, total = vimpo.group_baseline(rewards, group), logp.requires_grad_(), torch.zeros((), dtype=F64)
    for p in map(list, parts):
        td = vimpo.td_terms(logp[p], ref[p], kl[p], mask[p], 0.3)
        loss = vimpo.value_loss(td, rewards[p], baseline[p], mask[p]) * len(p) / B
        loss = loss + 0.1 * vimpo.ppo_loss(logp[p], old[p], advantages[p], mask[p]) * mask[p].sum() / mask.sum()
        loss.backward()
        total += loss.detach()
    return total, logp.grad, advantages


@pytest.mark.parametrize("order", [list(range(8)), [5, 2, 7, 0, 1, 6, 3, 4]], ids=["in order", "shuffled"])
@pytest.mark.parametrize("parts", [[range(8)], [[i] for i in range(8)], [[0, 1, 2], [3, 4, 5], [6, 7]], [[1, 2], [7, 0, 5], [4, 3, 6]]])
def test_neither_micro_batches_nor_the_order_of_responses_change_a_step(parts, order):
    """A mean over the part where the whole is meant, 0 / 0 in a part whose responses are all empty, rows that talk to their neighbours."""
    for got, want in zip(step(parts, order), step([range(8)], list(range(8))), strict=True):
        near(got, want[order] if want.ndim else want, 1e-13)


# ---- 7. the worked examples --------------------------------------------------------------------------------------------------------------
def test_the_examples_in_the_docstrings_are_true():
    """A worked example that the code has left behind."""
    results = doctest.testmod(vimpo)
    assert results.attempted > 0 and results.failed == 0


def test_known_logps_leave_the_gradient_as_it_is():
    """A normaliser taken from another temperature, or from log-probs of another order."""
    generator = torch.Generator().manual_seed(0)
    hidden, head, targets = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((700, 8), (30, 8), (700,)))
    targets, g = (targets * 10).long() % 30, torch.randn(700, generator=generator, dtype=torch.float64)
    results = []
    for use in (False, True):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        known = vimpo.score_tokens(hidden, head, hidden, head, targets, 0.7)[0] if use else None
        logps = vimpo.token_logps(h, w, targets, 0.7, known)
        (logps * g).sum().backward()
        results.append((logps.detach(), h.grad, w.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
