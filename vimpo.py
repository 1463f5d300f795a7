"""VIMPO: Value-Implicit Policy Optimization (arXiv 2606.20008), the whole method, on tensors.

The problem. A verifier gives one reward R at the end of a response. Which token earned it?

The identity. Let s_t be the prompt and the first t tokens, and let all rewards be 0 but the last,
r_{T-1} = R. The best policy pi* that stays near a frozen reference pi_ref, by beta KL, is

    pi*(a|s) = pi_ref(a|s) exp(Q*(s,a) / beta) / Z(s)
    Q*(s_t,a_t) = r_t + V*(s_{t+1}),    V*(s) = E_{a ~ pi*(.|s)} Q*(s,a)

Take logs; take the mean over a ~ pi*; subtract, so that Z drops out; put in Q*:

    beta log pi*(a|s) / pi_ref(a|s)        = Q*(s,a) - beta log Z(s)
    beta KL(pi*(.|s) || pi_ref(.|s))       = V*(s)   - beta log Z(s)
    beta log pi*(a|s) / pi_ref(a|s) - beta KL(pi* || pi_ref)  =  Q*(s,a) - V*(s)
                                                              =  r_t + V*(s_{t+1}) - V*(s_t)   (1)

So the best policy carries its value function in its own log-probs, and no critic is needed. Of the
policy pi at hand, take for every sampled token

    rho_t   = beta (log pi(a_t|s_t) - log pi_ref(a_t|s_t))
    kappa_t = beta KL(pi(.|s_t) || pi_ref(.|s_t))        exact, over the whole vocabulary
    td_t    = rho_t - kappa_t                            what token t adds to the chance of success
    V_t     = V_0 + td_0 + ... + td_{t-1}                V_0 = mean reward of the prompt's samples

V_t is the implied chance of success before token t. By (1), summed over a response, it ends at R.

The losses (sg: stop-gradient). L_V asks the curve to end at R; here the reward enters. The actor
turns the same td into an advantage for every token and pushes it through PPO's clipped surrogate.

    L_V = mean over responses of 1/2 [sum_t (rho_t - sg(kappa_t)) - (R - V_0)]^2              (2)
    A_t = sum_{l >= 0} (gamma lambda)^l td_{t+l}                                              (3)
    L_A = mean over tokens of PPO's clipped loss with whitened sg(A_t)                        (4)
    L   = L_V + c_A L_A                                                                       (5)

Three tokens of a right response (R = 1) whose group was right half of the time; beta = 1:

    >>> logps, ref_logps = torch.tensor([[-0.5, -1.0, -0.2]]), torch.tensor([[-0.8, -1.0, -0.5]])
    >>> kl, mask = torch.tensor([[0.1, 0.0, 0.2]]), torch.ones(1, 3)
    >>> rewards, v0 = torch.tensor([1.0]), torch.tensor([0.5])
    >>> td = td_terms(logps, ref_logps, kl, mask, beta=1.0)
    >>> [round(x, 4) for x in td[0].tolist()]                          # 0.3 - 0.1, 0, 0.3 - 0.2
    [0.2, 0.0, 0.1]
    >>> [round(x, 4) for x in implied_values(td, mask, v0)[0].tolist()]
    [0.5, 0.7, 0.7, 0.8]
    >>> [round(x, 4) for x in gae(td, mask, lam=0.5)[0].tolist()]      # 0.2 + 0.05/2, 0.1/2, 0.1
    [0.225, 0.05, 0.1]
    >>> round(value_loss(td, rewards, v0, mask).item(), 4)             # 1/2 (0.3 - 0.5)^2
    0.02

Everything takes a mask [B, T] of the tokens that count, holes included: a masked position is
skipped, neither counted nor discounted. The dtype of the input is kept. B responses, T tokens,
N tokens that count. Run the examples: python -m doctest vimpo.py
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from lib.distributed import all_reduce_sum, correlation
from lib.logprobs import kl_from_logits, reference_stats, token_logps  # noqa: F401

# ---- The implied value, and the loss that ties it to the reward ----------------------------------


def td_terms(logps, ref_logps, kl, mask, beta):
    """td_t = beta (log pi - log pi_ref) - beta sg(KL): all [B, T] -> [B, T], 0 where masked.

    Gradient flows to logps alone. KL is there to centre the log-ratio, whose mean under pi it is;
    it is nothing to minimise.
    """
    td = beta * (logps - ref_logps.detach() - kl.detach())
    return torch.where(mask.bool(), td, 0)  # not td * mask: the padding may hold NaN


def group_baseline(rewards, group):
    """V_0 of each response, the mean reward of its group: rewards [B], group [B] (ids) -> [B].

    >>> group_baseline(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([7, 7, 3]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), dtype=rewards.dtype, device=rewards.device)
    return (sums.index_add_(0, index, rewards) / count)[index]


