"""`bench.py --gpu` runs on cards that nobody here has seen: what it needs besides the measuring.

    run_parts(parts, seconds)     each part on its own: its error, its time, whether it was skipped
    forced_noise, ...             responses of given lengths, from weights that can't end one
    decode_bytes, update_gb       what a decode step must read, what an update should take

A part is (name, most seconds, function); the functions, which need the lesson's files, stand in
bench.py. PLAN says how large everything is; tests replace it by a small one.
"""

import contextlib
import functools
import gc
import importlib.util
import io
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

import torch

from lib import sampling
from lib.console import say
from lib.sampling import block_width, token_noise

ROOT = Path(__file__).resolve().parent.parent
QWEN3 = {
    "model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
    "vocab_size": 151936, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
PLAN = {
    "models": {
        "Qwen3-0.6B": QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072},
        "Qwen3-1.7B": QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144},
    },
    "seconds": 455,  # for all parts together
    "rows": (1, 16, 64, 256),  # decoded together
    "new_tokens": 256,  # of each row
    "update": (4, 1000),  # prompts, and tokens of each response
    "step": 96,  # prompts
    "step_seconds": 90,  # what doesn't fit is extrapolated
    "lengths": (1000, 600, 16, 4096),  # of its responses: mean, deviation, least, most
    "demo": ["--steps", "20"],
    "tests": ["tests", "-k", "cuda"],
}

# ---- Part after part -----------------------------------------------------------------------------


class OutOfTime(Exception):
    """A part has taken longer than it may."""


def run_parts(parts, seconds):
    """Run all parts (name, most seconds, run) -> {name: the dict that run() returns}.

    A part that fails leaves {"error": ...}, and one for which there is no time left of `seconds`
    {"skipped": ...}; the others go on.
    """
    end, results = time.monotonic() + seconds, {}
    for name, most, run in parts:
        left = end - time.monotonic()
        if left < most:
            results[name] = {"skipped": f"{left:.0f} s were left, and it may take {most:.0f}"}
        else:
            results[name] = _attempt(run, most)
        say(f"{name}: {results[name]}")
    return results


def _attempt(run, seconds):
    """run() -> what it returns, the seconds it took, and what it said on stderr."""
    # What an earlier part has left in a circle of references may be gigabytes.
    gc.collect()
    torch.cuda.empty_cache()
    began, said = time.monotonic(), io.StringIO()

    def stop(*_):
        raise OutOfTime(f"ran past {seconds:.0f} s")

    alarm = hasattr(signal, "SIGALRM")  # elsewhere (Windows) a part takes what it takes
    if alarm:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stderr(said):
            # A digit too many says nothing, and the line is to be sent.
            result = json.loads(json.dumps(run()), parse_float=lambda x: float(f"{float(x):.4g}"))
    except (Exception, SystemExit) as e:
        result = {"error": _describe(e)}
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(said.getvalue(), end="", file=sys.stderr)
    # Progress is nothing to keep; a warning, or why steps are not recorded, is.
    lines = [line.strip()[:300] for line in said.getvalue().splitlines()]
    lines = [line for line in lines if line and "tokens/s" not in line]
    result = result | {"took": round(time.monotonic() - began, 1)}
    return result | ({"said": lines[-3:]} if lines else {})


def _describe(error):
    """An exception in one line, with the last line of this project that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(ROOT) and f.name != "stop"]
    place = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {message}{place}"


def run_tests(arguments):
    """pytest with these arguments, in a process of its own -> its exit code and last line."""
    if importlib.util.find_spec("pytest") is None:
        return {"skipped": "pytest is not installed"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines() or [""]
    failed = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"code": done.returncode, "last_line": lines[-1], "failed": failed[:10]}


def read_run(out):
    """The logs of a run of train.py in folder `out` -> the last accuracy, and a step's figures."""
    files = [Path(out, name) for name in ("metrics.jsonl", "eval.jsonl")]
    steps, evals = [[json.loads(line) for line in f.read_text().splitlines()] for f in files]
    phases = ("rollout", "score", "update")
    seconds = [sum(row[f"seconds_{phase}"] for phase in phases) for row in steps]
    return {
        "step": evals[-1]["step"], "accuracy": evals[-1]["accuracy"],
        "first_kl": steps[0]["kl"], "seconds_a_step": statistics.median(seconds),
        "sampler_gap": statistics.median(row["sampler_gap"] for row in steps),
    }  # fmt: skip


