"""The transformer: Qwen3, Qwen2/2.5, Llama 2/3.x and SmolLM2 from a Hugging Face checkpoint folder, and back.

One decoder-only network covers them all. For a residual stream x [B, T, D]:

    x = x + Attention(RMSNorm(x))        grouped queries: H query heads read Hkv <= H key/value heads
    x = x + W_down(silu(W_gate n) * W_up n),  n = RMSNorm(x)

    RMSNorm(x)  = w * x / sqrt(mean(x^2) + eps)
    RoPE        = each head's pair (x_i, x_{i+Dh/2}) turned by the angle position * inv_freq_i

The families differ in switches only: Qwen3 normalises q and k per head, Qwen2 adds a bias to q, k and v, Llama 3.x stretches the slow
rotations (rope_type "llama3"). Parameter names are those of the files, so loading is strict and saving is direct. What this file can't
compute exactly (another model_type, sliding windows, experts, an unknown rope type, a missing or surplus tensor) it refuses by name.

Mixed precision without autocast: parameters stay in their own dtype (fp32 masters while training) and are cast to the dtype of the
activations, `model.compute_dtype`, at each use. The frozen reference and the sampler hold weights already cast: the same arithmetic.

    model = load_model("path/to/checkpoint")                       # fp32 on the CPU
    logits = model(tokens)                                         # [B, T] -> [B, T, V]; right-padding is never seen: attention is causal
    cache = KVCache(model, rows=B, capacity=T + 100)
    logits = model.head(model.hidden(tokens, cache)); cache.lengths += T       # prefill, then one token at a time
"""

import contextlib
import ctypes
import functools
import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json",
              "added_tokens.json", "vocab.json", "merges.txt")  # files that make a checkpoint folder whole; copied, never rewritten


# ---------------------------------------------------------------------------------------------------------------------------------
# config.json


class Config(NamedTuple):
    """What the network needs to know, read from config.json by `read_config`; `raw` is the file itself, kept for saving."""

    V: int  # vocabulary
    D: int  # width of the residual stream
    F: int  # width inside the MLP
    layers: int
    H: int  # query heads
    Hkv: int  # key/value heads
    Dh: int  # width of a head
    eps: float
    rope: dict  # {"rope_type", "rope_theta", and what that type needs}
    tied: bool  # the head is the embedding
    qk_norm: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    raw: dict


