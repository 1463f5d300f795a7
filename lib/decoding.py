"""A decode step for a GPU: few kernels, and all of them launched at once.

    decode = decoder(model)             # (tokens [A], cache) -> hidden [A, D]
    run = record_steps(device)          # run(step, shapes): as a recorded CUDA graph

A step for one token a row computes little, and launching its kernels takes longer than running
them. So products of the same input are joined into one, RoPE turns queries and keys together, and
what is left is recorded. model.py has the plain form, which is used on a CPU.

A rows, D width, H query and Hkv key heads of width Dh, rep = H / Hkv, F width of the MLP.
"""

import functools
import sys
from types import SimpleNamespace

import torch
from torch.nn import functional as F

# Both are for CUDA alone; lib/self_check.py turns them off where they go wrong.
recording, joining = True, True


def decoder(model, joined=None):
    """-> decode(tokens [A], cache) -> hidden [A, D], of the last token of A rows of a GroupCache.

    model: a sampling_copy. joined: products of one input as one; None means on CUDA.
    """
    if joined is None:
        joined = joining and model.device.type == "cuda"
    if not joined:
        return lambda tokens, cache: model.hidden(tokens[:, None], cache)[:, 0]
    c, layers = model.config, []
    for layer in model.model.layers:
        attn, mlp = layer.self_attn, layer.mlp
        qkv = attn.q_proj, attn.k_proj, attn.v_proj
        layers.append(SimpleNamespace(
            norm=layer.input_layernorm.weight, qkv=_join(qkv, c.Hkv), o_proj=attn.o_proj,
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=_join((mlp.gate_proj, mlp.up_proj), 1), down_proj=mlp.down_proj,
        ))  # fmt: skip
    weights = None
    if c.qk_norm:  # of the queries and the key that share a key head, [layers, 1, 1, rep + 1, Dh]
        attns = [layer.self_attn for layer in model.model.layers]
        rows = [[a.q_norm.weight] * (c.H // c.Hkv) + [a.k_norm.weight] for a in attns]
        weights = torch.stack([torch.stack(row) for row in rows])[:, None, None]
    frequencies = model.frequencies()  # [Dh / 2]
    parts = SimpleNamespace(
        embedding=model.model.embed_tokens.weight, layers=layers, norm=model.model.norm.weight,
        qk_norm=weights, turned=None if weights is None else weights.roll(c.Dh // 2, -1),
        frequencies=torch.cat((-frequencies, frequencies)), Hkv=c.Hkv, Dh=c.Dh, eps=c.eps,
    )  # fmt: skip
    return functools.partial(_decode, parts)


def _join(modules, groups):
    """Several projections of one input as one: -> [weight, bias or None].

    The rows of each are cut into `groups`, and group follows group: of queries, keys and values
    those of key head 0, [q q k v], then those of key head 1, ...
    """
    joined = []
    for name in ("weight", "bias"):
        tensors = [getattr(module, name) for module in modules]
        if tensors[0] is None:
            joined.append(None)
            continue
        parts = [x.view(groups, -1, *x.shape[1:]) for x in tensors]
        joined.append(torch.cat(parts, dim=1).flatten(0, 1))
    return joined


def _decode(parts, tokens, cache):
    """Transformer.hidden for one token of each row: tokens [A] -> [A, D] after the last norm."""
    positions = cache.start(len(tokens), 1)  # [A, 1]
    # cos is even and sin is odd: these angles give (cos, cos) and (-sin, sin).
    angles = positions[:, None, None] * parts.frequencies  # [A, 1, 1, Dh]
    cos, sin = angles.cos(), angles.sin()
    if parts.qk_norm is None:
        tables = [(cos, sin)] * len(parts.layers)
    else:
        # (w n) cos + turned(w n) sin = n (w cos) + turned(n) (turned(w) sin): the weights of the
        # norms go into the tables, of all layers in one go.  [layers, A, 1, rep + 1, Dh]
        cos, sin = parts.qk_norm * cos, parts.turned * sin
        tables = zip(cos, sin, strict=True)
    x = F.embedding(tokens, parts.embedding)  # [A, D]
    for i, (layer, (cos, sin)) in enumerate(zip(parts.layers, tables, strict=True)):
        x = _attend(parts, layer, x, cos, sin, cache, i)
        normed = F.rms_norm(x, layer.mlp_norm.shape, layer.mlp_norm, parts.eps)
        gate, up = F.linear(normed, *layer.gate_up).chunk(2, dim=-1)  # [A, F] each
        x = _add_product(x, F.silu(gate).mul_(up), layer.down_proj)
    return F.rms_norm(x, parts.norm.shape, parts.norm, parts.eps)


def _attend(parts, layer, x, cos, sin, cache, i):
    """x + attention(norm(x)), [A, D]."""
    A, Hkv, Dh = len(x), parts.Hkv, parts.Dh
    normed = F.rms_norm(x, layer.norm.shape, layer.norm, parts.eps)
    heads = F.linear(normed, *layer.qkv).view(A, Hkv, -1, Dh)  # [A, Hkv, rep + 2, Dh]: q ... k v
    turning = heads
    if parts.qk_norm is not None:  # values too, which nobody reads: a part would be copied first
        turning = F.rms_norm(heads, (Dh,), None, parts.eps)
    turned = turning.roll(Dh // 2, -1)[:, :, :-1]
    torch.addcmul(turning[:, :, :-1] * cos, turned, sin, out=heads[:, :, :-1])
    cache.store(i, heads[:, :, -2:, None].permute(2, 0, 1, 3, 4))  # [2, A, Hkv, 1, Dh]
    read = cache.read(i, heads[:, :, :-2])  # [A, Hkv, rep, Dh]
    return _add_product(x, read.view(A, -1), layer.o_proj)


def _add_product(x, y, module):
    """x + module(y), in place: the sum rides along with the product."""
    x.addmm_(y, module.weight.T)
    return x if module.bias is None else x.add_(module.bias)


# ---- Recorded steps ------------------------------------------------------------------------------


def static_shapes(device):
    """Whether few shapes of a decode step should occur: where steps are recorded."""
    return device.type == "cuda"


def record_steps(device):
    """-> run(step, shapes): calls step(), on CUDA as a recorded graph where shapes come up again.

    A record holds the very kernels of the eager step, so that ids are the same. It saves launching
    some thousand kernels a token, which takes longer than what they compute. If recording fails
    (no memory to spare, say), eager steps go on.
    """
    graphs, seen, pool = {}, set(), []

    def run(step, shapes):
        """step(), whose tensors have the same shapes whenever `shapes` is the same."""
        if shapes in graphs:
            return graphs[shapes]()
        # The first time eager: kernels are chosen and loaded then.
        if device.type != "cuda" or not recording or shapes not in seen:
            seen.add(shapes)
            return step()
        pool.append(pool[0] if pool else torch.cuda.graph_pool_handle())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool[0]):
                step()
        except RuntimeError as e:
            reason = str(e).splitlines()[0]
            print(f"  sampling goes on without CUDA graphs ({reason})", file=sys.stderr)
            graphs[shapes] = step
        else:
            graphs[shapes] = graph.replay
        return graphs[shapes]()

    return run
