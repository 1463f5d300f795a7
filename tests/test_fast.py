"""lib/fast.py: each fast part held against the plain one in model.py.

pytest tests/test_fast.py
"""

import contextlib
import gc
import weakref

import pytest
import torch
from conftest import FAMILIES, GOLDEN, draw_tokens, near, randn
from torch.nn import functional as F

from lib import fast
from lib.batch import response_hidden
from lib.decoding import decoder, record_steps
from lib.fast import (
    choose_device,
    keep_less,
    linear,
    on_device,
    sampling_copy,
    start_moments,
)
from lib.kv_cache import GroupCache
from model import KVCache, frozen_copy, load_model
from rollout import Rollout, generate

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16

# Two prompts, one of them of a single token, with two responses each.
ROLLOUTS = [
    Rollout([1, 2, 3, 4, 5], [6, 7, 8], [], True),
    Rollout([9], [10, 11, 12, 13], [], True),
    Rollout([1, 2, 3, 4, 5], [14], [], True),
    Rollout([9], [15, 16], [], True),
]


def states_and_gradients(model, shared):
    """The hidden states of ROLLOUTS' tokens, and the gradients of a random sum of them."""
    model.zero_grad()
    hidden, _ = response_hidden(model, ROLLOUTS, shared)
    (hidden * randn(*hidden.shape, seed=1).to(hidden.dtype)).sum().backward()
    return hidden.detach(), {name: p.grad for name, p in model.named_parameters()}


# --------------------------------------------------------------------------------------------------
# Keeping less for the backward pass