def read_config(path) -> Config:
    """config.json of a checkpoint folder, in the older form (rope_theta and rope_scaling at the top) or the newer (rope_parameters).

    Raises ValueError with one line that names the file and what it can't compute exactly.
    """
    file, wanted = Path(path) / "config.json", "wanted a checkpoint folder with config.json and *.safetensors"
    if not str(path) or not Path(path).is_dir():
        hint = " (the shell expands ~ only outside quotes, and not behind =)" if str(path).startswith("~") else ", and nothing is downloaded"
        raise ValueError(f"{str(path) or repr('')}: {'a file, ' * Path(path).is_file()}no such folder{hint}; {wanted}")
    if not file.is_file():
        found = sorted(f.name for f in Path(path).iterdir())
        hint = "; merge the adapter into its base model first" if "adapter_config.json" in found else ""
        listed = "only " + ", ".join(found[:3]) + ", ..." * (len(found) > 3) if found else "the folder is empty"
        raise ValueError(f"{file}: not found ({listed}); {wanted}{hint}")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{file}: not valid JSON ({e if file.stat().st_size else 'the file is empty'}); {wanted}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{file}: found a JSON {type(raw).__name__}, wanted an object")

    def refuse(key, wanted):
        raise ValueError(f"{file}: {key} is {raw.get(key)!r}; this project computes {wanted}")

    kind = raw.get("model_type")
    if kind is None and "settings" in raw:
        raise ValueError(f"{file}: describes a training run; wanted the checkpoint in it, {Path(path) / 'checkpoint'}")
    if kind not in ("qwen3", "qwen2", "llama"):
        refuse("model_type", "qwen3, qwen2 and llama (Qwen3, Qwen2/2.5, Llama 2/3.x, SmolLM2) only")
    if raw.get("hidden_act", "silu") != "silu":
        refuse("hidden_act", "silu only")
    if not raw.get("is_causal", True):
        refuse("is_causal", "causal attention only")
    if raw.get("use_sliding_window"):
        refuse("use_sliding_window", "full attention in every layer only")
    if kind == "llama" and raw.get("sliding_window"):
        refuse("sliding_window", "full attention only")
    for key in ("quantization_config", "num_experts", "num_local_experts", "per_layer_config"):
        if raw.get(key):
            refuse(key, "plain dense weights only, every layer alike")
    if raw.get("partial_rotary_factor") not in (None, 1.0):
        refuse("partial_rotary_factor", "rotations of the whole head only (1.0)")

    def whole(key, default=None):
        value = raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{file}: {key} is {value!r}; wanted a positive whole number")
        return value

    def flag(key):
        if raw.get(key) not in (None, False, True):
            raise ValueError(f"{file}: {key} is {raw[key]!r}; wanted true or false")
        return bool(raw.get(key))

    D, H, layers = whole("hidden_size"), whole("num_attention_heads"), whole("num_hidden_layers")
    if raw.get("layer_types") not in (None, ["full_attention"] * layers):
        refuse("layer_types", "full_attention in every layer only")
    # An absent key means what it means to transformers: 32 in its Qwen classes; null is one per query head everywhere.
    Hkv = H if raw.get("num_key_value_heads", 0) is None else whole("num_key_value_heads", H if kind == "llama" else 32)
    if H % Hkv:
        raise ValueError(f"{file}: {H} query heads can't be shared evenly among {Hkv} key/value heads")
    if raw.get("head_dim") is None and D % H:
        raise ValueError(f"{file}: hidden_size {D} is not a multiple of num_attention_heads {H}, and there is no head_dim")
    Dh = whole("head_dim") if raw.get("head_dim") is not None else 128 if kind == "qwen3" else D // H
    if Dh % 2:
        raise ValueError(f"{file}: heads of width {Dh} can't be rotated in pairs; wanted an even head_dim")
    bias = flag("attention_bias")  # llama and qwen3: all four projections; qwen2: always q, k and v
    return Config(
        V=whole("vocab_size"), D=D, F=whole("intermediate_size"), layers=layers, H=H, Hkv=Hkv, Dh=Dh,
        eps=_positive(file, "rms_norm_eps", raw.get("rms_norm_eps", 1e-6)), rope=_read_rope(file, raw),
        tied=flag("tie_word_embeddings"), qk_norm=kind == "qwen3",
        qkv_bias=kind == "qwen2" or bias, o_bias=kind != "qwen2" and bias, mlp_bias=kind == "llama" and flag("mlp_bias"),
        raw=raw,
    )


