"""rollout.py: what is sampled, and that it depends on nothing that it should not."""

import contextlib
import itertools
import math
import random
import types

import pytest
import torch

import rollout
from model import KVCache, sampling_copy
from rollout import _gumbel, generate, plan_slots


def random_prompts(n, lengths=(1, 30), V=60, seed=0):
    rnd = random.Random(seed)
    return [[rnd.randrange(V) for _ in range(rnd.randint(*lengths))] for _ in range(n)]


def ids(rollouts):
    return [r.response_ids for r in rollouts]


SETTINGS = {"samples_per_prompt": 3, "max_new_tokens": 12, "stop_ids": {7, 8, 9}, "seed": 5}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.mark.parametrize("slots", [1, 2, 5, 8, 23, 1000])
def test_samples_do_not_depend_on_slots(model, slots):
    """A row that inherits keys, lengths or noise from the sample that held it before."""
    prompts = random_prompts(8)
    assert ids(generate(model, prompts, slots=slots, **SETTINGS)) == ids(generate(model, prompts, **SETTINGS))


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


@pytest.mark.parametrize("slots", [1, 3, 7, 1000])
def test_static_shapes_change_nothing(model, slots, monkeypatch):
    """Rows, columns or places added to round a shape up that are seen by a sample, or a column written by a dead row and read by a live one."""
    prompts = random_prompts(7)
    wanted = ids(generate(model, prompts, **SETTINGS))
    shapes = set()
    monkeypatch.setattr(rollout, "static_shapes", lambda device: True)
    monkeypatch.setattr(rollout, "_recorder", lambda device: lambda step, key: (shapes.add(key), step()))
    assert ids(generate(model, prompts, slots=slots, **SETTINGS)) == wanted
    assert len(shapes) < 40  # of some 12 * 21 / slots steps


def test_a_recorded_step_is_replayed_and_gives_the_same_ids(model, monkeypatch):
    """A step that is run twice when it is recorded, one recorded for other shapes, or a recording that fails and ends the run.

    No GPU is needed: the stand-in for a CUDA graph calls the step, as a graph repeats its kernels, on the static tensors as they are then.
    """
    prompts, calls = random_prompts(7), []
    wanted = ids(generate(model, prompts, **SETTINGS))

    class Graph:
        def replay(self):
            calls.append("replay")
            self.step()

    @contextlib.contextmanager
    def record(graph, pool):
        if len(calls) > 20:
            raise RuntimeError("out of memory\nand a long story")
        calls.append("record")
        graph.step, graph.recording = current[0], True
        current[1] = True  # while recording nothing is computed
        yield
        current[1] = False

    current, recorder = [None, False], rollout._recorder

    def spied(device):
        run = recorder(torch.device("cuda"))

        def go(step, shapes):
            current[0] = step
            return run(lambda: None if current[1] else step(), shapes)

        return go

    monkeypatch.setattr(rollout, "static_shapes", lambda device: True)
    monkeypatch.setattr(rollout, "_recorder", spied)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 1)
    monkeypatch.setattr(torch.cuda, "graph", record)
    assert ids(generate(model, prompts, slots=5, **SETTINGS)) == wanted
    assert calls.count("record") >= 2 and calls.count("replay") > calls.count("record")


def test_the_sampling_copy_computes_what_the_model_does(model):
    """A weight packed in the wrong order, a bias forgotten, or a second copy of the weights in memory."""
    copy, tokens = sampling_copy(model), torch.randint(60, (3, 9))
    assert copy is not model and copy.model.layers[0].mlp.up_proj.packed is not None and copy.packed_head is not None
    assert copy.head_weight.data_ptr() == model.head_weight.data_ptr()
    with torch.no_grad():
        torch.testing.assert_close(copy(tokens), model(tokens), rtol=1e-5, atol=1e-5)


def test_a_prompt_that_stands_twice_gets_different_samples(model):
    """Keys hashed from the prompt alone would make twins of the two groups."""
    prompt = random_prompts(1)[0]
    twice = ids(generate(model, [prompt, [1, 2], prompt], **SETTINGS))
    assert twice[:3] != twice[6:]
    assert twice[:3] + twice[6:] == ids(generate(model, [prompt], **{**SETTINGS, "samples_per_prompt": 6}))


