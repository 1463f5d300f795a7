"""VIMPO: Value-Implicit Policy Optimization (arXiv 2606.20008), and GRPO to compare it with.

The best policy pi* for the reward, kept near a frozen reference pi_ref by beta KL, ties its own log-ratio to its own value:

    beta log pi*(a_t|s_t)/pi_ref(a_t|s_t) - beta KL(pi*(.|s_t) || pi_ref(.|s_t)) = r_t + V*(s_{t+1}) - V*(s_t)                  (1)

So a policy that satisfies (1) carries its value function in its log-probs, and no critic is needed. For the sampled tokens

    rho_t   = beta (log pi(a_t|s_t) - log pi_ref(a_t|s_t))
    kappa_t = beta KL(pi(.|s_t) || pi_ref(.|s_t))                 exact: a sum over the whole vocabulary
    td_t    = rho_t - kappa_t                                     what token t added to the implied chance of success
    V_0     = mean reward of the prompt's samples,   V_{t+1} = V_t + td_t - r_t,   V_T = 0       (the only reward is r_{T-1} = R)

Unrolled, (1) says sum_t td_t = R - V_0. The value loss asks for that, and is where the reward enters; the actor turns the same td_t
into an advantage for each token, whitens it over the batch and pushes it through the clipped surrogate of PPO:

    L_V = mean over responses of 1/2 [ sum_t (rho_t - sg(kappa_t)) - (R - V_0) ]^2             sg: stop-gradient
    A_t = sum_{l>=0} (gamma lambda)^l td_{t+l}       L_A = PPO(whiten(sg(A)))        L = L_V + c_A L_A

Everything here is a function of tensors. `mask` [B, T] marks the response tokens and may have holes: a masked position is skipped,
neither counted nor discounted. The dtype of the input is kept. B responses, T tokens, N = tokens that count, V vocabulary, D width.

Three tokens of one response that was right (R = 1) in a group that was right half of the time (V_0 = 0.5), with beta = 1:

    >>> logps, ref_logps = torch.tensor([[-0.5, -1.0, -0.2]]), torch.tensor([[-0.8, -1.0, -0.5]])
    >>> kl, mask = torch.tensor([[0.1, 0.0, 0.2]]), torch.ones(1, 3)
    >>> td = td_terms(logps, ref_logps, kl, mask, beta=1.0)                     # 0.3 - 0.1,  0 - 0,  0.3 - 0.2
    >>> [round(x, 4) for x in td[0].tolist()]
    [0.2, 0.0, 0.1]
    >>> [round(x, 4) for x in implied_values(td, mask, torch.tensor([0.5]))[0].tolist()]
    [0.5, 0.7, 0.7, 0.8]
    >>> [round(x, 4) for x in gae(td, mask, lam=0.5)[0].tolist()]               # 0.2 + 0.05/2,  0 + 0.1/2,  0.1
    [0.225, 0.05, 0.1]
    >>> round(value_loss(td, torch.tensor([1.0]), torch.tensor([0.5]), mask).item(), 4)              # 1/2 (0.3 - 0.5)^2
    0.02

Run the examples: python -m doctest vimpo.py. Sections named below are those of the paper.
"""

import torch
from torch.nn import functional as F

from model import linear, logits_fp32

CHUNK = 256  # tokens whose logits exist at a time: at V = 152k in fp32, 0.16 GB instead of all tokens' 0.6 MB each


# ---------------------------------------------------------------------------------------------------------------------------------
# From hidden states to log-probabilities, without the [N, V] logits


def _logits(hidden, head_weight, temperature):
    """[n, D] -> logits at the temperature [n, V]; one definition, so that equal weights give equal bits everywhere."""
    logits = logits_fp32(hidden, head_weight)
    return logits if temperature == 1.0 else logits.div_(temperature)