def _positive(file, name, value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{file}: {name} is {value!r}; wanted a positive number")
    return float(value)


def _read_rope(file, raw) -> dict:
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}  # in transformers' order, should a file have both
    if not isinstance(rope, dict) or any(isinstance(v, dict) for v in rope.values()):
        raise ValueError(f"{file}: the rope scaling is {rope!r}; wanted one flat object for all layers")
    rope = dict(rope, rope_type=rope.get("rope_type") or rope.get("type") or "default")
    rope["rope_theta"] = _positive(file, "rope_theta", rope.get("rope_theta", raw.get("rope_theta", 10000.0)))
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        raise ValueError(f"{file}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; wanted 1.0, rotations of the whole head")
    needs = {"default": (), "linear": ("factor",),
             "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}
    if str(rope["rope_type"]) not in needs:
        raise ValueError(f"{file}: rope type {rope['rope_type']!r} is unknown; wanted one of {', '.join(needs)}")
    if rope["rope_type"] == "llama3" and "original_max_position_embeddings" in raw:
        rope["original_max_position_embeddings"] = raw["original_max_position_embeddings"]  # at the top it goes first, as in transformers
    for key in needs[rope["rope_type"]]:
        rope[key] = _positive(file, f"{key} of rope type {rope['rope_type']!r}", rope.get(key))
    if rope["rope_type"] == "llama3" and rope["low_freq_factor"] >= rope["high_freq_factor"]:
        raise ValueError(f"{file}: low_freq_factor {rope['low_freq_factor']} must be below high_freq_factor {rope['high_freq_factor']}")
    return rope


def rope_frequencies(config) -> torch.Tensor:
    """Radians per position of each rotated pair: theta^(-2i/Dh), slowed down as the rope type says.

    "linear" divides all of them by `factor`. "llama3" divides those whose wavelength exceeds original_max/low_freq_factor, leaves those
    shorter than original_max/high_freq_factor, and blends in between (Llama 3.1's scheme).
    """
    rope, Dh = config.rope, config.Dh
    inv_freq = 1.0 / rope["rope_theta"] ** (torch.arange(0, Dh, 2, dtype=torch.int64).float() / Dh)  # [Dh/2]
    if rope["rope_type"] == "linear":
        return inv_freq / rope["factor"]
    if rope["rope_type"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * inv_freq / (2 * math.pi)  # full turns within the original context  [Dh/2]
        keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1: a fast pair, untouched; 0: a slow pair, divided
        return keep * inv_freq + (1 - keep) * inv_freq / rope["factor"]
    return inv_freq


# ---------------------------------------------------------------------------------------------------------------------------------
# The network


ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn(x, weight, bias=None, then="none"):
    """then(x @ weight^T + bias) by oneDNN, which F.linear asks in bf16 only; on AMD processors it takes a fifth less time than MKL."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")


def linear(x, weight, bias=None):
    """x [..., I] @ weight [O, I]^T + bias [O] -> [..., O]."""
    if not ONEDNN or x.dtype != torch.float32 or x.is_cuda or not x.numel() or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return _onednn(x, weight, bias)


class _Products(torch.autograd.Function):
    """x = make(*inputs) -> x @ weight^T + bias, for each weight and bias that follow the n inputs."""

    @staticmethod
    def forward(ctx, make, n, *tensors):
        ctx.make, ctx.n, x = make, n, make(*tensors[:n])
        ctx.save_for_backward(*tensors)  # fp32 masters as they are: casting again is cheaper than keeping what was cast
        return tuple(linear(x, w.to(x.dtype), b if b is None else b.to(x.dtype)) for w, b in zip(tensors[n::2], tensors[n + 1 :: 2], strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        needed, saved = ctx.needs_input_grad[2:], ctx.saved_tensors
        inputs = [t if t is None else t.detach().requires_grad_(need) for t, need in zip(saved[: ctx.n], needed, strict=False)]
        params, wanted = saved[ctx.n :], [t for t in inputs if t is not None and t.requires_grad]
        with torch.enable_grad():
            x = ctx.make(*inputs)
        rows, d_x, d_params = x.detach().flatten(0, -2), None, []  # [N, I]
        for i, grad in enumerate(grads):
            weight, (learns, biased) = params[2 * i], needed[ctx.n + 2 * i : ctx.n + 2 * i + 2]
            share = linear(grad, weight.to(x.dtype).T)  # [..., I]
            d_x = share if d_x is None else d_x.add_(share)
            grad = grad.flatten(0, -2)  # [N, O]
            d_params += [(grad.T @ rows).to(weight.dtype) if learns else None, grad.sum(0).to(weight.dtype) if biased else None]
        d_inputs = iter(torch.autograd.grad(x, wanted, d_x) if wanted else ())
        return None, None, *(next(d_inputs) if t is not None and t.requires_grad else None for t in inputs), *d_params


def products(make, inputs, *layers):
    """[layer(make(*inputs)) for layer in layers]; the backward pass keeps `inputs` alone, and makes the factor of the products again.

    make costs next to nothing beside the products (a norm, silu), but what it makes would be half of a training step's memory.
    """
    if not torch.is_grad_enabled():
        x = make(*inputs)
        return [layer(x) for layer in layers]
    return _Products.apply(make, len(inputs), *inputs, *(p for layer in layers for p in (layer.weight, layer.bias)))


class Linear(nn.Linear):
    packed = None  # the weight a second time, in oneDNN's blocked order: see `sampling_copy`

    def reset_parameters(self):
        """Nothing: weights come from a file, and drawing them first would take seconds."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return linear(x, self.weight.to(x.dtype), bias) if self.packed is None else linear(x, self.packed, bias)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x, weight=None):
        """weight: self.weight, where autograd must see it among the arguments (`products`)."""
        weight = self.weight if weight is None else weight
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), self.eps)  # squares and their mean in fp32 at least


