"""Measuring on a machine that others use too: contestants take turns, and medians count.

    rows = race({"ours": f, "theirs": g}, rounds=3, device=device)
    rows["ours"]["seconds"], rows["ours"]["mib"], rows["ours"]["result"]
    clock(f, device)            # median seconds of one alone
    limits(device, dtype)       # what the machine could do at best

On a GPU a call returns before its work is done, so every turn ends with waiting for the device.
"""

import ctypes
import gc
import statistics
import time
from pathlib import Path

import torch

from lib.fast import keep_freed_memory

# Rows and columns of the large product, numbers in fp32 to copy: on a GPU enough for milliseconds.
LOADS = {"cpu": (2048, 2**26), "cuda": (8192, 2**28)}


def peak_memory(device):
    """-> a function that tells how many MiB more were in use since now at the most, or None."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - before) / 2**20

    def high_water():
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    try:
        # Give back what earlier turns have freed: it would hide what this one needs.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again from the present
        before = high_water()
    except (OSError, IndexError):
        return lambda: None
    return lambda: high_water() - before


def race(contestants, rounds, device):
    """{name: function} -> {name: {"seconds": median, "mib": peak, "result": of the last turn}}.

    They take turns. The first turn of each warms up and measures memory, for which freed memory is
    given back; the others measure time, and freed memory is kept, as in a program at work.
    """
    seconds, mib, result = {name: [] for name in contestants}, {}, {}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            peak = peak_memory(device) if turn == 0 else None
            # The library runs as its users run it: with glibc's thresholds where they end up.
            library = name in ("transformers", "peers")
            keep_freed_memory(*((64 << 20, 32 << 20) if library else ()))
            start = time.perf_counter()
            result[name] = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            if peak is not None:
                mib[name] = peak()
    rows = {}
    for name, times in seconds.items():
        median = statistics.median(times[1:])
        rows[name] = {"seconds": median, "mib": mib[name], "result": result[name]}
    return rows


def clock(run, device, repeats=5):
    """Median seconds of run()."""
    return race({"it": run}, repeats, device)["it"]["seconds"]


def limits(device, dtype):
    """How fast this machine multiplies large matrices, and copies memory (read and written)."""
    n, numbers = LOADS[device.type]
    a = torch.randn(n, n, device=device, dtype=dtype)
    flops = 2 * n**3 / clock(lambda: a @ a, device, 15)
    big = torch.randn(numbers, device=device)
    bandwidth = 2 * big.numel() * 4 / clock(big.clone, device)
    return {"matmul_gflops": round(flops / 1e9), "copy_gb_per_s": round(bandwidth / 1e9, 1)}


def peak_fraction(parameters, tokens, seconds, facts):
    """The rate of score and update beside that of one large product, as `limits` found it.

    2 operations for each parameter and token to score with each of two models, and 6 to update.
    tokens: a prompt is computed once for its samples, at best. Attention's products don't count.
    """
    return 10 * parameters * tokens / seconds / (facts["matmul_gflops"] * 1e9)