class _TokenLogps(torch.autograd.Function):
    """log pi(target) per token. Backward makes each chunk's logits again rather than keeping them: one more matrix product.

    With p = softmax(logits / tau) and upstream gradient g:   d logits = g (onehot(target) - p) / tau.
    """

    @staticmethod
    def forward(ctx, hidden, head_weight, targets, temperature, logps):
        weight = head_weight.to(hidden.dtype)  # fp32 masters: cast once, not once per chunk

        def chunk_logps(h, t):
            logits = _logits(h, weight, temperature)  # [n, V]
            return logits.gather(1, t[:, None])[:, 0] - logits.logsumexp(-1)

        if logps is None:
            logps = torch.cat([chunk_logps(h, t) for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)])
        ctx.save_for_backward(hidden, head_weight, targets, logps)
        ctx.temperature = temperature
        return logps.clone()  # [N]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        hidden, head_weight, targets, logps = ctx.saved_tensors
        weight, wide = head_weight.to(hidden.dtype), grad.dtype  # wide: fp32, or fp64
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(head_weight, dtype=wide) if ctx.needs_input_grad[1] else None
        for i in range(0, len(hidden), CHUNK):
            h, t, g = hidden[i : i + CHUNK], targets[i : i + CHUNK, None], grad[i : i + CHUNK, None] / ctx.temperature
            d_logits = _logits(h, weight, ctx.temperature)  # [n, V]
            lse = d_logits.gather(1, t) - logps[i : i + CHUNK, None]  # [n, 1]: no further pass over V
            d_logits.sub_(lse).exp_().mul_(-g).scatter_add_(1, t, g)
            if d_hidden is not None:
                d_hidden[i : i + CHUNK] = linear(d_logits.to(h.dtype), weight.T)
            if d_weight is not None and h.dtype == wide:
                d_weight.addmm_(d_logits.T, h)
            elif d_weight is not None:
                d_weight += logits_fp32(d_logits.T.to(h.dtype), h.T)  # bf16 factors, fp32 sums
            del d_logits  # before the next chunk's come
        return d_hidden, None if d_weight is None else d_weight.to(head_weight.dtype), None, None, None


def token_logps(hidden, head_weight, targets, temperature=1.0, known=None):
    """log pi(target) under softmax(hidden @ head_weight^T / temperature), differentiable in hidden and head_weight.

    hidden [N, D] that predicts targets [N] (long), head_weight [V, D] -> [N], fp32 (fp64 for fp64 input). Memory: CHUNK x V.
    known [N]: the result, where `score_tokens` has computed it for these hidden states and weights; only the gradient is left to do.

        >>> token_logps(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3])).exp()
        tensor([0.2500, 0.2500])
    """
    return _TokenLogps.apply(hidden, head_weight, targets, temperature, known)


def kl_from_logits(logits, ref_logits):
    """KL(pi || pi_ref) of dense logits [..., V] -> [...]: what the chunked functions are tested against.

        >>> kl_from_logits(torch.zeros(2), torch.tensor([1.0, 3.0])).item() == kl_from_logits(torch.zeros(2), torch.tensor([0.0, 2.0])).item()
        True
    """
    log_p, log_ref = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_ref), 0).sum(-1)  # a token of probability 0 adds 0, not NaN


KL_KINDS = ("exact", "topk", "k2", "k3")