def rotate(x, cos, sin):
    """RoPE on x [B, heads, T, Dh], whose halves are real and imaginary parts: (re cos - im sin, im cos + re sin).

    cos [B, 1, T, Dh] holds every cosine twice, sin the sines with the first half negated.
    """
    re, im = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((im, re), dim=-1), sin).to(x.dtype)


def attend(q, k, v, bias=None):
    """softmax(q k^T / sqrt(Dh) + bias) v for q [B, H, T, Dh] and k, v [B, Hkv, S, Dh] -> [B, H, T, Dh]; causal where bias is None."""
    B, H, T, Dh = q.shape
    Hkv = k.size(1)
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=Hkv != H)
    # The H/Hkv queries of a key head stand in for time: its keys are read once and never copied, nor kept in copies for the backward pass.
    return F.scaled_dot_product_attention(q.reshape(B, Hkv, -1, Dh), k, v, attn_mask=bias).reshape(B, H, T, Dh)


def attention_bias(seen, model):
    """seen [B, T, S], True where a query may look -> what `attend` adds to the scores of a key head's queries: 0 or -inf [B, 1, H/Hkv*T, S]."""
    bias = torch.zeros(seen.shape, dtype=model.compute_dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
    return bias.repeat(1, model.config.H // model.config.Hkv, 1)[:, None]


class Attention(nn.Module):
    """norm(x), x [B, T, D] -> queries [B, H, T, Dh], keys and values [B, Hkv, T, Dh], rotated; o_proj comes after they were read (Layer)."""

    def __init__(self, c):
        super().__init__()
        self.H, self.Hkv, self.Dh = c.H, c.Hkv, c.Dh
        self.q_proj = Linear(c.D, c.H * c.Dh, bias=c.qkv_bias)
        self.k_proj = Linear(c.D, c.Hkv * c.Dh, bias=c.qkv_bias)
        self.v_proj = Linear(c.D, c.Hkv * c.Dh, bias=c.qkv_bias)
        self.o_proj = Linear(c.H * c.Dh, c.D, bias=c.o_bias)
        self.q_norm = RMSNorm(c.Dh, c.eps) if c.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(c.Dh, c.eps) if c.qk_norm else nn.Identity()

    def forward(self, x, norm, cos, sin):
        B, T, _ = x.shape
        q, k, v = products(norm, (x, norm.weight), self.q_proj, self.k_proj, self.v_proj)
        q = self.q_norm(q.view(B, T, self.H, self.Dh)).transpose(1, 2)  # [B, H, T, Dh]
        k = self.k_norm(k.view(B, T, self.Hkv, self.Dh)).transpose(1, 2)  # [B, Hkv, T, Dh]
        v = v.view(B, T, self.Hkv, self.Dh).transpose(1, 2)  # [B, Hkv, T, Dh]
        return rotate(q, cos, sin), rotate(k, cos, sin), v


class MLP(nn.Module):
    """W_down(silu(W_gate n) * W_up n) of n = norm(x), x [B, T, D]."""

    def __init__(self, c):
        super().__init__()
        self.gate_proj = Linear(c.D, c.F, bias=c.mlp_bias)
        self.up_proj = Linear(c.D, c.F, bias=c.mlp_bias)
        self.down_proj = Linear(c.F, c.D, bias=c.mlp_bias)

    def forward(self, x, norm, recompute=False):
        """recompute: keep x alone for the backward pass, and make gate and up again there, two products of the layer's seven."""
        if recompute:
            def gated(*inputs):  # x, the norm's weight, then weights and biases
                gate, up = _Products.apply(norm, 2, *inputs)
                return F.silu(gate) * up

            inputs = (x, norm.weight, self.gate_proj.weight, self.gate_proj.bias, self.up_proj.weight, self.up_proj.bias)
            return products(gated, inputs, self.down_proj)[0]
        if self.gate_proj.packed is None:
            gate, up = products(norm, (x, norm.weight), self.gate_proj, self.up_proj)
            return products(lambda gate, up: F.silu(gate) * up, (gate, up), self.down_proj)[0]
        x = norm(x)
        gate = _onednn(x, self.gate_proj.packed, self.gate_proj.bias, "swish")  # silu, and below the product with it, ride along
        return self.down_proj(torch.ops.mkldnn._linear_pointwise.binary(x, gate, self.up_proj.packed, self.up_proj.bias, "mul"))


class Layer(nn.Module):
    """Dense arithmetic around the attention, which alone knows of masks and caches."""

    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.D, c.eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.D, c.eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, attend, recompute=False):
        """attend(q, k, v) -> what the heads read."""
        read = attend(*self.self_attn(x, self.input_layernorm, cos, sin))  # [B, H, T, Dh]
        x = x + products(lambda read: read.transpose(1, 2).flatten(2), (read,), self.self_attn.o_proj)[0]
        return x + self.mlp(x, self.post_attention_layernorm, recompute)


class Transformer(nn.Module):
    """tokens [B, T] -> logits [B, T, V]. `hidden` stops after the last norm, `head` goes on from there."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__()
        self.config, self.compute_dtype, self.folder = config, dtype, None  # folder: where it was loaded from
        self.recompute = False  # True: half the activations for a sixth more arithmetic (MLP.forward)
        self.packed_head = None  # see `sampling_copy`
        self.inv_freq = None  # rope_frequencies on the device: copied there once, because a recorded step may not copy from the host
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config.V, config.D), freeze=False)  # undrawn, too
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.model.norm = RMSNorm(config.D, config.eps)
        if not config.tied:
            self.lm_head = Linear(config.D, config.V, bias=False)
        self.to(dtype)

    @property
    def head_weight(self) -> torch.Tensor:
        """[V, D]: the embedding itself where the head is tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def device(self):
        return self.model.embed_tokens.weight.device

    def hidden(self, tokens, past=None):
        """tokens [B, T] -> [B, T, D] after the last norm.

        past: what the tokens come after: None (they start at position 0), or a KVCache, or anything with its two methods.
        """
        B, T = tokens.shape
        positions = torch.arange(T, device=tokens.device)[None] if past is None else past.begin(B, T)  # [B or 1, T]
        if self.inv_freq is None or self.inv_freq.device != tokens.device:
            self.inv_freq = rope_frequencies(self.config).to(tokens.device)
        angles = positions[:, None, :, None] * self.inv_freq  # [B, 1, T, Dh/2]
        cos, sin = torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)  # [B, 1, T, Dh] each
        x = F.embedding(tokens, self.model.embed_tokens.weight).to(self.compute_dtype)  # [B, T, D]
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, attend if past is None else functools.partial(past.attend, i), self.recompute and torch.is_grad_enabled())
        return self.model.norm(x)

    def head(self, hidden):
        """hidden [..., D] -> logits [..., V], in fp32 where no gradient is wanted."""
        if torch.is_grad_enabled():
            return linear(hidden, self.head_weight.to(hidden.dtype))
        if self.packed_head is not None:
            return self.packed_head(hidden)
        return logits_fp32(hidden.flatten(0, -2), self.head_weight).view(*hidden.shape[:-1], -1)

    def forward(self, tokens):
        return self.head(self.hidden(tokens))


