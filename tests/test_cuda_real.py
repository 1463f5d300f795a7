"""The programs on a real GPU, held against the same on the CPU: skipped where there is none.

    pytest tests/test_cuda_real.py

`python bench.py --gpu` runs it as well.
"""

import pytest
import torch

import bench
from lib import kv_cache
from lib.fast import keep_less
from lib.logprobs import token_logps
from lib.self_check import check_sampler, sampler_gap
from lib.settings import DEMO
from model import frozen_copy, load_model
from rollout import generate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
PROMPTS = [[ord(c) for c in text] for text in ("12+34=", "7*8-5=", "99-1+2=", "3+4+5=")]
SETTINGS = {"samples_per_prompt": 8, "max_new_tokens": 32, "stop_ids": []}


def demo_model(device, dtype=torch.float32):
    model = load_model(DEMO["model"], device)
    model.compute_dtype = dtype
    return keep_less(model)


def step(device, rollouts):
    """One step of gradient descent on these rollouts -> how each parameter moves; the losses."""
    model = demo_model(device)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sgd = torch.optim.SGD(model.parameters(), 1e3)
    losses = bench.learn(model, keep_less(frozen_copy(model)), sgd, 8, rollouts)
    moved = {name: (p.detach() - before[name]).cpu() for name, p in model.named_parameters()}
    return moved, losses


@pytest.fixture(scope="module")
def on_cpu():
    """What the CPU samples, and its step."""
    rollouts = generate(demo_model("cpu"), PROMPTS, **SETTINGS)
    return rollouts, step("cpu", rollouts)


@pytest.mark.parametrize("slots", [None, 10], ids=["one pass", "passes"])
def test_a_real_gpu_samples_in_fp32_what_the_cpu_samples(on_cpu, monkeypatch, slots):
    """Wrong noise, keys or positions on a device that the simulation does not resemble. (Rounding
    in the last digit may change a token now and then.)"""
    torch.backends.cuda.matmul.allow_tf32 = False
    monkeypatch.setattr(kv_cache, "SHORT", 16)
    model = demo_model("cuda:0")
    rollouts = generate(model, PROMPTS, **SETTINGS, slots=slots)
    same = [a.response_ids == b.response_ids for a, b in zip(rollouts, on_cpu[0], strict=True)]
    assert sum(same) >= 30, f"{sum(same)} of {len(same)}"
    assert sampler_gap(model, rollouts) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_gpu_passes_the_check_before_the_first_step(dtype):
    """Recorded steps that compute something else than eager ones."""
    assert check_sampler(demo_model("cuda:0", dtype), generate, PROMPTS)


def test_a_real_gpu_takes_the_step_that_the_cpu_takes(on_cpu):
    """Another loss or another gradient: padding to aligned lengths, chunks of the head, masks."""
    torch.backends.cuda.matmul.allow_tf32 = False
    rollouts, (moved, losses) = on_cpu
    found, gpu_losses = step("cuda:0", rollouts)
    assert gpu_losses == pytest.approx(losses, rel=1e-3, abs=1e-5)
    for name, change in moved.items():
        assert (found[name] - change).norm() < 1e-2 * change.norm() + 1e-4, name


def test_the_head_s_gradient_in_bf16_is_summed_in_fp32_on_a_real_gpu():
    """A sum over chunks that torch refuses, or makes in bf16."""
    N, V, D = 3000, 512, 64
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, D, generator=generator) for n in (N, V))
    targets = torch.randint(V, (N,), generator=generator)
    found = []
    for device in ("cpu", "cuda:0"):
        head = weight.to(device, torch.float32).requires_grad_()
        token_logps(hidden.to(device, torch.bfloat16), head, targets.to(device)).sum().backward()
        found.append(head.grad.cpu())
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()
