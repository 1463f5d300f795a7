"""vimpo.py against three judges that know nothing of it: recorded outputs, exact dynamic
programming, and plain loops.

The recorded outputs are those of the authors' own implementation (conftest.py says which). Their
masks are prefixes, their log-ratios never reach the dual clip (nor the clamp at 20) and their
groups are never singletons, so those are covered by hand-worked tables and loops here.

    pytest tests/test_vimpo.py
"""

import doctest
import math

import pytest
import torch
from conftest import Watch, near, randn

import vimpo
from lib.batch import Batch
from rollout import Rollout

F32, F64 = torch.float32, torch.float64


def holes(B, T, seed=0):
    """A mask [B, T] with holes anywhere; row 1 is empty when there is one."""
    mask = torch.rand(B, T, generator=torch.Generator().manual_seed(seed + 99)) < 0.7
    mask[:, -1], mask[1:2] = True, False
    return mask


# --------------------------------------------------------------------------------------------------
# 1. The authors' implementation


def test_token_terms_baselines_and_advantages_are_those_of_the_authors(case):
    """beta on one half of the term, GAE that discounts from the wrong end, whitening without Bessel
    or with eps outside the root."""
    mask, beta, lam = case["mask"], case["beta"].item(), case["lam"].item()
    rewards, group = case["rewards"], case["group"]
    td = vimpo.td_terms(case["logp"], case["ref_logp"], case["kl_exact"], mask, beta)
    near(td, case["token_term"], 1e-9)
    near(vimpo.group_baseline(rewards, group), case["baseline"], 1e-9)
    near(vimpo.gae(case["token_term"], mask, lam=lam), case["advantage_raw"], 1e-9)
    near(vimpo.whiten(case["advantage_raw"], mask), case["advantage_whitened"], 1e-9)
    near(vimpo.grpo_advantages(rewards, group, mask), case["grpo_advantage"], 1e-9)
    unscaled = vimpo.grpo_advantages(rewards, group, mask, scale=False)
    near(unscaled, case["dr_grpo_advantage"], 1e-9)


def test_losses_and_gradients_are_those_of_the_authors_with_nothing_detached_by_the_caller(case):
    """A missing 1/2 or 1/B, a Huber loss off by its delta, a gradient that runs through the KL or
    the advantages into the policy."""
    mask, logp = case["mask"], case["logp"].clone().requires_grad_()
    kl = vimpo.kl_from_logits(case["policy_logits"], case["ref_logits"]).requires_grad_()
    ref_logp = case["ref_logp"].clone().requires_grad_()
    td = vimpo.td_terms(logp, ref_logp, kl, mask, case["beta"].item())
    advantages = vimpo.whiten(vimpo.gae(td, mask, lam=case["lam"].item()), mask)
    ends = case["rewards"], vimpo.group_baseline(case["rewards"], case["group"])
    delta = case["huber_delta"].item()
    loss = {
        "value_loss": vimpo.value_loss(td, *ends, mask),
        "actor_loss": vimpo.ppo_loss(logp, case["old_logp"], advantages, mask),
        "huber_loss": vimpo.value_loss(td, *ends, mask, kind="huber", huber_delta=delta),
    }
    loss["total_loss"] = loss["value_loss"] + case["actor_coef"] * loss["actor_loss"]
    for name, got in loss.items():
        grad, *others = torch.autograd.grad(
            got, (logp, kl, ref_logp), retain_graph=True, allow_unused=True
        )
        near(got.detach(), case[name], 1e-9)
        near(grad, case[f"{name}_grad_logp"], 1e-9)
        assert others == [None, None]
    assert not advantages.requires_grad


# --------------------------------------------------------------------------------------------------
# 2. Exact dynamic programming on a tree


