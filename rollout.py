"""Rollouts: prompts -> sampled responses, with the log-prob of every token.

    rollouts = generate(model, [[1, 2, 3]], samples_per_prompt=8, max_new_tokens=64, stop_ids=[0])

A token is drawn by the Gumbel-max rule. With one independent number u_v in (0, 1) per token v,

    argmax_v [log p_v + g_v]  has the distribution p,      g_v = -log(-log u_v)

It ties the choice to the two best scores, so that rounding hardly ever changes the token. The noise
is a hash of (seed, prompt, number of the sample, t), so a sample depends on nothing else: not on
its batch, nor on the number of processes. The draw itself is in lib/sampling.py.

`generate_plain` is the obvious sampler: one batch, until the last row has ended. `generate` gives
the same ids with less work: a prompt is computed once for all its samples, and a row whose sample
has ended takes the next waiting sample (continuous batching). Where memory for T tokens a row would
make few rows, samples are decoded in passes, each to a greater length; see lib/kv_cache.py.

A rows decoded together, V vocabulary, P tokens of a prompt, T of a response at most.
"""

import functools
import math
from collections import deque
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from lib.decoding import decoder, record_steps, static_shapes
from lib.distributed import map_prompts
from lib.fast import sampling_copy
from lib.kv_cache import GroupCache, plan_length, plan_rows
from lib.sampling import NoiseAhead, check_settings, draw, sample_keys, token_noise
from model import KVCache

PREFILL_TOKENS = 4096  # prompts prefilled together, padding included: enough for full speed
NUCLEUS = 1024  # top-p is first looked for among so many tokens; it seldom takes more


