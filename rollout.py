"""Rollouts: a batch of prompts x samples per prompt -> responses with the log-probs of their tokens.

The batch is a set of rows ("slots") of a static KV cache. Each prompt is prefilled once, and its keys and values are read in place by all its
samples; a row holds its sample's own tokens alone. All rows decode one token a step; when a sample ends the next waiting sample takes the
row; when none waits, the last row moves into the gap, so that no step computes a finished sample. Nothing is padded on the left.

Every sample has its own random numbers. Its key is a hash of (seed, prompt, number of the sample), the noise of its token t a hash of
(key, t): whoever else is in the batch, however many slots there are, in whatever order the prompts come, it draws the same. A token is drawn by
the Gumbel-max rule, which ties the choice to two scores and not to a sum over all V, so rounding in the last bit hardly ever flips it:

    argmax_v [log p_v + g_v] ~ p,   g_v = -log(-log u_v)

V draws per token are many, so the vocabulary is cut into about sqrt(V) blocks: first a block by its mass, then a token within it, which
takes 2 sqrt(V) draws and has the same distribution exactly:  p(v) = p(block of v) p(v | block of v).

On a CPU the weights are packed once for the many small products of decoding (model.sampling_copy); on CUDA a step's shapes are rounded up, so that it
can be recorded as a CUDA graph and replayed (`_recorder`).

    rollouts = generate(model, [[1, 2, 3]], samples_per_prompt=8, max_new_tokens=64, stop_ids=tokenizer.eos_ids)
"""

import hashlib
import math
import sys
import types
from collections import Counter, deque
from typing import NamedTuple

import torch
from torch.nn import functional as F

from model import KVCache, sampling_copy

PREFILL_TOKENS = 4096  # prompts are prefilled together up to this many tokens, padding included: enough to keep the matrix products busy
CACHE_BYTES = 2 << 30  # on the CPU; on CUDA half of what is free


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