def logits_fp32(hidden, head_weight):
    """hidden [N, D] @ head_weight [V, D]^T -> [N, V], never below fp32, in the arithmetic of hidden's dtype.

    Logits of 20 rounded to bf16 are off by up to 0.06, which would show as a gap between sampler and trainer; the products of bf16
    numbers are exact in fp32, so keeping the fp32 sums costs nothing but the wider output.
    """
    weight = head_weight.to(hidden.dtype)
    if hidden.dtype in (torch.float32, torch.float64):
        return linear(hidden, weight)
    if hidden.is_cuda:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    return hidden.float() @ weight.float().T


class KVCache:
    """Keys and values of `rows` sequences of up to `capacity` tokens, allocated once; each row has its own length.

    `model.hidden(tokens [B, T], cache)` writes row b's T tokens behind its first lengths[b] and reads no further than itself. The caller
    then adds to `lengths` how many of them count: padding that is not counted is overwritten by what comes next. Rows beyond B
    are left alone. `fill` bounds lengths + T from above, kept on the host so that reading it never waits for the device.
    """

    def __init__(self, model, rows, capacity):
        c, self.model = model.config, model
        shape = (c.layers, rows, c.Hkv, capacity, c.Dh)
        # Zeros, not empty: a masked key has weight 0, and 0 * NaN would still be NaN.
        self.k = torch.zeros(shape, dtype=model.compute_dtype, device=model.device)
        self.v = torch.zeros(shape, dtype=model.compute_dtype, device=model.device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.fill = 0

    def begin(self, B, T):
        """Positions [B, T] of the next T tokens of the first B rows."""
        device = self.lengths.device
        self.positions = self.lengths[:B, None] + torch.arange(T, device=device)  # [B, T]
        self.rows = torch.arange(B, device=device)[:, None]  # [B, 1]
        self.fresh = self.fill == 0
        self.fill += T
        keys = torch.arange(min(self.fill, self.k.size(3)), device=device)
        self.bias = None if self.fresh else attention_bias(keys <= self.positions[:, :, None], self.model)  # a token sees its past and itself
        return self.positions

    def attend(self, layer, q, k, v):
        """Store k, v [B, Hkv, T, Dh] of one layer, and let q [B, H, T, Dh] read all that its row holds -> [B, H, T, Dh]."""
        B, T = k.size(0), k.size(2)
        if self.fresh:
            self.k[layer, :B, :, :T], self.v[layer, :B, :, :T] = k, v
            return attend(q, k, v)
        self.k[layer].transpose(1, 2)[self.rows, self.positions] = k.transpose(1, 2)
        self.v[layer].transpose(1, 2)[self.rows, self.positions] = v.transpose(1, 2)
        return attend(q, self.k[layer, :B, :, : self.fill], self.v[layer, :B, :, : self.fill], self.bias)


class SharedPrompts:
    """Keys and values of prompts, computed once, with gradient where that is on, then read by all the responses that go on from them.

        past = SharedPrompts(model)
        model.hidden(prompts [G, P], past)                       # records
        past.share(lengths [G], owner [B])                       # response b goes on from the first lengths[owner[b]] tokens of prompt owner[b]
        model.hidden(responses [B, T], past)                     # as if each prompt had been computed once per response
    """

    def __init__(self, model):
        self.k, self.v, self.owner, self.model = [], [], None, model

    def share(self, lengths, owner):
        self.lengths, self.owner = lengths[owner], owner  # [B] each

    def begin(self, B, T):
        time = torch.arange(T, device=self.model.device)
        if self.owner is None:
            return time[None]
        P = self.k[0].size(2) if self.k else 0
        prompt = torch.arange(P, device=time.device) < self.lengths[:, None, None]  # [B, 1, P]
        causal = time <= time[:, None]  # [T, T]
        self.bias = attention_bias(torch.cat((prompt.expand(B, T, P), causal.expand(B, T, T)), dim=2), self.model)  # [B, 1, H/Hkv*T, P+T]
        return self.lengths[:, None] + time

    def attend(self, layer, q, k, v):
        if self.owner is None:
            self.k.append(k), self.v.append(v)
            return attend(q, k, v)
        if self.k:
            k, v = torch.cat((self.k[layer][self.owner], k), dim=2), torch.cat((self.v[layer][self.owner], v), dim=2)
        return attend(q, k, v, self.bias)


# ---------------------------------------------------------------------------------------------------------------------------------
# Checkpoint folders


def keep_freed_memory(trim=2**31 - 1, mmap=2**31 - 1):
    """Let glibc keep what it frees: by default it returns large blocks to the kernel and gets them back cleared, a seventh of a step's time."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, trim), libc.mallopt(-3, mmap)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, in bytes


def choose_device(device="auto", dtype="auto"):
    """("auto", "cpu", "cuda", "cuda:1", ...; "auto", "fp32", "bf16") -> (torch.device, compute dtype); auto is bf16 on CUDA, fp32 on the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"--device is {device!r}; wanted auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"--device {device}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
                         "wanted auto, cpu or one of those")
    if device.type == "cpu":
        keep_freed_memory()
    return device, {"auto": torch.bfloat16 if device.type == "cuda" else torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}[dtype]