def solved_tree(seed, beta, depth, A=3):
    """pi* of a full token tree with random 0/1 leaves and random pi_ref, by backward induction;
    response b is the path to leaf b.

    Returns rewards, tokens, then along each path: log pi* and log pi_ref [B, T, A], Q* [B, T, A]
    and V* [B, T].
    """
    rewards = (randn(A**depth, seed=seed) > 0).double()
    Q, levels, leaf = rewards, [], torch.arange(A**depth)
    for t in reversed(range(depth)):
        # One row per state of depth t.
        Q, ref = Q.view(-1, A), randn(A**t, A, seed=seed + t + 1).log_softmax(-1)
        pi = (ref + Q / beta).log_softmax(-1)
        V = (pi.exp() * Q).sum(-1)
        levels.append([x[leaf // A ** (depth - t)] for x in (pi, ref, Q, V)])
        Q = V  # r = 0 and gamma = 1 on the way there
    tokens = torch.stack([leaf // A ** (depth - 1 - t) % A for t in range(depth)], 1)
    return rewards, tokens, *(torch.stack(x[::-1], 1) for x in zip(*levels, strict=True))


def chosen(table, tokens):
    """[B, T, A] -> [B, T], the entries of the tokens on the path."""
    return table.gather(-1, tokens[..., None])[..., 0]


@pytest.mark.parametrize(("seed", "beta", "depth"), [(0, 1.0, 3), (1, 0.3, 4), (2, 0.05, 4)])
def test_at_the_optimal_policy_of_a_tree_the_implied_values_are_the_true_ones(seed, beta, depth):
    """Any slip in identity (1), beta log(pi*/pi_ref) - beta KL = Q* - V*: the wrong KL direction, a
    beta too many, a curve off by one."""
    rewards, tokens, pi, ref, Q, V = solved_tree(seed, beta, depth)
    mask, kl = torch.ones(tokens.shape), vimpo.kl_from_logits(pi, ref)
    logp, ref_logp, q = (chosen(x, tokens) for x in (pi, ref, Q))
    td = vimpo.td_terms(logp.requires_grad_(), ref_logp, kl, mask, beta)
    near(td.detach(), q - V, 1e-12)  # identity (1) at every state and action
    curve, root = vimpo.implied_values(td.detach(), mask, V[:, 0]), V[:, 0]
    near(curve[:, :-1], V, 1e-12)
    near(curve[:, -1] - rewards, torch.zeros_like(root), 1e-12)  # V_T = 0 once R is paid
    loss = vimpo.value_loss(td, rewards, root, mask)
    assert 0 < root[0] < 1 and loss < 1e-24
    assert torch.autograd.grad(loss, logp)[0].abs().max() < 1e-13
    away = logp.detach() + 0.1 * randn(*logp.shape)
    away = vimpo.td_terms(away, ref_logp, kl, mask, beta)
    assert vimpo.value_loss(away, rewards, root, mask) > 1e-6  # and only there


@pytest.mark.parametrize(("seed", "beta", "depth"), [(0, 1.0, 3), (2, 0.3, 3), (1, 0.3, 4)])
def test_descent_on_the_value_loss_turns_the_reference_into_the_optimal_policy(seed, beta, depth):
    """A loss whose zero is at pi*, as the test above shows, but which does not lead there: a KL or
    a V_0 with the wrong sign, a gradient that pushes away from the reward.

    What is shown: starting at pi_ref, steps along the gradient that VIMPO takes, at its expected
    value, end at pi* of backward induction, to 1e-4 in every probability. The responses are drawn
    from the policy itself, so every leaf counts by its probability under the policy of the moment
    (no gradient flows through that), V_0 is the mean reward under that policy, and KL is exact and
    detached. Nothing of the tree's solution enters but the final comparison.

    Why it must: that gradient is 0 only where, at each state, the expected residual is the same
    whatever the token. So it is the same at all leaves; its mean is 0, because td has mean 0 at
    each state and V_0 is the mean of R; so each residual is 0, and then the policy is pi*.
    """
    rewards, tokens, pi, ref, _, V = solved_tree(seed, beta, depth)
    B, ref_logp, mask = len(rewards), chosen(ref, tokens), torch.ones(tokens.shape)
    # The table of logits has a row for each state: on each path, row state[b, t] at time t.
    prefixes = [tuple(path[:t]) for path in tokens.tolist() for t in range(depth)]
    rows = {prefix: i for i, prefix in enumerate(dict.fromkeys(prefixes))}
    state = torch.tensor([rows[prefix] for prefix in prefixes]).view(B, depth)
    logits = torch.zeros(len(rows), ref.size(-1), dtype=F64).index_put((state,), ref)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        log_p = logits.log_softmax(-1)[state]  # [B, T, A]
        logp, kl = chosen(log_p, tokens), vimpo.kl_from_logits(log_p, ref)
        td = vimpo.td_terms(logp, ref_logp, kl, mask, beta)
        weight = logp.detach().sum(1).exp()  # [B], of each leaf
        v0 = (weight @ rewards).expand(B)
        # value_loss weighs all responses alike. A factor on both sides of the square weighs them.
        root = (B * weight).sqrt()
        loss = vimpo.value_loss(root[:, None] * td, root * rewards, root * v0, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (logits.detach().log_softmax(-1)[state].exp() - pi.exp()).abs().max()
    start = (ref.exp() - pi.exp()).abs().max()
    assert start > 0.2 and error < 1e-4
    near(v0, V[:, 0], 1e-4)


# --------------------------------------------------------------------------------------------------
# 3. Three slips that a reader would not see: each of these tests fails on one of them


def test_a_token_that_the_policy_prefers_to_its_reference_adds_to_the_value():
    """td with its sign turned: rho - kappa as kappa - rho. Losses and advantages stay finite, and
    training runs away from the reward."""
    ref = torch.tensor([[[0.0, 0.0, 0.0]]], dtype=F64)
    logits = torch.tensor([[[2.0, 0.0, -2.0]]], dtype=F64)
    log_p, log_ref, mask = logits.log_softmax(-1), ref.log_softmax(-1), torch.ones(1, 1)
    kl = vimpo.kl_from_logits(logits, ref)
    td = [vimpo.td_terms(log_p[..., v], log_ref[..., v], kl, mask, 0.5).item() for v in range(3)]
    assert td[0] > 0 > td[1] > td[2]
    mean = sum(p * x for p, x in zip(log_p[0, 0].exp().tolist(), td, strict=True))
    assert mean == pytest.approx(0)  # under pi
    # At the reference a right response's tokens become likelier, a wrong one's less likely.
    logps = torch.full((2, 3), -1.0, dtype=F64, requires_grad=True)
    td = vimpo.td_terms(logps, logps.detach(), torch.zeros(2, 3), torch.ones(2, 3), 0.5)
    rewards, v0 = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    vimpo.value_loss(td, rewards, v0, torch.ones(2, 3)).backward()
    near(logps.grad, torch.tensor([[-0.125] * 3, [0.125] * 3], dtype=F64), 1e-15)


def test_no_gradient_of_the_kl_reaches_the_logits():
    """A KL that is not detached: with a residual above 0 the loss would be lowered by raising the
    KL. The logits' gradient must be that of the log-probs alone, beta residual / B (onehot - p)."""
    B, T, A, beta = 4, 5, 7, 0.3
    logits, ref = randn(B, T, A).requires_grad_(), randn(B, T, A, seed=1)
    tokens = torch.randint(A, (B, T), generator=torch.Generator().manual_seed(2))
    mask, rewards = torch.ones(B, T), torch.tensor([1.0, 0, 1, 0], dtype=F64)
    log_p, log_ref = logits.log_softmax(-1), ref.log_softmax(-1)
    kl = vimpo.kl_from_logits(logits, ref)  # with its graph
    td = vimpo.td_terms(chosen(log_p, tokens), chosen(log_ref, tokens), kl, mask, beta)
    vimpo.value_loss(td, rewards, rewards.mean().expand(B), mask).backward()
    residual = td.detach().sum(1) - (rewards - rewards.mean())  # [B]
    direction = torch.nn.functional.one_hot(tokens, A) - log_p.detach().exp()
    near(logits.grad, beta / B * residual[:, None, None] * direction, 1e-14)


def test_each_advantage_is_its_own_td_and_the_discounted_next_advantage():
    """The recurrence off by one, A_t = td_{t+1} + ... or a discount on td_t itself: each token
    would be paid for its neighbour."""
    td, mask = randn(1, 6), torch.tensor([[1, 1, 0, 1, 1, 0]])
    A = vimpo.gae(td, mask, lam=0.5)[0]
    near(A[4], td[0, 4])  # the last token that counts
    near(A[3], td[0, 3] + 0.5 * A[4], 1e-15)
    near(A[1], td[0, 1] + 0.5 * A[3], 1e-15)  # a hole is no step of discount
    near(A[0], td[0, 0] + 0.5 * A[1], 1e-15)
    assert A[2] == A[5] == 0


# --------------------------------------------------------------------------------------------------
# 4. The lambda-recurrence


def gae_by_loop(td, mask, decay):
    """The loop in gae's docstring, in Python's double precision."""
    out = torch.zeros(td.shape, dtype=F64)
    for b, (row, keep) in enumerate(zip(td.tolist(), mask.tolist(), strict=True)):
        advantage = 0.0
        for t in reversed(range(len(row))):
            if keep[t]:
                out[b, t] = advantage = row[t] + decay * advantage
    return out


DECAYS = [(0.0, 1.0), (0.5, 1.0), (0.9, 0.8), (0.999, 1.0), (1.0, 1.0), (1.0, 0.99), (1.0, 0.0)]


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize(("lam", "gamma"), DECAYS)
@pytest.mark.parametrize(("B", "T"), [(4, 1), (5, 2), (3, 7), (6, 37), (2, 64), (3, 129)])
def test_gae_is_the_recurrence_for_any_mask(B, T, lam, gamma, dtype):
    """A masked position that counts as a step of discount or leaks its term, an edge lost when T is
    no power of two, 0 ** 0 at lam 0."""
    # td is deliberately not zero where the mask is.
    td, mask = randn(B, T, seed=T, dtype=dtype), holes(B, T, seed=T)
    got = vimpo.gae(td, mask, lam=lam, gamma=gamma)
    assert got.dtype == dtype and not got[~mask].any()
    tolerance = 1e-12 if dtype == F64 else 2e-5
    near(got.double(), gae_by_loop(td, mask, lam * gamma), tolerance)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize(
    ("lam", "gamma"), [(0.0, 1.0), (0.5, 1.0), (0.999, 1.0), (1.0, 1.0), (0.9999, 0.999)]
)
def test_gae_is_stable_and_cheap_at_full_size(lam, gamma, dtype):
    """A closed form that divides by lam ** t (infinite at 4096 steps), a loop over time, a T x T
    table."""
    td, mask = randn(64, 4096, dtype=dtype), holes(64, 4096)
    with Watch() as watch:
        got = vimpo.gae(td, mask, lam=lam, gamma=gamma)
    rows = slice(0, 4)
    got, want = got[rows].double(), gae_by_loop(td[rows], mask[rows], lam * gamma)
    # In fp32 the number 0.999 alone is worth 1e-5.
    tolerance = 1e-4 if dtype == F32 else 1e-12
    assert (got - want).abs().max() < tolerance * want.abs().max()
    assert watch.ops < 400 and watch.largest < 20 * td.nbytes


# --------------------------------------------------------------------------------------------------
# 5. Token terms, whitening, groups, the surrogate


def everything(fill, mask):
    """All functions of a batch with `fill` where the mask is not -> values and gradients."""
    tensors = (torch.where(mask, randn(*mask.shape, seed=s), fill) for s in range(5))
    logp, ref, old, kl, advantages = tensors
    rewards = torch.tensor([1.0, 0, 1, 0], dtype=F64)
    td = vimpo.td_terms(logp.requires_grad_(), ref, kl, mask, 0.5)
    raw = torch.where(mask, td, fill)  # the others must skip too, not lean on td_terms' zeros
    scalars = [
        td.sum(),
        vimpo.value_loss(raw, rewards, rewards / 3, mask),
        vimpo.value_loss(raw, rewards, rewards / 3, mask, kind="huber"),
        vimpo.ppo_loss(logp, old, advantages, mask),
        vimpo.reinforce_loss(logp, advantages, mask),
    ]
    values = [
        td,
        vimpo.gae(raw, mask),
        vimpo.gae(raw, mask, lam=0.9),
        vimpo.whiten(raw, mask),
        vimpo.implied_values(raw, mask, rewards),
        vimpo.residuals(raw, rewards, rewards / 3, mask),
        torch.tensor(vimpo.actor_coef_of_share(0.1, raw, rewards, rewards / 3, mask, 0.5)),
        *scalars,
    ]
    grads = [torch.autograd.grad(x, logp, retain_graph=True)[0] for x in scalars]
    return [x.detach() for x in values] + grads


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_nothing_at_a_masked_position_reaches_a_value_or_a_gradient(junk):
    """0 * NaN: what lies in the padding poisons the batch, through the value or only through
    backward."""
    mask = holes(4, 9)
    for clean, got in zip(everything(0.0, mask), everything(junk, mask), strict=True):
        near(got, clean)
        assert clean.isfinite().all()
        assert got.shape != mask.shape or not got[~mask].any()


@pytest.mark.parametrize(
    ("scale", "offset", "dtype"),
    [(1.0, 3.0, F64), (1e-4, 0.0, F64), (1e-6, 1e-3, F64), (1.0, 1000.0, F32)],
)
def test_whiten_gives_mean_zero_and_unit_bessel_variance_with_eps_inside_the_root(
    scale, offset, dtype
):
    """Statistics that count the padding, eps outside the root, E[x^2] - E[x]^2 that cancels in
    fp32."""
    x, mask = offset + scale * randn(6, 50, dtype=dtype), holes(6, 50)
    got, var = vimpo.whiten(x, mask), x[mask].double().var().item()
    valid, tolerance = got[mask].double(), 1e-9 if dtype == F64 else 1e-3
    assert got.dtype == dtype and not got[~mask].any()
    assert abs(valid.mean().item()) < tolerance
    assert valid.var().item() == pytest.approx(var / (var + 1e-8), rel=tolerance)


@pytest.mark.parametrize(
    ("x", "mask"),
    [(0.0, [1, 1, 0]), (5.0, [0, 1, 0]), (5.0, [0, 0, 0])],
    ids=["zeros", "one token", "none"],
)
def test_whiten_of_nothing_to_compare_is_exactly_zero(x, mask):
    """0 / 0 at the first step (all terms 0), with one valid token (n - 1 = 0), with none."""
    near(vimpo.whiten(torch.full((1, 3), x), torch.tensor([mask])), torch.zeros(1, 3))


def test_groups_are_told_by_id_alone():
    """Ids taken for positions, groups assumed contiguous or equal in size, a singleton that gives
    0 / 0."""
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0, 1], dtype=F64)
    group = torch.tensor([7, -3, 7, 10**12, -3, 7, 0])
    mean = torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 2, 1 / 3, 1], dtype=F64)
    # Unbiased, by hand: 2/9 * 3/2 and 1/4 * 2.
    std = torch.tensor([1 / 3, 1 / 2, 1 / 3, 0, 1 / 2, 1 / 3, 0], dtype=F64).sqrt()
    near(vimpo.group_baseline(rewards, group), mean, 1e-12)
    mask = holes(7, 4)
    for scale, want in ((True, (rewards - mean) / (std + 1e-6)), (False, rewards - mean)):
        got = vimpo.grpo_advantages(rewards, group, mask, scale=scale)
        near(got, want[:, None] * mask, 1e-12)


def test_rloo_compares_each_reward_with_the_mean_of_the_others():
    """A baseline that holds the response's own reward (biased towards 0), groups told by position,
    a group of one that divides by 0."""
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0.5, 1], dtype=F64)
    group = torch.tensor([7, -3, 7, 10**12, -3, 7, 0])
    # Group 7: 1 - mean(0, .5), 0 - mean(1, .5), .5 - mean(1, 0); group -3: 0 - 1, 1 - 0; two alone.
    want = torch.tensor([0.75, -1.0, -0.75, 0, 1.0, 0.0, 0], dtype=F64)
    mask = holes(7, 4)
    near(vimpo.rloo_advantages(rewards, group, mask), want[:, None] * mask, 1e-12)


