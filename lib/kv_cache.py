"""Caches of keys and values in which many responses share one prompt.

    SharedPrompts   for scoring and the update, with gradient: prompts first, then all the responses
    GroupCache      for sampling: each prompt's keys once, each sample's own keys in its row

Both are handed to model.hidden and have the two methods it needs: `start(B, T)` gives the positions
of the next tokens, `attend(layer, q, k, v)` stores their keys and lets their queries read the past.
The plain one is KVCache in model.py, which the tests hold these against.

B rows, T new tokens, H query heads, Hkv key heads, Dh their width, P prompt tokens, G prompts.
"""

import torch
from torch.nn import functional as F

CPU_CACHE_BYTES = 2 << 30  # for keys and values on a CPU; on CUDA half of what is free


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


def _wide_bmm(a, b):
    """a @ b of [n, i, j] and [n, j, k], in fp32 at least.

    Attention scores rounded to bf16 would show as a gap between sampler and trainer.
    """
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class GroupCache:
    """The past of a decode step: rows that each go on with a sample, in groups that share a prompt.

    With n samples of a prompt, a step reads the prompt's keys once for all n, in one product. A
    sample's own keys lie in its row, a ring of T columns. All rows share one clock: at time t every
    row writes column t mod T, and a row reads the columns since the time that it began.

    static: shapes are rounded up so that few of them occur, for steps that are recorded as CUDA
    graphs. Rows and columns too many are computed, and nobody looks at them.
    """

    def __init__(self, model, rows, slots, P, T, static):
        """rows: samples at a time; slots: prompts at a time, of P tokens at most; T new tokens."""
        c, device = model.config, model.device
        kind = {"dtype": model.compute_dtype, "device": device}
        # Zeros, not empty: what is not seen has weight 0, but 0 * NaN would still be NaN.
        self.k = torch.zeros(c.layers, rows, c.Hkv, T, c.Dh, **kind)
        self.v = torch.zeros_like(self.k)
        self.prompt_k = torch.zeros(c.layers, slots, c.Hkv, P, c.Dh, **kind)
        self.prompt_v = torch.zeros_like(self.prompt_k)
        self.prompt_lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.static = static
        # The clock, and when each row began, on the host and again on the device.
        self.clock, self.begun = 0, [0] * rows
        self.now = torch.zeros(1, dtype=torch.long, device=device)
        self.began = torch.zeros(rows, dtype=torch.long, device=device)
        self.slot = torch.zeros(rows, dtype=torch.long, device=device)  # the prompt of each row
        # For G slots of n rows: members lists the rows of each slot, filled up with row 0; place
        # says where in that list each row stands. A list for every (G, n), since recorded steps
        # read the very tensor they were recorded with.
        self.members = {}
        self.place = torch.zeros(rows, dtype=torch.long, device=device)

    def put_prompt(self, slot, k, v):
        """Keep a prompt's keys and values, [layers, Hkv, P, Dh] each.

        Zeros follow them: what a longer prompt has left there may be NaN.
        """
        P = k.size(2)
        self.prompt_k[:, slot, :, :P], self.prompt_v[:, slot, :, :P] = k, v
        self.prompt_k[:, slot, :, P:], self.prompt_v[:, slot, :, P:] = 0, 0
        self.prompt_lengths[slot] = P

    def move_row(self, source, target):
        """The sample of row `source` goes on in row `target`."""
        self.k[:, target], self.v[:, target] = self.k[:, source], self.v[:, source]
        self.begun[target] = self.begun[source]

    def clear_row(self, row):
        """Wipe what a sample that went wrong has left: a NaN would reach whoever comes next."""
        self.k[:, row], self.v[:, row] = 0, 0

    def arrange(self, slots):
        """Tell the prompt slot of rows 0, 1, ..., A - 1; to be called when a row changes hands."""
        A, rows_of = len(slots), {}
        for row, slot in enumerate(slots):
            rows_of.setdefault(slot, []).append(row)
        G, n = max(slots) + 1, max(map(len, rows_of.values()))
        if self.static:
            G, n = len(self.prompt_lengths), 1 << (n - 1).bit_length()
            A = min(1 << (A - 1).bit_length(), len(self.begun))
        members, place = [], [0] * A
        for slot in range(G):
            rows = rows_of.get(slot, [])
            for i, row in enumerate(rows):
                place[row] = slot * n + i
            members += rows + [0] * (n - len(rows))
        # Rows that only fill up a static shape read what row 0 reads: their place must exist.
        idle = [0] * (A - len(slots))
        buffer = self.members.setdefault((G, n), torch.zeros_like(self.place[:1]).repeat(G * n))
        buffer.copy_(torch.tensor(members))
        self.place[:A] = torch.tensor(place)
        self.slot[:A] = torch.tensor([*slots, *idle])
        self.began[:A] = torch.tensor([*self.begun[: len(slots)], *[self.clock] * len(idle)])
        self.A, self.G, self.n = A, G, n
        self.in_order = members == list(range(A))  # then nothing needs to be sorted by prompt
        longest = self.prompt_k.size(3)
        self.P = longest if self.static else int(self.prompt_lengths[self.slot[:A]].max())
        self.oldest = min(self.begun[: len(slots)])

    def shapes(self):
        """All that the shapes of the next step depend on, the columns [lo, hi) to read among it."""
        T, lo, hi = self.k.size(3), 0, self.k.size(3)
        if self.oldest // T == self.clock // T:  # the ring has not come round since
            lo, hi = self.oldest % T, self.clock % T + 1
        if self.static:
            lo, hi = lo // 128 * 128, min(-(-hi // 128) * 128, T)
        self.lo, self.hi = lo, hi
        return self.A, lo, hi, self.G, self.n, self.in_order

    def start(self, A, T):
        """Positions [A, 1] of the next token of the first A rows; T is 1."""
        device, ring = self.now.device, self.k.size(3)
        prompt = self.prompt_lengths[self.slot[:A], None]  # [A, 1]
        age = self.now - self.began[:A, None]  # [A, 1]
        self.column = self.now % ring
        columns = torch.arange(self.lo, self.hi, device=device)
        before = (self.now - columns) % ring > age  # [A, S]: written before this sample began
        beyond = torch.arange(self.P, device=device) >= prompt  # [A, P]
        hidden = torch.cat((beyond, before), dim=1)
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
        self.bias = bias[:, None, None]  # [A, 1, 1, P + S]
        return prompt + age

    def _by_prompt(self, x):
        """[A, Hkv, rep, .] -> [G * Hkv, n * rep, .]: the rows of a prompt side by side."""
        _, Hkv, rep, width = x.shape
        if not self.in_order:
            x = x.index_select(0, self.members[self.G, self.n])
        x = x.reshape(self.G, self.n, Hkv, rep, width).transpose(1, 2)
        return x.reshape(self.G * Hkv, self.n * rep, width)

    def _by_row(self, x, Hkv, rep):
        """And back."""
        x = x.view(self.G, Hkv, self.n, rep, -1).transpose(1, 2)
        x = x.reshape(self.G * self.n, Hkv, rep, -1)
        return x if self.in_order else x.index_select(0, self.place[: self.A])

    def attend(self, layer, q, k, v):
        """Store k, v [A, Hkv, 1, Dh]; q [A, H, 1, Dh] reads its prompt and its row -> like q.

        The scores of both parts meet in one softmax.
        """
        A, Hkv, _, Dh = k.shape
        rep, S = q.size(1) // Hkv, slice(self.lo, self.hi)
        self.k[layer, :A].index_copy_(2, self.column, k)
        self.v[layer, :A].index_copy_(2, self.column, v)
        own_k = self.k[layer, :A, :, S].flatten(0, 1)  # [A * Hkv, S, Dh]
        own_v = self.v[layer, :A, :, S].flatten(0, 1)
        prompt_k = self.prompt_k[layer, : self.G, :, : self.P].flatten(0, 1)  # [G * Hkv, P, Dh]
        prompt_v = self.prompt_v[layer, : self.G, :, : self.P].flatten(0, 1)

        q = q.view(A, Hkv, rep, Dh) * Dh**-0.5
        on_prompt = _wide_bmm(self._by_prompt(q), prompt_k.transpose(1, 2))
        on_prompt = self._by_row(on_prompt, Hkv, rep)  # [A, Hkv, rep, P]
        on_own = _wide_bmm(q.flatten(0, 1), own_k.transpose(1, 2)).view(A, Hkv, rep, -1)
        scores = torch.cat((on_prompt, on_own), dim=3).add_(self.bias)
        weights = scores.softmax(3).to(v.dtype)  # [A, Hkv, rep, P + S]
        from_prompt = self._by_row(self._by_prompt(weights[..., : self.P]) @ prompt_v, Hkv, rep)
        from_own = (weights[..., self.P :].flatten(0, 1) @ own_v).view(A, Hkv, rep, Dh)
        return (from_prompt + from_own).reshape(A, -1, 1, Dh)


def plan_rows(model, samples, capacity, slots=None):
    """How many samples to decode together: all, at most 512, and as many rows of `capacity` tokens
    as the memory set aside holds, on CUDA half of what is free.

    slots: the user's wish (--slots). On CUDA torch.OutOfMemoryError says how many would fit, if
    these take more than nine tenths of what is free.
    """
    c, cuda = model.config, model.device.type == "cuda"
    row = 2 * c.layers * c.Hkv * c.Dh * capacity * model.compute_dtype.itemsize  # bytes
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