def load_model(path, device="cpu", dtype=torch.float32) -> Transformer:
    """Read config.json and *.safetensors (one file, or shards with an index; bf16, fp16 or fp32) into parameters of `dtype`.

    Raises ValueError with one line that names the file and tensor if anything is missing, surplus or of another shape.
    """
    config = read_config(path)
    with torch.device("meta"):
        model = Transformer(config, dtype)
    wanted, found, state = {name: p.shape for name, p in model.named_parameters()}, {}, {}
    with contextlib.ExitStack() as opened:
        for file in _weight_files(path):  # first all names, shapes and dtypes: a fault of the last shard shows before the first is read
            try:
                f = opened.enter_context(safe_open(file, framework="pt"))
            except OSError as e:
                raise ValueError(f"{file}: {e}; wanted a safetensors file that can be read") from None
            except SafetensorError as e:
                with open(file, "rb") as f:
                    reason = "a Git LFS pointer: git lfs pull fetches the file itself" if f.read(15) == b"version https:/" else e
                raise ValueError(f"{file}: cut short, damaged or no safetensors file ({reason}); wanted the weights as they were published") from None
            for name in f.keys():  # noqa: SIM118  (a safetensors handle is no dict)
                shape, kind = tuple(f.get_slice(name).get_shape()), f.get_slice(name).get_dtype()
                twice = config.tied and name == "lm_head.weight" and shape == wanted["model.embed_tokens.weight"]  # compared below
                if name in found:
                    raise ValueError(f"{file}: tensor {name} is also in another shard")
                if name not in wanted and name.endswith("rotary_emb.inv_freq"):  # old Llama files carry these; they follow from config.json
                    continue
                if name not in wanted and not twice:
                    raise ValueError(f"{file}: surplus tensor {name}, which config.json does not account for")
                if not twice and shape != tuple(wanted[name]):
                    raise ValueError(f"{file}: tensor {name} has shape {list(shape)}; config.json wants {list(wanted[name])}")
                if kind not in ("BF16", "F16", "F32", "F64"):  # fp8 needs scales beside it
                    raise ValueError(f"{file}: tensor {name} is {kind}; wanted bf16, fp16 or fp32")
                found[name] = f
        if missing := sorted(set(wanted) - set(found)):
            more = f", and {len(missing) - 1} more" if missing[1:] else ""
            raise ValueError(f"{path}: tensor {missing[0]} is missing{more}; config.json wants it")
        for name, f in found.items():
            state[name] = f.get_tensor(name).to(device=device, dtype=dtype, copy=True)
    if config.tied and not torch.equal(state.pop("lm_head.weight", embedding := state["model.embed_tokens.weight"]), embedding):
        raise ValueError(f"{path}: lm_head.weight differs from the embedding, but config.json says tie_word_embeddings")
    model.load_state_dict(state, strict=True, assign=True)
    model.folder = Path(path)
    return model