def test_reinforce_is_the_mean_over_tokens_of_minus_advantage_times_log_prob():
    """A mean over positions instead of tokens, a gradient into the advantages, a sign."""
    logps = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -9.0, -9.0]], dtype=F64, requires_grad=True)
    advantages = torch.tensor([[2.0, -1.0, 5.0], [4.0, 5.0, 5.0]], dtype=F64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    loss = vimpo.reinforce_loss(logps, advantages, mask)
    near(loss.detach(), torch.tensor((2.0 - 2.0 + 2.0) / 3, dtype=F64), 1e-15)
    grads = torch.autograd.grad(loss, (logps, advantages), allow_unused=True)
    near(grads[0], torch.tensor([[-2.0, 1.0, 0], [-4.0, 0, 0]], dtype=F64) / 3, 1e-15)
    assert grads[1] is None
    assert vimpo.reinforce_loss(logps, advantages, torch.zeros(2, 3)) == 0


def test_a_kind_of_value_loss_that_is_not_offered_is_refused_by_name():
    """A misspelt kind, quietly taken for another."""
    zeros, mask = torch.zeros(1), torch.ones(1, 1)
    with pytest.raises(ValueError, match="hubert"):
        vimpo.value_loss(torch.zeros(1, 1), zeros, zeros, mask, kind="hubert")


OWN = {"clip_low": 0.5, "clip_high": 0.6, "dual_clip": 3.0}
SURROGATE = [
    # A good token: gains stop at 1 + 0.28; it is always pulled back up, no dual clip here.
    (1.0, 2.0, -2.0, -2.0, {}),
    (1.2, 2.0, -2.4, -2.4, {}),
    (1.5, 2.0, -2.56, 0.0, {}),
    (0.5, 2.0, -1.0, -1.0, {}),
    (10.5, 2.0, -2.56, 0.0, {}),
    # A bad token: gains stop at 1 - 0.2; it is pushed down until the dual clip at 10.
    (1.0, -2.0, 2.0, 2.0, {}),
    (0.9, -2.0, 1.8, 1.8, {}),
    (0.5, -2.0, 1.6, 0.0, {}),
    (3.0, -2.0, 6.0, 6.0, {}),
    (9.9, -2.0, 19.8, 19.8, {}),
    (10.5, -2.0, 20.0, 0.0, {}),
    # Log-ratios are clamped to +-20.
    (math.exp(25), -1.0, 10.0, 0.0, {}),
    (math.exp(-25), 1.0, -math.exp(-20), 0.0, {}),
    # Bounds of one's own.
    (1.5, 1.0, -1.5, -1.5, OWN),
    (1.7, 1.0, -1.6, 0.0, OWN),
    (0.3, -1.0, 0.5, 0.0, OWN),
    (4.0, -1.0, 3.0, 0.0, OWN),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope", "bounds"), SURROGATE)
def test_ppo_loss_on_each_side_of_each_clip(ratio, advantage, loss, slope, bounds):
    """min and max or the two bounds exchanged, a dual clip on good tokens, a clip that cuts the
    wrong gradient, a bound not obeyed."""
    logp = torch.tensor([[math.log(ratio) - 2, 5.0]], dtype=F64, requires_grad=True)
    old, mask = torch.full((1, 2), -2.0, dtype=F64), torch.tensor([[1, 0]])
    advantages = torch.full((1, 2), advantage, dtype=F64, requires_grad=True)
    got = vimpo.ppo_loss(logp, old, advantages, mask, **bounds)
    near(got.detach(), torch.tensor(loss, dtype=F64), 1e-12)
    grads = torch.autograd.grad(got, (logp, advantages), allow_unused=True)
    near(grads[0], torch.tensor([[slope, 0.0]], dtype=F64), 1e-12)
    assert grads[1] is None


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_results_keep_the_dtype_of_the_input_whatever_the_mask_is_made_of(dtype):
    """A float64 mask that promotes fp32 to double, an integer mask taken for indices."""
    x, y, z = (randn(4, 6, seed=s, dtype=dtype) for s in range(3))
    rewards, group = torch.tensor([1, 0, 0, 0], dtype=dtype), torch.tensor([0, 0, 1, 1])
    results = []
    for kind in (torch.bool, torch.long, F32, F64):
        mask = holes(4, 6).to(kind)
        results.append([
            vimpo.td_terms(x, y, z, mask, 0.1),
            vimpo.implied_values(x, mask, rewards),
            vimpo.residuals(x, rewards, rewards / 2, mask),
            vimpo.value_loss(x, rewards, rewards / 2, mask),
            vimpo.value_loss(x, rewards, rewards / 2, mask, kind="huber"),
            vimpo.gae(x, mask),
            vimpo.gae(x, mask, lam=0.9),
            vimpo.whiten(x, mask),
            vimpo.ppo_loss(x, y, z, mask),
            vimpo.reinforce_loss(x, y, mask),
            vimpo.grpo_advantages(rewards, group, mask),
            vimpo.rloo_advantages(rewards, group, mask),
            vimpo.group_baseline(rewards, group),
        ])  # fmt: skip
    for first, *others in zip(*results, strict=True):
        assert first.dtype == dtype
        for other in others:
            near(other, first)


# --------------------------------------------------------------------------------------------------
# 6. Whole-batch semantics


def step(parts, order, B=8, T=11):
    """One step as a trainer takes it: advantages over the whole batch, then losses part by part.

    -> loss, gradient, advantages
    """
    mask, rewards = holes(B, T), (randn(B, seed=4) > 0).double()
    mask[2] = False  # rows 1 and 2 are empty
    logp, ref, old, kl = (0.5 * randn(B, T, seed=s)[order] for s in range(4))
    mask, rewards, group = mask[order], rewards[order], (torch.arange(B) % 3)[order]
    td = vimpo.td_terms(logp, ref, kl, mask, 0.3)
    advantages = vimpo.whiten(vimpo.gae(td, mask, lam=0.9), mask)
    baseline = vimpo.group_baseline(rewards, group)
    logp, total = logp.requires_grad_(), torch.zeros((), dtype=F64)
    for p in map(list, parts):
        td = vimpo.td_terms(logp[p], ref[p], kl[p], mask[p], 0.3)
        value = vimpo.value_loss(td, rewards[p], baseline[p], mask[p])
        actor = vimpo.ppo_loss(logp[p], old[p], advantages[p], mask[p])
        loss = value * len(p) / B + 0.1 * actor * mask[p].sum() / mask.sum()
        loss.backward()
        total += loss.detach()
    return total, logp.grad, advantages


SHUFFLED = [5, 2, 7, 0, 1, 6, 3, 4]
PARTS = [
    [range(8)],
    [[i] for i in range(8)],
    [[0, 1, 2], [3, 4, 5], [6, 7]],
    [[1, 2], [7, 0, 5], [4, 3, 6]],
]


@pytest.mark.parametrize("order", [list(range(8)), SHUFFLED], ids=["in order", "shuffled"])
@pytest.mark.parametrize("parts", PARTS)
def test_neither_micro_batches_nor_the_order_of_responses_change_a_step(parts, order):
    """A mean over the part where the whole is meant, 0 / 0 in a part whose responses are all empty,
    rows that talk to their neighbours."""
    whole = step([range(8)], list(range(8)))
    for got, want in zip(step(parts, order), whole, strict=True):
        near(got, want[order] if want.ndim else want, 1e-13)


# --------------------------------------------------------------------------------------------------
# 7. The objectives


METHOD = {
    "beta": 0.3,
    "gae_lambda": 0.9,
    "actor_share": 0.2,
    "actor_coef": None,
    "value_kind": "squared",
    "huber_delta": 1.0,
    "clip": (0.2, 0.28, 10.0),
}
LENGTHS = (4, 1, 7, 3, 2, 7, 5, 6)


def scored_batch(order=range(8)):
    """A batch of 8 responses in 3 groups, as it is after scoring, its rows in this order."""
    B, T, order = 8, max(LENGTHS), list(order)
    rollouts = [Rollout([g], [1] * n, [0.0] * n, True) for g, n in enumerate(LENGTHS)]
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 1], dtype=F64)
    logps, ref_logps, kl = (torch.where(mask, randn(B, T, seed=s), 0) for s in range(3))
    batch = Batch(
        rollouts=rollouts,
        problems=list(range(B)),
        group=torch.arange(B) % 3,
        mask=mask,
        rewards=rewards,
        clean_rewards=rewards,
        sampler_logps=logps,
        responses=B,
        tokens=sum(LENGTHS),
        shared=False,
        logps=logps,
        ref_logps=ref_logps,
        kl=kl,
        entropy=kl,
    )
    return batch.rows(order)