def _products(a, b):
    """Batched a @ b of [n, i, j] and [n, j, k], sums never below fp32: attention scores rounded to bf16 would show as a sampler gap."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


class GroupCache:
    """Keys and values of a batch of samples: each prompt's once, in a place; each sample's own tokens in its row. The past of a decode step.

    With n samples a prompt, decoding reads a prompt's keys once a step, for n * H queries in one matrix product, and not n times.
    All rows share one clock: at step t everyone writes column t mod T, and row b reads the columns since the clock stood at begun[b].

    static: shapes are rounded up, so that few of them occur and a step can be recorded (CUDA graphs); what is too much is masked.
    """

    def __init__(self, model, rows, places, P, T, static):
        c, kind, device = model.config, {"dtype": model.compute_dtype, "device": model.device}, model.device
        self.k, self.v = (torch.zeros(c.layers, rows, c.Hkv, T, c.Dh, **kind) for _ in range(2))  # zeros: 0 * NaN would be NaN
        self.prompt_k, self.prompt_v = (torch.zeros(c.layers, places, c.Hkv, P, c.Dh, **kind) for _ in range(2))
        self.prompt_lengths = torch.zeros(places, dtype=torch.long, device=device)
        self.clock, self.begun, self.static = 0, [0] * rows, static  # on the host
        self.now = torch.zeros(1, dtype=torch.long, device=device)  # the clock again
        self.started, self.place, self.seat = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(3))
        self.members = {}  # [G * n] by (G, n): the rows of each place, padded with row 0

    def arrange(self, places):
        """Tell the place of the prompt of rows 0, 1, ...; to be called whenever a row changes hands."""
        A, rows_of = len(places), {}
        for row, g in enumerate(places):
            rows_of.setdefault(g, []).append(row)
        G, n = max(places) + 1, max(map(len, rows_of.values()))
        if self.static:
            G, n, A = len(self.prompt_lengths), 1 << (n - 1).bit_length(), min(1 << (A - 1).bit_length(), len(self.begun))
        rows = [row for g in range(G) for row in (rows_of.get(g, []) + [0] * n)[:n]]
        self.A, self.G, self.n, self.sorted = A, G, n, rows == list(range(A))
        for buffer, values in ((self.members.setdefault((G, n), torch.zeros_like(self.place[:1]).repeat(G * n)), rows),
                               (self.place, places), (self.started, self.begun[: len(places)]),
                               (self.seat, [g * n + rows_of[g].index(row) for row, g in enumerate(places)])):
            buffer[: len(values)] = torch.tensor(values, device=buffer.device)
        self.P = self.prompt_k.size(3) if self.static else int(self.prompt_lengths[self.place[:A]].max())
        self.oldest = min(self.begun[: len(places)])

    def shapes(self):
        """(rows, first and last column to read, ...): all that the shapes of the next step depend on."""
        T, lo, hi = self.k.size(3), 0, self.k.size(3)
        if self.oldest // T == self.clock // T:
            lo, hi = self.oldest % T, self.clock % T + 1
        if self.static:
            lo, hi = lo // 128 * 128, min(-(-hi // 128) * 128, T)
        self.lo, self.hi = lo, hi
        return self.A, lo, hi, self.G, self.n, self.sorted

    def begin(self, A, T):
        """Positions [A, 1] of the next token of the first A rows (T is 1)."""
        device, prompt, age = self.now.device, self.prompt_lengths[self.place[:A], None], self.now - self.started[:A, None]  # [A, 1] each
        self.column = self.now % self.k.size(3)
        other = (self.now - torch.arange(self.lo, self.hi, device=device)) % self.k.size(3) > age  # [A, S]: columns before this sample's time
        hidden = torch.cat((torch.arange(self.P, device=device) >= prompt, other), dim=1)  # [A, P+S]
        self.bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)[:, None, None]  # [A, 1, 1, P+S]
        return prompt + age

    def attend(self, layer, q, k, v):
        """Store k, v [A, Hkv, 1, Dh], let q [A, H, 1, Dh] read its prompt and its row -> [A, H, 1, Dh]. One softmax over both parts."""
        (A, Hkv, _, Dh), rep, G, n = k.shape, q.size(1) // k.size(1), self.G, self.n
        self.k[layer, :A].index_copy_(2, self.column, k)
        self.v[layer, :A].index_copy_(2, self.column, v)
        own_k, own_v = (cache[layer, :A, :, self.lo : self.hi].flatten(0, 1) for cache in (self.k, self.v))  # [A*Hkv, S, Dh]
        prompt_k, prompt_v = (cache[layer, :G, :, : self.P].flatten(0, 1) for cache in (self.prompt_k, self.prompt_v))  # [G*Hkv, P, Dh]

        def by_prompt(x):  # [A, Hkv, rep, .] -> [G*Hkv, n*rep, .]
            x = x if self.sorted else x.index_select(0, self.members[G, n])
            return x.reshape(G, n, Hkv, rep, -1).transpose(1, 2).reshape(G * Hkv, n * rep, -1)

        def by_row(x):  # and back
            x = x.view(G, Hkv, n, rep, -1).transpose(1, 2).reshape(G * n, Hkv, rep, -1)
            return x if self.sorted else x.index_select(0, self.seat[:A])

        q = q.view(A, Hkv, rep, Dh) * Dh**-0.5
        shared = by_row(_products(by_prompt(q), prompt_k.transpose(1, 2)))  # [A, Hkv, rep, P]
        own = _products(q.flatten(0, 1), own_k.transpose(1, 2)).view(A, Hkv, rep, -1)  # [A, Hkv, rep, S]
        weights = torch.cat((shared, own), dim=3).add_(self.bias).softmax(3).to(v.dtype)  # [A, Hkv, rep, P+S]
        read = by_row(by_prompt(weights[..., : self.P]) @ prompt_v)
        return (read + (weights[..., self.P :].flatten(0, 1) @ own_v).view(A, Hkv, rep, Dh)).reshape(A, -1, 1, Dh)


def plan_slots(model, samples, capacity, slots=None):
    """How many rows to decode together: all samples, at most 512, and no more than the memory set aside holds at `capacity` tokens a row.

    On CUDA that is half of what is free; `slots` asked for that need more than nine tenths of what is free raise torch.OutOfMemoryError.
    """
    c, cuda = model.config, model.device.type == "cuda"
    row = 2 * c.layers * c.Hkv * c.Dh * capacity * model.compute_dtype.itemsize  # bytes of keys and values
    if cuda:
        torch.cuda.empty_cache()  # what torch keeps for itself would not count as free
    budget = torch.cuda.mem_get_info(model.device)[0] // 2 if cuda else CACHE_BYTES
    if slots is None:
        return max(1, min(samples, 512, budget // row))
    if cuda and min(slots, samples) * row > 1.8 * budget:
        raise torch.OutOfMemoryError(
            f"--slots {slots}: {min(slots, samples) * row / 2**30:.1f} GiB of keys and values for {capacity} tokens a row, but only "
            f"{2 * budget / 2**30:.1f} GiB are free; wanted at most {budget // row} slots, or a smaller --max-new-tokens")
    return min(slots, samples)


@torch.no_grad()
def generate(model, prompts, *, samples_per_prompt=1, max_new_tokens, temperature=1.0, top_p=1.0, top_k=0, stop_ids, seed=0, slots=None,
             on_progress=None):
    """Sample responses: list of prompts (lists of ids) -> list of Rollout, prompt 0 sample 0, prompt 0 sample 1, ..., prompt 1 sample 0, ...

    temperature 0 is greedy; top_k 0 and top_p 1 are off (top_k first, then top_p of what is left). slots: rows decoded together (None: as many
    as memory is planned for). on_progress(samples done, samples in all, tokens so far) is called at every step.
    A sample depends on (model, prompt, seed, its index among the samples of that prompt, the settings above) and on nothing else; a prompt
    that stands twice in the list gets different samples. Raises ValueError for an empty prompt, an id outside the vocabulary or a bad setting.
    """
    _check(model, prompts, samples_per_prompt, max_new_tokens, temperature, top_p, top_k, slots)
    model = sampling_copy(model)
    device = model.device
    seen, waiting = Counter(), deque()
    for p, prompt in enumerate(prompts):
        first = seen[tuple(prompt)]  # a repeated prompt goes on numbering where its twin stopped
        seen[tuple(prompt)] += samples_per_prompt
        waiting.extend((p, j, _sample_key(seed, prompt, first + j)) for j in range(samples_per_prompt))
    total, longest = len(waiting), max(map(len, prompts), default=0)
    if not total:
        return []
    slots = plan_slots(model, total, longest + max_new_tokens, slots)

    free = list(range(min(len(prompts), slots + 1)))  # places for prompts
    cache = GroupCache(model, slots, len(free), longest, max_new_tokens, static_shapes(device))
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    keys = torch.zeros(slots, 2, dtype=torch.long, device=device)
    count = torch.zeros(slots, dtype=torch.long, device=device)  # tokens the row has sampled
    token = torch.zeros(slots, dtype=torch.long, device=device)  # the last of them
    done = torch.zeros(slots, dtype=torch.bool, device=device)  # its sample has ended
    tokens = torch.zeros(slots, max_new_tokens, dtype=torch.long, device=device)
    logps = torch.zeros(slots, max_new_tokens, device=device)
    owner = []  # (prompt, sample) of each row in use; rows 0 .. len(owner) - 1 are in use
    prefilled = {}  # prompt -> (its prefill's cache, row there, logits of its first token), until its last sample is in
    place, unfinished = {}, [samples_per_prompt] * len(prompts)
    out, finished, sampled = [None] * total, 0, 0  # sampled: tokens so far, those of unfinished samples included

    def draw(rows, logits):
        """Sample each row's next token; note which samples end with it."""
        new, logp = sample(logits, keys[rows], count[rows], temperature, top_p, top_k)
        at = count[rows].clamp(max=max_new_tokens - 1)  # rows that only fill a static shape go on counting
        tokens[rows, at], logps[rows, at], token[rows] = new, logp.float(), new
        count[rows] += 1
        done[rows] = (new[:, None] == stops).any(1) | (count[rows] >= max_new_tokens)

    def step():
        """One token for each row in use: tensors alone, nothing read back, so that it can be recorded."""
        A = cache.A
        hidden = model.hidden(token[:A, None], cache)[:, 0]  # [A, D]
        cache.now += 1
        draw(torch.arange(A, device=device), model.head(hidden))

    def admit(rows):
        """Give each of these rows the next waiting sample, and draw its first token."""
        logits = []
        for row in rows:
            p, j, key = waiting.popleft()
            if p not in prefilled:
                prefilled.update(_prefill(model, prompts, [p, *dict.fromkeys(q for q, _, _ in waiting if q not in prefilled and q != p)]))
            source, at, first = prefilled[p]
            if p not in place:
                place[p], P = free.pop(free.index(min(free))), len(prompts[p])
                cache.prompt_k[:, place[p], :, :P], cache.prompt_v[:, place[p], :, :P] = source.k[:, at, :, :P], source.v[:, at, :, :P]
                cache.prompt_lengths[place[p]] = P
            cache.begun[row], count[row], keys[row] = cache.clock, 0, torch.tensor(key, device=device)
            logits.append(first)
            owner[row : row + 1] = [(p, j)]
            if not waiting or waiting[0][0] != p:
                del prefilled[p]
        draw(torch.tensor(rows, device=device), torch.stack(logits))

    def release(rows):
        """Hand out what the samples of these rows have become; refill the rows, or close the gaps from behind."""
        nonlocal finished
        for row in rows:
            (p, j), T = owner[row], int(count[row])
            ids = tokens[row, :T].tolist()
            out[p * samples_per_prompt + j] = Rollout(list(prompts[p]), ids, logps[row, :T].tolist(), ids[-1] in stop_ids)
            finished, unfinished[p] = finished + 1, unfinished[p] - 1
            if not unfinished[p]:
                free.append(place.pop(p))
        refill, gaps = rows[: len(waiting)], rows[len(waiting) :]
        for row in reversed(gaps):
            last = len(owner) - 1
            if row != last:
                for state in (*cache.k, *cache.v, keys, count, token, done, tokens, logps):
                    state[row] = state[last]
                owner[row], cache.begun[row] = owner[last], cache.begun[last]
            owner.pop()
        if refill:
            admit(refill)

    admit(list(range(slots)))
    run = _recorder(device) if temperature == 0 or (top_p >= 1 and not top_k) else lambda step, shapes: step()  # filters wait for the device
    sampled, changed = slots, True
    while True:
        while ended := done[: len(owner)].nonzero()[:, 0].tolist():  # the step's one wait for the device
            sampled += min(len(ended), len(waiting))
            release(ended)
            changed = True
        if on_progress is not None:
            on_progress(finished, total, sampled)
        if not owner:
            return out
        if changed:
            cache.arrange([place[p] for p, _ in owner])
            changed = False
        run(step, cache.shapes())
        cache.clock += 1
        sampled += len(owner)


def static_shapes(device):
    """Whether a decode step's shapes are to be few: where it is recorded and replayed."""
    return device.type == "cuda"


def _recorder(device):
    """-> run(step, shapes), which calls `step`; on CUDA it records it when its shapes come up again, and from then on replays the record.

    A record (CUDA graph) holds the very kernels of the eager step, so ids are the same; it saves launching some thousand of them a token,
    which takes longer than what they compute. If recording fails (no memory to spare, say), eager steps go on.
    """
    graphs, seen, pool = {}, set(), None

    def run(step, shapes):
        nonlocal pool
        if shapes in graphs:
            return graphs[shapes].replay()
        if device.type != "cuda" or shapes not in seen:  # the first time eager: kernels are chosen and loaded then
            seen.add(shapes)
            return step()
        graph, pool = torch.cuda.CUDAGraph(), pool or torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=pool):
                step()
        except RuntimeError as e:
            print(f"  sampling goes on without CUDA graphs ({str(e).splitlines()[0]})", file=sys.stderr)
            graphs[shapes] = types.SimpleNamespace(replay=step)
        else:
            graphs[shapes] = graph
        return graphs[shapes].replay()

    return run


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
