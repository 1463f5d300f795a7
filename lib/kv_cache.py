"""Caches of keys and values in which many responses share one prompt.

    SharedPrompts   for scoring and the update, with gradient: prompts first, then all the responses
    GroupCache      for sampling: each prompt's keys once, each sample's own keys in its row
    plan_length     how far to decode before the memory is dealt out again
    plan_rows       how many samples to decode together

Both caches are handed to model.hidden and have the two methods it needs: `start(B, T)` gives the
positions of the next tokens, `attend(layer, q, k, v)` stores their keys and lets their queries read
the past. The plain one is KVCache in model.py, which the tests hold these against.

B rows, T new tokens, H query heads, Hkv key heads, Dh their width, P prompt tokens, G prompts.
"""

import torch
from torch.nn import functional as F

CPU_CACHE_BYTES = 2 << 30  # for keys and values on a CPU; on CUDA half of what is free
CPU_ROWS = 32  # a CPU is not faster with more rows than that
SHORT = 400  # tokens: the first of several passes ends before this length, see plan_length


class SharedPrompts:
    """Keys and values of prompts, computed once, with gradient where it is on.

    cache = SharedPrompts(model)
    model.hidden(prompts [G, P], cache)       # records
    cache.share(lengths [G], owner [B])       # response b goes on from prompt owner[b]
    model.hidden(responses [B, T], cache)     # as if each response had its own prompt
    """

    def __init__(self, model):
        c = model.config
        self.rep = c.H // c.Hkv  # queries that share a key head
        self.dtype, self.device = model.compute_dtype, model.device
        self.k, self.v = [], []  # per layer, [G, Hkv, P, Dh]
        self.owner = None

    def share(self, lengths, owner):
        """From now on response b follows the first lengths[owner[b]] tokens of prompt owner[b]."""
        self.lengths, self.owner = lengths[owner], owner  # [B] each

    def start(self, B, T):
        """Positions of the next T tokens: [1, T] of prompts, [B, T] of responses."""
        steps = torch.arange(T, device=self.device)
        if self.owner is None:
            return steps[None]
        P = self.k[0].size(2) if self.k else 0
        in_prompt = torch.arange(P, device=self.device) < self.lengths[:, None]  # [B, P]
        causal = steps <= steps[:, None]  # [T, T]
        seen = torch.cat((in_prompt[:, None].expand(B, T, P), causal.expand(B, T, T)), dim=2)
        # The queries of a key head stand one after another in time (see attend), so that the
        # keys need not be copied for each of them, nor the copies kept for the backward pass.
        bias = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        bias = bias.masked_fill_(~seen, -torch.inf)
        self.bias = bias.repeat(1, self.rep, 1)[:, None]  # [B, 1, rep * T, P + T]
        return self.lengths[:, None] + steps

    def attend(self, layer, q, k, v):
        """q [B, H, T, Dh] reads k, v [B, Hkv, T, Dh] and, in responses, the prompt -> like q."""
        B, H, T, Dh = q.shape
        if self.owner is None:
            self.k.append(k)
            self.v.append(v)
            grouped = self.rep > 1
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        if self.k:
            k = torch.cat((self.k[layer][self.owner], k), dim=2)  # [B, Hkv, P + T, Dh]
            v = torch.cat((self.v[layer][self.owner], v), dim=2)
        q = q.reshape(B, H // self.rep, self.rep * T, Dh)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return read.reshape(B, H, T, Dh)


def _wide_bmm(a, b, out=None):
    """a @ b of [n, i, j] and [n, j, k], in fp32 at least.

    Attention scores rounded to bf16 would show as a gap between sampler and trainer.
    """
    if a.dtype in (torch.float32, torch.float64):
        return torch.bmm(a, b, out=out)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32, out=out)
    return torch.bmm(a.float(), b.float(), out=out)


