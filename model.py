"""The transformer: Qwen3, Qwen2/2.5, Llama 3.x and SmolLM2, as small as it can be written down.

One decoder-only network covers them all. For a residual stream x [B, T, D]:

    x = x + attention(norm(x))         H query heads share Hkv <= H key/value heads
    x = x + mlp(norm(x))               mlp(n) = W_down (silu(W_gate n) * W_up n)

    norm(x)  = w * x / sqrt(mean(x^2) + eps)
    RoPE     : in every head of a query or key at position p, the pair (x_i, x_{i+Dh/2}) is
               rotated by the angle p * inv_freq_i

The families differ in switches only: Qwen3 normalises q and k in each head, Qwen2 adds a bias to
q, k and v, Llama 3.x slows down the slow rotations. Parameter names are those of Hugging Face
files, so that loading is strict and saving is direct; lib/checkpoint.py reads and writes the files.

Mixed precision without autocast: parameters keep their own dtype (fp32 while training) and are
cast to `model.compute_dtype` where they are used.

    model = load_model("path/to/checkpoint")                # fp32 on the CPU
    logits = model(tokens)                                  # [B, T] -> [B, T, V]
    cache = KVCache(model, rows=B, capacity=T + 100)
    hidden = model.hidden(tokens, cache)                    # prefill, [B, T, D]
    cache.lengths += T                                      # then one token at a time

B sequences, T tokens, D width, V vocabulary, H and Hkv heads of width Dh, S keys to look at. This
is the plain form; lib/fast.py swaps parts of it for faster ones that compute the same.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from lib.checkpoint import read_config, read_weights, rope_frequencies, write_checkpoint
from lib.distributed import full_tensor

# ---- Positions -----------------------------------------------------------------------------------


def rotate(x, cos, sin):
    """RoPE on x [B, heads, T, Dh]; cos and sin [B, 1, T, Dh/2] of each pair's angle.

    The halves of a head are real and imaginary parts of numbers, times cos + i sin.
    """
    re, im = x.chunk(2, dim=-1)  # [B, heads, T, Dh/2] each
    return torch.cat((re * cos - im * sin, im * cos + re * sin), dim=-1).to(x.dtype)


# ---- The network ---------------------------------------------------------------------------------


class Linear(nn.Linear):
    """x W^T + b, with the weights cast to the dtype of x."""

    def reset_parameters(self):
        """Nothing: the weights come from a file, and drawing them first would take seconds."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        # torch takes the squares and their mean in fp32 at least, also where x is bf16.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def attention(q, k, v, seen=None):
    """softmax(q k^T / sqrt(Dh)) v: q [B, H, T, Dh], k and v [B, Hkv, S, Dh] -> [B, H, T, Dh].

    A query looks at the keys where seen [B, 1, T, S] is true; without seen, at itself and what came
    before it, so that what counts never looks at padding on the right.
    """
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=grouped
    )