def take_step(objective, parts, order=range(8), **changes):
    """Credit over the whole batch, the loss part by part -> gradient [B, T], (L, L_V, L_A)."""
    method, batch = METHOD | changes, scored_batch(order)
    objective.credit(batch, **method)
    logps = batch.logps + 0.4 * randn(8, max(LENGTHS), seed=5)[list(order)]  # the policy has moved
    logps.requires_grad_()
    totals = 0
    for p in map(list, parts):
        losses = torch.stack(objective.loss(logps[p], batch.rows(p), **method))
        losses[0].backward()
        totals = totals + losses.detach()
    return logps.grad, totals


@pytest.mark.parametrize("order", [list(range(8)), SHUFFLED], ids=["in order", "shuffled"])
@pytest.mark.parametrize("parts", PARTS[1:])
@pytest.mark.parametrize("name", vimpo.OBJECTIVES)
def test_the_gradient_of_an_objective_is_that_of_the_whole_batch(name, parts, order):
    """A mean or a whitening per micro-batch, a part's share of tokens taken for its share of
    responses, an order that matters."""
    whole, losses = take_step(vimpo.OBJECTIVES[name], [range(8)])
    grad, part_losses = take_step(vimpo.OBJECTIVES[name], parts, order)
    assert whole.abs().max() > 1e-3
    near(grad, whole[order], 1e-14)
    near(part_losses, losses, 1e-14)


