"""What only speed and memory ask for. model.py is whole without this file; here its parts are
swapped for others that compute the same, and tests/test_fast.py holds them against each other.

    train     keep_less(model)       layers that keep half as much for the backward pass
    sample    sampling_copy(model)   weights cast or packed once, for many small products
    start     choose_device(...)     the device, and the machine's settings that go with it

A swap replaces the `forward` of a module, from outside: `layer.forward = ...`.
"""

import contextlib
import ctypes
import functools

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# ---- Products on a CPU ---------------------------------------------------------------------------

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn(x, weight, bias=None, then="none"):
    """then(x @ weight^T + bias) by oneDNN; "swish" is silu, computed while the product is hot."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")


def linear(x, weight, bias=None):
    """x [..., I] @ weight [O, I]^T + bias [O] -> [..., O]; no gradient flows through it.

    F.linear asks oneDNN in bf16 only. In fp32 it takes MKL, which on AMD processors needs a fifth
    more time.
    """
    if ONEDNN and x.dtype == torch.float32 and not x.is_cuda and x.numel():
        return _onednn(x.detach(), weight.detach(), bias if bias is None else bias.detach())
    return F.linear(x, weight, bias)


# ---- Training: keep less for the backward pass ---------------------------------------------------


class _Products(torch.autograd.Function):
    """x = make(*inputs) -> x @ weight^T + bias, for each weight and bias that follow the inputs.

    Autograd would keep x for the gradient of the weights. This keeps the inputs of `make` alone,
    which are needed anyway, and makes x again in the backward pass.
    """

    @staticmethod
    def forward(ctx, make, n, *tensors):
        ctx.make, ctx.n = make, n
        # fp32 masters as they are: casting them again is cheaper than keeping what was cast.
        ctx.save_for_backward(*tensors)
        x, parameters = make(*tensors[:n]), tensors[n:]
        outputs = []
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            bias = None if bias is None else bias.to(x.dtype)
            outputs.append(linear(x, weight.to(x.dtype), bias))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        """Make the input of the products again, and go back through the products and through it."""
        n, needed = ctx.n, ctx.needs_input_grad[2:]
        inputs, parameters = [], ctx.saved_tensors[n:]
        for tensor, need in zip(ctx.saved_tensors[:n], needed, strict=False):
            inputs.append(None if tensor is None else tensor.detach().requires_grad_(need))
        with torch.enable_grad():
            x = ctx.make(*inputs)
        rows = x.detach().flatten(0, -2)  # [N, I]
        d_x, d_parameters = None, []
        for i, grad in enumerate(grads):
            weight = parameters[2 * i]
            weight_needs, bias_needs = needed[n + 2 * i : n + 2 * i + 2]
            part = linear(grad, weight.to(x.dtype).T)  # [..., I]
            d_x = part if d_x is None else d_x.add_(part)
            grad = grad.flatten(0, -2)  # [N, O]
            d_parameters.append((grad.T @ rows).to(weight.dtype) if weight_needs else None)
            d_parameters.append(grad.sum(0).to(weight.dtype) if bias_needs else None)
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(x, wanted, d_x) if wanted else ())
        d_inputs = [next(found) if t is not None and t.requires_grad else None for t in inputs]
        return None, None, *d_inputs, *d_parameters


def products(make, inputs, layers):
    """[layer(make(*inputs)) for layer in layers], keeping only `inputs` for the backward pass.

    `make` must cost next to nothing beside the products (a norm, a silu): what it makes would be
    half of a training step's memory. Every tensor with a gradient must be among the inputs.
    """
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    return _Products.apply(make, len(inputs), *inputs, *parameters)


def _norm(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def _gated(gate, up):
    return F.silu(gate) * up


def _join_heads(read):
    return read.transpose(1, 2).flatten(2)  # [B, T, H * Dh]


def _lean_attention(attn, norm, x, cos, sin, cache, layer):
    """attn(norm(x)): kept are x, q, k, v and what the heads read."""
    make = functools.partial(_norm, eps=norm.eps)
    q, k, v = products(make, (x, norm.weight), [attn.q_proj, attn.k_proj, attn.v_proj])
    read = attn.read(q, k, v, cos, sin, cache, layer)  # [B, H, T, Dh]
    return products(_join_heads, (read,), [attn.o_proj])[0]


def _lean_mlp(mlp, norm, x, recompute):
    """mlp(norm(x)): kept are x, gate and up; with recompute x alone.

    Recomputing makes gate and up again in the backward pass: two of a layer's seven products.
    """
    make = functools.partial(_norm, eps=norm.eps)
    if not recompute:
        gate, up = products(make, (x, norm.weight), [mlp.gate_proj, mlp.up_proj])
        return products(_gated, (gate, up), [mlp.down_proj])[0]

    def norm_and_gate(x, norm_weight, *parameters):
        gate, up = _Products.apply(make, 2, x, norm_weight, *parameters)
        return _gated(gate, up)

    gate, up = mlp.gate_proj, mlp.up_proj
    inputs = (x, norm.weight, gate.weight, gate.bias, up.weight, up.bias)
    return products(norm_and_gate, inputs, [mlp.down_proj])[0]


def _lean_layer(norm, attn, mlp_norm, mlp, recompute, x, cos, sin, cache, i):
    x = x + _lean_attention(attn, norm, x, cos, sin, cache, i)
    return x + _lean_mlp(mlp, mlp_norm, x, recompute)


def keep_less(model, recompute=False):
    """Swap the layers' forward for one that keeps half as much for the backward pass.

    With recompute it keeps half of that again, for a sixth more arithmetic. What compares its
    log-probs with another model's to the last bit (policy and reference) must swap both.
    Returns the model.
    """
    for layer in model.model.layers:
        # The layer's parts, not the layer: a module that holds itself is freed late.
        norm, mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        parts = norm, layer.self_attn, mlp_norm, layer.mlp
        layer.forward = functools.partial(_lean_layer, *parts, recompute)
    return model


# ---- Training: what lies where -------------------------------------------------------------------


def start_moments(optimizer):
    """AdamW's moments as they are before its first step, now: the memory is spoken for early."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            optimizer.state[p] = {"step": step, **moments}


