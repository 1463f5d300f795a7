"""Rollouts: a batch of prompts x samples per prompt -> responses with the log-probs of their tokens.

The batch is a set of rows ("slots") of one static KV cache. Each prompt is prefilled once; a row takes over its keys and values, decodes one
token a step together with the others, and when its sample ends the next waiting sample takes the row; when none waits, the last row
moves into the gap, so that no step computes a finished sample. Rows have their own lengths: nothing is padded on the left.

Every sample has its own random numbers. Its key is a hash of (seed, prompt, number of the sample), the noise of its token t a hash of
(key, t): whoever else is in the batch, however many slots there are, in whatever order the prompts come, it draws the same. A token is drawn by
the Gumbel-max rule, which ties the choice to two scores and not to a sum over all V, so rounding in the last bit hardly ever flips it:

    argmax_v [log p_v + g_v] ~ p,   g_v = -log(-log u_v)

V draws per token would cost as much as a layer, so the vocabulary is cut into about sqrt(V) blocks: first a block by its mass, then a
token within it, 2 sqrt(V) draws, the same distribution exactly:  p(v) = p(block of v) p(v | block of v).

    rollouts = generate(model, [[1, 2, 3]], samples_per_prompt=8, max_new_tokens=64, stop_ids=tokenizer.eos_ids)
"""

import hashlib
import math
from collections import Counter, deque
from typing import NamedTuple

import torch
from torch.nn import functional as F

from model import KVCache, frozen_copy

PREFILL_TOKENS = 4096  # prompts are prefilled together up to this many tokens, padding included: enough to keep the matrix products busy
CACHE_BYTES = 4 << 30  # on the CPU; on CUDA half of what is free


class Rollout(NamedTuple):
    """One sample. The stop token, where there is one, is the last of response_ids: it was chosen, so it is trained on."""

    prompt_ids: list  # [P] ints
    response_ids: list  # [T] ints
    logps: list  # [T] floats: log pi of each response token at the sampling temperature (1 where that is 0), before top-k and top-p
    finished: bool  # False: cut at max_new_tokens


# ---------------------------------------------------------------------------------------------------------------------------------
# Drawing a token


def _mix(x):
    """A 32-bit finaliser on int64 lanes: each bit of the result depends on all bits of x. Both factors are below 2^31: no overflow."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


def _gumbel(keys, t, n, stream):
    """Noise [A, n] (fp64) of each row's draw number t [A], a function of keys [A, 2], t and stream alone; the same on every device."""
    a = _mix(keys[:, 0] + _mix(2 * t + stream))[:, None]  # [A, 1]
    b = _mix(keys[:, 1] ^ _mix(a[:, 0] + t))[:, None]  # [A, 1]
    bits = _mix(_mix(a + torch.arange(n, device=keys.device)) ^ b)  # [A, n], 32 bits
    return -torch.log(-torch.log((bits.double() + 0.5) * 2.0**-32))


def _sample_key(seed, prompt, number):
    """Two 32-bit words from everything that a sample may depend on."""
    text = f"{seed}:{number}:{','.join(map(str, prompt))}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")]


def _filter(scaled, top_p, top_k):
    """scaled [A, V] with -inf outside the top_k and, of what is left, outside the smallest set of tokens that holds mass top_p."""
    V = scaled.size(1)
    for width in sorted({min(top_k or 1024, V), min(top_k or V, V)}):  # a nucleus seldom holds more than 1,024 tokens: try before sorting V
        values, index = scaled.topk(width, dim=1)  # [A, width], descending
        mass = (values - (values if top_k else scaled).logsumexp(1, keepdim=True)).exp()
        before = mass.cumsum(1) - mass  # mass of the likelier tokens
        if width == V or top_k or bool((before[:, -1] >= top_p).all()):
            break
    keep = torch.where(before < top_p, values, -torch.inf)
    return torch.full_like(scaled, -torch.inf).scatter_(1, index, keep)