def test_each_objective_is_the_formula_in_the_docstrings():
    """Credit and loss of two objectives exchanged, RLOO with a clip, Dr. GRPO with a std, log-probs
    of now in place of those before the update."""
    batch = scored_batch()
    moved = batch.logps + 0.4 * randn(8, max(LENGTHS), seed=5)
    mask, rewards, group = batch.mask, batch.rewards, batch.group
    baseline = torch.stack([rewards[group == g].mean() for g in group.tolist()])
    std = torch.stack([rewards[group == g].std() for g in group.tolist()])
    count = torch.stack([(group == g).sum() for g in group.tolist()])
    others = (baseline * count - rewards) / (count - 1)
    tokens = mask.sum()

    def clipped(advantages):
        ratio = (moved - batch.logps).exp()
        kept = torch.minimum(advantages * ratio, advantages * ratio.clamp(0.8, 1.28))
        return -kept[mask].sum() / tokens  # no ratio here comes near the dual clip

    def spread(advantages):
        return advantages[:, None].expand(mask.shape)

    td = 0.3 * (batch.logps - batch.ref_logps - batch.kl) * mask
    raw = gae_by_loop(td, mask, 0.9)
    whitened = (raw - raw[mask].mean()) / (raw[mask].var() + 1e-8).sqrt()
    moved_td = 0.3 * (moved - batch.ref_logps - batch.kl) * mask
    value = (moved_td.sum(1) - (rewards - baseline)).square().mean() / 2
    residual = (td.sum(1) - (rewards - baseline)).abs().mean()
    coef = 0.2 * 0.3 * residual * tokens / 8
    grpo = clipped(spread((rewards - baseline) / (std + 1e-6)))
    wanted = {
        "vimpo": value + coef * clipped(whitened),
        "vimpo_grpo": value + coef * grpo,
        "grpo": grpo,
        "dr_grpo": clipped(spread(rewards - baseline)),
        "rloo": -(spread(rewards - others) * moved)[mask].sum() / tokens,
    }
    assert wanted.keys() == vimpo.OBJECTIVES.keys()
    for name, want in wanted.items():
        _, (loss, _, _) = take_step(vimpo.OBJECTIVES[name], [range(8)])
        near(loss, want, 1e-12)