def _dot(a, b):
    """Row by row, [n, V] and [n, V] -> [n], without a product of that size in between."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]


@torch.no_grad()
def score_tokens(hidden, head_weight, ref_hidden, ref_head_weight, targets, temperature=1.0, kl="exact", top_k=64):
    """What one step needs to know of its N sampled tokens -> (logps, ref_logps, kl, entropy), each [N], in one pass over the chunks.

    hidden, ref_hidden [N, D] of policy and reference; head_weight, ref_head_weight [V, D]; targets [N]. With d = log pi - log pi_ref,

        exact   sum over the vocabulary of pi d                         topk   the same sum over the policy's top_k tokens only
        k2      d^2 / 2 of the sampled token                            k3     exp(-d) - 1 + d of the sampled token

    k1 = d is no choice: it would cancel rho, and nothing would be left of the token term. Entropy is in nats. No gradient.
    """
    if kl not in KL_KINDS:
        raise ValueError(f"kl is {kl!r}; wanted one of {', '.join(KL_KINDS)}" + (" (k1 would cancel rho)" if kl == "k1" else ""))
    head_weight, ref_head_weight = head_weight.to(hidden.dtype), ref_head_weight.to(ref_hidden.dtype)  # cast once, not per chunk

    def stats(h, ref_h, t):  # of a chunk, [4, n]; a function, so that what is large is gone before the next chunk
        log_p, log_ref = _logits(h, head_weight, temperature), _logits(ref_h, ref_head_weight, temperature)  # [n, V] each
        for logits in (log_p, log_ref):
            logits -= logits.logsumexp(-1, keepdim=True)  # in place: never more than three of this size
        logps, ref_logps = log_p.gather(1, t[:, None])[:, 0], log_ref.gather(1, t[:, None])[:, 0]  # [n]
        d, p = logps - ref_logps, log_p.exp()  # [n], [n, V]
        entropy = -_dot(p, log_p)
        if kl == "exact":
            # sum of p d, not of the always-positive p (exp(-d) - 1 + d): an error of a normaliser shifts d of the sampled token and of all
            # others alike, so that with this form it cancels in rho - kappa.
            value = _dot(p, torch.sub(log_p, log_ref, out=log_ref))
        elif kl == "topk":
            top, index = log_p.topk(min(top_k, log_p.size(1)), dim=-1)
            value = _dot(top.exp(), top - log_ref.gather(1, index))
        else:
            value = d.square() / 2 if kl == "k2" else (-d).exp() - 1 + d
        return torch.stack((logps, ref_logps, value, entropy))

    parts = zip(hidden.split(CHUNK), ref_hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    return tuple(torch.cat([stats(*part) for part in parts], dim=1))


def reference_stats(hidden, head_weight, ref_hidden, ref_head_weight, targets, temperature=1.0, kl="exact", top_k=64):
    """(ref_logps, kl, entropy), each [N]: `score_tokens` for those who have the policy's log-probs already."""
    return score_tokens(hidden, head_weight, ref_hidden, ref_head_weight, targets, temperature, kl, top_k)[1:]


# ---------------------------------------------------------------------------------------------------------------------------------
# The implied value, and the loss that ties it to the reward


def td_terms(logps, ref_logps, kl, mask, beta):
    """td_t = beta (log pi - log pi_ref) - beta sg(KL): [B, T] each -> [B, T], 0 where mask is 0. Gradient flows to logps alone.

    KL is a centring baseline (E_pi of the log-ratio), not something to minimise: hence no gradient into it.
    """
    td = beta * (logps - ref_logps.detach() - kl.detach())
    return torch.where(mask.bool(), td, 0)  # not td * mask: padding may hold NaN


def group_baseline(rewards, group):
    """V_0 of each response: the mean reward of its group. rewards [B], group [B] (any ids, any order) -> [B].

        >>> group_baseline(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([7, 7, 3]))
        tensor([0.5000, 0.5000, 1.0000])
    """
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), dtype=rewards.dtype, device=rewards.device).index_add_(0, index, rewards)
    return (sums / count)[index]


def implied_values(td, mask, v0):
    """The curve V_0 + sum_{k<t} td_k: td [B, T], v0 [B] -> [B, T+1], the implied chance of success before each token and at the end.

    The final reward is not subtracted, so at the optimum the curve ends at R (and V_T = curve - R = 0). A masked token leaves it level.
    """
    td = torch.where(mask.bool(), td, 0)
    return v0[:, None] + F.pad(td.cumsum(1), (1, 0))


def value_loss(td, rewards, baseline, mask, kind="squared", huber_delta=1.0):
    """L_V: mean over the B responses of 1/2 [sum_t td_t - (R - V_0)]^2, or its Huber form; td [B, T], rewards and baseline [B] -> scalar.

    Its gradient with respect to each log-prob of a response is beta * residual / B, the same for all its tokens.
    """
    residual = torch.where(mask.bool(), td, 0).sum(1) - (rewards - baseline)  # [B]
    if kind == "squared":
        return residual.square().mean() / 2
    if kind == "huber":
        return F.huber_loss(residual, torch.zeros_like(residual), delta=huber_delta)
    raise ValueError(f"kind is {kind!r}; wanted squared or huber")


# ---------------------------------------------------------------------------------------------------------------------------------
# The actor


