"""Log-probs, exact KL and entropy from hidden states, without the [N, V] logits.

The dense form. For N response tokens with logits z = hidden @ head_weight^T / temperature [N, V],

    log_p   = log_softmax(z)                           [N, V], and log_ref likewise
    logps   = log_p[targets]                           log pi(a_t|s_t)
    kl      = sum_v exp(log_p) (log_p - log_ref)       KL(pi(.|s_t) || pi_ref(.|s_t)), exact
    entropy = - sum_v exp(log_p) log_p                 in nats

With V = 152k a row of logits is 0.6 MB, and a step has a million rows. So only CHUNK rows exist at
a time, and the backward pass computes each chunk's logits again: one more matrix product instead of
the memory. `kl_from_logits` is dense code; the tests hold all of this against dense code.

N tokens, D width, V vocabulary, n tokens of a chunk.
"""

import torch
from torch.autograd.function import once_differentiable

from lib.fast import linear

CHUNK, CUDA_CHUNK = 256, 1024  # tokens whose logits exist at a time
KL_KINDS = ("exact", "topk", "k2", "k3")


def kl_from_logits(logits, ref_logits):
    """KL(pi || pi_ref) of dense logits [..., V] -> [...], in nats.

    >>> a, b = torch.zeros(2), torch.tensor([0.0, 2.0])
    >>> round(kl_from_logits(a, b).item(), 4), kl_from_logits(a, a + 1).item()
    (0.4338, 0.0)
    """
    log_p, log_ref = logits.log_softmax(-1), ref_logits.log_softmax(-1)  # [..., V]
    terms = log_p.exp() * (log_p - log_ref)
    return torch.where(log_p > -torch.inf, terms, 0).sum(-1)  # 0 log 0 is 0 here, not NaN


def wide_logits(hidden, weight, temperature=1.0):
    """hidden [n, D] @ weight [V, D]^T / temperature -> [n, V], in fp32 at least; no gradient.

    Both factors have the same dtype. Products of bf16 numbers are exact in fp32, so wide sums cost
    only the wider output. All log-probs of a step come through here: equal weights, equal bits.
    """
    if hidden.dtype in (torch.float32, torch.float64):
        logits = linear(hidden, weight)
    elif hidden.is_cuda:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = hidden.float() @ weight.float().T
    return logits if temperature == 1.0 else logits.div_(temperature)


# ---- With gradient: log-probs --------------------------------------------------------------------


class _TokenLogps(torch.autograd.Function):
    """log pi(target) per token. With p = softmax(z) and the gradient g of a token's log-prob,

    d z = g (onehot(target) - p),   d hidden = d z @ head_weight / temperature.
    """

    @staticmethod
    def forward(ctx, hidden, head_weight, targets, temperature):
        weight = head_weight.to(hidden.dtype)  # cast once, not once per chunk
        logps, size = [], CUDA_CHUNK if hidden.is_cuda else CHUNK
        for h, t in zip(hidden.split(size), targets.split(size), strict=True):
            logits = wide_logits(h, weight, temperature)  # [n, V]
            logps.append(logits.gather(1, t[:, None])[:, 0] - logits.logsumexp(1))
        logps = torch.cat(logps)  # [N]
        ctx.save_for_backward(hidden, head_weight, targets, logps)
        ctx.temperature = temperature
        return logps.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """d log p(target) / d logits = onehot - p, chunk by chunk from logits made again."""
        hidden, head_weight, targets, logps = ctx.saved_tensors
        weight, wide = head_weight.to(hidden.dtype), grad.dtype  # wide: fp32, or fp64
        want_hidden, want_weight, *_ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if want_hidden else None
        d_weight = torch.zeros_like(head_weight, dtype=wide) if want_weight else None
        size = CUDA_CHUNK if hidden.is_cuda else CHUNK
        for i in range(0, len(hidden), size):
            rows = slice(i, i + size)
            h, t, g = hidden[rows], targets[rows, None], grad[rows, None] / ctx.temperature
            d_logits = wide_logits(h, weight, ctx.temperature)  # [n, V]: z again
            # The sum over V need not be taken again: lse = z[target] - log p[target].
            lse = d_logits.gather(1, t) - logps[rows, None]  # [n, 1]
            d_logits.sub_(lse).exp_().mul_(-g).scatter_add_(1, t, g)
            narrow = d_logits.to(h.dtype)
            if want_hidden:
                d_hidden[rows] = linear(narrow, weight.T)
            if want_weight and h.dtype == wide:
                d_weight.addmm_(d_logits.T, h)
            elif want_weight and h.is_cuda:  # bf16 factors, fp32 sums
                torch.addmm(d_weight, narrow.T, h, out_dtype=wide, out=d_weight)
            elif want_weight:
                d_weight += wide_logits(narrow.T, h.T)
            del d_logits, narrow  # before the next chunk's logits come
        return d_hidden, d_weight.to(head_weight.dtype) if want_weight else None, None, None


