"""The programs on a simulated GPU (tests/fake_cuda.py), held against the same on the CPU.

    pytest tests/test_cuda.py
    python tests/test_cuda.py        # the runs alone, as JSON: what the tests look at

All runs are made in one process of their own, because the simulation patches torch.
"""

import contextlib
import functools
import io
import itertools
import json
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
SMALL = ["--model", str(DEMO / "model"), "--data", str(DEMO / "train.jsonl"), "--lr", "1e-3"]
SMALL += ["--prompts-per-step", "2", "--samples-per-prompt", "4", "--max-new-tokens", "22"]
SMALL += ["--watch", "0", "--report-every", "0"]

# Name -> flags of train.py; each runs on the CPU and on the simulated GPU.
RUNS = {
    "fp32": ["--dtype", "fp32", "--steps", "2"],
    "bf16": ["--dtype", "bf16", "--steps", "1"],
    "micro-batches": ["--dtype", "fp32", "--steps", "2", "--tokens-per-microbatch", "80"],
    "bf16 micro-batches": ["--dtype", "bf16", "--steps", "1", "--tokens-per-microbatch", "80"],
    "memory": ["--dtype", "fp32", "--steps", "2", "--offload", "--recompute-activations"],
    "two updates": ["--dtype", "fp32", "--steps", "2", "--updates-per-step", "2", "--offload"],
    "top-p": ["--dtype", "fp32", "--steps", "1", "--top-p", "0.9", "--temperature", "0.8"],
    "top-k": ["--dtype", "fp32", "--steps", "1", "--top-k", "9", "--slots", "5"],
    "vimpo_grpo": ["--dtype", "fp32", "--steps", "1", "--algo", "vimpo_grpo"],
    "grpo": ["--dtype", "fp32", "--steps", "1", "--algo", "grpo", "--log-kl"],
    "dr_grpo": ["--dtype", "fp32", "--steps", "1", "--algo", "dr_grpo"],
    "rloo": ["--dtype", "fp32", "--steps", "1", "--algo", "rloo"],
    "evaluated": ["--dtype", "fp32", "--steps", "1", "--slots", "4", "--eval-data", "few.jsonl"],
}
MACHINES = {"second GPU": (["--dtype", "fp32", "--steps", "1", "--device", "cuda:1"], 2)}


# ---- The runs ------------------------------------------------------------------------------------


def train_once(flags, folder):
    """A run of train.py -> ids of all samples, in the order they were asked for; its metrics."""
    import eval as evaluation
    import train

    sampled, together = [], evaluation.generate_together

    def spied(*args, **kwargs):
        rollouts = together(*args, **kwargs)
        sampled.append([r.response_ids for r in rollouts])
        return rollouts

    with contextlib.ExitStack() as stack:
        for module in (train, evaluation):
            stack.enter_context(mock.patch.object(module, "generate_together", spied))
        code = train.main([*SMALL, "--out", str(folder / "run"), *flags])
    lines = (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {"code": code, "ids": sampled, "metrics": [json.loads(line) for line in lines]}


def evaluate_once(flags, folder):
    """A run of eval.py -> its table."""
    import eval as evaluation

    flags = [*flags, "--model", str(DEMO / "model"), "--data", "few.jsonl", "--samples", "3"]
    code = evaluation.main([*flags, "--max-new-tokens", "24", "--out", str(folder / "table.json")])
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))["table"]
    return {"code": code, "table": table}