# ---- Responses of given lengths ------------------------------------------------------------------


def response_lengths(lengths, keys):
    """The tokens of the samples with these keys [..., 2] -> [...], as `lengths` says: mean and
    deviation of a normal distribution, least and most."""
    mean, deviation, least, most = lengths
    uniform = (keys[..., 0].double() + 0.5) * 2.0**-32  # [...]; a key is a random word
    drawn = mean + deviation * torch.special.ndtri(uniform)
    return drawn.round().clamp(least, most).long()


def forced_noise(lengths, keys, t, V):
    """lib.sampling.token_noise -> [..., V/width + width], but the last token of the vocabulary is
    drawn where t is the last place of a sample, and nowhere else.

    Its block and its place in the block get so much noise that no logit matters there, and its
    place gets so little elsewhere. (So the other tokens at this place, one in `width`, aren't drawn
    either.) All else in sampling is as always: logits, log-probs, the schedule, the stop.
    """
    noise = token_noise(keys, t, V)
    last = t + 1 == response_lengths(lengths, keys)
    noise[..., V // block_width(V) - 1] += torch.where(last, 1e9, 0.0)
    noise[..., -1] = torch.where(last, 1e9, -1e9)
    return noise


def sample_for(seconds, sampler, model, prompts, samples, lengths):
    """Sample responses of forced lengths, for so many seconds at most.

    sampler: the module rollout, whose noise is another one meanwhile. -> the rollouts, or None if
    time was up; tokens drawn; seconds taken.
    """
    begin, drawn = time.perf_counter(), 0

    def look(done, wanted, tokens):
        nonlocal drawn
        drawn = tokens
        if time.perf_counter() - begin > seconds:
            raise TimeoutError

    rollouts, noise = None, functools.partial(forced_noise, lengths)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(TimeoutError))
        for module in (sampler, sampling):
            stack.enter_context(mock.patch.object(module, "token_noise", noise))
        rollouts = sampler.generate(
            model, prompts, samples_per_prompt=samples, max_new_tokens=lengths[3],
            stop_ids=[model.config.V - 1], on_progress=look,
        )  # fmt: skip
    return rollouts, drawn, time.perf_counter() - begin


# ---- A decode step, and what things should take --------------------------------------------------


def decode_step(generate, model, prompts, **settings):
    """generate(model, prompts, **settings) -> median seconds of a step, and how many tokens of its
    own a row has read on average.

    Of the second half of the steps: in the first, kernels are loaded and steps are recorded.
    """
    times = []

    def stamp(*_):  # called after each step's one wait for the device
        times.append(time.perf_counter())

    generate(model, prompts, stop_ids=[], on_progress=stamp, **settings)
    steps = [b - a for a, b in itertools.pairwise(times)]
    half = len(steps) // 2
    return statistics.median(steps[half:]), (half + len(steps)) / 2


def parameters(model):
    """How many there are; an embedding that is the head as well counts once."""
    return sum(p.numel() for p in model.parameters())


def decode_bytes(model, prompts, rows, own):
    """What a decode step has to read: the weights, the keys and values of each prompt once, and
    those of `own` tokens of each of the rows."""
    c, width = model.config, model.compute_dtype.itemsize
    weights = parameters(model)
    if not c.tied:
        weights -= c.V * c.D  # the embedding, of which only some rows are read
    token = 2 * c.layers * c.Hkv * c.Dh  # keys and values
    return width * (weights + token * (sum(map(len, prompts)) + rows * own))


def update_gb(model, tokens):
    """docs/memory.md's formula of an update with --recompute-activations and so many tokens in a
    micro-batch, in GB (10^9 bytes)."""
    c = model.config
    state = 18 * parameters(model)
    activations = 2 * c.layers * (2 * c.D + 3 * (c.H + c.Hkv) * c.Dh) * tokens
    return (state + activations + 8 * c.V * c.D) / 1e9
