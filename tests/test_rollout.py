"""rollout.py: what is sampled, and that it depends on nothing that it should not.

pytest tests/test_rollout.py
"""

import contextlib
import itertools
import json
import math
import random

import pytest
import torch
from conftest import ROOT

import rollout
from lib import kv_cache
from lib.sampling import block_width, gumbel_noise, sample_keys, token_noise
from lib.tokenizer import Tokenizer
from model import load_model
from rollout import Rollout, generate, generate_plain, generate_together

SETTINGS = {"samples_per_prompt": 3, "max_new_tokens": 12, "stop_ids": {7, 8, 9}, "seed": 5}


def random_prompts(n, lengths=(1, 30), V=60, seed=0):
    rnd = random.Random(seed)
    return [[rnd.randrange(V) for _ in range(rnd.randint(*lengths))] for _ in range(n)]


def ids(rollouts):
    return [r.response_ids for r in rollouts]


def same(got, wanted):
    """Equal ids and ends, and log-probs within rounding; NaN is equal to NaN."""
    for a, b in zip(got, wanted, strict=True):
        assert a[:2] == b[:2] and a.finished == b.finished
        assert a.logps == pytest.approx(b.logps, abs=1e-4, nan_ok=True)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture
def static(monkeypatch):
    """static(True): from now on shapes are rounded up, as on a GPU."""
    return lambda on: monkeypatch.setattr(rollout, "static_shapes", lambda device: on)


# --------------------------------------------------------------------------------------------------
# The scheduler against the plain sampler


def random_schedule(seed):
    """Prompts (some of them twice) and settings for `generate`, drawn at random."""
    rnd = random.Random(seed)
    prompts = random_prompts(rnd.randint(1, 9), lengths=(1, rnd.choice([3, 30])), seed=seed)
    prompts += rnd.choices(prompts, k=rnd.randint(0, 2))
    rnd.shuffle(prompts)
    settings = {
        "samples_per_prompt": rnd.choice([1, 5, 9]),
        "max_new_tokens": rnd.choice([1, 9, 25]),
        "temperature": rnd.choice([0, 0.5, 1.0, 1.0, 1.0, 1.7]),
        "top_p": rnd.choice([1.0, 1.0, 1.0, 0.9, 0.3]),
        "top_k": rnd.choice([0, 0, 0, 1, 7, 1000]),
        "stop_ids": set(rnd.sample(range(60), rnd.choice([0, 3, 6]))),
        "seed": rnd.randrange(1000),
    }
    samples = len(prompts) * settings["samples_per_prompt"]
    return prompts, settings, rnd.choice([None, None, rnd.randint(1, samples)])


@pytest.mark.parametrize("seed", range(30))
def test_any_schedule_gives_what_the_plain_sampler_gives(make_model, static, seed):
    """A row that inherits keys, noise or an end from the sample before it, a seat that points
    outside once fewer rows are live than a static shape holds (on any GPU the first step died).

    In fp64, so that no rounding is near a tie: the two need not compute the same last bits.
    """
    model = make_model(torch.float64, num_hidden_layers=2)
    prompts, settings, slots = random_schedule(seed)
    wanted = generate_plain(model, prompts, **settings)
    assert len(wanted) == len(prompts) * settings["samples_per_prompt"]
    for on in (False, True):
        static(on)
        same(generate(model, prompts, slots=slots, **settings), wanted)


def test_long_responses_outlive_the_clock_of_a_row(make_model, static):
    """A ring of columns that comes round while a sample is under way, and static shapes that read
    64 columns at a time: keys of an earlier sample, or too few of one's own."""
    model, prompts = make_model(torch.float64, num_hidden_layers=1), random_prompts(3)
    settings = {"samples_per_prompt": 4, "max_new_tokens": 150, "stop_ids": {7}, "seed": 7}
    wanted = generate_plain(model, prompts, **settings)
    lengths = [len(r.response_ids) for r in wanted]
    assert max(lengths) == 150 and min(lengths) < 40 and sum(lengths) > 4 * 150
    for on in (False, True):
        static(on)
        same(generate(model, prompts, slots=4, **settings), wanted)