def token_logps(hidden, head_weight, targets, temperature=1.0):
    """log pi(target) under softmax(hidden @ head_weight^T / temperature), with gradient.

    hidden [N, D] predicts targets [N] (long); head_weight [V, D]. Returns [N], fp32 (fp64 for fp64
    input), differentiable in hidden and head_weight. Memory: a few times CHUNK x V.

    >>> token_logps(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3])).exp()
    tensor([0.2500, 0.2500])
    """
    return _TokenLogps.apply(hidden, head_weight, targets, temperature)


# ---- Without gradient: all that a step needs to know of its tokens -------------------------------


def _row_dot(a, b):
    """Row by row, [n, V] and [n, V] -> [n], without a product of that size in between."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]


def _log_softmax(hidden, weight, temperature):
    logits = wide_logits(hidden, weight, temperature)  # [n, V]
    return logits.sub_(logits.logsumexp(1, keepdim=True))  # in place: V is long


def _kl(log_p, p, log_ref, d, kl, top_k):
    """The estimate of KL(pi || pi_ref) for the rows of a chunk, [n]; log_ref is overwritten.

    The exact sum has terms p d, which may be negative, and not the always-positive form
    p (exp(-d) - 1 + d): a rounding error of a normaliser then shifts d of the sampled token and of
    all others alike, and it cancels in rho - kappa.
    """
    if kl == "exact":
        return _row_dot(p, torch.sub(log_p, log_ref, out=log_ref))
    if kl == "topk":
        top, index = log_p.topk(min(top_k, log_p.size(1)), dim=1)  # [n, k]
        return _row_dot(top.exp(), top - log_ref.gather(1, index))
    if kl == "k2":
        return d.square() / 2
    return (-d).exp() - 1 + d


@torch.no_grad()
def score_tokens(
    hidden, head_weight, ref_hidden, ref_head_weight, targets, temperature=1.0, kl="exact", top_k=64
):
    """(logps, ref_logps, kl, entropy), each [N], of N sampled tokens, in one pass over chunks.

    hidden, ref_hidden [N, D] of policy and reference; head_weight, ref_head_weight [V, D]; targets
    [N]. Without a reference (ref_hidden None) ref_logps and kl are None. With d = log pi - log
    pi_ref of the sampled token, kl is

        exact   the sum over the whole vocabulary (paper, section 3)
        topk    the same sum over the policy's top_k tokens alone
        k2      d^2 / 2
        k3      exp(-d) - 1 + d

    k1 = d is no choice: it would cancel rho, and nothing would be left of td. ValueError says so.
    """
    if kl not in KL_KINDS:
        hint = " (k1 would cancel rho)" if kl == "k1" else ""
        raise ValueError(f"kl is {kl!r}; wanted one of {', '.join(KL_KINDS)}{hint}")
    weight = head_weight.to(hidden.dtype)
    ref_weight = None if ref_hidden is None else ref_head_weight.to(ref_hidden.dtype)

    def chunk(rows):  # a function, so that its [n, V] tensors are gone before the next chunk
        t = targets[rows, None]  # [n, 1]
        log_p = _log_softmax(hidden[rows], weight, temperature)  # [n, V]
        logps = log_p.gather(1, t)[:, 0]  # [n]
        # The reference goes first: while its softmax needs space, p does not exist yet.
        if ref_hidden is not None:
            log_ref = _log_softmax(ref_hidden[rows], ref_weight, temperature)  # [n, V]
        p = log_p.exp()  # [n, V]
        entropy = -_row_dot(p, log_p)
        if ref_hidden is None:
            return torch.stack((logps, entropy))
        ref_logps = log_ref.gather(1, t)[:, 0]
        value = _kl(log_p, p, log_ref, logps - ref_logps, kl, top_k)
        return torch.stack((logps, ref_logps, value, entropy))

    size = CUDA_CHUNK if hidden.is_cuda else CHUNK
    starts = range(0, max(len(hidden), 1), size)
    columns = torch.cat([chunk(slice(i, i + size)) for i in starts], dim=1)
    return tuple(columns) if ref_hidden is not None else (columns[0], None, None, columns[1])


def reference_stats(
    hidden, head_weight, ref_hidden, ref_head_weight, targets, temperature=1.0, kl="exact", top_k=64
):
    """(ref_logps, kl, entropy), each [N]: score_tokens without the policy's own log-probs."""
    policy, reference = (hidden, head_weight), (ref_hidden, ref_head_weight)
    return score_tokens(*policy, *reference, targets, temperature, kl, top_k)[1:]