def _move(thing, device):
    """A module, or the moments of an optimizer, 8 bytes a parameter."""
    if isinstance(thing, torch.nn.Module):
        thing.to(device)
        return
    for state in thing.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = state[key].to(device)


@contextlib.contextmanager
def on_device(thing, device, offload):
    """With --offload: a module, or an optimizer's moments, lies in host memory but in here."""
    offload = offload and thing is not None
    if offload:
        _move(thing, device)
    yield
    if offload:
        _move(thing, "cpu")


# ---- Sampling: weights made ready once -----------------------------------------------------------


def _packed_linear(packed, bias, x):
    return _onednn(x, packed, bias)


def _packed_mlp(gate, gate_bias, up, up_bias, down_proj, x):
    """silu rides along with the gate's product, and the product of the two with up's."""
    gated = _onednn(x, gate, gate_bias, "swish")
    binary = torch.ops.mkldnn._linear_pointwise.binary
    return down_proj(binary(x, gated, up, up_bias, "mul"))


def _pack(weight):
    """The weight once more, in the blocked order that oneDNN wants for small products."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 64)


def _wide_head(head_weight, hidden):
    """model.head for bf16 on CUDA: bf16 factors, fp32 sums, no fp32 copy of the weight."""
    flat = torch.mm(hidden.flatten(0, -2), head_weight.T, out_dtype=torch.float32)
    return flat.view(*hidden.shape[:-1], -1)


@torch.no_grad()
def sampling_copy(model):
    """The model as the sampler uses it: cast to compute_dtype, and on a CPU in fp32 packed.

    A product of 64 rows spends much of its time on bringing the weight into the order that the
    processor wants. oneDNN does that once and keeps the result: decoding is then 1.3 (64 rows) to
    2 times (24 rows) as fast. Where nothing needs a cast the copy shares the model's memory.
    """
    dtype, device = model.compute_dtype, model.device
    with torch.device("meta"):
        copy = type(model)(model.config, dtype)
    state = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    copy.load_state_dict(state, strict=True, assign=True)
    copy.requires_grad_(False)
    if device.type == "cuda" and dtype == torch.bfloat16:
        copy.head = functools.partial(_wide_head, copy.head_weight)
    if device.type == "cpu" and dtype == torch.float32 and ONEDNN:
        for layer in copy.model.layers:
            attn, mlp = layer.self_attn, layer.mlp
            for module in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.down_proj):
                packed = _pack(module.weight)
                module.forward = functools.partial(_packed_linear, packed, module.bias)
            gate, up = mlp.gate_proj, mlp.up_proj
            packed = _pack(gate.weight), gate.bias, _pack(up.weight), up.bias
            mlp.forward = functools.partial(_packed_mlp, *packed, mlp.down_proj)
        copy.head = functools.partial(_packed_linear, _pack(copy.head_weight), None)
    return copy


# ---- The machine ---------------------------------------------------------------------------------


def keep_freed_memory(trim=2**31 - 1, mmap=2**31 - 1):
    """Let glibc keep what it frees.

    By default it returns large blocks to the kernel and gets them back cleared, which takes a
    seventh of a training step on a CPU.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, trim)  # M_TRIM_THRESHOLD, in bytes
        libc.mallopt(-3, mmap)  # M_MMAP_THRESHOLD, in bytes


def choose_device(device="auto", dtype="auto"):
    """(--device, --dtype) -> (torch.device, compute dtype); auto is bf16 on CUDA, fp32 on the CPU.

    device: auto, cpu, cuda or cuda:N. dtype: auto, fp32 or bf16. Also makes the device the current
    one, and settles what depends on it. Raises ValueError for a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"--device is {device!r}; wanted auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    there = device.type == "cuda" and (device.index or 0) < count
    if device.type != "cpu" and not there:
        found = f"torch {torch.__version__} sees {count} CUDA devices here"
        raise ValueError(f"--device {device}: {found}; wanted auto, cpu or one of those")
    if device.type == "cuda":
        # CUDA graphs record on the current device. On another one they would record nothing.
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        # Attention by cuDNN is planned anew for every shape, which takes longer than all the rest.
        torch.backends.cuda.enable_cudnn_sdp(False)
    else:
        keep_freed_memory()
    default = torch.bfloat16 if device.type == "cuda" else torch.float32
    named = {"auto": default, "fp32": torch.float32, "bf16": torch.bfloat16}
    return device, named[dtype]