def test_seeds_differ_and_repeat(model):
    """A seed that is ignored, or a hidden source of randomness."""
    prompts = random_prompts(3)
    a, b, c = (ids(generate(model, prompts, **{**SETTINGS, "seed": s})) for s in (1, 1, 2))
    assert a == b != c


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logps_are_those_of_the_full_forward_at_the_sampling_temperature(model, temperature):
    """Log-probs at temperature 1, after top-p, or shifted by one token."""
    for r in generate(model, random_prompts(5), temperature=temperature, top_p=0.9, top_k=30, slots=4, **SETTINGS):
        with torch.no_grad():
            logits = model(torch.tensor([r.prompt_ids + r.response_ids]))[0, len(r.prompt_ids) - 1 : -1] / temperature
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(r.response_ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(r.logps), wanted, atol=1e-4)


def test_greedy_is_the_argmax_of_the_full_forward(model):
    """A cache that serves wrong keys: greedy ids leave the path at once."""
    prompts = random_prompts(6)
    for prompt, r in zip(prompts, generate(model, prompts, temperature=0, max_new_tokens=10, stop_ids=[], slots=4), strict=True):
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(10):
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        assert r.response_ids == tokens[len(prompt) :] and not r.finished


def test_the_stop_token_is_part_of_the_response_and_nothing_follows_it(model):
    """The stop token dropped from the loss, never to be learned (pain 4 of the field), or a cut response counted as finished."""
    rollouts = generate(model, random_prompts(30), **SETTINGS)
    assert {r.finished for r in rollouts} == {True, False}
    for r in rollouts:
        stops = [t in SETTINGS["stop_ids"] for t in r.response_ids]
        assert not any(stops[:-1]) and stops[-1] == r.finished
        assert r.finished or len(r.response_ids) == SETTINGS["max_new_tokens"]
        assert len(r.logps) == len(r.response_ids)


def test_each_prompt_is_prefilled_once_and_no_step_computes_a_finished_sample(model, monkeypatch):
    """A prefill per sample, or rows that decode on until the slowest of the batch ends."""
    prompts, prefilled, decoded = random_prompts(9, lengths=(2, 30)), 0, 0
    hidden = type(model).hidden

    def counting(self, tokens, past=None):
        nonlocal prefilled, decoded
        if tokens.size(1) > 1:
            prefilled += tokens.size(0)
        else:
            decoded += tokens.size(0)
        return hidden(self, tokens, past)

    monkeypatch.setattr(type(model), "hidden", counting)
    rollouts = generate(model, prompts, slots=4, **SETTINGS)
    assert prefilled == len(prompts)
    assert decoded == sum(len(r.response_ids) - 1 for r in rollouts)  # the first token comes from the prefill


def chi_square_p(counts, p):
    """P(chi-square >= that of the counts) under p; tokens expected fewer than 10 times are pooled."""
    expected = p * counts.sum()
    big = expected >= 10
    observed = torch.cat((counts[big], counts[~big].sum()[None])).double()
    expected = torch.cat((expected[big], expected[~big].sum()[None])).double()
    if observed[expected == 0].sum() > 0:
        return 0.0  # it happened, and it can't
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2).double(), statistic / 2))


def filtered(p, top_p, top_k):
    """The definition, by a loop: top_k likeliest, then the fewest of them that hold top_p of what is left."""
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


@pytest.mark.parametrize("V", [60, 61, 1200])  # cut into blocks evenly, not evenly (a prime), and beyond the first look of top-p
@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 1.0, 0), (1.0, 0.8, 0), (1.3, 0.999, 0), (1.0, 1.0, 5),
                                                                   (1.0, 0.6, 12)])
def test_20000_samples_follow_the_distribution(make_model, V, temperature, top_p, top_k):
    """A biased draw: blocks of unequal width, noise too coarse, or a nucleus one token too small."""
    model = make_model(vocab_size=V, std=0.15)
    prompt = [3, 1, 4]
    with torch.no_grad():
        p = (model(torch.tensor([prompt]))[0, -1].double() / temperature).softmax(-1)
    rollouts = generate(model, [prompt], samples_per_prompt=20_000, max_new_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k,
                        stop_ids=[])
    counts = torch.bincount(torch.tensor([r.response_ids[0] for r in rollouts]), minlength=V)
    wanted = filtered(p.tolist(), top_p, top_k)
    assert chi_square_p(counts, wanted) > 1e-3
    assert chi_square_p(counts, wanted.roll(1)) < 1e-6  # the test can fail