def sample(logits, keys, t, temperature, top_p=1.0, top_k=0):
    """One token per row: logits [A, V] (fp32, overwritten), keys [A, 2], t [A] -> token [A], log pi(token) at that temperature [A]."""
    A, V = logits.shape
    if temperature == 0:
        token = logits.argmax(1)
        return token, logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(1)
    scaled = logits.div_(temperature) if temperature != 1 else logits
    width = next((d for d in range(math.isqrt(V), math.isqrt(V) // 8, -1) if V % d == 0), math.isqrt(V) + 1)  # of a block
    blocks = scaled if top_p >= 1 and not top_k else _filter(scaled, top_p, top_k)
    if V % width:
        blocks = F.pad(blocks, (0, width - V % width), value=-torch.inf)
    blocks = blocks.view(A, -1, width)  # [A, V/width, width]
    mass = blocks.logsumexp(2)  # [A, V/width]
    lse = mass.logsumexp(1) if top_p >= 1 and not top_k else scaled.logsumexp(1)  # [A]
    block = (mass.double() + _gumbel(keys, t, mass.size(1), 0)).argmax(1)  # [A]
    inside = blocks[torch.arange(A, device=logits.device), block]  # [A, width]
    token = block * width + (inside.double() + _gumbel(keys, t, width, 1)).argmax(1)  # [A]
    return token, scaled.gather(1, token[:, None])[:, 0] - lse


# ---------------------------------------------------------------------------------------------------------------------------------
# The batch


def plan_slots(model, samples, capacity):
    """How many rows of `capacity` tokens to hold: all samples, at most 512, and no more than the memory set aside for keys and values."""
    c = model.config
    row = 2 * c.layers * c.Hkv * c.Dh * capacity * model.compute_dtype.itemsize  # bytes
    budget = torch.cuda.mem_get_info(model.device)[0] // 2 if model.device.type == "cuda" else CACHE_BYTES
    return max(1, min(samples, 512, budget // row))


@torch.no_grad()
def generate(model, prompts, *, samples_per_prompt=1, max_new_tokens, temperature=1.0, top_p=1.0, top_k=0, stop_ids, seed=0, slots=None,
             on_progress=None):
    """Sample responses: list of prompts (lists of ids) -> list of Rollout, prompt 0 sample 0, prompt 0 sample 1, ..., prompt 1 sample 0, ...

    temperature 0 is greedy; top_k 0 and top_p 1 are off (top_k first, then top_p of what is left). slots: rows decoded together (None: as many
    as memory is planned for). on_progress(samples done, samples in all, tokens so far) is called as samples end.
    A sample depends on (model, prompt, seed, its index among the samples of that prompt, the settings above) and on nothing else; a prompt
    that stands twice in the list gets different samples. Raises ValueError for an empty prompt, an id outside the vocabulary or a bad setting.
    """
    _check(model, prompts, samples_per_prompt, max_new_tokens, temperature, top_p, top_k, slots)
    if next(model.parameters()).dtype != model.compute_dtype:
        model = frozen_copy(model)  # cast the fp32 masters once, not once per token
    device = model.device
    seen, waiting = Counter(), deque()
    for p, prompt in enumerate(prompts):
        first = seen[tuple(prompt)]  # a repeated prompt goes on numbering where its twin stopped
        seen[tuple(prompt)] += samples_per_prompt
        waiting.extend((p, j, _sample_key(seed, prompt, first + j)) for j in range(samples_per_prompt))
    total, capacity = len(waiting), max(map(len, prompts), default=0) + max_new_tokens
    if not total:
        return []
    slots = min(slots or plan_slots(model, total, capacity), total)

    cache = KVCache(model, slots, capacity)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    keys = torch.zeros(slots, 2, dtype=torch.long, device=device)
    count = torch.zeros(slots, dtype=torch.long, device=device)  # tokens the row has sampled
    token = torch.zeros(slots, dtype=torch.long, device=device)  # the last of them
    done = torch.zeros(slots, dtype=torch.bool, device=device)  # its sample has ended
    tokens = torch.zeros(slots, max_new_tokens, dtype=torch.long, device=device)
    logps = torch.zeros(slots, max_new_tokens, device=device)
    owner = []  # (prompt, sample) of each row in use; rows 0 .. len(owner) - 1 are in use
    prefilled = {}  # prompt -> (its prefill's cache, row there, logits of its first token)
    out, finished, sampled = [None] * total, 0, 0

    def draw(rows, logits):
        """Sample each row's next token. A row whose sample has ended goes through the motions and changes nothing."""
        alive, at = ~done[rows], count[rows].clamp(max=max_new_tokens - 1)
        new, logp = sample(logits, keys[rows], at, temperature, top_p, top_k)
        tokens[rows, at] = torch.where(alive, new, tokens[rows, at])
        logps[rows, at] = torch.where(alive, logp.float(), logps[rows, at])
        token[rows] = new
        count[rows] += alive
        done[rows] |= (new[:, None] == stops).any(1) | (count[rows] == max_new_tokens)

    def admit(rows):
        """Give each of these rows the next waiting sample, and draw its first token."""
        logits = []
        for row in rows:
            p, j, key = waiting.popleft()
            if p not in prefilled:
                prefilled.update(_prefill(model, prompts, [p, *dict.fromkeys(q for q, _, _ in waiting if q not in prefilled and q != p)]))
            source, at, first = prefilled[p]
            P = len(prompts[p])
            cache.k[:, row, :, :P], cache.v[:, row, :, :P] = source.k[:, at, :, :P], source.v[:, at, :, :P]
            cache.lengths[row], count[row], done[row], keys[row] = P, 0, False, torch.tensor(key, device=device)
            logits.append(first)
            owner[row : row + 1] = [(p, j)]
            if not waiting or waiting[0][0] != p:
                del prefilled[p]  # its last sample is in
        draw(torch.tensor(rows, device=device), torch.stack(logits))

    def release(rows):
        """Hand out what the samples of these rows have become; refill the rows, or close the gaps from behind."""
        nonlocal finished, sampled
        for row in rows:
            (p, j), T = owner[row], int(count[row])
            ids = tokens[row, :T].tolist()
            out[p * samples_per_prompt + j] = Rollout(list(prompts[p]), ids, logps[row, :T].tolist(), ids[-1] in stop_ids)
            finished, sampled = finished + 1, sampled + T
        refill, gaps = rows[: len(waiting)], rows[len(waiting) :]
        for row in reversed(gaps):
            last = len(owner) - 1
            if row != last:
                used = slice(0, int(cache.lengths[last]))
                cache.k[:, row, :, used], cache.v[:, row, :, used] = cache.k[:, last, :, used], cache.v[:, last, :, used]
                for state in (cache.lengths, keys, count, token, done, tokens, logps):
                    state[row] = state[last]
                owner[row] = owner[last]
            owner.pop()
        if refill:
            admit(refill)

    def decode(A):
        """The next token of rows 0 .. A - 1: device work only, no row's fate is looked at."""
        hidden = model.hidden(token[:A, None], cache)[:, 0]  # [A, D]
        cache.lengths[:A] += ~done[:A]
        draw(torch.arange(A, device=device), model.head(hidden))

    admit(range(slots))
    while True:
        while ended := done[: len(owner)].nonzero()[:, 0].tolist():  # the one wait for the device
            release(ended)
            if on_progress is not None:
                on_progress(finished, total, sampled + int(count[: len(owner)].sum()))
        A = len(owner)
        if not A:
            return out
        cache.fill = int(cache.lengths[:A].max())
        decode(A)


def _prefill(model, prompts, wanted):
    """Run the first prompts of `wanted` (indices) together, up to PREFILL_TOKENS -> {index: (cache, row, logits [V] of the first token)}."""
    take, longest = [], 0
    for p in wanted:
        longest = max(longest, len(prompts[p]))
        if take and longest * (len(take) + 1) > PREFILL_TOKENS:
            break
        take.append(p)
    lengths = torch.tensor([len(prompts[p]) for p in take], device=model.device)  # [n]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompts[p]) for p in take], batch_first=True).to(model.device)  # [n, P]
    cache = KVCache(model, *padded.shape)
    hidden = model.hidden(padded, cache)  # [n, P, D]
    logits = model.head(hidden[torch.arange(len(take), device=model.device), lengths - 1])  # [n, V]
    return {p: (cache, row, logits[row]) for row, p in enumerate(take)}


def _check(model, prompts, samples_per_prompt, max_new_tokens, temperature, top_p, top_k, slots):
    for p, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {p} is empty; wanted at least one token (a BOS, say)")
        if min(prompt) < 0 or max(prompt) >= model.config.V:
            raise ValueError(f"prompt {p} holds an id outside the model's vocabulary of {model.config.V}")
    for name, value, least in (("samples_per_prompt", samples_per_prompt, 1), ("max_new_tokens", max_new_tokens, 1), ("top_k", top_k, 0),
                               ("slots", 1 if slots is None else slots, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; wanted {least} or more")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}; wanted 0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; wanted more than 0, at most 1")