def _round_up(n, digits):
    """The least number from n on that has, in binary, no ones after its first `digits` digits.

    >>> [_round_up(n, 1) for n in (3, 9, 33)], [_round_up(n, 3) for n in (3, 9, 33)]
    ([4, 16, 64], [3, 10, 40])
    """
    step = 1 << max(0, n.bit_length() - digits)
    return -(-n // step) * step


class GroupCache:
    """The past of a decode step: rows that each go on with a sample, in groups that share a prompt.

    With n samples of a prompt, a step reads the prompt's keys once for all n, in one product. A
    sample's own keys lie in its row, a ring of T columns. All rows share one clock: at time t every
    row writes column t mod T, and a row reads the columns since the time that it began.

    static: shapes are rounded up so that few of them occur, for steps that are recorded as CUDA
    graphs. Rows and columns too many are computed, and nobody looks at them. What a recorded step
    reads must stay where it is: `arrange` writes into tensors that are made once.
    """

    def __init__(self, model, rows, slots, P, T, static):
        """rows: samples at a time; slots: prompts at a time, of P tokens at most; T new tokens."""
        c, device = model.config, model.device
        if static:  # products are faster where rows of numbers begin at multiples of 16 bytes
            P, T = -(-P // 8) * 8, -(-T // 8) * 8
        kind, whole = {"dtype": model.compute_dtype, "device": device}, {"device": device}
        # Zeros, not empty: what is not seen has weight 0, but 0 * NaN would still be NaN.
        self.kv = torch.zeros(c.layers, 2, rows, c.Hkv, T, c.Dh, **kind)
        self.k, self.v = self.kv.unbind(1)
        self.prompt_k = torch.zeros(c.layers, slots, c.Hkv, P, c.Dh, **kind)
        self.prompt_v = torch.zeros_like(self.prompt_k)
        self.lengths = [0] * slots  # of the prompts
        self.static, self.Hkv, self.scale = static, c.Hkv, c.Dh**-0.5
        # The clock, and when each row began, on the host and again on the device.
        self.clock, self.begun = 0, [0] * rows
        self.now = torch.zeros(1, dtype=torch.long, **whole)
        self.began = torch.zeros(rows, 1, dtype=torch.long, **whole)
        self.offset = torch.zeros(rows, 1, dtype=torch.long, **whole)  # position of a token - now
        self.written = torch.full((T,), -1, **whole)  # the time at which each column was written
        # Added to the scores: 0 where a row looks, minus infinity where it does not.
        self.seen, self.unseen = torch.zeros((), **whole), torch.full((), -torch.inf, **whole)
        self.prompt_bias = torch.zeros(rows, P, **whole)
        # For G slots of n rows: by_prompt lists the heads of each slot's rows, filled up with those
        # of row 0; by_row says where in that list each row's heads stand. A list for every (G, n),
        # since recorded steps read the very tensor they were recorded with.
        self.by_prompt = {}
        self.by_row = torch.zeros(rows, c.Hkv, dtype=torch.long, **whole)
        self.heads = torch.arange(c.Hkv, **whole)

    def put_prompt(self, slot, k, v):
        """Keep a prompt's keys and values, [layers, Hkv, P, Dh] each.

        Zeros follow them: what a longer prompt has left there may be NaN.
        """
        P = k.size(2)
        self.prompt_k[:, slot, :, :P], self.prompt_v[:, slot, :, :P] = k, v
        self.prompt_k[:, slot, :, P:], self.prompt_v[:, slot, :, P:] = 0, 0
        self.lengths[slot] = P

    def move_prompt(self, source, target):
        """The prompt of slot `source` is in slot `target` now."""
        for kept in (self.prompt_k, self.prompt_v):
            kept[:, target] = kept[:, source]
        self.lengths[target] = self.lengths[source]

    def move_row(self, source, target):
        """The sample of row `source` goes on in row `target`."""
        self.kv[:, :, target] = self.kv[:, :, source]
        self.begun[target] = self.begun[source]

    def clear_row(self, row):
        """Wipe what a sample that went wrong has left: a NaN would reach whoever comes next."""
        self.kv[:, :, row] = 0

    def arrange(self, slots):
        """Tell the prompt slot of rows 0, 1, ..., A - 1; to be called when a row changes hands."""
        A, rows_of = len(slots), {}
        for row, slot in enumerate(slots):
            rows_of.setdefault(slot, []).append(row)
        G, n = max(slots) + 1, max(map(len, rows_of.values()))
        self.P = max(self.lengths[slot] for slot in slots)
        if self.static:
            # In a long pass a shape lasts, so that more of them pay.
            digits = 3 if self.k.size(3) >= 256 else 1
            A = min(_round_up(A, digits), len(self.begun))
            G, n = min(_round_up(G, digits), len(self.lengths)), _round_up(n, 1)
            self.P = min(-(-self.P // 64) * 64, self.prompt_k.size(3))
        members, place = [], [0] * A
        for slot in range(G):
            rows = rows_of.get(slot, [])
            for i, row in enumerate(rows):
                place[row] = slot * self.Hkv * n + i
            members += rows + [0] * (n - len(rows))
        # Rows that only fill up a static shape read what row 0 reads: their place must exist.
        idle = A - len(slots)
        began = [*self.begun[: len(slots)], *[self.clock] * idle]
        lengths = [self.lengths[slot] for slot in [*slots, *slots[:1] * idle]]
        # One copy to the device for all of it: each copy waits until the device has got there.
        parts = torch.tensor([*members, *place, *began, *lengths], device=self.now.device)
        members, place, began, lengths = parts.split([G * n, A, A, A])
        fresh = torch.zeros(G * self.Hkv * n, dtype=torch.long, device=self.now.device)
        buffer = self.by_prompt.setdefault((G, n), fresh)
        heads = members.view(G, 1, n) * self.Hkv + self.heads[:, None]  # [G, Hkv, n]
        buffer.copy_(heads.flatten())
        self.by_row[:A] = place[:, None] + self.heads * n
        self.began[:A, 0], self.offset[:A, 0] = began, lengths - began
        columns = torch.arange(self.P, device=self.now.device)
        hidden = columns >= lengths[:, None]  # [A, P]
        self.prompt_bias[:A, : self.P] = torch.where(hidden, self.unseen, self.seen)
        self.A, self.G, self.n = A, G, n
        self.oldest = min(self.begun[: len(slots)])

    def shapes(self):
        """All that the shapes of the next step depend on, the columns [lo, hi) to read among it."""
        T, lo, hi = self.k.size(3), 0, self.k.size(3)
        if self.oldest // T == self.clock // T:  # the ring has not come round since
            lo, hi = self.oldest % T, self.clock % T + 1
        if self.static:
            lo, hi = lo // 64 * 64, min(-(-hi // 64) * 64, T)
        self.lo, self.hi = lo, hi
        return self.A, lo, hi, self.G, self.n, self.P

    def start(self, A, T):
        """Positions [A, 1] of the next token of the first A rows; T is 1."""
        self.column = self.now % self.k.size(3)
        self.written.index_copy_(0, self.column, self.now)
        before = self.written[self.lo : self.hi] < self.began[:A]  # [A, S]: by an earlier sample
        own = torch.where(before, self.unseen, self.seen)
        bias = torch.cat((self.prompt_bias[:A, : self.P], own), dim=1)
        self.bias = bias[:, None, None]  # [A, 1, 1, P + S]
        return self.now + self.offset[:A]

    def attend(self, layer, q, k, v):
        """Store k, v [A, Hkv, 1, Dh]; q [A, H, 1, Dh] reads its prompt and its row -> like q."""
        A, H, _, Dh = q.shape
        self.k[layer, :A].index_copy_(2, self.column, k)
        self.v[layer, :A].index_copy_(2, self.column, v)
        return self.read(layer, q.view(A, self.Hkv, -1, Dh)).view(A, H, 1, Dh)

    def store(self, layer, kv):
        """Keys and values [2, A, Hkv, 1, Dh] together."""
        self.kv[layer, :, : kv.size(1)].index_copy_(3, self.column, kv)

    def read(self, layer, q):
        """What the queries q [A, Hkv, rep, Dh] read in their prompt and in their row -> like q.

        The scores of both parts meet in one softmax.
        """
        A, Hkv, rep, Dh = q.shape
        P, S, n = self.P, slice(self.lo, self.hi), self.n
        by_prompt, by_row = self.by_prompt[self.G, n], self.by_row[:A].flatten()
        own_k = self.k[layer, :A, :, S].flatten(0, 1)  # [A * Hkv, S, Dh]
        own_v = self.v[layer, :A, :, S].flatten(0, 1)
        prompt_k = self.prompt_k[layer, : self.G, :, :P].flatten(0, 1)  # [G * Hkv, P, Dh]
        prompt_v = self.prompt_v[layer, : self.G, :, :P].flatten(0, 1)

        q = q.flatten(0, 1)  # [A * Hkv, rep, Dh]
        # The rows of a prompt side by side: one product reads its keys once for all of them.
        together = q.index_select(0, by_prompt).view(-1, n * rep, Dh)
        on_prompt = _wide_bmm(together, prompt_k.transpose(1, 2)).view(-1, rep, P)
        scores = self.join(on_prompt, by_row, q, own_k.transpose(1, 2))  # [A * Hkv, rep, P + S]
        scores = scores.view(A, Hkv, rep, -1)
        torch.add(self.bias, scores, alpha=self.scale, out=scores)
        weights = scores.softmax(3).to(q.dtype).flatten(0, 1)
        together = weights[..., :P].index_select(0, by_prompt).view(-1, n * rep, P)
        read = torch.bmm(together, prompt_v).view(-1, rep, Dh).index_select(0, by_row)
        return read.baddbmm_(weights[..., P:], own_v).view(A, Hkv, rep, Dh)

    def join(self, on_prompt, by_row, q, own_k):
        """Scores on the prompt, row by row, and beside them those on the row's own keys."""
        if not self.static:
            return torch.cat((on_prompt.index_select(0, by_row), _wide_bmm(q, own_k)), dim=2)
        # On CUDA both go where they belong at once, which saves a kernel.
        P, S = on_prompt.size(2), own_k.size(2)
        scores = on_prompt.new_empty(len(by_row), q.size(1), P + S)
        torch.index_select(on_prompt, 0, by_row, out=scores[..., :P])
        _wide_bmm(q, own_k, out=scores[..., P:])
        return scores


def plan_length(model, samples, P, begun, T, slots=None):
    """To which length to decode now, before the memory is dealt out again -> begun < length <= T.

    A row has memory for as many tokens as it may get, and most responses end long before T. So they
    are decoded in passes, to 232, 411, 729, 1296, 2304 and 4096 tokens, say, and what has not ended
    goes on in the next. An early pass has many short rows, a late one few long ones. Rows of a pass
    are of about one length, too: few of the columns that they all read are of use to some alone.

    A pass ends at the greatest length at which all samples fit side by side, if there is one: a
    sample that goes on later is computed anew up to there. On a CPU CPU_ROWS of them are enough.

    samples: that have not ended, with `begun` tokens each; P: tokens of the longest prompt.
    """
    enough = samples if model.device.type == "cuda" else min(samples, slots or CPU_ROWS)
    length = T
    while plan_rows(model, samples, P + length, slots) < enough and length >= SHORT:
        shorter = -(-length * 9 // 16)
        if shorter <= begun:
            break
        length = shorter
    return length


def bytes_of_a_row(model, tokens):
    """Bytes of keys and values of so many tokens."""
    c = model.config
    return 2 * c.layers * c.Hkv * c.Dh * tokens * model.compute_dtype.itemsize


def plan_rows(model, samples, capacity, slots=None):
    """How many samples to decode together: all, at most 512, and as many rows of `capacity` tokens
    as the memory set aside holds, on CUDA half of what is free.

    slots: the user's wish (--slots). On CUDA torch.OutOfMemoryError says how many would fit, if
    these take more than nine tenths of what is free.
    """
    cuda, row = model.device.type == "cuda", bytes_of_a_row(model, capacity)
    budget = CPU_CACHE_BYTES
    if cuda:
        torch.cuda.empty_cache()  # what torch keeps for itself would not count as free
        budget = torch.cuda.mem_get_info(model.device)[0] // 2
    if slots is None:
        return max(1, min(samples, 512, budget // row))
    rows = min(slots, samples)
    if cuda and rows * row > 1.8 * budget:
        raise torch.OutOfMemoryError(
            f"--slots {slots}: {rows * row / 2**30:.1f} GiB of keys and values for {capacity} "
            f"tokens a row, but only {2 * budget / 2**30:.1f} GiB are free; "
            f"wanted at most {budget // row} slots, or a smaller --max-new-tokens"
        )
    return rows