def test_noise_is_uniform_and_unrelated_between_rows_times_and_streams():
    """A hash whose neighbouring keys, steps or counters give related numbers."""
    keys = torch.stack((torch.arange(64), torch.zeros(64, dtype=torch.long)), dim=1)
    t = torch.zeros(64, dtype=torch.long)
    draws = [_gumbel(keys, t + step, 500, stream) for step in (0, 1) for stream in (0, 1)]
    draws = [torch.exp(-torch.exp(-g)) for g in draws]  # back to uniform
    for u in draws:
        assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
        assert abs(torch.corrcoef(torch.stack((u[:-1].flatten(), u[1:].flatten())))[0, 1]) < 0.02
        assert abs(torch.corrcoef(torch.stack((u[:, :-1].flatten(), u[:, 1:].flatten())))[0, 1]) < 0.02
    for i in range(4):
        for j in range(i):
            assert abs(torch.corrcoef(torch.stack((draws[i].flatten(), draws[j].flatten())))[0, 1]) < 0.02
            assert not torch.equal(draws[i], draws[j])


def test_progress_ends_with_all_samples(model):
    """A progress line that stops short of the end."""
    seen = []
    rollouts = generate(model, random_prompts(5), slots=4, on_progress=lambda *now: seen.append(now), **SETTINGS)
    assert seen[-1] == (15, 15, sum(len(r.response_ids) for r in rollouts))
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(seen))


def test_masters_in_fp32_are_sampled_in_the_compute_dtype(make_model):
    """Sampling in fp32 while training in bf16: the log-probs of sampler and trainer would differ from the start."""
    model = make_model(std=0.1)
    model.compute_dtype = torch.bfloat16
    r = generate(model, [[1, 2, 3]], max_new_tokens=8, stop_ids=[])[0]
    with torch.no_grad():
        logits = model.head(model.hidden(torch.tensor([r.prompt_ids + r.response_ids])))[0, 2:-1]
    assert logits.dtype == torch.float32
    wanted = logits.log_softmax(-1).gather(1, torch.tensor(r.response_ids)[:, None])[:, 0]
    assert (torch.tensor(r.logps) - wanted).abs().mean() < 0.02


def test_planned_slots_fit_the_memory_set_aside(model):
    """Rows planned without regard to their length: out of memory at the first long response limit."""
    few, many = plan_slots(model, 10_000, 10_000_000), plan_slots(model, 10_000, 100)
    assert 1 <= few < many == 512
    cache = KVCache(model, 1, 100)
    assert 2 * cache.k.numel() * 4 == 2 * 3 * 2 * 16 * 100 * 4
    assert plan_slots(model, 3, 100) == 3


def test_slots_that_do_not_fit_a_gpu_are_refused_with_the_number_that_would(model, monkeypatch):
    """A cache that fills the card, and a stack trace in the first layer of the first step."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**20, 2**30))
    gpu = types.SimpleNamespace(config=model.config, device=torch.device("cuda"), compute_dtype=torch.bfloat16)  # never touched
    row = 2 * model.config.layers * model.config.Hkv * model.config.Dh * 100 * 2
    fits = 2**19 // row
    assert plan_slots(gpu, 10_000, 100) == plan_slots(gpu, 10_000, 100, slots=fits) == fits
    with pytest.raises(torch.OutOfMemoryError, match=f"--slots {4 * fits}: .* wanted at most {fits} slots"):
        plan_slots(gpu, 10_000, 100, slots=4 * fits)


@pytest.mark.parametrize(("change", "message"), [
    ({"prompts": [[1], []]}, "prompt 1 is empty"), ({"prompts": [[60]]}, "vocabulary of 60"), ({"prompts": [[-1]]}, "vocabulary"),
    ({"samples_per_prompt": 0}, "samples_per_prompt is 0"), ({"max_new_tokens": 0}, "max_new_tokens is 0"), ({"top_p": 0.0}, "top_p is 0"),
    ({"top_p": 1.5}, "top_p"), ({"top_k": -1}, "top_k is -1"), ({"temperature": -1.0}, "temperature is -1"),
    ({"temperature": math.nan}, "temperature is nan"), ({"slots": 0}, "slots is 0")])
def test_settings_that_mean_nothing_are_refused(model, change, message):
    """A wrong setting that ends in an index error, or in samples from nowhere."""
    arguments = {"prompts": [[1]], "max_new_tokens": 4, "stop_ids": []} | change
    with pytest.raises(ValueError, match=message):
        generate(model, arguments.pop("prompts"), **arguments)


def test_no_prompts_no_rollouts(model):
    """An empty share of the work (a process with nothing to do) must not fail."""
    assert generate(model, [], max_new_tokens=4, stop_ids=[]) == []