def attempt(run, flags, folder, gpus=0, checked=False):
    """run(flags, folder), on the CPU or on a machine with GPUs; what it printed; what was counted.

    A run that fails is shown as its traceback. checked: with the look at the sampler beforehand.
    """
    import fake_cuda

    import rollout
    from lib import decoding, self_check

    said, gpu, result = io.StringIO(), None, {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        stack.enter_context(mock.patch.multiple(decoding, recording=True, joining=True))
        if not checked:
            stack.enter_context(mock.patch.object(self_check, "check_sampler"))
        if gpus:
            gpu = stack.enter_context(fake_cuda.machine(gpus))
        elif "bf16" in flags:  # joined products round elsewhere, so that ids are joined ones too
            joined = functools.partial(rollout.decoder, joined=True)
            stack.enter_context(mock.patch.object(rollout, "decoder", joined))
        try:
            result = run(flags, folder)
        except (Exception, SystemExit):
            result = {"failed": traceback.format_exc()}
    result["said"] = said.getvalue()
    if gpu:
        result |= {name: getattr(gpu, name) for name in ("captures", "replays", "kernels", "syncs")}
    return result


def on_both(run, flags, folder, gpus=1):
    """{"cpu": result, "gpu": result}; `folder` keeps what the runs write."""
    results = {}
    for name, count in (("cpu", 0), ("gpu", gpus)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        device = [] if count else ["--device", "cpu"]
        results[name] = attempt(run, [*flags, *device], folder / name, count)
    return results


def checked(flags, folder, break_replay=None, break_head=None):
    """A run of train.py on a GPU where a replay or a product goes wrong; it looks beforehand."""
    import fake_cuda

    from lib import fast

    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if break_replay:
            stack.enter_context(mock.patch.object(fake_cuda.Graph, "repeat", break_replay))
        if break_head:
            stack.enter_context(mock.patch.object(fast, "_wide_head", break_head))
        return attempt(train_once, flags, folder, 1, checked=True)


def check_runs():
    """Runs that look at the sampler first: with all well, and with faults."""
    import fake_cuda
    import torch

    from lib import fast

    repeat, head, flags = fake_cuda.Graph.repeat, fast._wide_head, RUNS["bf16"]

    def nothing(graph, func, *rest):
        """The graph was recorded on another device: it is empty."""

    def forgets(graph, func, *rest):
        """Keys and values are not stored."""
        if func is not torch.ops.aten.index_copy_.default:
            repeat(graph, func, *rest)

    def rounded(head_weight, hidden):
        """The head of another model."""
        return head(head_weight, hidden.roll(1, -1))

    return {
        "well": checked(flags, Path("well")),
        "empty": checked(flags, Path("empty"), nothing),
        "stale keys": checked(flags, Path("stale"), forgets),
        "head": checked(flags, Path("head"), None, rounded),
    }


def tiny_model(layers, dtype, device, **config):
    """A model of Qwen3's or another form with random weights, on this device."""
    import torch
    from conftest import TINY

    from lib.checkpoint import read_config
    from model import Transformer

    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(TINY | config | {"num_hidden_layers": layers})
        Path(folder, "config.json").write_text(text)
        model = Transformer(read_config(folder))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    model.compute_dtype = getattr(torch, dtype)
    return model.requires_grad_(False).to(device)


def sample_once(flags, _):
    """Samples that end one by one, in rows that change hands; some groups shrink before others."""
    from rollout import generate

    model = tiny_model(1, "float32", flags[-1] if flags else "cuda:0")
    prompts = [[i, i + 1] for i in range(16)]
    settings = {"samples_per_prompt": 4, "max_new_tokens": 20, "stop_ids": [7, 8, 9]}
    sampled = []
    for slots in (32, 49):
        rollouts = generate(model, prompts, slots=slots, **settings)
        sampled.append([r.response_ids for r in rollouts])
    return {"code": 0, "ids": sampled, "metrics": []}


def sample_in_passes(flags, _):
    """More samples than rows: on the GPU in passes to 20, 34 and 60 tokens, on the CPU in one."""
    from lib import kv_cache
    from rollout import generate

    model = tiny_model(1, "float32", flags[-1] if flags else "cuda:0")
    settings = {"samples_per_prompt": 2, "max_new_tokens": 60, "stop_ids": [7], "slots": 7}
    ends, planned = [], kv_cache.plan_length

    def plan(*args):
        ends.append(planned(*args))
        return ends[-1]

    with mock.patch.object(kv_cache, "SHORT", 30), mock.patch("rollout.plan_length", plan):
        rollouts = generate(model, [[i, i + 1] for i in range(9)], **settings)
    ids = [r.response_ids for r in rollouts]
    return {"code": 0, "ids": [ids], "metrics": [], "ends": ends}


def decode_steps(layers, dtype, tokens, **config):
    """Sample from random weights on the simulated GPU -> kernels of a recorded step, all syncs."""
    import fake_cuda

    from rollout import generate

    with fake_cuda.machine() as gpu:
        model = tiny_model(layers, dtype, "cuda:0", **config)
        gpu.kernels = gpu.syncs = 0  # moving the weights does not count
        prompts = [[1, 2, 3], [4, 5]]
        generate(model, prompts, samples_per_prompt=3, max_new_tokens=tokens, stop_ids=[])
        return gpu.sizes[-1], gpu.syncs, gpu.kernels


def count():
    """Kernels of a layer and of the rest of a decode step; a token's waits and kernels of noise."""
    counts = {}
    for kind, dtype in itertools.product(("qwen3", "llama"), ("bfloat16", "float32")):
        two, few_waits, few = decode_steps(2, dtype, 36, model_type=kind)
        _, many_waits, many = decode_steps(2, dtype, 100, model_type=kind)
        four, *_ = decode_steps(4, dtype, 4, model_type=kind)
        layer = (four - two) / 2
        waits, noise = (many_waits - few_waits) / 64, (many - few) / 64 - two
        found = {"layer": layer, "rest": two - 2 * layer, "waits": waits, "noise": noise}
        counts[f"{kind} {dtype}"] = found
    return counts


def cudnn_attention():
    """Whether torch may choose it, before and after train.py's choice of a device."""
    import fake_cuda
    import torch

    from lib.fast import choose_device

    before = torch.backends.cuda.cudnn_sdp_enabled()
    with fake_cuda.machine():
        choose_device("cuda")
    return {"before": before, "after": torch.backends.cuda.cudnn_sdp_enabled()}


def main():
    """All runs -> one line of JSON."""
    import torch

    torch.set_num_threads(1)
    results = {"cudnn": cudnn_attention()}
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        lines = (DEMO / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        Path("few.jsonl").write_text("".join(lines[:5]), encoding="utf-8")
        for run, flags in RUNS.items():
            results[run] = on_both(train_once, flags, Path(run))
        for run, (flags, gpus) in MACHINES.items():
            results[run] = on_both(train_once, flags, Path(run), gpus)
        half = ["--dtype", "fp32", "--steps", "1"]
        results["half"] = on_both(train_once, half, Path("again"))
        results["resumed"] = on_both(train_once, [*RUNS["fp32"], "--resume"], Path("again"))
        results["one by one"] = on_both(sample_once, [], Path("rows"))
        results["passes"] = on_both(sample_in_passes, [], Path("passes"))
        results["eval.py"] = on_both(evaluate_once, ["--dtype", "fp32"], Path("eval"))
        results["checks"] = check_runs()
    results["counts"] = count()
    print(json.dumps(results))


# ---- What must be so -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    command = [sys.executable, str(Path(__file__).resolve())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


EVERY = [*RUNS, *MACHINES, "half", "resumed", "one by one", "passes", "eval.py"]


@pytest.mark.parametrize("name", EVERY)
def test_every_run_ends_well_and_replays_its_steps(results, name):
    """A mask on the CPU for a tensor on the GPU; a wait or a copy in a decode step, so that no step
    is recorded; a seat that points outside; kernels on a device that does not record."""
    for machine in ("cpu", "gpu"):
        result = results[name][machine]
        assert "failed" not in result, result["failed"] + result["said"]
        assert result["code"] == 0
    gpu = results[name]["gpu"]
    assert "without CUDA graphs" not in gpu["said"]
    assert gpu["captures"] > 0 and gpu["replays"] > 4 * gpu["captures"]


@pytest.mark.parametrize("name", [*RUNS, *MACHINES, "resumed", "one by one", "passes"])
def test_samples_and_metrics_are_those_of_the_cpu(results, name):
    """Static shapes, recorded steps, joined products or noise made ahead that change a sample; an
    update on the GPU that is another one: the samples of step 2 tell."""
    cpu, gpu = results[name]["cpu"], results[name]["gpu"]
    exact = "bf16" not in RUNS.get(name, ())
    assert gpu["ids"] == cpu["ids"]
    for a, b in zip(cpu["metrics"], gpu["metrics"], strict=True):
        for key in ("reward", "value_loss", "actor_loss", "kl", "grad_norm", "entropy"):
            if a[key] is None:  # no reference, no KL
                assert b[key] is None
                continue
            assert b[key] == pytest.approx(a[key], rel=1e-3 if exact else 0.1, abs=1e-6), key
        assert b["sampler_gap"] < (1e-5 if exact else 0.01)


def test_long_responses_are_sampled_in_passes(results):
    """Rows that all have memory for the longest response: few of them, and columns read in vain."""
    assert results["passes"]["gpu"]["ends"] == [20, 34, 60]
    assert results["passes"]["cpu"]["ends"] == [60]


def test_attention_is_not_cudnn_s(results):
    """Attention by cuDNN makes a plan for every new shape: 20 to 190 s a step at a hundred."""
    assert results["cudnn"] == {"before": True, "after": False}


@pytest.mark.parametrize("name", RUNS)
def test_policy_and_reference_agree_to_the_last_bit_at_step_1(results, name):
    """Two arithmetics for policy and reference: rounding noise, whitened to unit advantages."""
    assert results[name]["gpu"]["metrics"][0]["kl"] in (0.0, None)


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(results):
    """Moments or weights that do not find their way back to the GPU."""
    whole, resumed = results["fp32"]["gpu"], results["resumed"]["gpu"]
    assert resumed["ids"] == whole["ids"][1:]
    a, b = whole["metrics"][1], resumed["metrics"][1]
    for key in ("kl", "value_loss", "grad_norm"):
        assert b[key] == pytest.approx(a[key], rel=1e-5), key


def test_evaluation_is_that_of_the_cpu(results):
    """Nucleus sampling that goes astray in recorded steps."""
    cpu, gpu = (results["eval.py"][machine]["table"] for machine in ("cpu", "gpu"))
    assert gpu == cpu


def test_a_gpu_on_which_all_is_well_passes_the_check_and_goes_on_with_recorded_steps(results):
    """A check that finds fault with rounding, or leaves recording switched off."""
    run = results["checks"]["well"]
    assert "failed" not in run and "WARNING" not in run["said"]
    assert run["ids"] == results["bf16"]["gpu"]["ids"]
    assert run["captures"] == results["bf16 micro-batches"]["gpu"]["captures"] + 1


@pytest.mark.parametrize(
    ("fault", "found"),
    [("empty", "8 of 8 responses"), ("stale keys", "of 8 responses"), ("head", "sampler and")],
)
def test_a_gpu_that_samples_wrongly_is_found_out_before_the_first_step(results, fault, found):
    """A run that trains on samples of nobody's policy, or that never ends, for lack of a look."""
    run = results["checks"][fault]
    assert "failed" not in run, run["failed"]
    assert "WARNING: sampling on this GPU" in run["said"] and found in run["said"]
    assert run["captures"] == 1  # in the check; none later
    if fault != "head":  # and the eager steps are right
        same = zip(run["ids"][0], results["bf16"]["gpu"]["ids"][0], strict=True)
        assert sum(a == b for a, b in same) >= 6  # of 8: the plain layers round elsewhere


def test_a_decode_step_has_few_kernels_and_waits_once(results):
    """A kernel more in each layer, noise hashed anew for every token, or a host copy in a step."""
    for name, found in results["counts"].items():
        assert found["layer"] < 25, name
        assert found["rest"] <= 40, name
        assert found["waits"] <= 1.05, name  # to see who has ended
        assert found["noise"] <= 4, name


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    main()