@pytest.mark.parametrize("on", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("seed", range(5))
def test_passes_give_what_the_plain_sampler_gives(make_model, static, monkeypatch, seed, on):
    """A response that goes on in a second pass: with the noise of its first tokens once more, with
    those lost or doubled, under another sample's key, or cut at the end of the pass."""
    model, prompts = make_model(torch.float64, num_hidden_layers=2), random_prompts(5, seed=seed)
    prompts.append(prompts[1])
    settings = {"samples_per_prompt": 3, "max_new_tokens": 70, "stop_ids": {7}, "seed": seed}
    wanted = generate_plain(model, prompts, **settings)
    lengths = [len(r.response_ids) for r in wanted]
    assert max(lengths) == 70 and min(lengths) < 30
    row = kv_cache.bytes_of_a_row(model, 30 + 70)
    monkeypatch.setattr(kv_cache, "CPU_CACHE_BYTES", 4 * row)
    monkeypatch.setattr(kv_cache, "CPU_ROWS", 1000)
    monkeypatch.setattr(kv_cache, "SHORT", 20)
    ends, plan, seen = [], rollout.plan_length, []

    def spied(*args):
        ends.append(plan(*args))
        return ends[-1]

    monkeypatch.setattr(rollout, "plan_length", spied)
    static(on)
    same(generate(model, prompts, **settings, on_progress=lambda *x: seen.append(x)), wanted)
    assert len(ends) > 2 and ends == sorted(set(ends)) and ends[-1] == 70
    assert seen[-1] == (18, 18, sum(lengths))
    assert all(a[0] <= b[0] and a[2] <= b[2] for a, b in itertools.pairwise(seen))


def test_static_shapes_give_the_demo_s_first_step(static):
    """A GPU's shapes that only hold for tidy schedules: 64 groups of 8 whose samples end one by
    one. When the samples of a slot halved, old seats pointed outside: every run died in step 1."""
    model = load_model(ROOT / "demo/model")
    tokenizer = Tokenizer.from_pretrained(ROOT / "demo/model")
    lines = (ROOT / "demo/train.jsonl").read_text(encoding="utf-8").splitlines()[:64]
    prompts = [tokenizer.encode(json.loads(line)["problem"]) for line in lines]
    settings = {"samples_per_prompt": 8, "max_new_tokens": 48, "stop_ids": tokenizer.eos_ids}
    wanted = generate(model, prompts, **settings)
    static(True)
    same(generate(model, prompts, **settings), wanted)
    assert len({len(r.response_ids) for r in wanted}) > 5  # they do not all end together


@pytest.mark.parametrize("slots", [1, 2, 5, 8, 23, 1000])
def test_samples_do_not_depend_on_slots(model, slots):
    """A row that inherits keys, lengths or noise from the sample that held it before."""
    prompts = random_prompts(8)
    wanted = ids(generate(model, prompts, **SETTINGS))
    assert ids(generate(model, prompts, slots=slots, **SETTINGS)) == wanted


@pytest.mark.parametrize("slots", [1, 3, 7, 1000])
def test_static_shapes_change_nothing(model, slots, static, monkeypatch):
    """Rows, columns or slots added to round a shape up that are seen by a sample, or a column
    written by a dead row and read by a live one."""
    prompts, shapes = random_prompts(7), set()
    wanted = ids(generate(model, prompts, **SETTINGS))

    def record(device):
        return lambda step, key: (shapes.add(key), step())

    static(True)
    monkeypatch.setattr(rollout, "record_steps", record)
    assert ids(generate(model, prompts, slots=slots, **SETTINGS)) == wanted
    assert len(shapes) < 40  # of some 12 * 21 / slots steps


def test_a_recorded_step_is_replayed_and_gives_the_same_ids(model, static, monkeypatch):
    """A step that is run twice when it is recorded, one recorded for other shapes, or a recording
    that fails and ends the run.

    No GPU is needed: the stand-in for a CUDA graph calls the step, as a graph repeats its kernels,
    on the static tensors as they are then.
    """
    prompts, calls = random_prompts(7), []
    wanted = ids(generate(model, prompts, **SETTINGS))

    class Graph:
        def replay(self):
            calls.append("replay")
            self.step()

    @contextlib.contextmanager
    def record(graph, pool):
        if calls.count("record") == 2:
            raise RuntimeError("out of memory\nand a long story")
        calls.append("record")
        graph.step, current["recording"] = current["step"], True
        yield
        current["recording"] = False

    current, recorder = {"step": None, "recording": False}, rollout.record_steps

    def spied(device):
        run = recorder(torch.device("cuda"))

        def go(step, shapes):
            current["step"] = step
            # While recording nothing is computed.
            return run(lambda: None if current["recording"] else step(), shapes)

        return go

    static(True)
    monkeypatch.setattr(rollout, "record_steps", spied)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 1)
    monkeypatch.setattr(torch.cuda, "graph", record)
    assert ids(generate(model, prompts, slots=5, **SETTINGS)) == wanted
    assert calls.count("record") == 2 and calls.count("replay") > 2