def test_the_parts_of_the_loss_add_up_and_the_actor_can_be_set_or_turned_off():
    """c_A applied twice or to the wrong half, --actor-coef ignored or 0 taken for unset, Huber that
    never arrives."""
    objective = vimpo.OBJECTIVES["vimpo"]
    for coef in (0.0, 0.7):
        _, (loss, value, actor) = take_step(objective, [range(8)], actor_coef=coef)
        near(loss, value + coef * actor, 1e-15)
    batch = scored_batch()
    objective.credit(batch, **METHOD)
    args = 0.2, batch.td, batch.rewards, batch.baseline, batch.mask, 0.3
    assert batch.actor_coef == vimpo.actor_coef_of_share(*args) > 0
    squared, huber = (
        take_step(objective, [range(8)], value_kind=kind, huber_delta=0.1)[1][1]
        for kind in ("squared", "huber")
    )
    assert 0 < huber < squared


def test_the_gate_turns_the_actor_down_where_the_curves_do_not_tell_right_from_wrong():
    """An actor that pulls as hard where V rises for wrong responses (with flipped rewards it fed on
    itself until nothing was right); a correlation in which easy prompts stand for right ones."""
    objective, batch = vimpo.OBJECTIVES["vimpo"], scored_batch()
    objective.credit(batch, **METHOD)
    free, found = batch.actor_coef, batch.tells
    # Of each group alone, then pooled: what sets groups apart must not count.
    moves, rewards = batch.td.sum(1), batch.rewards
    pairs = []
    for g in batch.group.unique():
        rows = batch.group == g
        pairs += zip(
            (moves[rows] - moves[rows].mean()).tolist(),
            (rewards[rows] - rewards[rows].mean()).tolist(),
            strict=True,
        )
    x, y = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert found == pytest.approx(float((x @ y) / (x.norm() * y.norm())), abs=1e-6)
    objective.credit(batch, **METHOD, actor_gate=True)
    assert batch.tells == found and batch.actor_coef == pytest.approx(max(0, found) * free)

    # A policy whose log-ratio says what the reward says; one that says the contrary; none at all.
    won = rewards - vimpo.group_baseline(rewards, batch.group)
    batch.kl = torch.zeros_like(batch.kl)
    for sign, wanted in ((1, 1.0), (-1, 0.0), (0, 0.0)):
        ratio = sign * won[:, None] * batch.mask / batch.mask.sum(1, keepdim=True)
        batch.logps = batch.ref_logps + ratio
        objective.credit(batch, **METHOD)
        free = batch.actor_coef
        objective.credit(batch, **METHOD, actor_gate=True)
        assert free > 0 and batch.actor_coef == pytest.approx(wanted * free)


