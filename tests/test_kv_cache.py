"""lib/kv_cache.py: the caches that share prompts, held against whole sequences and KVCache.

pytest tests/test_kv_cache.py
"""

import itertools
import random
import types

import pytest
import torch
from conftest import FAMILIES, GOLDEN, draw_tokens, randn

from lib import kv_cache
from lib.kv_cache import GroupCache, SharedPrompts, plan_rows
from model import KVCache, attention, load_model

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


# --------------------------------------------------------------------------------------------------
# Prompts shared by their responses


@pytest.mark.parametrize("name", FAMILIES)
def test_shared_prompts_give_the_hidden_states_and_gradients_of_whole_sequences(name):
    """A response that reads the padding of its prompt or another's prompt, positions that do not go
    on from its length, or a gradient that misses one of the responses a prompt is shared by."""
    model = load_model(GOLDEN / name, dtype=F64)
    prompts, lengths = draw_tokens(3, 11), torch.tensor([11, 4, 0])
    responses, owner = draw_tokens(5, 6, seed=1), torch.tensor([1, 0, 0, 2, 1])
    weights = randn(5, 6, model.config.D, seed=2)

    def whole():
        rows = []
        for g, response in zip(owner.tolist(), responses, strict=True):
            row = torch.cat((prompts[g, : lengths[g]], response))[None]
            rows.append(model.hidden(row)[:, -6:])
        return torch.cat(rows)

    def shared():
        cache = SharedPrompts(model)
        model.hidden(prompts, cache)
        cache.share(lengths, owner)
        return model.hidden(responses, cache)

    results = []
    for hidden in (whole(), shared()):
        model.zero_grad()
        (hidden * weights).sum().backward()
        grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        results.append((hidden.detach(), grads))
    (a, grads), (b, shared_grads) = results
    torch.testing.assert_close(b, a, rtol=0, atol=1e-11)
    assert grads.keys() == shared_grads.keys()
    for tensor, grad in grads.items():
        close = torch.allclose(shared_grads[tensor], grad, rtol=1e-9, atol=1e-9)
        assert close, f"{tensor}: off by {(shared_grads[tensor] - grad).abs().max()}"


