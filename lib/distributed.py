"""Several processes, one run: what torchrun starts, and how the processes share work and numbers.

    torchrun --nproc-per-node 2 train.py ...     # the same flags and the same run as one process

    sampling   prompts are partitioned; each process samples its part with a whole copy of the
               weights; then all processes know all rollouts                      rollout.py
    scoring    groups are partitioned anew, balanced by the tokens they have now  lib/batch.py
    update     FSDP2: each process holds a shard of every parameter, gradient and moment, and
               gathers a layer at a time; gradients are added up, not averaged    shard

Alone, without torchrun, every function here returns what it was given and talks to nobody.

All processes must make the same collective calls in the same order, or they wait for each other
for ever. So what decides how many calls there are is known to all, or agreed on by all_reduce_max.
Numbers that lie on the host go by gloo; parameters and gradients on CUDA go by NCCL.
"""

import datetime
import json
import math
import os
import signal
import sys

import torch
from torch import distributed

from lib.console import die

# Only for what nobody notices: torchrun itself ends the others when one process dies. It must be
# longer than any honest wait, such as that for the longest response.
TIMEOUT = datetime.timedelta(minutes=30)


def rank():
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def world_size():
    """How many processes there are, as torchrun tells it."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdigit() or text == "0":
        wanted = "wanted a whole number above 0, as torchrun sets it, or no such variable"
        die(os.path.basename(sys.argv[0]), f"WORLD_SIZE is {text!r}; {wanted}")
    return int(text)


def local_device(device):
    """--device in this process: with several, "auto" and "cuda" mean a GPU for each of them.

    ValueError where all of them would take the same one.
    """
    no_gpu = device == "auto" and not torch.cuda.is_available()
    if world_size() == 1 or device == "cpu" or no_gpu:
        return device
    if device not in ("auto", "cuda"):
        wanted = "wanted auto, cuda or cpu: each process takes the GPU of its number"
        raise ValueError(f"--device {device} with {world_size()} processes; {wanted}")
    return f"cuda:{os.environ.get('LOCAL_RANK', rank())}"


def join(device):
    """Meet the other processes; device is this one's torch.device."""
    if world_size() > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=TIMEOUT)


def leave(code):
    """sys.exit(code). Several processes wait for each other and then end at once: torn down in
    order, gloo's threads crash now and then."""
    if world_size() > 1:
        if code == 0:
            all_reduce_max(0)
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


# ---- Numbers -------------------------------------------------------------------------------------


def all_reduce_sum(*numbers):
    """Each of these numbers (or 0-dim tensors), summed over the processes, in double precision."""
    if not distributed.is_initialized():
        return numbers
    sums = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    distributed.all_reduce(sums)
    return tuple(sums.tolist())


def all_reduce_max(number):
    """The largest of the processes' whole numbers."""
    if not distributed.is_initialized():
        return number
    largest = torch.tensor(int(number))
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def correlation(x, y):
    """Of two quantities of mean 0, [B] each, over all processes; 0 where one of them is 0."""
    both, xx, yy = all_reduce_sum((x * y).sum(), x.square().sum(), y.square().sum())
    size = math.sqrt(xx) * math.sqrt(yy)
    return float(both) / size if size > 0 else 0.0


def all_gather(value):
    """A JSON value of each process -> those of all processes, in order, in every process.

    It travels as text, in which Python's floats stay what they are to the last bit.
    """
    if not distributed.is_initialized():
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    # The lengths differ, so each text is padded with spaces to the longest.
    padded = torch.full((all_reduce_max(len(text)),), ord(" "), dtype=torch.uint8)
    padded[: len(text)] = text
    received = [torch.empty_like(padded) for _ in range(world_size())]
    distributed.all_gather(received, padded)
    return [json.loads(bytes(x.tolist())) for x in received]


def map_partitioned(function, n):
    """[function(0), ..., function(n - 1)], numbers, of which each process computes its share."""
    mine = [function(i) for i in range(rank(), n, world_size())]
    lists = all_gather(mine)
    return [lists[i % len(lists)][i // len(lists)] for i in range(n)]


def partition(sizes, parts):
    """Items of these sizes -> `parts` lists of their indices, each ascending, of about one size.

    The largest item goes first, to whoever has least so far.

    >>> partition([5, 1, 3, 3], 2)
    [[0, 1], [2, 3]]
    """
    lists, loads = [[] for _ in range(parts)], [0] * parts
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        least = loads.index(min(loads))
        lists[least].append(i)
        loads[least] += sizes[i]
    return [sorted(items) for items in lists]


def partition_equal(prompts, parts):
    """Prompts (lists of ids) -> `parts` lists of their indices; equal prompts stay together.

    >>> partition_equal([[1, 2], [3], [1, 2], [4, 5, 6]], 2)
    [[0, 2], [1, 3]]
    """
    places = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(i)
    twins = list(places.values())  # the numbers of equal prompts
    sizes = [len(prompts[numbers[0]]) * len(numbers) for numbers in twins]
    return [[i for j in part for i in twins[j]] for part in partition(sizes, parts)]


def map_prompts(function, prompts, S):
    """function(prompts), S results for each prompt, of which each process computes its share."""
    parts = partition_equal(prompts, world_size())
    found = all_gather(function([prompts[i] for i in parts[rank()]]))
    out = [None] * (len(prompts) * S)
    for part, results in zip(parts, found, strict=True):
        for place, i in enumerate(part):
            out[i * S : (i + 1) * S] = results[place * S : (place + 1) * S]
    return out


# ---- Parameters ----------------------------------------------------------------------------------


def shard(model, device):
    """Make the model an FSDP2 module, in place; nothing to do in a single process.

    Each process keeps a shard of the fp32 parameters; whole layers exist in model.compute_dtype
    while they compute; gradients are summed in fp32. The embedding and the head belong to the root
    module, which stays whole until the end of the backward pass: the loss reads model.head_weight.
    """
    if world_size() == 1:
        return
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    mixed = {}
    if model.compute_dtype != torch.float32:
        mixed = {"param_dtype": model.compute_dtype, "reduce_dtype": torch.float32}
    # If inputs were cast, the angles of RoPE would lose what the reference's angles keep.
    policy = fsdp.MixedPrecisionPolicy(**mixed, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (world_size(),))
    for module in [*model.model.layers, model]:
        fsdp.fully_shard(module, mesh=mesh, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)  # the default is the mean over processes
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    fsdp.register_fsdp_forward_method(model, "hidden")


def full_tensor(tensor):
    """A tensor of which each process may hold a shard, gathered; all must ask for it together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(p, tensor):
    """A whole tensor as this process holds parameter p: the same shard of it, or all of it."""
    if not hasattr(p, "full_tensor") or tensor.ndim == 0:
        return tensor.to(p.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    whole = tensor.to(p.device)
    # src_data_rank None: every process has the tensor already, nobody needs to send it.
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


# ---- Signals -------------------------------------------------------------------------------------


signals = []  # the SIGINT and SIGTERM that have come in


def on_signal(number, _frame):
    """The first signal lets the step under way finish; a second Ctrl-C ends the process at once."""
    if signals and number == signal.SIGINT:
        os._exit(128 + number)
    signals.append(number)
    if rank() == 0:
        name = signal.Signals(number).name
        text = "stopping after this step, which will be saved (Ctrl-C again stops at once)"
        print(f"\n{name}: {text}", file=sys.stderr, flush=True)


def stop_signal():
    """The number of a signal that has come to any of the processes, or 0; all must ask together."""
    return all_reduce_max(signals[0] if signals else 0)
