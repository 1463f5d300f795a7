"""A simulated CUDA device, for machines without one: tensors say cuda:0 and compute on the CPU.

    with fake_cuda.machine() as gpu:
        train.main([...])                      # runs as on a GPU
    gpu.kernels, gpu.syncs, gpu.captures, gpu.replays

What a real device refuses is refused here:
  - tensors of two devices in one operation (0-dim CPU tensors excepted)
  - waiting for the device, or copying from or to the host, while a graph is recorded
  - in a graph: kernels of another device than the current one, memory that is freed before a replay
As on a real device nothing is computed while recording; a replay computes on the recorded memory.

A kernel is an operation that reads or writes numbers: views and `empty` are none. Operations that
CUDA splits up count for as many as it launches (SPLIT); norms and attention, which the CPU splits
up, count for one. A synchronisation is a copy between host and device, or an operation whose shape
depends on numbers (nonzero, a mask as an index). To torch's own C++ code the tensors are CPU
tensors, so that gradients work; only what Python sees is different.
"""

import contextlib
import weakref
from unittest import mock

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

aten = torch.ops.aten
SPLIT = {aten.logsumexp.default: 9}
WAITS = {  # besides indexing with a mask
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
    aten.equal.default, aten._unique2.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
ONE_KERNEL = {F.rms_norm, torch.rms_norm, F.scaled_dot_product_attention}


KINDS = (list, tuple, type({}.values()))


class Fault(AssertionError):
    """What a real device would not report: it would compute something else, or never end."""


class Memory:
    """What views of one tensor share; it is gone when the last of them is."""


class Gpu:
    """The state of the machine, and what was counted."""

    def __init__(self, count, free_bytes):
        self.count, self.free_bytes = count, free_bytes
        self.current = 0
        self.kernels = self.syncs = self.captures = self.replays = 0
        self.sizes = []  # kernels of each graph that was recorded
        self.recording = None  # the Graph that is being recorded
        self.leaving = False  # the next copy goes to the host
        self.fused = False  # inside an operation that is one kernel here
        self.memories = weakref.WeakValueDictionary()  # address -> Memory

    def wait(self, what):
        if self.recording is not None:
            raise RuntimeError(f"CUDA error: not permitted when stream is capturing: {what}")
        self.syncs += 1


gpu = None  # the machine that is simulated


class CudaTensor(torch.Tensor):
    """Says that it lies on cuda:index, and holds a CPU tensor, `host`."""

    @staticmethod
    def __new__(cls, host, index):
        return torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, device="cpu",
        )  # fmt: skip

    def __init__(self, host, index):
        self.host, self.index = host, index
        self.memory = gpu.memories.setdefault(address(host), Memory())

    @property
    def device(self):
        return torch.device("cuda", self.index)

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def to(self, *args, copy=False, **kwargs):
        other = [x for x in args if isinstance(x, torch.Tensor)]
        if other:
            args = (other[0].device, other[0].dtype)
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = device or self.device, dtype or self.dtype
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", gpu.current)
        if not copy and (device, dtype) == (self.device, self.dtype):
            return self
        gpu.leaving = device.type == "cpu"
        return aten._to_copy(self, dtype=dtype, device=device)

    def cpu(self):
        return self.to("cpu")

    def tolist(self):
        gpu.wait("tolist")
        return self.host.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __repr__(self):
        return f"CudaTensor({self.host})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        outermost = func in ONE_KERNEL and not gpu.fused
        if outermost:
            (gpu.recording or gpu).kernels += 1
            gpu.fused = True
        try:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        finally:
            gpu.fused = gpu.fused and not outermost

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """Sees the operations without a CudaTensor too, such as torch.zeros(3, device="cuda")."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def check_devices(func, tensors, index):
    """-> the index of the device that the operation runs on, or None. RuntimeError if mixed."""
    found = {x.index for x in tensors if isinstance(x, CudaTensor)}
    if index is not None:
        found.add(index)
    plain = [x for x in tensors if not isinstance(x, CudaTensor) and x.dim() > 0]
    if func in INDEXING:  # whole numbers may come from the host; masks may not, here
        plain = [x for x in plain if x.dtype != torch.long]
    if func not in COPIES and (len(found) > 1 or (found and plain)):
        devices = ", ".join(f"cuda:{i}" for i in found) + (", cpu" if plain else "")
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {devices}")
    return min(found) if found else None


def emulate(func, args, kwargs):
    """Run an operation on CPU tensors, also those that only CUDA knows."""
    if func in (aten.mm.dtype, aten.bmm.dtype, aten.bmm.dtype_out):
        a, b, dtype = args
        product = a.to(dtype) @ b.to(dtype)
        return kwargs["out"].copy_(product) if kwargs else product
    if func is aten.addmm.dtype_out:
        total, a, b, dtype = args
        return kwargs["out"].copy_(total + a.to(dtype) @ b.to(dtype))
    return func(*args, **kwargs)


def writes(argument):
    return argument.alias_info is not None and argument.alias_info.is_write


def leaves(x):
    """All tensors in lists, tuples and dicts."""
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, dict):
        x = x.values()
    return [t for item in x for t in leaves(item)] if isinstance(x, KINDS) else []


def change(function, x):
    """The same lists, tuples and dicts with function(tensor) in place of every tensor."""
    if isinstance(x, torch.Tensor):
        return function(x)
    if isinstance(x, dict):
        return {name: change(function, item) for name, item in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(change(function, item) for item in x)
    return x


def address(host):
    return host.untyped_storage()._cdata


def host_of(x):
    return x.host if isinstance(x, CudaTensor) else x


def must_wait(func, args, tensors, target):
    """Whether the host waits for the device: copies between the two, shapes made of numbers."""
    if func in COPIES:
        kinds = {isinstance(x, CudaTensor) for x in tensors}
        return len(kinds) > 1 or (target is not None and kinds != {target.type == "cuda"})
    if func in INDEXING:
        on_host = any(not isinstance(x, CudaTensor) for x in tensors if x.dim() > 0)
        return on_host or any(x is not None and x.dtype == torch.bool for x in args[1])
    return func in WAITS


def dispatch(func, args, kwargs):
    """Run an operation, or record it; count it; refuse what a device refuses."""
    tensors = leaves((args, kwargs))
    target, index = kwargs.get("device"), None
    if target is not None:
        target, kwargs = torch.device(target), kwargs | {"device": torch.device("cpu")}
        if target.type == "cuda":
            index = gpu.current if target.index is None else target.index
        elif not gpu.leaving:  # torch's C++ code takes the device for a CPU
            if torch._C._current_autograd_node() is not None:  # and makes zeros there
                target, index = torch.device("cuda"), gpu.current
            elif func is aten._to_copy.default:  # x.type_as(y)
                target = None
        gpu.leaving = False
    on = check_devices(func, tensors, index)
    host_args, host_kwargs = change(host_of, (args, kwargs))
    if on is None:
        return func(*host_args, **host_kwargs)
    if must_wait(func, args, tensors, target):
        gpu.wait(func)
    recording, mutable = gpu.recording, func._schema.is_mutable
    if recording is not None and mutable:  # nothing is written while a graph is recorded
        arguments = zip(func._schema.arguments, args, strict=False)
        written = [x for argument, x in arguments if writes(argument)]
        written += [kwargs[a.name] for a in func._schema.arguments[len(args) :] if writes(a)]
        out = host_of(written[0])
    else:
        out = emulate(func, host_args, host_kwargs)
    outputs = leaves(out)
    count_kernels(func, tensors, outputs, on, (host_args, host_kwargs))
    if target is not None and target.type == "cpu":
        return out
    olds = {id(host_of(x)): x for x in tensors} if mutable else {}  # x.add_(1) is x
    return change(lambda x: olds[id(x)] if id(x) in olds else CudaTensor(x, on), out)


def count_kernels(func, tensors, outputs, on, arguments_on_host):
    """Count an operation, and note it in the graph that is being recorded."""
    mutable, recording = func._schema.is_mutable, gpu.recording
    storages = {address(host_of(x)) for x in tensors}
    views = not mutable and all(address(x) in storages for x in outputs)
    nothing = outputs and not any(x.numel() for x in outputs)
    if recording is not None:
        recording.made.update(address(x) for x in outputs if address(x) not in storages)
    if views or nothing or "empty" in str(func):
        return
    kernels = 0 if gpu.fused else SPLIT.get(func, 1)
    if recording is None:
        gpu.kernels += kernels
        return
    if on != gpu.current:
        raise Fault(f"{func} on cuda:{on} while cuda:{gpu.current} records: the graph lacks it")
    read = [x for x in tensors if isinstance(x, CudaTensor)]
    outside = [weakref.ref(x.memory) for x in read if address(x.host) not in recording.made]
    recording.steps.append((func, *arguments_on_host, outputs, mutable, outside))
    recording.kernels += kernels


# ---- Graphs --------------------------------------------------------------------------------------


class Graph:
    """torch.cuda.CUDAGraph: the operations of a step, on the memory they were recorded with."""

    def __init__(self):
        self.steps, self.made, self.kernels = [], set(), 0

    def replay(self):
        if gpu.recording is not None:
            raise RuntimeError("CUDA error: a replay while a graph is recorded")
        gpu.replays += 1
        gpu.kernels += self.kernels
        with _disable_current_modes():
            for step in self.steps:
                self.repeat(*step)

    def repeat(self, func, args, kwargs, outputs, mutable, outside):
        if any(memory() is None for memory in outside):
            raise Fault(f"a replay reads memory that is freed: {func}")
        result = emulate(func, args, kwargs)
        for old, new in zip(outputs, leaves(result), strict=True) if not mutable else ():
            old.copy_(new)


@contextlib.contextmanager
def record(graph, pool=None, **_):
    """torch.cuda.graph"""
    gpu.recording, gpu.captures = graph, gpu.captures + 1
    try:
        yield
    finally:
        gpu.recording = None
        gpu.sizes.append(graph.kernels)


def index_of(device):
    device = torch.device(device) if not isinstance(device, int) else torch.device("cuda", device)
    return gpu.current if device.index is None else device.index


def set_device(device):
    gpu.current = index_of(device)


@contextlib.contextmanager
def machine(count=1, free_bytes=2**30):
    """A machine with this many devices, for as long as the context lasts -> Gpu."""
    global gpu
    gpu = Gpu(count, free_bytes)
    functions = {
        "is_available": lambda: True, "device_count": lambda: count, "_lazy_init": lambda: None,
        "set_device": set_device, "current_device": lambda: gpu.current, "CUDAGraph": Graph,
        "graph": record, "graph_pool_handle": lambda: (0, 1), "empty_cache": lambda: None,
        "synchronize": lambda *_: gpu.wait("synchronize"), "is_bf16_supported": lambda *_: True,
        "mem_get_info": lambda *_: (free_bytes, free_bytes), "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": lambda *_: None,
        "get_device_name": lambda *_: "a simulated device",
    }  # fmt: skip
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with mock.patch.multiple(torch.cuda, **functions), Dispatch():
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        gpu = None