class Attention(nn.Module):
    """x [B, T, D] -> [B, T, D]: each of H heads reads the tokens so far. cos, sin as in rotate."""

    def __init__(self, c):
        super().__init__()
        self.H = c.H
        self.Hkv = c.Hkv
        self.Dh = c.Dh
        self.q_proj = Linear(c.D, c.H * c.Dh, bias=c.qkv_bias)
        self.k_proj = Linear(c.D, c.Hkv * c.Dh, bias=c.qkv_bias)
        self.v_proj = Linear(c.D, c.Hkv * c.Dh, bias=c.qkv_bias)
        self.o_proj = Linear(c.H * c.Dh, c.D, bias=c.o_bias)
        self.q_norm = RMSNorm(c.Dh, c.eps) if c.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(c.Dh, c.eps) if c.qk_norm else nn.Identity()

    def forward(self, x, cos, sin, cache, layer):
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        read = self.read(q, k, v, cos, sin, cache, layer)  # [B, H, T, Dh]
        return self.o_proj(read.transpose(1, 2).flatten(2))

    def read(self, q, k, v, cos, sin, cache, layer):
        """The projections, [B, T, heads * Dh] each -> what the heads read, [B, H, T, Dh]."""
        B, T, _ = q.shape
        q = self.q_norm(q.view(B, T, self.H, self.Dh)).transpose(1, 2)  # [B, H, T, Dh]
        k = self.k_norm(k.view(B, T, self.Hkv, self.Dh)).transpose(1, 2)  # [B, Hkv, T, Dh]
        v = v.view(B, T, self.Hkv, self.Dh).transpose(1, 2)  # [B, Hkv, T, Dh]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return attention(q, k, v) if cache is None else cache.attend(layer, q, k, v)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = Linear(c.D, c.F, bias=c.mlp_bias)
        self.up_proj = Linear(c.D, c.F, bias=c.mlp_bias)
        self.down_proj = Linear(c.F, c.D, bias=c.mlp_bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.D, c.eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.D, c.eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, cache, layer):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """tokens [B, T] -> logits [B, T, V]. `hidden` stops after the last norm, `head` goes on."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__()
        self.config = config
        self.compute_dtype = dtype  # of the activations
        self.folder = None  # the checkpoint folder it was loaded from
        self.inv_freq = None  # see frequencies
        self.model = nn.Module()
        table = torch.empty(config.V, config.D)  # undrawn, as in Linear
        self.model.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.model.norm = RMSNorm(config.D, config.eps)
        if not config.tied:
            self.lm_head = Linear(config.D, config.V, bias=False)
        self.to(dtype)

    @property
    def head_weight(self):
        """[V, D]: the embedding itself where the head is tied to it."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def device(self):
        return self.model.embed_tokens.weight.device

    def frequencies(self):
        """rope_frequencies on the model's device, copied there once, as a copy stops the GPU."""
        if self.inv_freq is None or self.inv_freq.device != self.device:
            self.inv_freq = rope_frequencies(self.config).to(self.device)
        return self.inv_freq

    def hidden(self, tokens, cache=None):
        """tokens [B, T] -> [B, T, D] after the last norm. cache: what they come after, a KVCache or
        anything with its two methods, `start` and `attend`; None: they start at position 0."""
        B, T = tokens.shape
        if cache is None:
            positions = torch.arange(T, device=tokens.device)[None]  # [1, T]
        else:
            positions = cache.start(B, T)  # [B or 1, T]
        angles = positions[:, None, :, None] * self.frequencies()  # [B, 1, T, Dh/2], in fp32
        cos, sin = angles.cos(), angles.sin()
        x = F.embedding(tokens, self.model.embed_tokens.weight).to(self.compute_dtype)  # [B, T, D]
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, cache, i)
        return self.model.norm(x)

    def head(self, hidden):
        """hidden [..., D] -> logits [..., V], never below fp32.

        The weight is rounded to the dtype of hidden, as everywhere, but sums stay in fp32: a logit
        of 20 in bf16 is off by up to 0.06, which would be a gap between sampler and trainer.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        return F.linear(hidden.to(wide), self.head_weight.to(hidden.dtype).to(wide))

    def forward(self, tokens):
        return self.head(self.hidden(tokens))


class KVCache:
    """Keys and values of `rows` sequences of up to `capacity` tokens; each row has its own length.

    `model.hidden(tokens [B, T], cache)` writes the T tokens of row b behind its first lengths[b].
    The caller then adds to `lengths` how many of them count; the others are overwritten next.
    """

    def __init__(self, model, rows, capacity):
        c = model.config
        shape = (c.layers, rows, c.Hkv, capacity, c.Dh)
        # Zeros, not empty: a key that is not seen has weight 0, but 0 * NaN would still be NaN.
        self.k = torch.zeros(shape, dtype=model.compute_dtype, device=model.device)
        self.v = torch.zeros_like(self.k)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.fill = 0  # lengths + T at most; on the host, so that reading it waits for nothing

    def start(self, B, T):
        """Positions [B, T] of the next T tokens of the first B rows."""
        steps = torch.arange(T, device=self.lengths.device)
        self.positions = self.lengths[:B, None] + steps  # [B, T]
        self.empty = self.fill == 0
        self.fill += T
        keys = torch.arange(min(self.fill, self.k.size(3)), device=steps.device)
        self.seen = (keys <= self.positions[:, :, None])[:, None]  # [B, 1, T, S]
        return self.positions

    def attend(self, layer, q, k, v):
        """Store k and v [B, Hkv, T, Dh], then let q [B, H, T, Dh] read all that its row holds."""
        B, _, T, _ = k.shape
        S = self.seen.size(3)
        if self.empty:  # nothing came before: plain causal attention, and no mask is needed
            self.k[layer, :B, :, :T], self.v[layer, :B, :, :T] = k, v
            return attention(q, k, v)
        rows = torch.arange(B, device=k.device)[:, None]  # [B, 1]
        self.k[layer].transpose(1, 2)[rows, self.positions] = k.transpose(1, 2)
        self.v[layer].transpose(1, 2)[rows, self.positions] = v.transpose(1, 2)
        return attention(q, self.k[layer, :B, :, :S], self.v[layer, :B, :, :S], self.seen)


# ---- From a checkpoint folder and back -----------------------------------------------------------


def load_model(path, device="cpu", dtype=torch.float32):
    """Read a Hugging Face checkpoint folder: config.json and *.safetensors, whole or in shards.

    Returns a Transformer with parameters of `dtype`. Raises ValueError in one line that names the
    file, and the tensor, if anything is missing, surplus, damaged or beyond this network.
    """
    config = read_config(path)
    with torch.device("meta"):  # shapes alone, no memory
        model = Transformer(config, dtype)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    state = read_weights(path, shapes, config.tied, device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.folder = Path(path)
    return model


def save_model(model, path):
    """Write a folder that transformers' from_pretrained loads: weights, config, tokenizer files."""
    tensors = {name: full_tensor(p.detach()).cpu() for name, p in model.named_parameters()}
    write_checkpoint(path, tensors, model.config.raw, model.folder)


def frozen_copy(model, device=None):
    """A copy of the weights as they are now, in compute_dtype and without gradients: the reference.

    It computes the same bits as the model, since casting once is the same as casting at each use.
    """
    with torch.device("meta"):
        copy = Transformer(model.config, model.compute_dtype)
    state = {}
    for name, p in model.named_parameters():
        cast = p.detach().to(device=device or p.device, dtype=model.compute_dtype, copy=True)
        state[name] = full_tensor(cast)
    copy.load_state_dict(state, strict=True, assign=True)
    copy.folder = model.folder
    return copy.requires_grad_(False)