class Rollout(NamedTuple):
    """One sample. Its stop token is part of it: it was chosen, so it is trained on."""

    prompt_ids: list  # ints
    response_ids: list  # ints
    logps: list  # floats: log pi of each token at the sampling temperature, before top-k and top-p
    finished: bool  # False: cut at max_new_tokens


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
    keys = torch.tensor(sample_keys(prompts, samples_per_prompt, seed), device=model.device)
    tokens, lengths = _padded(rows, model.device)  # [B, P], [B]
    cache = KVCache(model, len(rows), tokens.size(1) + max_new_tokens)
    hidden = model.hidden(tokens, cache)  # [B, P, D]
    cache.lengths += lengths
    last = hidden[torch.arange(len(rows)), lengths - 1]  # [B, D]
    ids, logps = [[] for _ in rows], [[] for _ in rows]
    ended = [False] * len(rows)
    for t in range(max_new_tokens):
        noise = token_noise(keys, torch.full_like(lengths, t), model.config.V)
        token, logp, _ = draw(model.head(last), noise, temperature, top_p, top_k)  # [B] each
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

    def __init__(self, sampler, rollouts, S, keys, begun, end, last, settings, stop_ids, slots):
        """sampler: a sampling_copy and its decoder. rollouts: S for each prompt, whose responses
        have `begun` tokens and are to get `end`; last: and no more."""
        self.model, self.decode = model, _ = sampler
        self.begun, self.last, self.T = begun, last, end - begun
        self.draw_settings = settings  # temperature, top_p, top_k
        self.stop_ids = set(stop_ids)

        # The samples; sample i goes on from prompt i // S.
        self.rollouts, self.samples_per_prompt, self.keys_of = rollouts, S, keys
        self.prompts = prompts = [r.prompt_ids + r.response_ids for r in rollouts[::S]]
        self.waiting = deque(range(len(rollouts)))
        self.finished = self.drawn = 0  # samples that have ended for good; tokens so far

        # The rows. Rows 0 .. len(owner) - 1 are in use; owner holds their samples.
        longest = max(map(len, prompts))
        A = plan_rows(model, len(rollouts), longest + self.T, slots)
        T, V, whole = self.T, model.config.V, {"dtype": torch.long, "device": model.device}
        static = static_shapes(model.device)
        self.stops = torch.zeros(V, dtype=torch.bool, device=model.device)
        self.stops[[v for v in self.stop_ids if 0 <= v < V]] = True
        self.keys = torch.zeros(A, 2, **whole)
        self.count = torch.zeros(A, **whole)  # tokens drawn so far
        self.token = torch.zeros(A, **whole)  # the last of them
        self.tokens = torch.zeros(A, T, **whole)
        self.logps = torch.zeros(A, T, device=model.device)
        # Of each row: its sample has ended; its last draw is not sure.
        self.state = torch.zeros(A, 2, dtype=torch.bool, device=model.device)
        self.rows, self.owner, self.every = A, [], torch.arange(A, **whole)
        self.noise = NoiseAhead(self.keys, V, static, settings[0] == 0)

        # The prompts of rows in use lie in the first slots of the cache.
        self.slot = {}  # prompt -> slot
        self.left = [S] * len(prompts)  # samples of a prompt that have not ended
        self.prefilled = {}  # prompt -> its prefill, until its last sample has a row
        self.cache = GroupCache(model, A, min(len(prompts), A + 1), longest, T, static)

    def draw(self, rows, logits, noise, width=None):
        """Draw the next token of these rows, a slice or numbers [n], from logits [n, V], and note
        which samples end."""
        token, logp, sure = draw(logits, noise, *self.draw_settings, width)
        count = self.count[rows]
        index = self.every[rows], count
        self.tokens[index] = token
        self.logps[index] = logp.float()
        self.token[rows] = token
        self.count[rows] = count = count + 1
        self.state[rows, 0] = self.stops[token] | (count >= self.T)
        if sure is not None:
            self.state[rows, 1] = ~sure

    def step(self, sure=False):
        """One token for each row in use; nothing is read back from the device."""
        A = self.cache.A
        noise = self.noise.at(self.cache.now, A)
        hidden = self.decode(self.token[:A], self.cache)  # [A, D]
        self.cache.now += 1
        self.draw(slice(0, A), self.model.head(hidden), noise, None if sure else NUCLEUS)

    def repeat_step(self):
        """The last step again, where a draw was not sure: from all of the vocabulary."""
        rows = self.every[: self.cache.A]
        self.cache.now -= 1
        self.count[rows] -= 1
        self.token[rows] = self.tokens[rows, self.count[rows] - 1]
        self.state[rows, 1] = False
        self.step(sure=True)

    def ended(self):
        """The rows in use whose samples have ended, once all draws are sure."""
        while True:
            state = self.state[: len(self.owner)].tolist()
            if not any(unsure for _, unsure in state):
                break
            self.repeat_step()
        # T tokens end a sample whatever the device says: a replay that does nothing must end too.
        begun, full = self.cache.begun, self.cache.clock + 1 - self.T
        return [row for row, (done, _) in enumerate(state) if done or begun[row] <= full]

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
                self.slot[p] = len(self.slot)
                self.cache.put_prompt(self.slot[p], prompt_k, prompt_v)
            sample = self.waiting.popleft()
            if not self.waiting or self.waiting[0] // self.samples_per_prompt != p:
                del self.prefilled[p]
            self.cache.begun[row] = self.cache.clock
            self.owner[row : row + 1] = [sample]
            keys.append(self.keys_of[sample])
            logits.append(first)
        rows = torch.tensor(rows, device=self.keys.device)
        self.keys[rows] = keys = torch.tensor(keys, device=self.keys.device)
        self.count[rows] = 0
        noise = token_noise(keys, self.begun + self.count[rows], self.model.config.V)
        self.draw(rows, torch.stack(logits), noise)
        self.state[rows, 1] = False
        if self.cache.clock % self.noise.ahead:  # else all rows get new noise before the next step
            self.noise.make(rows, self.begun + self.count[rows], self.cache.clock)
        self.drawn += len(rows)

    def release(self, rows):
        """Hand out the samples of these rows, which have ended, and put the rows to use again."""
        index = torch.tensor(rows, device=self.tokens.device)
        most = self.cache.clock + 1 - min(self.cache.begun[row] for row in rows)
        tokens, all_logps = self.tokens[index, :most].tolist(), self.logps[index, :most].tolist()
        for i, row in enumerate(rows):
            sample, length = self.owner[row], self.cache.clock - self.cache.begun[row] + 1
            p = sample // self.samples_per_prompt
            ids, logps = tokens[i][:length], all_logps[i][:length]
            finished = ids[-1] in self.stop_ids
            prompt, before, logps_before, _ = self.rollouts[sample]
            self.rollouts[sample] = Rollout(prompt, before + ids, logps_before + logps, finished)
            self.finished += finished or self.last
            self.left[p] -= 1
            if not math.isfinite(sum(logps)):
                self.cache.clear_row(row)
            if not self.left[p]:
                self.drop_prompt(p)
        refill = rows[: len(self.waiting)]
        for row in reversed(rows[len(refill) :]):
            self.close_gap(row)
        if refill:
            self.admit(refill)

    def drop_prompt(self, p):
        """No sample needs prompt p any more: the prompt of the last slot takes its slot."""
        last, slot = max(self.slot, key=self.slot.get), self.slot.pop(p)
        if last != p:
            self.cache.move_prompt(self.slot[last], slot)
            self.slot[last] = slot

    def close_gap(self, row):
        """The last row in use moves to this one, so that rows in use stay together."""
        last = len(self.owner) - 1
        if row != last:
            of_rows = self.keys, self.count, self.token, self.tokens, self.logps, self.state
            for tensor in (*of_rows, self.noise.noise):
                tensor[row] = tensor[last]
            self.owner[row] = self.owner[last]
            self.cache.move_row(last, row)
        self.owner.pop()

    def complete(self, look):
        """Decode all samples -> Rollouts. look(samples finished, tokens drawn) at every step."""
        run = record_steps(self.model.device)
        self.admit(list(range(self.rows)))
        changed = True
        while True:
            # The one wait for the device. A refilled row may end with its first token: look again.
            while ended := self.ended():
                self.release(ended)
                changed = True
            look(self.finished, self.drawn)
            if not self.owner:
                return self.rollouts
            if changed:
                self.cache.arrange([self.slot[s // self.samples_per_prompt] for s in self.owner])
                # Rows not in use count on. The next row ends before they reach T.
                self.count[len(self.owner) :] = 0
                changed = False
            if self.cache.clock % self.noise.ahead == 0:
                rows = slice(0, len(self.owner))
                self.noise.make(rows, self.begun + self.count[rows], self.cache.clock)
            run(self.step, self.cache.shapes())
            self.cache.clock += 1
            self.drawn += len(self.owner)


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
    settings, S, T = (temperature, top_p, top_k), samples_per_prompt, max_new_tokens
    check_settings(model, prompts, S, T, *settings, slots)
    keys = sample_keys(prompts, S, seed)
    rollouts = [Rollout(list(prompt), [], [], False) for prompt in prompts for _ in range(S)]
    longest = max(map(len, prompts), default=0)
    model = sampling_copy(model)
    sampler = model, decoder(model)
    going, begun = list(range(len(rollouts))), 0  # samples not ended, and tokens that each has
    while going:
        end = plan_length(model, len(going), longest, begun, T, slots)
        done, before = len(rollouts) - len(going), sum(len(r.response_ids) for r in rollouts)

        def look(finished, drawn, done=done, before=before):
            if on_progress is not None:
                on_progress(done + finished, len(rollouts), before + drawn)

        # The batch has no name: its memory is free again when the next one is planned.
        longer = Scheduler(
            sampler, [rollouts[i] for i in going], S, [keys[i] for i in going],
            begun, end, end == T, settings, stop_ids, slots,
        ).complete(look)  # fmt: skip
        for i, rollout in zip(going, longer, strict=True):
            rollouts[i] = rollout
        # What goes on is a prompt of its own now; those of about one length go side by side.
        going = [i for i in going if end < T and not rollouts[i].finished]
        going.sort(key=lambda i: len(rollouts[i].prompt_ids))
        begun, S = end, 1
    return rollouts


# ---- Several processes ---------------------------------------------------------------------------


def generate_together(model, prompts, *, samples_per_prompt=1, **settings):
    """`generate` by all torchrun processes: each samples its part, and all get all rollouts.

    Equal prompts stay together, because generate numbers the samples of a prompt that stands twice.
    """
    sample = functools.partial(generate, model, samples_per_prompt=samples_per_prompt, **settings)
    return [Rollout(*fields) for fields in map_prompts(sample, prompts, samples_per_prompt)]