@torch.no_grad()
def gae(td, mask, lam=1.0, gamma=1.0):
    """A_t = td_t + gamma lam A_{t'}, t' the next token that counts: td [B, T] -> [B, T], 0 where mask is 0. No gradient.

    The tokens that count are moved together, so that the recurrence y_t = x_t + c y_{t+1}, c = gamma lam, has one constant. Within blocks of
    K tokens it is a product with the triangle of powers c^(s-t); the first y of each block, what the block hands to those before it, runs
    through the same recurrence with the constant c^K, again a product with a triangle. No power is negative: none overflows.
    """
    mask, (B, T), K, c = mask.bool(), td.shape, 64, lam * gamma
    C = T // K + 1

    def triangle(n, constant, first):  # [n, n]: entry (s, t) is constant^(s - t - first), 0 where that power would be negative
        powers = torch.tensor(constant, dtype=torch.float64, device=td.device) ** torch.arange(n, device=td.device)
        return F.pad(powers, (n - 1 + first, 0))[: 2 * n - 1].unfold(0, n, 1).flip(1).to(td.dtype)

    place = mask.cumsum(1)  # [B, T]: 1, 2, ... for the tokens that count; place 0 is for holes before the first, and stays 0
    x = td.new_zeros(B, C * K).scatter_add_(1, place, torch.where(mask, td, 0)).view(B * C, K)
    within = triangle(K, c, 0)
    y = (x @ within).view(B, C, K)
    later = y[:, :, 0] @ triangle(C, c**K, 1)  # [B, C]: the advantage at the start of the next block
    y.addcmul_(later[:, :, None], c * within[-1])  # c^K, ..., c
    return torch.where(mask, y.view(B, -1).gather(1, place), 0)


def _sum_over_processes(*scalars):
    """Sums of 0-dim tensors over all torchrun processes; themselves where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return scalars
    total = torch.stack([s.double() for s in scalars])
    torch.distributed.all_reduce(total)
    return tuple(total)


@torch.no_grad()
def whiten(x, mask, eps=1e-8):
    """(x - mean) / sqrt(var + eps) over the tokens that count: [B, T] -> [B, T], 0 where mask is 0.

    Mean and variance (Bessel's correction: divided by n - 1) are over the whole batch of a step, in all processes where
    torch.distributed is initialised, so that the gradient does not depend on how the batch is cut. All zeros stay exactly 0.
    """
    mask = mask.bool()
    values = x[mask]
    total, n = _sum_over_processes(values.sum(), mask.sum())
    mean = (total / n.clamp(min=1)).to(x.dtype)
    (squares,) = _sum_over_processes((values - mean).square().sum())
    var = (squares / (n - 1).clamp(min=1)).to(x.dtype)
    return torch.where(mask, (x - mean) * torch.rsqrt(var + eps), 0)


def ppo_loss(logps, old_logps, advantages, mask, clip_low=0.2, clip_high=0.28, dual_clip=10.0):
    """L_A, the clipped surrogate: mean over the tokens that count of l_t; all [B, T] -> scalar. Gradient flows to logps.

        w_t = exp(clamp(log pi - log pi_old, -20, 20));   l_t = max(-A w, -A clip(w, 1 - clip_low, 1 + clip_high))
        if A < 0:  l_t = min(l_t, -A dual_clip)           a token that grew very likely can't blow up the loss (dual clip)
    """
    mask = mask.bool()
    ratio = torch.where(mask, logps - old_logps, 0).clamp(-20, 20).exp()  # [B, T]
    advantages = torch.where(mask, advantages, 0).detach()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return torch.where(mask, loss, 0).sum() / mask.sum().clamp(min=1)


@torch.no_grad()
def grpo_advantages(rewards, group, mask, scale=True):
    """GRPO: (R - mean of the group) / (std of the group + 1e-6) on every token that counts; rewards, group [B], mask [B, T] -> [B, T].

    The std is unbiased (n - 1); a group of one has advantage 0, having nothing to be compared with. scale=False is Dr. GRPO: no division.
    """
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    centred = rewards - group_baseline(rewards, group)  # [B]
    if scale:
        squares = torch.zeros(len(count), dtype=rewards.dtype, device=rewards.device).index_add_(0, index, centred.square())
        centred = centred / ((squares / (count - 1).clamp(min=1)).sqrt()[index] + 1e-6)
    return torch.where(mask.bool(), centred[:, None], 0)
