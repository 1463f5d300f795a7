"""Rollouts: prompts -> sampled responses, with the log-prob of every token.

    rollouts = generate(model, [[1, 2, 3]], samples_per_prompt=8, max_new_tokens=64, stop_ids=[0])

A token is drawn by the Gumbel-max rule. With one independent number u_v in (0, 1) per token v,

    argmax_v [log p_v + g_v]  has the distribution p,      g_v = -log(-log u_v)

It ties the choice to the two best scores, not to a sum over all V, so that rounding in the last bit
hardly ever changes the token. The noise is a hash of (seed, prompt, number of the sample, t), so a
sample depends on nothing else: not on the batch it is in, nor on the number of processes.

`generate_plain` is the obvious sampler: one batch, until the last row has ended. `generate` gives
the same ids with less work: a prompt is computed once for all its samples, and a row whose sample
has ended takes the next waiting sample (continuous batching).

A rows decoded together, V vocabulary, P tokens of a prompt, T of a response at most.
"""

import hashlib
import math
from collections import Counter, deque
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from lib.distributed import all_gather, partition, rank, world_size
from lib.fast import record_steps, sampling_copy
from lib.kv_cache import GroupCache, plan_rows
from model import KVCache

PREFILL_TOKENS = 4096  # prompts prefilled together, padding included: enough for full speed


class Rollout(NamedTuple):
    """One sample. Its stop token is part of it: it was chosen, so it is trained on."""

    prompt_ids: list  # ints
    response_ids: list  # ints
    logps: list  # floats: log pi of each token at the sampling temperature, before top-k and top-p
    finished: bool  # False: cut at max_new_tokens


# ---- Drawing a token -----------------------------------------------------------------------------