def test_soft_values_and_a_cap_change_the_baseline_as_they_say():
    """KL counted twice, once as a cost and once as a baseline; a cap that bounds V_0 from below."""
    objective, batch = vimpo.OBJECTIVES["vimpo"], scored_batch()
    objective.credit(batch, **METHOD, soft_values=True)
    cost = 0.3 * (batch.kl * batch.mask).sum(1)
    near(batch.baseline, vimpo.group_baseline(batch.rewards - cost, batch.group), 1e-15)
    near(batch.td, 0.3 * (batch.logps - batch.ref_logps) * batch.mask, 1e-15)
    _, (_, soft, _) = take_step(objective, [range(8)], soft_values=True)
    _, (_, plain, _) = take_step(objective, [range(8)])
    assert soft != plain
    before = vimpo.group_baseline(batch.rewards, batch.group)
    objective.credit(batch, **METHOD, v0_cap=0.5)
    assert before.max() > 0.5 > before.min()
    near(batch.baseline, before.clamp(max=0.5), 1e-15)


@pytest.mark.parametrize(("seed", "beta", "depth"), [(0, 1.0, 3), (1, 0.3, 4)])
def test_at_the_soft_optimum_of_a_tree_the_soft_residual_is_zero(seed, beta, depth):
    """A soft variant with its KL on the wrong side: pi is proportional to pi_ref exp(R / beta) over
    whole responses, V_0 is its mean of R - sum kappa, and then sum rho = R - V_0 for each of them.
    """
    rewards, tokens, _, ref, _, _ = solved_tree(seed, beta, depth)
    Q, tables, A = rewards, [], ref.size(-1)
    for t in reversed(range(depth)):
        rows = torch.arange(A**t) * A ** (depth - t)  # a leaf below each state of depth t
        logits = ref[rows, t] + Q.view(-1, A) / beta
        Q = beta * logits.logsumexp(-1)  # the soft value
        tables.append(logits.log_softmax(-1)[torch.arange(A**depth) // A ** (depth - t)])
    pi, mask = torch.stack(tables[::-1], 1), torch.ones(tokens.shape, dtype=torch.bool)
    logp, ref_logp = chosen(pi, tokens), chosen(ref, tokens)
    kl = vimpo.kl_from_logits(pi, ref)
    root = (logp.sum(1).exp() * (rewards - beta * kl.sum(1))).sum()
    near(root, Q[0], 1e-12)
    td = vimpo.td_terms(logp, ref_logp, 0 * kl, mask, beta)
    assert vimpo.residuals(td, rewards, root.expand(len(rewards)), mask).abs().max() < 1e-12


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_the_rounding_variance_of_the_advantages_is_that_of_simulated_rounding(lam):
    """A noise floor that leaves out how many errors an advantage sums up: 30 times too low at
    lambda 1 and a thousand tokens."""
    mask = torch.ones(4000, 30, dtype=torch.bool)
    mask[::2, 10:] = False
    noise = 0.01 * randn(4000, 30, seed=3)
    gap = 0.01 * math.sqrt(2 / math.pi)  # the mean |x| of the noise
    sampler = torch.full_like(noise, gap) * torch.where(randn(4000, 30, seed=4) > 0, 1, -1)
    found = vimpo.rounding_variance(torch.zeros_like(noise), sampler, mask, lam, beta=0.5)
    advantages = vimpo.gae(0.5 * torch.where(mask, noise, 0), mask, lam)[mask]
    assert found == pytest.approx(2 / math.pi * advantages.square().mean().item(), rel=0.02)


def test_advantages_that_are_all_rounding_stay_small_and_clear_ones_as_they_were():
    """Whitening that blows rounding in bf16 up to unit advantages, or a floor that changes a run in
    fp32, where sampler and trainer differ by 1e-7."""
    objective, size = vimpo.OBJECTIVES["vimpo"], {}
    for name, gap, moved in (("noise", 0.02, 0.02), ("clear", 0.02, 2.0), ("fp32", 3e-7, 1.0)):
        batch = scored_batch()
        batch.ref_logps = batch.logps + moved * randn(*batch.logps.shape, seed=7) * batch.mask
        batch.kl = torch.zeros_like(batch.kl)
        batch.sampler_logps = batch.logps + gap * batch.mask
        objective.credit(batch, **METHOD | {"beta": 0.05})
        size[name] = batch.advantages[batch.mask].std()
    plain = vimpo.whiten(vimpo.gae(batch.td, batch.mask, 0.9), batch.mask)
    near(batch.advantages, plain, 0)
    assert size["noise"] < 0.35 and size["clear"] > 0.95


def test_an_objective_of_one_s_own_is_one_more_entry():
    """An `if` over names somewhere in the way of whoever adds an objective: here REINFORCE with a
    leave-one-out baseline, written anew."""

    def leave_one_out(batch, **_):
        batch.advantages = torch.zeros_like(batch.logps)
        for b, g in enumerate(batch.group.tolist()):
            others = [
                batch.rewards[i]
                for i in range(len(batch.rewards))
                if i != b and batch.group[i] == g
            ]
            batch.advantages[b] = batch.rewards[b] - sum(others) / len(others)

    def reinforce(logps, part, **_):
        mean = -(part.advantages * logps)[part.mask].mean()
        actor = part.token_share * mean
        return actor, torch.zeros_like(actor), actor

    objectives = vimpo.OBJECTIVES | {"mine": vimpo.Objective(leave_one_out, reinforce)}
    for parts in PARTS:
        mine, losses = take_step(objectives["mine"], parts)
        rloo, rloo_losses = take_step(objectives["rloo"], parts)
        near(mine, rloo, 1e-14)
        near(losses, rloo_losses, 1e-14)
    assert not objectives["mine"].reference and not objectives["mine"].value


def test_what_an_objective_says_it_does_without_it_does_without():
    """A reference's forward pass that is not paid for and then needed, or responses left out whose
    advantages are 0 but which have a gradient."""
    for name, objective in vimpo.OBJECTIVES.items():
        batch = scored_batch()
        if not objective.reference:
            batch.ref_logps = batch.kl = None
        batch.rewards = torch.ones_like(batch.rewards)  # groups with one reward
        objective.credit(batch, **METHOD)
        logps = (batch.logps + 0.1).requires_grad_()
        objective.loss(logps, batch, **METHOD)[0].backward()
        assert bool(logps.grad.any()) == objective.value, name


@pytest.mark.parametrize("share", [0.025, 1.0])
def test_the_actor_gets_the_share_that_was_asked_for(share):
    """A coefficient that does not follow the length of the responses: at 25 tokens the authors' own
    is a share of 1, which destroys a policy."""
    beta, rewards = 0.2, (randn(8, seed=4) > 0).double()
    baseline, long = torch.full((8,), 0.4, dtype=F64), holes(8, 40)
    long[1] = True
    short = long & (torch.arange(40) > 36)
    for mask in (long, short):
        logps, ref_logps = randn(8, 40, seed=5).requires_grad_(), randn(8, 40, seed=6)
        td = vimpo.td_terms(logps, ref_logps, torch.zeros(8, 40), mask, beta)
        ends = rewards, baseline, mask
        coef = vimpo.actor_coef_of_share(share, td.detach(), *ends, beta)
        # Measured on the log-probs, where both losses pull. |A| is about 1 after whitening.
        value_pull = torch.autograd.grad(vimpo.value_loss(td, *ends), logps)[0].abs()
        ones = torch.ones(8, 40, dtype=F64)
        actor = coef * vimpo.ppo_loss(logps, logps.detach(), ones, mask)
        actor_pull = torch.autograd.grad(actor, logps)[0].abs()
        per_token = value_pull.amax(1).mean()  # L_V pulls alike on all tokens of a response
        assert (actor_pull.amax() / per_token).item() == pytest.approx(share, rel=1e-12)
        distance = vimpo.residuals(td.detach(), *ends).abs().mean().item()
        formula = coef / (beta * distance * mask.sum().item() / 8)
        assert formula == pytest.approx(share, rel=1e-12)


def test_where_nothing_is_left_to_learn_the_actor_gets_nothing():
    """0 / 0, or an actor that goes on whitening noise to unit advantages when all curves end at
    their reward."""
    td = torch.tensor([[0.25, 9.0, 0.25], [-0.5, 0.125, -0.125]], dtype=F64)
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    rewards, baseline = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    assert vimpo.actor_coef_of_share(0.025, td, rewards, baseline, mask, 0.1) == 0
    assert vimpo.actor_coef_of_share(0.025, td, rewards, baseline, mask[:, [1, 1, 1]], 0.1) > 0
    nothing = torch.zeros(2, 3)
    assert vimpo.actor_coef_of_share(0.025, td, rewards, baseline, nothing, 0.1) == 0


# --------------------------------------------------------------------------------------------------
# 8. The worked examples


def test_the_examples_in_the_docstrings_are_true():
    """A worked example that the code has left behind."""
    results = doctest.testmod(vimpo)
    assert results.attempted > 0 and results.failed == 0