@torch.no_grad()
def test_shared_prompts_of_length_nought_leave_plain_sequences():
    """Prompts of one token share nothing: no keys are recorded, and none must be looked for."""
    model, responses = load_model(GOLDEN / "qwen2"), draw_tokens(4, 9)
    cache = SharedPrompts(model)
    cache.share(torch.zeros(2, dtype=torch.long), torch.tensor([0, 1, 1, 0]))
    got = model.hidden(responses, cache)
    torch.testing.assert_close(got, model.hidden(responses), rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------------
# Groups of samples


class Rows:
    """A GroupCache and the sequences that its rows ought to hold, as lists of ids."""

    def __init__(self, model, prompts, rows, T, static):
        self.model, self.prompts = model, prompts
        self.cache = GroupCache(model, rows, len(prompts), max(map(len, prompts)), T, static)
        for slot, prompt in enumerate(prompts):
            cache = KVCache(model, 1, len(prompt))
            model.hidden(torch.tensor([prompt]), cache)
            self.cache.put_prompt(slot, cache.k[:, 0], cache.v[:, 0])
        self.slots, self.tokens = [], []  # of rows 0, 1, ...: their prompt, and what followed it

    def begin(self, row, slot):
        """A new sample of this prompt in a row in use, or in the first that is not."""
        self.slots[row : row + 1], self.tokens[row : row + 1] = [slot], [[]]
        self.cache.begun[row] = self.cache.clock

    def end(self, row):
        """The sample of this row has ended, and the last row takes its place."""
        last = len(self.slots) - 1
        if row != last:
            self.slots[row], self.tokens[row] = self.slots[last], self.tokens[last]
            self.cache.move_row(last, row)
        self.slots.pop()
        self.tokens.pop()

    def step(self, seed):
        """One random token in each row -> by how much the hidden states are off."""
        self.cache.arrange(self.slots)
        self.cache.shapes()
        tokens = draw_tokens(self.cache.A, seed=seed)
        hidden = self.model.hidden(tokens[:, None], self.cache)[:, 0]
        self.cache.clock += 1
        self.cache.now += 1
        errors = []
        for row, slot in enumerate(self.slots):
            self.tokens[row].append(int(tokens[row]))
            whole = torch.tensor([self.prompts[slot] + self.tokens[row]])
            errors.append((hidden[row] - self.model.hidden(whole)[0, -1]).abs().max().item())
        return max(errors)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_each_row_of_a_group_reads_its_prompt_and_its_own_tokens_alone(name, static):
    """A row that reads a neighbour's prompt, a column from before it began, or nothing of what the
    ring holds after it came round; rows of a prompt that are not neighbours mixed up."""
    model, rnd = load_model(GOLDEN / name, dtype=F64), random.Random(name)
    prompts = [draw_tokens(P, seed=P).tolist() for P in (3, 9, 1, 6)]
    rows = Rows(model, prompts, rows=6, T=9, static=static)
    for row in range(6):
        rows.begin(row, rnd.randrange(4))
    for step in range(40):  # the ring comes round four times
        assert rows.step(seed=step) < 1e-11
        for row in reversed(range(len(rows.slots))):
            full = len(rows.tokens[row]) == 9
            if full or rnd.random() < 0.15:
                rows.begin(row, rnd.randrange(4))
        if step > 30 and len(rows.slots) > 1:
            rows.end(rnd.randrange(len(rows.slots)))
    assert len(rows.slots) == 1


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@torch.no_grad()
def test_what_a_longer_prompt_left_in_a_slot_is_gone(static):
    """A NaN behind the end of a prompt: weight 0 times NaN is NaN."""
    model = load_model(GOLDEN / "qwen3_tied", dtype=F64)
    rows = Rows(model, [draw_tokens(12).tolist(), draw_tokens(4, seed=1).tolist()], 2, 5, static)
    rows.cache.prompt_k[:, 1], rows.cache.prompt_v[:, 1] = torch.nan, torch.nan
    cache = KVCache(model, 1, 4)
    model.hidden(torch.tensor([rows.prompts[1]]), cache)
    rows.cache.put_prompt(1, cache.k[:, 0], cache.v[:, 0])
    rows.cache.k[:, 1], rows.cache.v[:, 1] = torch.nan, torch.nan
    rows.cache.clear_row(1)
    for row in range(2):
        rows.begin(row, row)
    for step in range(5):
        assert rows.step(seed=step) < 1e-11


@torch.no_grad()
@pytest.mark.parametrize(("T", "most"), [(240, 16), (256, 24)])
def test_few_static_shapes_occur(make_model, T, most):
    """A record for every step: recording takes longer than what it saves."""
    model, shapes = make_model(), set()
    cache = GroupCache(model, rows=48, slots=6, P=10, T=T, static=True)
    for alive in range(48, 0, -1):
        cache.arrange([row % 6 for row in range(alive)])
        cache.clock += 5
        shapes.add(cache.shapes())
    assert len(shapes) <= most


@torch.no_grad()
def test_bf16_scores_are_summed_in_fp32(make_model):
    """Scores rounded to bf16 before the softmax (60 is off by up to 0.13): a gap between sampler
    and trainer."""
    model = make_model(BF16)
    c, P = model.config, 7
    cache = GroupCache(model, rows=2, slots=1, P=P, T=3, static=False)
    keys, values = (randn(c.layers, c.Hkv, P, c.Dh, seed=s, dtype=F32).to(BF16) for s in (1, 2))
    cache.put_prompt(0, keys, values)
    cache.arrange([0, 0])
    cache.shapes()
    cache.start(2, 1)
    q = (20 * randn(2, c.H, 1, c.Dh, seed=3, dtype=F32)).to(BF16)
    k, v = (randn(2, c.Hkv, 1, c.Dh, seed=s, dtype=F32).to(BF16) for s in (4, 5))
    read = cache.attend(0, q, k, v)
    k = torch.cat((keys[0].expand(2, -1, -1, -1), k), dim=2).double()  # [2, Hkv, P + 1, Dh]
    v = torch.cat((values[0].expand(2, -1, -1, -1), v), dim=2).double()
    exact = attention(q.double(), k, v, torch.ones(2, 1, 1, P + 1, dtype=torch.bool))
    assert read.dtype == BF16
    assert (read.double() - exact).abs().max() < 0.02


# --------------------------------------------------------------------------------------------------
# How many rows


def test_planned_rows_fit_the_memory_set_aside(make_model):
    """Rows planned without regard to their length: out of memory at the first long response
    limit."""
    model = make_model()
    few, many = plan_rows(model, 10_000, 10_000_000), plan_rows(model, 10_000, 100)
    assert 1 <= few < many == 512
    cache = KVCache(model, 1, 100)
    assert 2 * cache.k.numel() * 4 == 2 * 3 * 2 * 16 * 100 * 4
    assert plan_rows(model, 3, 100) == 3
    assert plan_rows(model, 3, 100, slots=2) == 2
    assert plan_rows(model, 3, 100, slots=9) == 3


def on_a_gpu(monkeypatch, model, free_bytes):
    """What plan_rows looks at, of this model on a GPU with so much free."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, free_bytes))
    device = torch.device("cuda")
    return types.SimpleNamespace(config=model.config, device=device, compute_dtype=BF16)


@pytest.mark.parametrize("T", [1, 300, 399, 400, 3000, 4096])
@pytest.mark.parametrize("samples", [5, 100, 1000])
def test_passes_grow_until_all_samples_fit(make_model, monkeypatch, T, samples):
    """A row of max_new_tokens for each sample: 14 rows on a card where 80 would be busy. And passes
    without end, or many where all samples fit at once: their tokens are computed again."""
    P, model = 100, make_model()
    row = kv_cache.bytes_of_a_row(model, P + 4096) // 2  # in bf16
    gpu = on_a_gpu(monkeypatch, model, 2 * 14 * row)  # half of what is free goes to rows
    begun, ends = 0, []
    while begun < T:
        end = kv_cache.plan_length(gpu, samples, P, begun, T)
        assert begun < end <= T
        if end < T:  # no greater length has room for all samples
            assert plan_rows(gpu, samples, P + min(end * 16 // 9, T)) < samples
        begun = end
        ends.append(end)
    if T < kv_cache.SHORT or samples == 5:
        assert ends == [T]
    elif samples == 1000:
        assert ends[0] < kv_cache.SHORT and len(ends) > 1
        assert all(b <= 2 * a for a, b in itertools.pairwise(ends))


def test_a_cpu_that_has_rows_enough_decodes_in_one_pass(make_model, monkeypatch):
    """Tokens computed again for rows that would make a CPU no faster."""
    model = make_model()
    monkeypatch.setattr(kv_cache, "CPU_CACHE_BYTES", 40 * kv_cache.bytes_of_a_row(model, 4196))
    assert kv_cache.plan_length(model, 1000, 100, 0, 4096) == 4096
    assert kv_cache.plan_length(model, 1000, 100, 0, 4096, slots=8) == 4096
    monkeypatch.setattr(kv_cache, "CPU_CACHE_BYTES", 20 * kv_cache.bytes_of_a_row(model, 4196))
    assert kv_cache.plan_length(model, 1000, 100, 0, 4096) == 2304
    assert kv_cache.plan_length(model, 1000, 100, 2304, 4096) == 4096


def test_rows_that_do_not_fit_a_gpu_are_refused_with_the_number_that_would(make_model, monkeypatch):
    """A cache that fills the card, and a stack trace in the first layer of the first step."""
    gpu = on_a_gpu(monkeypatch, make_model(), 2**20)
    fits = 2**19 // kv_cache.bytes_of_a_row(gpu, 100)
    assert plan_rows(gpu, 10_000, 100) == plan_rows(gpu, 10_000, 100, slots=fits) == fits
    message = f"--slots {4 * fits}: .* wanted at most {fits} slots"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        plan_rows(gpu, 10_000, 100, slots=4 * fits)