def _mix(x):
    """A hash of 32-bit numbers in int64; both factors are below 2^31, so no product overflows."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


def gumbel_noise(keys, t, n, stream):
    """g [A, n] (fp64) for token number t [A] of the samples with these keys [A, 2]; on every device
    the same. Different streams give unrelated noise."""
    first = _mix(keys[:, 0] + _mix(2 * t + stream))  # [A]
    second = _mix(keys[:, 1] ^ _mix(first + t))  # [A]
    counters = first[:, None] + torch.arange(n, device=keys.device)  # [A, n]
    bits = _mix(_mix(counters) ^ second[:, None])  # [A, n]
    u = (bits.double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log(u))


def gumbel_max(logits, noise):
    """One draw per row from softmax(logits): [A, n] and [A, n] -> [A]."""
    return (logits.double() + noise).argmax(1)


def keep_likely(logits, top_p, top_k):
    """logits [A, V], -inf outside the top_k likeliest and, of those, the fewest of mass top_p."""
    V = logits.size(1)
    most = min(top_k or V, V)
    # Mass top_p seldom takes more than 1,024 tokens: try that before sorting all V.
    width = most if top_k else min(1024, V)
    while True:
        values, index = logits.topk(width, dim=1)  # [A, width], descending
        left = values if top_k else logits
        mass = (values - left.logsumexp(1, keepdim=True)).exp()
        before = mass.cumsum(1) - mass  # the mass of the likelier tokens
        if width == most or bool((before[:, -1] >= top_p).all()):
            break
        width = most
    values = torch.where(before < top_p, values, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter_(1, index, values)


def draw(logits, keys, t, temperature, top_p=1.0, top_k=0):
    """One token per row: logits [A, V], keys [A, 2], t [A] -> token [A], log pi(token) [A].

    log pi is at this temperature, before top-p and top-k. Temperature 0 is greedy.

    V numbers of noise a token would be many. So the vocabulary is cut into about sqrt(V) blocks: a
    block is drawn by its mass, then a token in it, since p(v) = p(block of v) p(v | block of v).
    """
    A, V = logits.shape
    if temperature == 0:
        token = logits.argmax(1)
        return token, logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(1)
    if temperature != 1:
        logits = logits / temperature
    filtered = top_p < 1 or top_k > 0
    blocks = keep_likely(logits, top_p, top_k) if filtered else logits
    width = max(d for d in range(1, math.isqrt(V) + 1) if V % d == 0)  # of a block
    blocks = blocks.view(A, -1, width)  # [A, V / width, width]
    mass = blocks.logsumexp(2)  # [A, V / width]
    block = gumbel_max(mass, gumbel_noise(keys, t, mass.size(1), stream=0))  # [A]
    inside = blocks[torch.arange(A, device=logits.device), block]  # [A, width]
    token = block * width + gumbel_max(inside, gumbel_noise(keys, t, width, stream=1))  # [A]
    # The mass of all blocks is the mass of all tokens, unless some were filtered out.
    total = logits.logsumexp(1) if filtered else mass.logsumexp(1)  # [A]
    return token, logits.gather(1, token[:, None])[:, 0] - total


def _sample_keys(prompts, samples_per_prompt, seed):
    """Two 32-bit words a sample. A prompt that stands twice goes on numbering its samples."""
    seen, keys = Counter(), []
    for prompt in map(tuple, prompts):
        for _ in range(samples_per_prompt):
            text = f"{seed}:{seen[prompt]}:{','.join(map(str, prompt))}".encode()
            digest = hashlib.blake2b(text, digest_size=8).digest()
            keys.append([int.from_bytes(word, "little") for word in (digest[:4], digest[4:])])
            seen[prompt] += 1
    return keys


# ---- The plain sampler ---------------------------------------------------------------------------


def _padded(prompts, device):
    """Lists of ids -> [n, P], padded on the right, and their lengths [n]."""
    tokens = pad_sequence([torch.tensor(ids) for ids in prompts], batch_first=True)
    return tokens.to(device), torch.tensor([len(ids) for ids in prompts]).to(device)


@torch.no_grad()
def generate_plain(
    model, prompts, *, samples_per_prompt=1, max_new_tokens, temperature=1.0, top_p=1.0, top_k=0,
    stop_ids, seed=0,
):  # fmt: skip
    """What `generate` computes, the obvious way: one row a sample, all rows to the end."""
    rows = [prompt for prompt in prompts for _ in range(samples_per_prompt)]
    keys = torch.tensor(_sample_keys(prompts, samples_per_prompt, seed), device=model.device)
    tokens, lengths = _padded(rows, model.device)  # [B, P], [B]
    cache = KVCache(model, len(rows), tokens.size(1) + max_new_tokens)
    hidden = model.hidden(tokens, cache)  # [B, P, D]
    cache.lengths += lengths
    last = hidden[torch.arange(len(rows)), lengths - 1]  # [B, D]
    ids, logps = [[] for _ in rows], [[] for _ in rows]
    ended = [False] * len(rows)
    for t in range(max_new_tokens):
        step = torch.full_like(lengths, t)
        token, logp = draw(model.head(last), keys, step, temperature, top_p, top_k)  # [B] each
        for row, (v, lp) in enumerate(zip(token.tolist(), logp.tolist(), strict=True)):
            if not ended[row]:
                ids[row].append(v)
                logps[row].append(lp)
                ended[row] = v in stop_ids
        if all(ended):
            break
        last = model.hidden(token[:, None], cache)[:, 0]  # [B, D]
        cache.lengths += 1
    return [Rollout(*fields) for fields in zip(map(list, rows), ids, logps, ended, strict=True)]


# ---- Continuous batching -------------------------------------------------------------------------


class Scheduler:
    """Rows of a batch, each with a sample under way, and the samples that wait for a row.

    `admit` gives rows new samples, `step` draws a token for every row, `release` hands out what has
    ended. What a step reads and writes are tensors on the device, so that it can be recorded.
    """

    def __init__(self, model, prompts, samples_per_prompt, T, draw_settings, stop_ids, seed, slots):
        self.model = model = sampling_copy(model)
        self.prompts, self.samples_per_prompt, self.T = prompts, samples_per_prompt, T
        self.draw_settings = draw_settings  # temperature, top_p, top_k
        self.stop_ids = set(stop_ids)

        # The samples; sample i belongs to prompt i // S.
        self.keys_of = _sample_keys(prompts, samples_per_prompt, seed)
        self.waiting = deque(range(len(self.keys_of)))
        self.rollouts = [None] * len(self.keys_of)
        self.finished = 0  # samples that have ended
        self.drawn = 0  # tokens so far

        # The rows. Rows 0 .. len(owner) - 1 are in use; owner holds their samples.
        longest = max(map(len, prompts))
        A = plan_rows(model, len(self.keys_of), longest + T, slots)
        device = model.device
        self.stops = torch.tensor(sorted(self.stop_ids), dtype=torch.long, device=device)
        self.keys = torch.zeros(A, 2, dtype=torch.long, device=device)
        self.count = torch.zeros(A, dtype=torch.long, device=device)  # tokens drawn so far
        self.token = torch.zeros(A, dtype=torch.long, device=device)  # the last of them
        self.tokens = torch.zeros(A, T, dtype=torch.long, device=device)
        self.logps = torch.zeros(A, T, device=device)
        self.done = torch.zeros(A, dtype=torch.bool, device=device)  # its sample has ended
        self.rows, self.owner = A, []

        # The prompts of rows in use have slots in the cache.
        self.free = list(range(min(len(prompts), A + 1)))
        self.slot = {}  # prompt -> slot
        self.left = [samples_per_prompt] * len(prompts)  # samples of a prompt that have not ended
        self.prefilled = {}  # prompt -> its prefill, until its last sample has a row
        self.cache = GroupCache(model, A, len(self.free), longest, T, static_shapes(device))

    def draw(self, rows, logits):
        """Draw the next token of these rows [n] from logits [n, V], and note which samples end."""
        count = self.count[rows]
        token, logp = draw(logits, self.keys[rows], count, *self.draw_settings)
        column = count.clamp(max=self.T - 1)  # rows that only fill up a shape count on and on
        self.tokens[rows, column] = token
        self.logps[rows, column] = logp.float()
        self.token[rows] = token
        self.count[rows] = count + 1
        stopped = (token[:, None] == self.stops).any(1)
        self.done[rows] = stopped | (count + 1 >= self.T)

    def step(self):
        """One token for each row in use; nothing is read back from the device."""
        A = self.cache.A
        hidden = self.model.hidden(self.token[:A, None], self.cache)[:, 0]  # [A, D]
        self.cache.now += 1
        self.draw(torch.arange(A, device=hidden.device), self.model.head(hidden))

    def prefill(self):
        """Compute the next waiting prompts together, up to PREFILL_TOKENS of them."""
        take, longest = [], 0
        for sample in self.waiting:
            p = sample // self.samples_per_prompt
            if p in self.prefilled or p in take:
                continue
            longest = max(longest, len(self.prompts[p]))
            if take and longest * (len(take) + 1) > PREFILL_TOKENS:
                break
            take.append(p)
        tokens, lengths = _padded([self.prompts[p] for p in take], self.model.device)  # [n, P]
        cache = KVCache(self.model, *tokens.shape)
        hidden = self.model.hidden(tokens, cache)  # [n, P, D]
        rows = torch.arange(len(take), device=tokens.device)
        logits = self.model.head(hidden[rows, lengths - 1])  # [n, V]
        for row, p in enumerate(take):
            P = len(self.prompts[p])
            keys, values = cache.k[:, row, :, :P], cache.v[:, row, :, :P]
            self.prefilled[p] = keys, values, logits[row]

    def admit(self, rows):
        """Give each of these rows the next waiting sample, and draw its first token."""
        logits, keys = [], []
        for row in rows:
            p = self.waiting[0] // self.samples_per_prompt
            if p not in self.prefilled:
                self.prefill()
            prompt_k, prompt_v, first = self.prefilled[p]
            if p not in self.slot:
                self.slot[p] = min(self.free)
                self.free.remove(self.slot[p])
                self.cache.put_prompt(self.slot[p], prompt_k, prompt_v)
            sample = self.waiting.popleft()
            if not self.waiting or self.waiting[0] // self.samples_per_prompt != p:
                del self.prefilled[p]
            self.cache.begun[row] = self.cache.clock
            self.owner[row : row + 1] = [sample]
            keys.append(self.keys_of[sample])
            logits.append(first)
        rows = torch.tensor(rows, device=self.keys.device)
        self.keys[rows] = torch.tensor(keys, device=self.keys.device)
        self.count[rows] = 0
        self.draw(rows, torch.stack(logits))
        self.drawn += len(rows)

    def release(self, rows):
        """Hand out the samples of these rows, which have ended, and put the rows to use again."""
        for row in rows:
            sample, length = self.owner[row], int(self.count[row])
            p = sample // self.samples_per_prompt
            ids, logps = self.tokens[row, :length].tolist(), self.logps[row, :length].tolist()
            finished = ids[-1] in self.stop_ids
            self.rollouts[sample] = Rollout(list(self.prompts[p]), ids, logps, finished)
            self.finished += 1
            self.left[p] -= 1
            if not math.isfinite(sum(logps)):
                self.cache.clear_row(row)
            if not self.left[p]:
                self.free.append(self.slot.pop(p))
        refill = rows[: len(self.waiting)]
        for row in reversed(rows[len(refill) :]):
            self.close_gap(row)
        if refill:
            self.admit(refill)

    def close_gap(self, row):
        """The last row in use moves to this one, so that rows in use stay together."""
        last = len(self.owner) - 1
        if row != last:
            for state in (self.keys, self.count, self.token, self.done, self.tokens, self.logps):
                state[row] = state[last]
            self.owner[row] = self.owner[last]
            self.cache.move_row(last, row)
        self.owner.pop()


@torch.no_grad()
def generate(
    model, prompts, *, samples_per_prompt=1, max_new_tokens, temperature=1.0, top_p=1.0, top_k=0,
    stop_ids, seed=0, slots=None, on_progress=None,
):  # fmt: skip
    """Sample responses: prompts (lists of ids) -> Rollouts, all samples of prompt 0 first, ...

    temperature 0 is greedy. top_k 0 and top_p 1 are off; top_k goes first. slots: rows decoded
    together, None for as many as fit. on_progress(samples done, samples, tokens) is called at every
    step. ValueError for an empty prompt, an unknown id or a bad setting.
    """
    _check(model, prompts, samples_per_prompt, max_new_tokens, temperature, top_p, top_k, slots)
    if not prompts:
        return []
    settings = temperature, top_p, top_k
    batch = Scheduler(
        model, prompts, samples_per_prompt, max_new_tokens, settings, stop_ids, seed, slots
    )
    # Filters wait for the device, to see how many tokens they keep: no such step is recorded.
    recordable = temperature == 0 or (top_p == 1 and top_k == 0)
    run = record_steps(model.device) if recordable else lambda step, shapes: step()
    batch.admit(list(range(batch.rows)))
    changed = True
    while True:
        # The one wait for the device. A refilled row may end with its first token: look again.
        while ended := batch.done[: len(batch.owner)].nonzero()[:, 0].tolist():
            batch.release(ended)
            changed = True
        if on_progress is not None:
            on_progress(batch.finished, len(batch.rollouts), batch.drawn)
        if not batch.owner:
            return batch.rollouts
        if changed:
            batch.cache.arrange([batch.slot[s // samples_per_prompt] for s in batch.owner])
            changed = False
        run(batch.step, batch.cache.shapes())
        batch.cache.clock += 1
        batch.drawn += len(batch.owner)


def static_shapes(device):
    """Whether few shapes of a decode step should occur: where steps are recorded."""
    return device.type == "cuda"


def _check(model, prompts, samples_per_prompt, max_new_tokens, temperature, top_p, top_k, slots):
    for p, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {p} is empty; wanted at least one token (a BOS, say)")
        if min(prompt) < 0 or max(prompt) >= model.config.V:
            found = f"an id outside the model's vocabulary of {model.config.V}"
            raise ValueError(f"prompt {p} holds {found}")
    counts = {"samples_per_prompt": samples_per_prompt, "max_new_tokens": max_new_tokens}
    for name, value in (counts | {"slots": 1 if slots is None else slots}).items():
        if value < 1:
            raise ValueError(f"{name} is {value}; wanted 1 or more")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; wanted 0 (off) or more")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}; wanted 0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; wanted more than 0, at most 1")


# ---- Several processes ---------------------------------------------------------------------------


def generate_together(model, prompts, *, samples_per_prompt=1, **settings):
    """`generate` by all torchrun processes: each samples its part, and all get all rollouts.

    Equal prompts stay together, because generate numbers the samples of a prompt that stands twice.
    """
    places = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(i)
    twins = list(places.values())  # the numbers of equal prompts
    sizes = [len(prompts[numbers[0]]) * len(numbers) for numbers in twins]
    parts = [[i for j in part for i in twins[j]] for part in partition(sizes, world_size())]
    mine = [prompts[i] for i in parts[rank()]]
    rollouts = generate(model, mine, samples_per_prompt=samples_per_prompt, **settings)

    out = [None] * (len(prompts) * samples_per_prompt)
    for part, sampled in zip(parts, all_gather(rollouts), strict=True):
        sampled = iter(sampled)
        for i in part:
            for j in range(samples_per_prompt):
                out[i * samples_per_prompt + j] = Rollout(*next(sampled))
    return out