def implied_values(td, mask, v0):
    """The curve V_t = V_0 + sum_{k<t} td_k: td [B, T], v0 [B] -> [B, T+1]; it should end at R."""
    td = torch.where(mask.bool(), td, 0)
    return v0[:, None] + F.pad(td.cumsum(1), (1, 0))


def residuals(td, rewards, baseline, mask):
    """By how much each curve misses its reward: sum_t td_t - (R - V_0), [B]."""
    return torch.where(mask.bool(), td, 0).sum(1) - (rewards - baseline)


def value_loss(td, rewards, baseline, mask, kind="squared", huber_delta=1.0):
    """L_V, equation (2), or its Huber form: td [B, T]; rewards, baseline (V_0) [B] -> scalar.

    Its gradient with respect to the log-prob of a token is beta * residual / B, the same for all
    tokens of a response. ValueError for another kind than squared and huber.
    """
    residual = residuals(td, rewards, baseline, mask)  # [B]
    if kind == "squared":
        return residual.square().mean() / 2
    if kind == "huber":
        return F.huber_loss(residual, torch.zeros_like(residual), delta=huber_delta)
    raise ValueError(f"kind is {kind!r}; wanted squared or huber")


# ---- The actor -----------------------------------------------------------------------------------


@torch.no_grad()
def gae(td, mask, lam=1.0, gamma=1.0):
    """The advantages of equation (3): td [B, T] -> [B, T], 0 where masked. No gradient.

    For every row it is the loop

        advantage = 0
        for t in reversed(range(T)):
            if mask[t]:
                advantage = A[t] = td[t] + gamma * lam * advantage

    in about log2(T) tensor operations: after the pass with shift s, y_t is the sum of the first 2s
    terms of A_t, since y_t + decay^s y_{t+s} joins two sums of s terms.
    """
    mask, decay = mask.bool(), gamma * lam
    td = torch.where(mask, td, 0)
    if decay == 1:
        return torch.where(mask, td.flip(1).cumsum(1).flip(1), 0)
    # Move the tokens that count together. Place 0 is for holes before the first of them.
    place = mask.cumsum(1)  # [B, T]: 1, 2, ... for the tokens that count
    y = td.new_zeros(td.size(0), td.size(1) + 1).scatter_add_(1, place, td)
    shift = 1
    while shift < y.size(1) and decay**shift > 0:
        y = y + decay**shift * F.pad(y[:, shift:], (0, shift))
        shift *= 2
    return torch.where(mask, y.gather(1, place), 0)


@torch.no_grad()
def whiten(x, mask, eps=1e-8):
    """(x - mean) / sqrt(var + eps) over the tokens that count: [B, T] -> [B, T], 0 where masked.

    Mean and variance (divided by N - 1) are over the whole batch of a step, in all processes where
    torch.distributed is initialised: so the gradient does not depend on how the batch is cut.
    Where all x are 0, the result is exactly 0.
    """
    mask = mask.bool()
    values = x[mask]  # [N]
    total, count = all_reduce_sum(values.sum(), values.numel())
    mean = torch.as_tensor(total / max(count, 1)).to(x)
    (squares,) = all_reduce_sum((values - mean).square().sum())
    var = torch.as_tensor(squares / max(count - 1, 1)).to(x)
    return torch.where(mask, (x - mean) * torch.rsqrt(var + eps), 0)


