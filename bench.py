"""How fast, how much memory, how near the limit of the machine: side by side, in one run.

    python bench.py                                   # random weights of SmolLM2-135M's shape; long
    python bench.py --quick                           # a smaller model, one round: minutes
    python bench.py --model DIR --data gsm8k.jsonl    # real weights, real prompts, natural stops
    python bench.py --gpu                             # one GPU, in under 8 minutes

Machines are noisy, so nothing here is an absolute claim. Contestants take turns (A B C, A B C,
...), each figure is a median, and what counts is the ratio within one run (--only picks parts):

    sampling      ours: one prefill a prompt, finished rows leave the batch; dense: one prefill a
                  sample, all rows go on until the last has ended; transformers
    step          ours, as in train.py; peers: a large library's VIMPO trainer by default
    logps         ours: in chunks; dense: log_softmax of the full [N, V] logits of both models
    recurrence    ours: log T tensor operations; loops: the definition, token after token
    schedule      rows and columns of decode steps for long responses; one pass: a row for the
                  longest at once. They are counted, on a CPU; nothing is timed
    scaling       score + update against response length, group size, vocabulary and batch

Limits come from the same run: sampling is compared with the time of its own matrix products, score
and update with 10 x parameters x tokens at the rate of one large product (matmul_gflops).
Transformers is optional. The last line is all of it as JSON. docs/bench.md says how to read it.
"""

import lib  # noqa: F401, I001  before torch: it sets how torch's threads wait

import contextlib
import datetime
import functools
import json
import math
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import rollout
import train
import vimpo
from lib import console, data, gpu_bench, kv_cache
from lib.batch import make_batch, score
from lib.checkpoint import read_config
from lib.console import number, say
from lib.fast import choose_device, keep_less, sampling_copy, start_moments
from lib.logprobs import score_tokens, token_logps
from lib.sampling import sample_keys
from lib.self_check import check_sampler, sampler_gap
from lib.timing import clock, limits, peak_fraction, race
from lib.tokenizer import Tokenizer
from model import Transformer, frozen_copy, load_model, save_model
from rollout import Rollout, generate, generate_plain