def _weight_files(path) -> list[Path]:
    path = Path(path)
    if (path / "model.safetensors").is_file():  # first, as in transformers: save_model may have written it beside older shards
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{index}: wanted a JSON object with a weight_map from tensor to file") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not (path / name).is_file():
                raise ValueError(f"{index}: weight_map names {name!r}, which is not a file of {path}")
        return [path / name for name in names]
    other = next((f.name for f in sorted(path.iterdir()) if f.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf")), None)
    found = f"only {other}; convert it with transformers' save_pretrained, or fetch what is missing" if other else "and no weights in another form"
    raise ValueError(f"{path}: no model.safetensors or model.safetensors.index.json ({found})")


def whole(tensor):
    """A tensor of which several processes hold parts (DTensor), gathered: all must ask for the same one at the same time. Others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def save_model(model, path, write=True):
    """Write a folder that transformers' from_pretrained loads: weights in the parameters' dtype, config.json, and the tokenizer's files.

    write=False: only help the process that writes to gather the parameters.
    """
    state = {}
    for name, p in model.named_parameters():
        tensor = whole(p.detach())
        if write:
            state[name] = tensor.cpu().contiguous()
    if not write:
        return
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    raw = {k: v for k, v in model.config.raw.items() if k not in ("dtype", "torch_dtype")}
    # Older transformers read torch_dtype, newer ones dtype; each ignores the other.
    raw["dtype"] = raw["torch_dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    (path / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in COMPANIONS:
        if model.folder is not None and (model.folder / name).is_file() and (model.folder / name).resolve() != (path / name).resolve():
            shutil.copyfile(model.folder / name, path / name)


def frozen_copy(model, device=None) -> Transformer:
    """A copy of the weights as they are now, in compute_dtype and without gradients: the reference, or the sampler's weights.

    Casting once gives the bits that casting at each use gives, so copy and original agree exactly.
    """
    with torch.device("meta"):
        copy = Transformer(model.config, model.compute_dtype)
    state = {name: whole(p.detach().to(device=device or p.device, dtype=model.compute_dtype, copy=True)) for name, p in model.named_parameters()}
    copy.load_state_dict(state, strict=True, assign=True)
    copy.folder = model.folder
    return copy.requires_grad_(False)


def sampling_copy(model) -> Transformer:
    """The weights as they are now, made ready for many small products: cast to compute_dtype once, or on a CPU in fp32 packed.

    A product of 64 rows spends much of its time on bringing the weight into the order that the processor wants. oneDNN does that once and
    keeps the result: decoding is then 1.3 (64 rows) to 2 times (24 rows) as fast. What it computes differs by rounding alone.
    """
    if next(model.parameters()).dtype != model.compute_dtype:
        return frozen_copy(model)
    if model.device.type != "cpu" or model.compute_dtype != torch.float32 or not ONEDNN:
        return model
    with torch.device("meta"):
        copy = Transformer(model.config)
    copy.load_state_dict({name: p.detach() for name, p in model.named_parameters()}, strict=True, assign=True)  # the same memory
    copy.packed_head = Linear(1, 1, bias=False)  # its weight is not used
    for module, weight in [(m, m.weight) for m in copy.model.modules() if isinstance(m, Linear)] + [(copy.packed_head, copy.head_weight)]:
        module.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 64)
    return copy.requires_grad_(False)