@pytest.mark.parametrize("shared", [False, True], ids=["whole", "shared"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_layers_that_keep_less_give_the_states_and_gradients_of_plain_ones(name, recompute, shared):
    """A product made again from the wrong input, a gradient of a weight, a bias or a norm that is
    lost or counted twice, a recomputation that records a prompt's keys twice."""
    wanted, grads = states_and_gradients(load_model(GOLDEN / name, dtype=F64), shared)
    lean = keep_less(load_model(GOLDEN / name, dtype=F64), recompute)
    got, lean_grads = states_and_gradients(lean, shared)
    near(got, wanted, 1e-12)
    for tensor, grad in grads.items():
        if grad is None:  # an untied head has no part in hidden states
            assert lean_grads[tensor] is None, tensor
        else:
            close = torch.allclose(lean_grads[tensor], grad, rtol=1e-10, atol=1e-12)
            assert close and grad.any(), tensor


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_frozen_weights_leave_the_other_gradients_alone(recompute):
    """Gradients handed out in the order of what is trained instead of what was given."""
    for trained in ("norm", "q_proj", "up_proj.weight", "down_proj", "bias", "embed"):
        results = []
        for swap in (False, True):
            model = load_model(GOLDEN / "llama_biases", dtype=F64)
            for name, p in model.named_parameters():
                p.requires_grad_(trained in name)
            if swap:
                keep_less(model, recompute)
            results.append(states_and_gradients(model, shared=True)[1])
        plain, lean = results
        for name, grad in plain.items():
            assert (grad is None) == (lean[name] is None) == (trained not in name), name
            if grad is not None:
                assert torch.allclose(lean[name], grad, rtol=1e-10, atol=1e-12), name


def saved_numbers(model):
    """How many numbers the graph of a forward pass keeps, parameters not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            # Held, so that no other tensor gets its address.
            saved[storage.data_ptr()] = x, storage.nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        response_hidden(model, ROLLOUTS, shared=True)
    return sum(numbers for _, numbers in saved.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_less_is_kept_for_the_backward_pass(name):
    """A swap that is not used at all, or an input of a product kept beside the product's own."""
    model = load_model(GOLDEN / name)
    plain, kept = saved_numbers(model), saved_numbers(keep_less(model))
    recomputed = saved_numbers(keep_less(model, recompute=True))
    # The tokens of two prompts (but for their last) and of four rows of responses, in each layer.
    c = model.config
    places = c.layers * (2 * 4 + 4 * 4)
    # What two norms, silu, its product with up and the joined heads make.
    assert plain - kept >= places * (2 * c.D + 2 * c.F + c.H * c.Dh)
    assert kept - recomputed == places * 2 * c.F  # gate and up


@pytest.mark.parametrize("shared", [False, True], ids=["whole", "shared"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_policy_and_frozen_copy_agree_to_the_last_bit(name, dtype, recompute, shared):
    """One arithmetic where gradients are recorded and another where not: the KL of step 1 would be
    rounding noise, which whitening lifts to unit advantages."""
    policy = load_model(GOLDEN / name)
    policy.compute_dtype = dtype
    reference = keep_less(frozen_copy(policy))
    keep_less(policy, recompute)
    with torch.no_grad():
        wanted, _ = response_hidden(reference, ROLLOUTS, shared)
        scored, _ = response_hidden(policy, ROLLOUTS, shared)
    trained, _ = response_hidden(policy, ROLLOUTS, shared)
    assert trained.requires_grad and wanted.dtype == dtype
    assert torch.equal(trained, wanted) and torch.equal(scored, wanted)


def test_fp32_masters_get_fp32_gradients_from_bf16_layers_that_keep_less():
    """Gradients rounded to bf16 on the way back through the casts, or far from those of the plain
    layers."""
    results = []
    for swap in (False, True):
        model = load_model(GOLDEN / "llama_biases")
        model.compute_dtype = BF16
        if swap:
            keep_less(model)
        results.append(states_and_gradients(model, shared=False)[1])
    for name, grad in results[0].items():
        if grad is not None:
            lean = results[1][name]
            assert lean.dtype == F32 and (lean - grad).norm() < 0.02 * grad.norm(), name


@torch.no_grad()
def test_layers_that_keep_less_decode_with_a_cache():
    """A swap that forgets the cache: every token would be the first of its sequence."""
    model, tokens = load_model(GOLDEN / "qwen3_tied", dtype=F64), draw_tokens(2, 12)
    wanted = model.hidden(tokens)
    cache = KVCache(keep_less(model), rows=2, capacity=12)
    parts = []
    for part in tokens.split([7, 1, 4], dim=1):
        parts.append(model.hidden(part, cache))
        cache.lengths += part.size(1)
    near(torch.cat(parts, dim=1), wanted, 1e-12)


# --------------------------------------------------------------------------------------------------
# Sampling


def bits(model):
    return {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


@pytest.mark.parametrize("swap", [False, True], ids=["plain", "lean"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_sampling_copy_computes_what_the_model_does_and_leaves_it_alone(name, swap):
    """A weight packed in the wrong order, a bias forgotten, a second copy of the weights in memory,
    or the model itself swapped: its gradients would be gone."""
    model, tokens = load_model(GOLDEN / name), draw_tokens(3, 9)
    if swap:
        keep_less(model)
    before, logits = bits(model), model(tokens)
    swapped = {name for name, module in model.named_modules() if "forward" in vars(module)}
    copy = sampling_copy(model)
    assert copy is not model and not any(p.requires_grad for p in copy.parameters())
    assert copy.head_weight.data_ptr() == model.head_weight.data_ptr()
    near(copy(tokens), logits, 1e-5)
    if fast.ONEDNN:  # packed at all
        layer = copy.model.layers[0]
        assert all("forward" in vars(m) for m in (layer.mlp, layer.self_attn.q_proj))
        assert "head" in vars(copy)
    # And the model is what it was, to the last bit.
    for tensor, (value, trained) in bits(model).items():
        assert torch.equal(value, before[tensor][0]) and trained == before[tensor][1]
    now = {name for name, module in model.named_modules() if "forward" in vars(module)}
    assert now == swapped and "head" not in vars(model)
    assert torch.equal(model(tokens), logits)


@pytest.mark.parametrize("swap", [fast.sampling_copy, keep_less])
def test_swapped_layers_are_freed_as_soon_as_nobody_holds_them(swap):
    """A forward that holds its own module: packed weights stay in memory until the collector of
    cycles comes, half a gigabyte a step for a model of 135M parameters."""
    gc.disable()
    try:
        copy = swap(load_model(GOLDEN / "qwen2"))
        held = weakref.ref(copy.model.layers[0].mlp), weakref.ref(copy)
        del copy
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [F64, BF16], ids=str)
@torch.no_grad()
def test_the_sampling_copy_computes_in_the_compute_dtype(dtype):
    """fp32 weights sampled in fp32 while training in bf16, or packed where oneDNN has no such
    form."""
    model = load_model(GOLDEN / "llama_biases", dtype=F64 if dtype == F64 else F32)
    model.compute_dtype = dtype
    copy, tokens = sampling_copy(model), draw_tokens(3, 9)
    assert copy.compute_dtype == dtype and {p.dtype for p in copy.parameters()} == {dtype}
    assert torch.equal(copy(tokens), model(tokens))


def test_samples_of_a_model_that_keeps_less_are_the_same(make_model):
    """Rollouts that depend on how the trainer saves memory."""
    settings = {"samples_per_prompt": 3, "max_new_tokens": 9, "stop_ids": [7]}
    wanted = generate(make_model(), [[1, 2, 3], [4]], **settings)
    assert generate(keep_less(make_model(), recompute=True), [[1, 2, 3], [4]], **settings) == wanted


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (0, 8), (1, 1, 8)])
@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_linear_is_torch_s_linear(shape, dtype, bias):
    """A bias lost, leading dimensions mixed up, or an empty batch that oneDNN refuses."""
    x, weight = randn(*shape, dtype=F32).to(dtype), randn(6, 8, seed=1, dtype=F32).to(dtype)
    b = randn(6, seed=2, dtype=F32).to(dtype) if bias else None
    near(linear(x, weight, b), F.linear(x, weight, b), 1e-5)
    near(linear(x, weight.T.contiguous().T, b), F.linear(x, weight, b), 1e-5)


# --------------------------------------------------------------------------------------------------
# Decode steps


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_joined_products_decode_what_plain_layers_do(name):
    """Rows of queries, keys and values joined in another order than they are taken apart, a bias or
    the weight of a norm left out, a rotation the wrong way round."""
    model = sampling_copy(load_model(GOLDEN / name, dtype=F64))
    c, prompts, results = model.config, draw_tokens(2, 5), []
    for joined in (False, True):
        cache = GroupCache(model, rows=3, slots=2, P=5, T=4, static=joined)
        for slot, prompt in enumerate(prompts):
            past = KVCache(model, 1, 5)
            model.hidden(prompt[None], past)
            cache.put_prompt(slot, past.k[:, 0], past.v[:, 0])
        decode, states = decoder(model, joined), []
        for step in range(4):
            cache.arrange([0, 1, 0])
            cache.shapes()
            tokens = draw_tokens(cache.A, seed=step)[:3]
            states.append(decode(tokens, cache)[:3])
            cache.clock += 1
            cache.now += 1
        results.append(torch.stack(states))
    assert results[0].shape == (4, 3, c.D)
    # Angles are fp32, and the joined ones are taken of another product.
    near(results[1], results[0], 1e-5)


@pytest.fixture
def graphs(monkeypatch):
    """A stand-in for CUDA graphs -> a list of what was done: "record", "replay"."""
    done = []

    class Graph:
        def replay(self):
            done.append("replay")

    @contextlib.contextmanager
    def record(graph, pool):
        assert pool == "pool"
        done.append("record")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "graph", record)
    return done


def test_a_step_runs_eagerly_first_is_recorded_next_and_then_replayed(graphs):
    """A step recorded before its kernels are loaded, recorded again each time, or replayed for
    other shapes."""
    run = record_steps(torch.device("cuda"))
    for _ in range(4):
        run(lambda: graphs.append("step a"), "a")
    assert graphs == ["step a", "record", "step a", "replay", "replay", "replay"]
    graphs.clear()
    run(lambda: graphs.append("step b"), "b")
    run(lambda: graphs.append("step a"), "a")
    assert graphs == ["step b", "replay"]


def test_where_recording_fails_eager_steps_go_on(monkeypatch, graphs, capsys):
    """A run that ends for lack of memory to record in, or a warning at every token."""

    @contextlib.contextmanager
    def refuse(graph, pool):
        raise RuntimeError("CUDA out of memory\nand a long story")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    run, steps = record_steps(torch.device("cuda")), []
    for i in range(5):
        run(lambda i=i: steps.append(i), "a")
    assert len(steps) == 5
    said = capsys.readouterr().err
    assert said.count("CUDA out of memory") == 1 and "long story" not in said


def test_on_a_cpu_nothing_is_recorded(graphs):
    """A CUDA call on a machine without CUDA."""
    run, steps = record_steps(torch.device("cpu")), []
    for i in range(3):
        run(lambda i=i: steps.append(i), "a")
    assert steps == [0, 1, 2] and graphs == []


# --------------------------------------------------------------------------------------------------
# Memory and the machine


@pytest.mark.parametrize("fused", [False, True])
def test_moments_that_are_there_early_change_no_step(fused):
    """Moments of another shape or dtype, or a step count that starts at 1: another bias correction
    and another run."""
    results = []
    for early in (False, True):
        p = torch.nn.Parameter(randn(4, 3, dtype=F32))
        optimizer = torch.optim.AdamW([p], lr=0.1, fused=fused)
        if early:
            start_moments(optimizer)
        for seed in (1, 2):
            p.grad = randn(4, 3, seed=seed, dtype=F32)
            optimizer.step()
        state = optimizer.state[p]
        results.append((p.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]))
    for a, b in zip(*results, strict=True):
        near(a, b)


def test_what_is_offloaded_is_on_the_device_only_while_it_is_needed():
    """Moments left behind on either side, or moved although nobody asked."""
    moves = []

    class Spy(torch.nn.Module):
        def to(self, device):
            moves.append(str(device))

    for offload, thing, wanted in [(True, Spy(), ["meta"]), (False, Spy(), []), (True, None, [])]:
        moves.clear()
        with on_device(thing, "meta", offload):
            assert moves == wanted
        assert moves == (["meta", "cpu"] if wanted else [])
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([p])
    start_moments(optimizer)
    moments = dict(optimizer.state[p])
    with on_device(optimizer, "cpu", True):
        pass
    assert optimizer.state[p].keys() == moments.keys()


@pytest.fixture
def machine(monkeypatch):
    """machine(gpus) -> a list of the devices made current, on a machine with that many GPUs."""
    monkeypatch.setattr(fast, "keep_freed_memory", lambda: None)

    def make(gpus):
        current = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        return current

    return make


@pytest.mark.parametrize(
    ("gpus", "device", "dtype", "wanted"),
    [
        (0, "auto", "auto", ("cpu", F32)),
        (0, "cpu", "bf16", ("cpu", BF16)),
        (2, "cpu", "auto", ("cpu", F32)),
        (2, "auto", "auto", ("cuda:0", BF16)),
        (2, "cuda", "fp32", ("cuda:0", F32)),
        (2, "cuda:1", "auto", ("cuda:1", BF16)),
    ],
)
def test_the_chosen_device_is_made_the_current_one(machine, gpus, device, dtype, wanted):
    """--device cuda:1 that records on cuda:0: replays do nothing, and sampling never ends."""
    current = machine(gpus)
    chosen, compute_dtype = choose_device(device, dtype)
    assert (str(chosen), compute_dtype) == wanted
    assert [str(d) for d in current] == ([wanted[0]] if "cuda" in wanted[0] else [])


@pytest.mark.parametrize(
    ("gpus", "device"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (2, "gpu"), (2, "mps"), (2, "")]
)
def test_a_device_that_is_not_there_is_refused_in_one_line(machine, gpus, device):
    """A stack trace in the middle of loading, or a run on another device than was asked for."""
    current = machine(gpus)
    with pytest.raises(ValueError, match="--device") as caught:
        choose_device(device)
    assert "wanted" in str(caught.value) and "\n" not in str(caught.value)
    assert current == []
