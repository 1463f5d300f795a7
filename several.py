"""Several processes, one run: what train.py and eval.py need of torch.distributed. torchrun starts the processes; alone, all of this is idle.

    torchrun --nproc-per-node 2 train.py ...          # the same flags and, with the same --seed, the same run as one process

    sample    prompts are dealt out, whole; each process samples its own; then all know all rollouts       `sample`: deal, generate, gather
    score     groups are dealt out again, balanced by the tokens they have by now                          no collective calls
    update    FSDP2: each process holds a part of every parameter, gradient and moment, and gathers a      `shard`
              layer at a time; gradients of the parts of the batch are added up (not averaged)

All processes must make the same collective calls in the same order, or they wait for each other for ever. So whatever decides how many
there are (lengths, interruptions) is either known to all or agreed upon: `most`, `agree`.

What is small and lies on the host (counts, ids, flags) goes by gloo, gradients and parameters on CUDA by NCCL. A process that dies is noticed
by torchrun, which ends the others; TIMEOUT is only for what nobody notices, and longer than any honest wait (for the longest response, say).
"""

import contextlib
import datetime
import os
import signal
import sys
from itertools import islice

import torch
from torch import distributed

from data import die, progress
from rollout import Rollout, generate

TIMEOUT = datetime.timedelta(minutes=30)


def rank():
    return int(os.environ.get("RANK", 0)) if world() > 1 else 0


def world():
    """The number of processes, as torchrun tells it."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdigit() or text == "0":
        die(os.path.basename(sys.argv[0]), f"WORLD_SIZE is {text!r}; wanted a whole number above 0, as torchrun sets it, or no such variable")
    return int(text)


def local_device(device):
    """--device in this process: with several, "auto" and "cuda" mean a GPU for each. Raises ValueError for one GPU for all."""
    if world() == 1 or device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return device
    if device not in ("auto", "cuda"):
        raise ValueError(f"--device {device} with {world()} processes; wanted auto, cuda or cpu: each process takes the GPU of its number")
    return f"cuda:{os.environ.get('LOCAL_RANK', rank())}"


def join(device):
    """Meet the other processes; device is this one's torch.device."""
    if world() > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def leave(code):
    """sys.exit(code), but among several processes at once, when all are done: torn down in order, gloo's threads crash now and then."""
    if world() > 1:
        if code == 0:
            most(0)
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def say(text):
    """Process 0 speaks for all."""
    if rank() == 0:
        print(text, flush=True)


# ---------------------------------------------------------------------------------------------------------------------------------
# Numbers


@contextlib.contextmanager
def memory(program, phase, flags):
    """Running out of GPU memory costs one line that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError as e:
        die(program, f"out of GPU memory in {phase}: {flags} ({str(e).splitlines()[0][:200]})")


def total(*numbers):
    """Each of these numbers, added up over the processes."""
    if world() == 1:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


def most(number):
    """The largest of the processes' whole numbers."""
    if world() == 1:
        return number
    largest = torch.tensor(int(number))
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def gather(values):
    """A list of numbers, its length this process's own affair -> those of all processes, a list each; as fp64, exact for ids and fp32."""
    if world() == 1:
        return [values]
    padded = torch.zeros(most(len(values)) + 1, dtype=torch.float64)
    padded[0], padded[1 : len(values) + 1] = len(values), torch.tensor(values, dtype=torch.float64)
    all_padded = [torch.zeros_like(padded) for _ in range(world())]
    distributed.all_gather(all_padded, padded)
    return [x[1 : int(x[0]) + 1].tolist() for x in all_padded]


# ---------------------------------------------------------------------------------------------------------------------------------
# Work


def deal(sizes, hands):
    """Items of these sizes -> `hands` lists of their indices, each ascending: the largest first, to whoever has least so far.

        >>> deal([5, 1, 3, 3], 2)
        [[0, 1], [2, 3]]
    """
    dealt, loads = [[] for _ in range(hands)], [0] * hands
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        hand = loads.index(min(loads))
        dealt[hand].append(i)
        loads[hand] += sizes[i]
    return [sorted(hand) for hand in dealt]


def sample(model, prompts, *, samples_per_prompt=1, **settings):
    """rollout.generate by all processes together -> all rollouts, in its order, in every process. model: whole, not sharded.

    Equal prompts stay together, because generate numbers the samples of a prompt that stands twice.
    """
    places = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(i)
    places = list(places.items())
    hands = [sorted(i for d in hand for i in places[d][1]) for hand in deal([len(p) * len(at) for p, at in places], world())]
    with leave_together():
        mine = generate(model, [prompts[i] for i in hands[rank()]], samples_per_prompt=samples_per_prompt, **settings)
    if world() == 1:
        return mine
    out = [None] * (len(prompts) * samples_per_prompt)
    for hand, flat in zip(hands, gather([x for r in mine for x in (len(r.logps), r.finished, *r.response_ids, *r.logps)]), strict=True):
        values = iter(flat)
        for i in hand:
            for j in range(i * samples_per_prompt, (i + 1) * samples_per_prompt):
                T, finished = int(next(values)), bool(next(values))
                out[j] = Rollout(list(prompts[i]), [int(x) for x in islice(values, T)], list(islice(values, T)), finished)
    return out


def shard(model, device):
    """Make model an FSDP2 module in place: fp32 masters in parts, arithmetic in model.compute_dtype on whole layers, gradients summed in fp32.

    The embedding and the head belong to the root, whose parameters stay whole from forward to the end of backward: the loss reads
    model.head_weight in between.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world(),))
    mixed = {"param_dtype": model.compute_dtype, "reduce_dtype": torch.float32} if model.compute_dtype != torch.float32 else {}
    policy = MixedPrecisionPolicy(**mixed, cast_forward_inputs=False)  # cast, RoPE's angles would lose what the reference's keep
    for module in [*model.model.layers, model]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)  # the default is the mean over processes
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    register_fsdp_forward_method(model, "hidden")
    return model


def like(p, tensor):
    """A whole tensor as this process holds parameter p: the same part of it, or all."""
    if not hasattr(p, "full_tensor") or tensor.ndim == 0:
        return tensor.to(p.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(p.device), p.device_mesh, p.placements, src_data_rank=None)  # None: all have it, nobody sends


# ---------------------------------------------------------------------------------------------------------------------------------
# Signals


signals = []  # SIGINT and SIGTERM that have come in


class Interrupted(Exception):
    """Stop here and save; the signal's number is its argument."""


def on_signal(number, _frame):
    if signals and number == signal.SIGINT:
        os._exit(128 + number)  # the second Ctrl-C: at once
    signals.append(number)
    if rank() == 0:
        print(f"\n{signal.Signals(number).name}: stopping; what is finished will be saved (Ctrl-C stops at once)", file=sys.stderr, flush=True)


def watch(phase, leave=True):
    """An on_progress callback: process 0 shows it; with `leave`, a signal ends the phase there by Interrupted."""
    show = progress(phase)

    def look(*counts):
        if leave and signals:
            raise Interrupted(signals[0])
        if rank() == 0:
            show(*counts)

    return look


def agree():
    """If a signal has come to any process, raise Interrupted in all of them."""
    if number := most(signals[0] if signals else 0):
        raise Interrupted(number)


@contextlib.contextmanager
def leave_together():
    """A phase without collective calls: each process may leave it early by Interrupted; then all are interrupted at its end."""
    with contextlib.suppress(Interrupted):
        yield
    agree()