def ppo_loss(logps, old_logps, advantages, mask, clip_low=0.2, clip_high=0.28, dual_clip=10.0):
    """L_A, equation (4): all [B, T] -> scalar, the mean of l_t over the N tokens that count.

        w_t = exp(clamp(log pi - log pi_old, -20, 20))
        l_t = max(-A w, -A clip(w, 1 - clip_low, 1 + clip_high))
        l_t = min(l_t, -A dual_clip)   where A < 0

    Gradient flows to logps. The dual clip bounds the loss of a bad token that grew very likely.
    """
    mask = mask.bool()
    ratio = torch.where(mask, logps - old_logps, 0).clamp(-20, 20).exp()  # w, [B, T]
    advantages = torch.where(mask, advantages, 0).detach()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    capped = torch.minimum(loss, -advantages * dual_clip)
    loss = torch.where(advantages < 0, capped, loss)
    return torch.where(mask, loss, 0).sum() / mask.sum().clamp(min=1)


@torch.no_grad()
def rounding_variance(logps, sampler_logps, mask, lam, beta):
    """The variance that rounding alone gives the advantages: logps, sampler_logps [B, T] -> float.

    Trainer and sampler compute the same log-probs by different kernels; they differ by 3e-7 nats a
    token in fp32, by 0.01 and more in bf16. Policy and reference differ by two to three times that.
    A_t sums td with weights lam^l, so variances add up with weights lam^(2l).
    """
    mask = mask.bool()
    gap = torch.where(mask, logps - sampler_logps, 0).abs().sum()
    terms = gae(mask.to(logps.dtype), mask, lam**2).sum()
    gap, terms, N = all_reduce_sum(gap, terms, mask.sum())
    return float((beta * gap / N) ** 2 * terms / N)


@torch.no_grad()
def actor_coef_of_share(share, td, rewards, baseline, mask, beta):
    """c_A that gives the actor this share of the value loss's pull on a token.

    Per token and batch of B, L_V's gradient weighs beta |residual| / B and c_A L_A's c_A |A| / N,
    with |A| about 1 after whitening. So

        c_A = share * beta * mean |residual| * N / B

    The authors' c_A = 5e-3 is a share of 0.025 at their lengths (N / B about 1,000), and of 1 at 25
    tokens, where it destroys a policy. With no residual there is nothing to learn, and no actor.
    """
    distance = residuals(td, rewards, baseline, mask).abs().sum()
    distance, N, B = all_reduce_sum(distance, mask.bool().sum(), len(rewards))
    return float(share * beta * (distance / B) * (N / B))


# ---- The advantages of methods without a value ---------------------------------------------------


@torch.no_grad()
def grpo_advantages(rewards, group, mask, scale=True):
    """GRPO: (R - mean of the group) / (std of the group + 1e-6), the same on every token.

    rewards, group [B], mask [B, T] -> [B, T]. The std is unbiased; a group of one gets 0.
    scale=False is Dr. GRPO, which does not divide, so that easy and hard prompts count alike.
    """
    centred = rewards - group_baseline(rewards, group)  # [B]
    if scale:
        _, index, count = group.unique(return_inverse=True, return_counts=True)
        squares = group_baseline(centred.square(), group) * count[index]  # their sum in the group
        std = (squares / (count[index] - 1).clamp(min=1)).sqrt()
        centred = centred / (std + 1e-6)
    return torch.where(mask.bool(), centred[:, None], 0)


@torch.no_grad()
def rloo_advantages(rewards, group, mask):
    """RLOO: R minus the mean of the others in the group, which is n/(n-1) (R - mean of all n)."""
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    n = count[index]  # [B]
    centred = (rewards - group_baseline(rewards, group)) * n / (n - 1).clamp(min=1)
    return torch.where(mask.bool(), centred[:, None], 0)


def reinforce_loss(logps, advantages, mask):
    """REINFORCE: the mean over tokens of -A log pi, in the direction of the mean over responses."""
    mask = mask.bool()
    advantages = torch.where(mask, advantages, 0).detach()
    loss = -advantages * torch.where(mask, logps, 0)
    return loss.sum() / mask.sum().clamp(min=1)


# ---- The objectives: what --algo offers ----------------------------------------------------------
# To add one, write its two functions and a line in the dict below.
# credit(batch, **method) fills batch.advantages, and what else the loss needs, for the whole batch.
# loss(logps, part, **method) is the loss of a micro-batch: -> (L, L_V, L_A). A mean over a part,
# times that part's share of the responses or tokens, adds up to the mean over the whole batch.