PARTS = ("sampling", "step", "logps", "recurrence", "schedule", "scaling")
FLAGS = [
    ("--model", str, None, "checkpoint folder (default: random weights, SmolLM2-135M's shape)"),
    ("--data", str, None, "JSONL problems to sample from, with --model (default: random prompts)"),
    ("--rounds", number(int, 1), 3, "turns of each contestant"),
    ("--quick", bool, False, "a smaller model and one round"),
    ("--gpu", bool, False, "what one GPU does here, in under 8 minutes; alone, or with --device"),
    ("--device", str, "auto", "auto, cpu, cuda or cuda:N"),
    ("--dtype", ("auto", "fp32", "bf16"), "auto", "auto: bf16 on cuda, fp32 on cpu"),
]
SMOLLM2 = {
    "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
QUICK = {"num_hidden_layers": 6, "vocab_size": 16384}
SMALL = {
    "num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 768,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
LENGTHS = (97, 131, 84, 163, 118, 142, 76, 109)  # GSM8K problems under a chat template, in tokens
SAMPLES = 8  # of each prompt
CARDS = (("Qwen3-0.6B", 24), ("Qwen3-1.7B", 80))  # bench_schedule: shape, GiB of the card
DEFAULTS = train.parse_args(["--model", "DIR", "--data", "FILE"])
CLIP = DEFAULTS.clip_low, DEFAULTS.clip_high, DEFAULTS.dual_clip
METHOD = vars(DEFAULTS) | {"value_kind": DEFAULTS.value_loss, "huber_delta": 1.0, "clip": CLIP}
VIMPO = vimpo.OBJECTIVES["vimpo"]

# ---- What is printed ----------------------------------------------------------------------------


def report(title, rows, note):
    """Print what each contestant took beside ours -> the figures without the results."""
    say(title)
    for name, row in rows.items():
        ratio = row["seconds"] / rows["ours"]["seconds"]
        memory = "" if row["mib"] is None else f"  {row['mib']:8.0f} MiB beyond what was there"
        say(f"  {name:14} {row['seconds']:9.4f} s ({ratio:.2f} x ours){memory}")
    say(f"  {note}\n")
    return {name: {"seconds": row["seconds"], "mib": row["mib"]} for name, row in rows.items()}


def card(model):
    """What this machine can do, and the size of the model."""
    device, dtype = model.device, model.compute_dtype
    cpu = torch.backends.cpu.get_cpu_capability() + " CPU"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."), **limits(device, dtype),
        "V": model.config.V, "parameters": gpu_bench.parameters(model),
    }  # fmt: skip


# ---- Sampling ------------------------------------------------------------------------------------


@torch.no_grad()
def peer_generate(peer, prompts, max_new_tokens, stop_ids):
    """transformers' generate -> ids [B, P + T], padded on the left; their mask; tokens sampled."""
    tensors, stop_ids = [torch.tensor(ids) for ids in prompts], sorted(stop_ids)
    padded = pad_sequence(tensors, True, -1, padding_side="left").to(peer.device)  # [prompts, P]
    mask, P = (padded >= 0).long(), padded.size(1)
    ids = peer.generate(
        padded.clamp(min=0), attention_mask=mask, max_new_tokens=max_new_tokens,
        num_return_sequences=SAMPLES, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        eos_token_id=stop_ids or None, pad_token_id=0,
    )  # fmt: skip
    mask = F.pad(mask.repeat_interleave(SAMPLES, 0), (0, ids.size(1) - P), value=1)
    stops = torch.tensor(stop_ids, dtype=torch.long, device=ids.device)
    stopped = torch.isin(ids[:, P:], stops).long()
    counts = stopped.cumsum(1) - stopped == 0  # no stop token came before
    return ids, mask, int(counts.sum())


@torch.no_grad()
def product_seconds(model, rows, ends):
    """Seconds of the matrix products of `rows` tokens, and of the head for `ends` of them."""
    device, dtype = model.device, model.compute_dtype
    x = torch.randn(rows, model.config.D, device=device, dtype=dtype)

    def products():
        for layer in model.model.layers:
            attn = layer.self_attn
            attn.o_proj(attn.q_proj(x)), attn.k_proj(x), attn.v_proj(x), layer.mlp(x)
        model.head(x[:ends])

    return clock(products, device, 3)


def bench_sampling(model, peers, prompts, stop_ids, rounds, quick):
    """Ours, the dense sampler and transformers in turns -> {contestant: figures}, and our share of
    the limit."""
    new = 32 if quick else 128
    settings = {"samples_per_prompt": SAMPLES, "max_new_tokens": new, "stop_ids": stop_ids}
    # Both prepare the weights in the same way at every turn, so the schedule alone is compared.
    contestants = {
        "ours": lambda: generate(model, prompts, **settings),
        "dense": lambda: generate_plain(sampling_copy(model), prompts, **settings),
    }
    if peers:
        contestants["transformers"] = lambda: peer_generate(peers[0], prompts, new, stop_ids)
    rows = race(contestants, rounds, model.device)
    lengths = [len(r.response_ids) for r in rows["ours"]["result"]]  # and so are those of dense
    tokens = {name: sum(lengths) for name in rows}
    if peers:
        tokens["transformers"] = rows["transformers"]["result"][2]
    rate = {name: tokens[name] / row["seconds"] for name, row in rows.items()}
    # The prefill gives the first tokens. A decode step's time is nearly linear in its rows, so
    # the mean step is timed.
    weights, steps = sampling_copy(model), max(lengths) - 1
    mean = math.ceil((sum(lengths) - len(lengths)) / max(steps, 1))
    limit = product_seconds(weights, sum(map(len, prompts)), len(prompts))
    limit = (limit + steps * product_seconds(weights, mean, mean)) / rows["ours"]["seconds"]
    said = ", ".join(f"{name} {n:.0f}" for name, n in rate.items())
    title = f"sampling: {len(prompts)} prompts x {SAMPLES} samples, at most {new} new tokens"
    note = f"tokens/s: {said}; ours at {limit:.0%} of its matrix products alone"
    figures = report(title, rows, note)
    return figures | {"tokens_per_second": rate, "fraction_of_limit": limit}


# ---- One step ------------------------------------------------------------------------------------


def learn(model, reference, optimizer, samples, rollouts):
    """Score, credit and update, as in train.take_step, with rewards 0, 1, 0, 1, ... -> losses."""
    rewards = [float(i % 2) for i in range(len(rollouts))]
    problems, dtype = rewards[::samples], torch.float32  # nobody looks at the problems
    batch = make_batch(rollouts, problems, rewards, rewards, samples, model.device, dtype)
    scoring = DEFAULTS.tokens_per_microbatch, DEFAULTS.temperature, DEFAULTS.kl
    scores = score(model, reference, batch, *scoring, keep_forward=True)
    batch.logps, batch.ref_logps, batch.kl, batch.entropy = scores
    VIMPO.credit(batch, **METHOD)
    losses = train.accumulate_gradients(model, batch, VIMPO, METHOD, DEFAULTS)
    if optimizer is not None:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return losses


def peer_step(peer, peer_reference, optimizer, prompts, max_new_tokens):
    """The same step as the library's trainer takes it by default.

    Eight sequences at a time, here a prompt's samples, with recomputed activations; the [b, T, V]
    log-softmax of both models, with gradient through the policy's; whitening per micro-batch.
    """
    ids, mask, _ = peer_generate(peer.eval(), prompts, max_new_tokens, ())
    T, method = max_new_tokens, METHOD | {"actor_coef": 5e-3}  # the authors' c_A
    peer.train()  # or nothing is recomputed
    for b_ids, b_mask in zip(ids.split(SAMPLES), mask.split(SAMPLES), strict=True):
        inputs = {"input_ids": b_ids, "attention_mask": b_mask, "logits_to_keep": T + 1}
        log_p = peer(**inputs, use_cache=False).logits[:, :-1].log_softmax(-1)  # [b, T, V]
        with torch.no_grad():
            log_ref = peer_reference(**inputs, use_cache=False).logits[:, :-1].log_softmax(-1)
            kl = (log_p.exp() * (log_p - log_ref)).sum(-1)  # [b, T]
        logps, ref_logps = (x.gather(2, b_ids[:, -T:, None])[..., 0] for x in (log_p, log_ref))
        group = torch.zeros(len(b_ids), dtype=torch.long, device=ids.device)
        rewards, share = torch.arange(len(b_ids), device=ids.device) % 2.0, len(b_ids) / len(ids)
        part = SimpleNamespace(
            rewards=rewards, group=group, mask=torch.ones_like(kl), logps=logps.detach(),
            sampler_logps=logps.detach(), ref_logps=ref_logps, kl=kl,
            response_share=share, token_share=share,
        )  # fmt: skip
        VIMPO.credit(part, **method)
        VIMPO.loss(logps, part, **method)[0].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def bench_step(model, peers, prompts, rounds, quick, facts):
    """Sample, score and update, ours and the large library's, in turns -> their figures."""
    new, prompts = 16 if quick else 64, prompts[:4]
    reference = keep_less(frozen_copy(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    settings = {"samples_per_prompt": SAMPLES, "max_new_tokens": new, "stop_ids": []}
    rollouts = generate(model, prompts, **settings)
    learning = partial(learn, model, reference, optimizer, SAMPLES)
    contestants = {"ours": lambda: learning(generate(model, prompts, **settings))}
    if peers:
        peers[0].gradient_checkpointing_enable()
        adamw = torch.optim.AdamW(peers[0].parameters(), lr=1e-9)
        contestants["peers"] = lambda: peer_step(*peers, adamw, prompts, new)
    rows = race(contestants, rounds, model.device)
    seconds = clock(lambda: learning(rollouts), model.device, rounds)
    tokens = sum(map(len, prompts)) + len(rollouts) * new
    share = peak_fraction(facts["parameters"], tokens, seconds, facts)
    title = f"step: {len(prompts)} prompts x {SAMPLES} samples x {new} new tokens, one update"
    note = f"score and update {seconds:.2f} s, {share:.0%} of the rate of a large matrix product"
    return report(title, rows, note) | {"fraction_of_peak": share}


# ---- Log-probs, the recurrence, scaling ----------------------------------------------------------


def logps_and_kl(chunked, hidden, ref_hidden, head, ref_head, targets):
    """Log-probs with gradient, and the exact KL -> both, and the gradients of hidden and head."""
    hidden, head = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    if chunked:
        kl = score_tokens(hidden, head, ref_hidden, ref_head, targets)[2]
        logps = token_logps(hidden, head, targets)
    else:
        log_p = (hidden @ head.T).log_softmax(-1)  # [N, V]
        with torch.no_grad():  # in place: three tensors of this size, where the formula makes five
            ratio = (ref_hidden @ ref_head.T).log_softmax(-1).neg_().add_(log_p)  # [N, V]
            kl = ratio.mul_(log_p.exp()).sum(-1)
            del ratio
        logps = log_p.gather(1, targets[:, None])[:, 0]
    logps.sum().backward()
    return logps.detach(), kl, hidden.grad, head.grad


def bench_logps(model, quick):
    """Log-probs with gradient and all that scoring wants, in chunks and dense -> their figures."""
    N, D, V = (1024, 256, 32768) if quick else (8192, 1024, 151936)
    device, kind = model.device, {"device": model.device, "dtype": model.compute_dtype}
    hidden, ref_hidden = torch.randn(2, N, D, **kind)
    head = torch.randn(V, D, **kind) / D**0.5
    ref_head = head + 0.01 * torch.randn_like(head)
    inputs = hidden, ref_hidden, head, ref_head, torch.randint(V, (N,), device=device)
    ours, dense = partial(logps_and_kl, True, *inputs), partial(logps_and_kl, False, *inputs)
    rows = race({"ours": ours, "dense": dense}, 1, device)
    pairs = zip(rows["ours"]["result"], rows["dense"]["result"], strict=True)
    worst = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    title = f"log-probs with gradient, and exact KL: {N} tokens, D {D}, V {V}"
    note = f"largest relative difference of log-probs, KL and gradients {worst:.1e}"
    return report(title, rows, note) | {"difference": worst}


def gae_by_loops(td, mask, lam):
    """The loop in the docstring of vimpo.gae, for all rows together."""
    advantage, columns = torch.zeros(len(td)), []
    for t in reversed(range(td.size(1))):
        counts = mask[:, t]
        advantage = torch.where(counts, td[:, t] + lam * advantage, advantage)
        columns.append(torch.where(counts, advantage, 0))
    return torch.stack(columns[::-1], dim=1)


def bench_recurrence():
    td, mask = torch.randn(64, 4096), torch.rand(64, 4096) < 0.9
    ours, loops = partial(vimpo.gae, td, mask, 0.95), partial(gae_by_loops, td, mask, 0.95)
    rows = race({"ours": ours, "loops": loops}, 10, td.device)
    ours, loops = rows["ours"]["result"], rows["loops"]["result"]
    note = f"difference {(ours - loops).norm() / loops.norm():.1e}"
    return report("recurrence: 64 x 4096, lambda 0.95, one token in ten masked", rows, note)


def count_columns(budget, prompts, lengths, one_pass):
    """Sample responses of forced lengths by a tiny model, as a GPU's scheduler would -> counts.

    budget: tokens whose keys and values fit; lengths: mean, deviation, least, most. A decode step
    reads `columns`: keys of its rows and, once for all samples of it, of each prompt. `useful` are
    those before the end of the prompt, and of the response so far, of a sample under way.
    `prefilled` are tokens of prompts, and of responses that go on in another pass.
    """
    total = dict.fromkeys(("steps", "rows", "columns", "useful", "prefilled"), 0)

    class Counted(kv_cache.GroupCache):
        """Adds what a step reads to `total`."""

        def put_prompt(self, slot, k, v):
            total["prefilled"] += k.size(2)
            super().put_prompt(slot, k, v)

        def arrange(self, slots):
            self.used = slots
            super().arrange(slots)

        def shapes(self):
            A, lo, hi, G, n, P = super().shapes()
            total["steps"] += 1
            total["rows"] += len(self.used)
            total["columns"] += A * (hi - lo) + G * P
            total["useful"] += sum(self.lengths[slot] for slot in set(self.used))
            total["useful"] += sum(self.clock - t + 1 for t in self.begun[: len(self.used)])
            return A, lo, hi, G, n, P

    tiny = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1)
    tiny |= dict.fromkeys(("hidden_size", "intermediate_size", "head_dim"), 8) | {"vocab_size": 64}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = random_model(folder, torch.device("cpu"), torch.float32, **tiny)
        memory = kv_cache.bytes_of_a_row(model, budget)
        planned = {"CPU_CACHE_BYTES": memory, "CPU_ROWS": 1 if one_pass else math.inf}
        stack.enter_context(mock.patch.multiple(kv_cache, **planned))
        stack.enter_context(mock.patch.object(rollout, "GroupCache", Counted))
        stack.enter_context(mock.patch.object(rollout, "static_shapes", lambda device: True))
        rollouts, *_ = gpu_bench.sample_for(math.inf, rollout, model, prompts, SAMPLES, lengths)
    total["tokens"] = sum(len(r.response_ids) for r in rollouts)
    return total | {"columns_read_to_useful": total["columns"] / total["useful"]}


def bench_schedule(folder, quick):
    """Rows and columns on two cards -> for each, the counts of one pass and of ours."""
    shapes, lengths, figures = gpu_bench.PLAN["models"], (1000, 600, 1, 4096), {}
    V = 64  # of count_columns' model; the last token is the stop
    prompts = [torch.randint(V - 1, (n,)).tolist() for n in LENGTHS * (2 if quick else 12)]
    T, P = lengths[3], max(LENGTHS)
    for name, size in CARDS:
        model = random_model(folder, torch.device("meta"), torch.bfloat16, **shapes[name])
        # docs/memory.md: 16 bytes a parameter while sampling; keys and values get half of the rest.
        free = size * 2**30 - 1e9 - 16 * gpu_bench.parameters(model)
        budget = free / 2 / kv_cache.bytes_of_a_row(model, 1)
        say(f"schedule: {name} on {size} GiB, {len(prompts)} prompts x {SAMPLES}, responses of "
            f"{lengths[0]} +- {lengths[1]} of {T} tokens, {budget // (P + T):.0f} rows of all "
            f"{P + T} tokens fit")  # fmt: skip
        for schedule in ("ours", "one pass"):
            row = count_columns(int(budget), prompts, lengths, schedule == "one pass")
            figures[f"{name}, {schedule}"] = row
            steps, again = row["steps"], row["prefilled"] / row["tokens"]
            say(f"  {schedule:10} {steps:6} steps of {row['rows'] / steps:5.1f} rows; "
                f"{row['columns'] / steps / 1000:5.1f} thousand columns a step, "
                f"{row['columns_read_to_useful']:.2f} times what is useful; "
                f"{again:.2f} tokens prefilled for each that is drawn")  # fmt: skip
    say("")
    return figures


def random_model(folder, device, dtype, **changes):
    """Random weights of SmolLM2-135M's shape, changed as asked; its config.json goes to folder."""
    Path(folder, "config.json").write_text(json.dumps(SMOLLM2 | changes))
    model = Transformer(read_config(folder)).to(device)
    for p in model.parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.02)
    model.compute_dtype = dtype
    return keep_less(model)


def bench_scaling(model, folder, rounds, quick):
    """Score and update of a small model, one size varied at a time -> a row for each."""
    say("scaling: score + update, 4 layers of width 256, prompts of 128 tokens; one thing varies")
    device, dtype = model.device, model.compute_dtype
    base, figures = {"T": 256, "group": 4, "V": 8192, "prompts": 2}, []
    lengths = (64, 256, 1024) if quick else (64, 256, 1024, 2048, 4096)
    sizes = {"T": lengths, "group": (2, 8, 16), "V": (32768, 131072), "prompts": (4, 8)}
    for row in [base | {name: size} for name in sizes for size in sizes[name]]:
        T, group, V, prompts = row.values()
        model = random_model(folder, device, dtype, vocab_size=V, **SMALL)
        rollouts = []
        for i in range(prompts * group):
            response = torch.randint(V, (T,)).tolist()
            rollouts.append(Rollout([i // group + 1] * 128, response, [-1.0] * T, False))
        run = partial(learn, model, keep_less(frozen_copy(model)), None, group, rollouts)
        measured = race({"it": run}, rounds, device)["it"]
        row["seconds"], row["mib"] = measured["seconds"], measured["mib"]
        row["us_per_token"] = row["seconds"] / (T * len(rollouts)) * 1e6
        say("  " + "  ".join(f"{name} {value!s:>7.7}" for name, value in row.items()))
        figures.append(row)
    return figures


# ---- One GPU: --gpu ------------------------------------------------------------------------------


def gpu_device(flag):
    """--device -> the GPU. ValueError if it is none."""
    device, _ = choose_device(flag)
    if device.type != "cuda":
        found = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here"
        raise ValueError(f"--gpu with --device {flag}: {found}; wanted a GPU")
    return device


def gpu_start(device, folder, shape):
    """Policy, reference and AdamW with its moments, as train.py begins; random weights, bf16."""
    model = random_model(folder, device, torch.bfloat16, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    start_moments(optimizer)
    return model, keep_less(frozen_copy(model)), optimizer


def random_prompts(count, V):
    """Prompts as long as problems of GSM8K are, of random ids below V."""
    return [torch.randint(V, (LENGTHS[i % len(LENGTHS)],)).tolist() for i in range(count)]


def gpu_demo(device, folder, flags):
    """A run of train.py's demo in bf16 -> held-out accuracy at its end, and a step's figures."""
    out = Path(folder, "demo")
    flags = ["--dtype", "bf16", "--device", str(device), "--out", str(out), *flags]
    code = train.main(flags)
    return {"code": code} | gpu_bench.read_run(out)


def gpu_gap(start):
    """The look at the sampler before the first step; then its gap, in nats a token."""
    model, *_ = start()
    prompts = random_prompts(4, model.config.V)
    passed = check_sampler(model, generate, prompts)
    settings = {"samples_per_prompt": SAMPLES, "max_new_tokens": 64, "stop_ids": []}
    gap = sampler_gap(model, generate(model, prompts, **settings))
    return {"check_passed": passed, "sampler_gap": gap}


def gpu_decode(start, plan, facts):
    """A decode step of B rows, against the time that reading what it needs would take."""
    model, *_ = start()
    figures = {}
    for B in plan["rows"]:
        samples = min(B, SAMPLES)
        prompts = random_prompts(B // samples, model.config.V)
        settings = {"samples_per_prompt": samples, "max_new_tokens": plan["new_tokens"]}
        seconds, own = gpu_bench.decode_step(generate, model, prompts, **settings, slots=B)
        limit = gpu_bench.decode_bytes(model, prompts, B, own) / (facts["copy_gb_per_s"] * 1e9)
        figures[f"B={B}"] = {
            "milliseconds": seconds * 1e3, "tokens_per_second": B / seconds,
            "fraction_of_limit": limit / seconds,
        }  # fmt: skip
    return figures


def invented(prompts, lengths, V):
    """Rollouts of random tokens, SAMPLES to a prompt: score and update take the same time."""
    rollouts = []
    for i, n in enumerate(lengths):
        response = torch.randint(V, (n,)).tolist()
        rollouts.append(Rollout(prompts[i // SAMPLES], response, [-math.log(V)] * n, True))
    return rollouts


def gpu_update(start, plan, facts):
    """Score and update of responses of equal length."""
    model, reference, optimizer = start()
    count, T = plan["update"]
    prompts = random_prompts(count, model.config.V)
    rollouts = invented(prompts, [T] * (count * SAMPLES), model.config.V)
    run = partial(learn, keep_less(model), reference, optimizer, SAMPLES, rollouts)
    seconds, size = clock(run, model.device, 3), gpu_bench.parameters(model)
    tokens = sum(map(len, prompts)) + T * len(rollouts)
    return {"seconds": seconds, "fraction_of_peak": peak_fraction(size, tokens, seconds, facts)}


def gpu_step(start, plan, facts):
    """A whole step. What takes longer than it may is reckoned from the part that was measured.

    Random weights can't end a response. So lengths are drawn before (plan["lengths"]), and the stop
    token comes where they say. Half of the time is for sampling. If it isn't over then, its seconds
    are those per token so far, and random tokens of the same lengths go on to score and update.
    One prompt tells there how many of them the other half of the time has room for.
    """
    seconds = plan["step_seconds"]
    begin, (model, reference, optimizer) = time.perf_counter(), start()
    prompts, V = random_prompts(plan["step"], model.config.V), model.config.V
    keys = torch.tensor(sample_keys(prompts, SAMPLES, 0))
    lengths = gpu_bench.response_lengths(plan["lengths"], keys).tolist()
    rollouts, drawn, sampling = gpu_bench.sample_for(
        seconds / 2, rollout, model, prompts, SAMPLES, plan["lengths"]
    )
    sampled = drawn / sum(lengths)
    sampling /= sampled
    rollouts = rollouts or invented(prompts, lengths, V)

    torch.cuda.reset_peak_memory_stats()
    run = partial(learn, keep_less(model, recompute=True), reference, optimizer, SAMPLES)
    first = rollouts[:SAMPLES]
    each = clock(lambda: run(first), model.device, 1) / sum(lengths[:SAMPLES])  # of a token
    left = 0.8 * (seconds - (time.perf_counter() - begin))
    room = int(left / (each * sum(lengths)) * len(prompts))
    part = SAMPLES * max(1, min(room, len(prompts)))
    then, share = time.perf_counter(), sum(lengths[:part]) / sum(lengths)
    run(rollouts[:part])
    torch.cuda.synchronize()
    learning = (time.perf_counter() - then) / share
    size, tokens = gpu_bench.parameters(model), sum(map(len, prompts)) + sum(lengths)
    return {
        "responses": len(lengths), "response_tokens": sum(lengths),
        "seconds_sampling": sampling, "share_sampled": sampled,
        "seconds_score_and_update": learning, "share_learned": share,
        "tokens_per_second": sum(lengths) / sampling,
        "fraction_of_peak": peak_fraction(size, tokens, learning, facts),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "formula_gb": gpu_bench.update_gb(model, DEFAULTS.tokens_per_microbatch),
    }  # fmt: skip


def gpu_parts(device, folder, plan):
    """The parts of --gpu, for gpu_bench.run_parts: name, most seconds, function."""
    facts = {}

    def measure_limits():
        facts.update(limits(device, torch.bfloat16))
        return facts

    def demo_model():
        model = load_model(train.parse_args([]).model, device)
        model.compute_dtype = torch.bfloat16
        return model, None, None

    yield "limits", 20, measure_limits
    yield "demo sampler", 30, partial(gpu_gap, demo_model)
    yield "demo", 80, partial(gpu_demo, device, folder, plan["demo"])
    for name, shape in plan["models"].items():
        start = functools.cache(partial(gpu_start, device, folder, shape))
        yield f"{name} sampler", 40, partial(gpu_gap, start)
        yield f"{name} decode", 40, partial(gpu_decode, start, plan, facts)
        yield f"{name} update", 40, partial(gpu_update, start, plan, facts)
        yield f"{name} step", 110, partial(gpu_step, start, plan, facts)
    yield "tests", 90, partial(gpu_bench.run_tests, plan["tests"])


def bench_gpu(device, plan=gpu_bench.PLAN):
    """All that --gpu measures; the last line is JSON -> the exit code, 1 if a part failed."""
    facts = {
        "device": torch.cuda.get_device_name(device), "torch": torch.__version__,
        "memory_gb": torch.cuda.mem_get_info(device)[1] / 1e9, "cuda": torch.version.cuda,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        parts = gpu_bench.run_parts(gpu_parts(device, folder, plan), plan["seconds"])
    say(json.dumps(facts | parts))
    return int(any("error" in part or part.get("code") for part in parts.values()))


# ---- The command ---------------------------------------------------------------------------------


def set_up(args, folder):
    """-> model folder, model, prompts, stop ids. ValueError or OSError for what is wrong."""
    if args.data and not args.model:
        raise ValueError("--data wants --model: random weights have no tokenizer")
    device, dtype = choose_device(args.device, args.dtype)
    if args.data:  # before the weights are read: whatever is wrong here is found at once
        read_config(args.model)
        tokenizer = Tokenizer.from_pretrained(args.model)
        problems = data.load_problems([args.data])[: len(LENGTHS)]
        template = data.choose_template(None, tokenizer, problems)
        limit = DEFAULTS.max_prompt_tokens
        prompts = [data.prompt_ids(p, tokenizer, template, limit) for p in problems]
        stop_ids = set(tokenizer.eos_ids)
    if args.model:
        model = keep_less(load_model(args.model, device))
        model.compute_dtype = dtype
    else:
        model = random_model(folder, device, dtype, **(QUICK if args.quick else {}))
        save_model(model, folder)
    torch.manual_seed(0)
    if not args.data:
        V = model.config.V
        prompts = [torch.randint(V // 64, V, (n,)).tolist() for n in LENGTHS]
        stop_ids = set(range(V // 64))  # a response ends after 64 tokens or so
    return args.model or folder, model, prompts, stop_ids


def load_peers(path, model):
    """transformers' policy and reference; [] where it is not installed."""
    try:
        from transformers import AutoModelForCausalLM, logging
    except ImportError:
        say("transformers is not installed: its rows are left out (pip install transformers)")
        return []
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    load, dtype = AutoModelForCausalLM.from_pretrained, model.compute_dtype
    return [load(path, dtype=dtype).to(model.device) for _ in range(2)]


def main(argv=None):
    """Load, say what the machine can do, run the parts asked for, end in a line of JSON."""
    parser = console.make_parser("bench.py", "Timings side by side; the last line is JSON.")
    console.add_flags(parser, "settings", FLAGS)
    parts = {"nargs": "+", "choices": PARTS, "default": PARTS, "help": "parts (default: all)"}
    parser.add_argument("--only", **parts)
    args = parser.parse_args(argv)
    given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    if args.gpu and (others := set(given) - {"gpu", "device"}):
        parser.error(f"--gpu with --{min(others)}; wanted --gpu alone, or with --device")
    folder = tempfile.TemporaryDirectory()
    try:
        if args.gpu:
            return bench_gpu(gpu_device(args.device))
        path, model, prompts, stop_ids = set_up(args, folder.name)
    except (ValueError, OSError) as e:
        console.die("bench.py", e)
    quick, rounds = args.quick, 1 if args.quick else args.rounds
    peers = load_peers(path, model) if {"sampling", "step"} & set(args.only) else []
    results = {"card": card(model)}
    say("  ".join(f"{key} {value}" for key, value in results["card"].items()) + "\n")
    if "sampling" in args.only:
        results["sampling"] = bench_sampling(model, peers, prompts, stop_ids, rounds, quick)
    if "step" in args.only:
        results["step"] = bench_step(model, peers, prompts, rounds, quick, results["card"])
    del peers
    if "logps" in args.only:
        results["logps"] = bench_logps(model, quick)
    if "recurrence" in args.only:
        results["recurrence"] = bench_recurrence()
    if "schedule" in args.only:
        results["schedule"] = bench_schedule(folder.name, quick)
    if "scaling" in args.only:
        results["scaling"] = bench_scaling(model, folder.name, rounds, quick)
    say(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