@pytest.mark.parametrize("on", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("top_p", [0.02, 0.97])
def test_a_nucleus_too_wide_for_the_first_look_is_drawn_again(
    make_model, static, monkeypatch, on, top_p
):
    """Steps that wait for the device to see how many tokens top-p keeps can't be recorded; those
    that do not look cut the nucleus off."""
    model, prompts = make_model(torch.float64, vocab_size=240, std=0.1), random_prompts(5)
    wanted = generate_plain(model, prompts, **SETTINGS, top_p=top_p)
    monkeypatch.setattr(rollout, "NUCLEUS", 30)
    repeated, repeat = [], rollout.Scheduler.repeat_step

    def spied(self):
        repeated.append(self)
        repeat(self)

    monkeypatch.setattr(rollout.Scheduler, "repeat_step", spied)
    static(on)
    same(generate(model, prompts, slots=4, **SETTINGS, top_p=top_p), wanted)
    assert bool(repeated) == (top_p > 0.5)


# --------------------------------------------------------------------------------------------------
# What has gone wrong in one sample stays in it


@pytest.mark.parametrize("on", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("seed", range(4))
def test_a_token_whose_state_is_not_finite_spoils_no_other_sample(make_model, static, seed, on):
    """0 * NaN: keys that hold NaN lie in a row or in a prompt's slot after their sample has ended,
    and reach, with weight 0, all who come later.

    The plain sampler is the judge, where each sample has a row that nobody had before.
    """
    model = make_model(torch.float64, tie_word_embeddings=False, seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[30] = torch.nan  # prompts and samples that hold a 30
    prompts = random_prompts(7, lengths=(1, 12), seed=seed)
    prompts[0], prompts[4] = [*prompts[0], 30, *range(20)], [30]
    settings = {"samples_per_prompt": 3, "max_new_tokens": 12, "stop_ids": {1, 2, 3}, "seed": seed}
    wanted = generate_plain(model, prompts, **settings)
    broken = [not math.isfinite(sum(r.logps)) for r in wanted]
    assert any(broken) and not all(broken)
    static(on)
    for slots in (1, 4, None):
        same(generate(model, prompts, slots=slots, **settings), wanted)


def test_a_cache_row_that_turns_to_nan_under_way_spoils_no_later_sample(model, monkeypatch):
    """A fault of the hardware, or an overflow in one layer: the samples of that row must say so by
    their log-probs, and whoever gets the row next must not be touched."""
    prompts = random_prompts(6, lengths=(2, 9))
    wanted = generate(model, prompts, **SETTINGS)
    step, steps = rollout.Scheduler.step, itertools.count()

    def poisoned(self):
        if next(steps) == 2:
            self.cache.k[:, 1], self.cache.v[:, 1] = torch.nan, torch.nan
            hurt.append(self.owner[1])
        step(self)

    hurt = []
    monkeypatch.setattr(rollout.Scheduler, "step", poisoned)
    got = generate(model, prompts, slots=3, **SETTINGS)
    assert len(hurt) == 1 and math.isnan(sum(got[hurt[0]].logps))
    others = [i for i in range(len(wanted)) if i not in hurt]
    same([got[i] for i in others], [wanted[i] for i in others])


# --------------------------------------------------------------------------------------------------
# What a sample depends on


def test_samples_do_not_depend_on_the_other_prompts_or_their_order(model):
    """Noise drawn from one stream for the whole batch, or padding that is seen."""
    prompts = random_prompts(8)
    together = ids(generate(model, prompts, **SETTINGS))
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    shuffled = ids(generate(model, [prompts[i] for i in order], slots=4, **SETTINGS))
    for place, i in enumerate(order):
        assert shuffled[3 * place : 3 * place + 3] == together[3 * i : 3 * i + 3]
    for i in range(8):
        assert ids(generate(model, [prompts[i]], **SETTINGS)) == together[3 * i : 3 * i + 3]
    fewer = generate(model, prompts, **{**SETTINGS, "samples_per_prompt": 1})
    assert ids(fewer) == together[::3]


def test_a_prompt_that_stands_twice_gets_different_samples(model):
    """Keys hashed from the prompt alone would make twins of the two groups."""
    prompt = random_prompts(1)[0]
    twice = ids(generate(model, [prompt, [1, 2], prompt], **SETTINGS))
    assert twice[:3] != twice[6:]
    six = generate(model, [prompt], **{**SETTINGS, "samples_per_prompt": 6})
    assert twice[:3] + twice[6:] == ids(six)


def test_seeds_differ_and_repeat(model):
    """A seed that is ignored, or a hidden source of randomness."""
    prompts = random_prompts(3)
    a, b, c = (ids(generate(model, prompts, **{**SETTINGS, "seed": s})) for s in (1, 1, 2))
    assert a == b != c


def test_alone_a_process_samples_what_generate_samples(model):
    """Prompts dealt out and put together again in another order, twins of a prompt apart."""
    prompts = random_prompts(5)
    prompts = [*prompts, prompts[1], [3], prompts[1]]
    got = generate_together(model, prompts, **SETTINGS)
    assert all(isinstance(r, Rollout) for r in got)
    assert got == generate(model, prompts, **SETTINGS)


# --------------------------------------------------------------------------------------------------
# What is sampled


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logps_are_those_of_the_full_forward_at_the_sampling_temperature(model, temperature):
    """Log-probs at temperature 1, after top-p, or shifted by one token."""
    settings = {**SETTINGS, "temperature": temperature, "top_p": 0.9, "top_k": 30, "slots": 4}
    for r in generate(model, random_prompts(5), **settings):
        with torch.no_grad():
            logits = model(torch.tensor([r.prompt_ids + r.response_ids]))[0]
        log_p = (logits[len(r.prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
        wanted = log_p.gather(1, torch.tensor(r.response_ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(r.logps), wanted, atol=1e-4)


def test_greedy_is_the_argmax_of_the_full_forward(model):
    """A cache that serves wrong keys: greedy ids leave the path at once."""
    prompts = random_prompts(6)
    got = generate(model, prompts, temperature=0, max_new_tokens=10, stop_ids=[], slots=4)
    for prompt, r in zip(prompts, got, strict=True):
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(10):
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        assert r.response_ids == tokens[len(prompt) :] and not r.finished


def test_the_stop_token_is_part_of_the_response_and_nothing_follows_it(model):
    """The stop token dropped from the loss, never to be learned (pain 4 of the field), or a cut
    response counted as finished."""
    rollouts = generate(model, random_prompts(30), **SETTINGS)
    assert {r.finished for r in rollouts} == {True, False}
    for r in rollouts:
        stops = [t in SETTINGS["stop_ids"] for t in r.response_ids]
        assert not any(stops[:-1]) and stops[-1] == r.finished
        assert r.finished or len(r.response_ids) == SETTINGS["max_new_tokens"]
        assert len(r.logps) == len(r.response_ids)


def test_each_prompt_is_prefilled_once_and_no_step_computes_a_finished_sample(model, monkeypatch):
    """A prefill per sample, or rows that decode on until the slowest of the batch ends."""
    prompts, computed = random_prompts(9, lengths=(2, 30)), {"prefilled": 0, "decoded": 0}
    hidden = type(model).hidden

    def counting(self, tokens, cache=None):
        computed["prefilled" if tokens.size(1) > 1 else "decoded"] += tokens.size(0)
        return hidden(self, tokens, cache)

    monkeypatch.setattr(type(model), "hidden", counting)
    rollouts = generate(model, prompts, slots=4, **SETTINGS)
    assert computed["prefilled"] == len(prompts)
    # The first token of each comes from the prefill.
    assert computed["decoded"] == sum(len(r.response_ids) - 1 for r in rollouts)


def chi_square_p(counts, p):
    """P(chi-square >= that of the counts) under p; tokens expected fewer than 10 times are
    pooled."""
    expected = p * counts.sum()
    big = expected >= 10
    observed = torch.cat((counts[big], counts[~big].sum()[None])).double()
    expected = torch.cat((expected[big], expected[~big].sum()[None])).double()
    if observed[expected == 0].sum() > 0:
        return 0.0  # it happened, and it can't
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2).double()
    return float(torch.special.gammaincc(freedom, statistic / 2))


def filtered(p, top_p, top_k):
    """The definition, by a loop: top_k likeliest, then the fewest of them that hold top_p of what
    is left."""
    order = sorted(range(len(p)), key=lambda v: -p[v])[: top_k or len(p)]
    total, mass, keep = sum(p[v] for v in order), 0.0, []
    for v in order:
        keep.append(v)
        mass += p[v] / total
        if mass >= top_p:
            break
    out = torch.zeros(len(p), dtype=torch.float64)
    for v in keep:
        out[v] = p[v] / sum(p[u] for u in keep)
    return out


# Cut into blocks evenly, not evenly (a prime), and beyond the first look of top-p.
@pytest.mark.parametrize("V", [60, 61, 1200])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.0, 1.0, 0),
        (0.7, 1.0, 0),
        (1.0, 0.8, 0),
        (1.3, 0.999, 0),
        (1.0, 1.0, 5),
        (1.0, 0.6, 12),
    ],
)
def test_20000_samples_follow_the_distribution(make_model, V, temperature, top_p, top_k):
    """A biased draw: blocks of unequal width, noise too coarse, a nucleus one token too small."""
    model = make_model(vocab_size=V, std=0.15)
    prompt = [3, 1, 4]
    with torch.no_grad():
        p = (model(torch.tensor([prompt]))[0, -1].double() / temperature).softmax(-1)
    rollouts = generate(
        model,
        [prompt],
        samples_per_prompt=20_000,
        max_new_tokens=1,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        stop_ids=[],
    )
    counts = torch.bincount(torch.tensor([r.response_ids[0] for r in rollouts]), minlength=V)
    wanted = filtered(p.tolist(), top_p, top_k)
    assert chi_square_p(counts, wanted) > 1e-3
    assert chi_square_p(counts, wanted.roll(1)) < 1e-6  # the test can fail


def test_noise_is_uniform_and_unrelated_between_rows_times_and_streams():
    """A hash whose neighbouring keys, steps or counters give related numbers."""
    keys = torch.stack((torch.arange(64), torch.zeros(64, dtype=torch.long)), dim=1)
    t = torch.zeros(64, dtype=torch.long)
    draws = []
    for step, stream in itertools.product((0, 1), (0, 1)):
        noise = gumbel_noise(keys, t + step, 500, stream)
        draws.append(torch.exp(-torch.exp(-noise)))  # back to uniform

    def correlation(a, b):
        return abs(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])

    for u in draws:
        assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
        assert correlation(u[:-1], u[1:]) < 0.02
        assert correlation(u[:, :-1], u[:, 1:]) < 0.02
    for a, b in itertools.combinations(draws, 2):
        assert correlation(a, b) < 0.02
        assert not torch.equal(a, b)


@pytest.mark.parametrize("V", [60, 61, 151936])
def test_noise_of_many_tokens_in_one_go_is_that_of_each_token(V):
    """Blocks and the tokens in them mixed up, or noise that depends on how much is made at once:
    other samples on a GPU than on a CPU, and other ones than last year's."""
    keys = torch.tensor(sample_keys([[1], [2, 3]], 2, seed=3))
    t = torch.tensor([[0, 1], [7, 8]] * 2)
    width = block_width(V)
    together = token_noise(keys[:, None], t, V)  # [4, 2, V / width + width]
    for row, column in itertools.product(range(4), range(2)):
        place = keys[row : row + 1], t[row, column : column + 1]
        blocks, inside = gumbel_noise(*place, V // width, 0), gumbel_noise(*place, width, 1)
        assert torch.equal(together[row, column], torch.cat((blocks, inside), dim=1)[0])


def test_masters_in_fp32_are_sampled_in_the_compute_dtype(make_model):
    """Sampling in fp32 while training in bf16: the log-probs of sampler and trainer would differ
    from the start."""
    model = make_model(std=0.1)
    model.compute_dtype = torch.bfloat16
    r = generate(model, [[1, 2, 3]], max_new_tokens=8, stop_ids=[])[0]
    with torch.no_grad():
        logits = model.head(model.hidden(torch.tensor([r.prompt_ids + r.response_ids])))[0, 2:-1]
    assert logits.dtype == torch.float32
    wanted = logits.log_softmax(-1).gather(1, torch.tensor(r.response_ids)[:, None])[:, 0]
    assert (torch.tensor(r.logps) - wanted).abs().mean() < 0.02


def test_progress_ends_with_all_samples(model):
    """A progress line that stops short of the end."""
    seen = []
    rollouts = generate(
        model,
        random_prompts(5),
        slots=4,
        on_progress=lambda *now: seen.append(now),
        **SETTINGS,
    )
    assert seen[-1] == (15, 15, sum(len(r.response_ids) for r in rollouts))
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(seen))


# --------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[60]]}, "vocabulary of 60"),
        ({"prompts": [[-1]]}, "vocabulary"),
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k is -1"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"slots": 0}, "slots is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(model, change, message):
    """A wrong setting that ends in an index error, or in samples from nowhere."""
    arguments = {"prompts": [[1]], "max_new_tokens": 4, "stop_ids": []} | change
    with pytest.raises(ValueError, match=message):
        generate(model, arguments.pop("prompts"), **arguments)


def test_no_prompts_no_rollouts(model):
    """An empty share of the work (a process with nothing to do) must not fail."""
    assert generate(model, [], max_new_tokens=4, stop_ids=[]) == []