def vimpo_credit(
    batch, *, beta, gae_lambda, actor_share, actor_coef, actor_gate=False, soft_values=False,
    v0_cap=None, **_,
):  # fmt: skip
    """Equation (3), whitened; and c_A, either as it is set or from the actor's share.

    `tells`: the correlation, within groups, of V_T - V_0 with the reward. Where it is 0 or less an
    actor trains on its own moves. The gate, which is ours, multiplies c_A by it, if it is above 0.
    Soft values count KL as a cost: td_t = rho_t, and V_0 = mean of R - sum_t kappa_t.
    """
    mask, kl, earned = batch.mask.bool(), batch.kl, batch.rewards
    if soft_values:
        earned = earned - beta * torch.where(mask, kl, 0).sum(1)
        kl = 0 * kl
    batch.baseline = group_baseline(earned, batch.group)
    if v0_cap is not None:
        batch.baseline = batch.baseline.clamp(max=v0_cap)
    batch.td = td_terms(batch.logps, batch.ref_logps, kl, mask, beta)
    # Advantages below eight times their rounding error stay small: until then the actor waits.
    noise = rounding_variance(batch.logps, batch.sampler_logps, mask, gae_lambda, beta)
    batch.advantages = whiten(gae(batch.td, mask, gae_lambda), mask, eps=max(1e-8, 64 * noise))
    batch.actor_coef = actor_coef
    if actor_coef is None:
        of_batch = batch.td, batch.rewards, batch.baseline, mask, beta
        batch.actor_coef = actor_coef_of_share(actor_share, *of_batch)
    centred = [x - group_baseline(x, batch.group) for x in (batch.td.sum(1), batch.rewards)]
    batch.tells = correlation(*centred)
    if actor_gate:
        batch.actor_coef *= max(0.0, batch.tells)


def vimpo_loss(logps, part, *, beta, value_kind, huber_delta, clip, soft_values=False, **_):
    """Equation (5)."""
    kl = 0 * part.kl if soft_values else part.kl
    td = td_terms(logps, part.ref_logps, kl, part.mask, beta)
    value = value_loss(td, part.rewards, part.baseline, part.mask, value_kind, huber_delta)
    actor = ppo_loss(logps, part.logps, part.advantages, part.mask, *clip)
    value, actor = part.response_share * value, part.token_share * actor
    return value + part.actor_coef * actor, value, actor


def mixed_credit(batch, **method):
    """An ablation: the value loss of VIMPO beside the actor of GRPO."""
    vimpo_credit(batch, **method)
    batch.advantages = grpo_advantages(batch.rewards, batch.group, batch.mask)


def grpo_credit(batch, **_):
    batch.advantages = grpo_advantages(batch.rewards, batch.group, batch.mask)


def dr_grpo_credit(batch, **_):
    batch.advantages = grpo_advantages(batch.rewards, batch.group, batch.mask, scale=False)


def rloo_credit(batch, **_):
    batch.advantages = rloo_advantages(batch.rewards, batch.group, batch.mask)


def clipped_loss(logps, part, *, clip, **_):
    """PPO's surrogate alone, a mean over all tokens: long responses weigh no less per token."""
    actor = ppo_loss(logps, part.logps, part.advantages, part.mask, *clip)
    actor = part.token_share * actor
    return actor, torch.zeros_like(actor), actor


def rloo_loss(logps, part, **_):
    actor = part.token_share * reinforce_loss(logps, part.advantages, part.mask)
    return actor, torch.zeros_like(actor), actor


class Objective(NamedTuple):
    credit: object
    loss: object
    reference: bool = False  # does it need log pi_ref and KL, a second forward pass?
    value: bool = False  # does a response whose advantages are all 0 still have a gradient?


OBJECTIVES = {
    "vimpo": Objective(vimpo_credit, vimpo_loss, reference=True, value=True),
    "vimpo_grpo": Objective(mixed_credit, vimpo_loss, reference=True, value=True),
    "grpo": Objective(grpo_credit, clipped_loss),
    "dr_grpo": Objective(dr_grpo_credit, clipped_loss),
    "rloo": Objective(rloo_credit, rloo_loss),
}

if __name__ == "__main__":  # the equations with numbers, on one example
    from demo.walk import main

    main()
