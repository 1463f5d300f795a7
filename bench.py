"""How fast, how much memory, how near the limit of the machine: side by side, in one run.

    python bench.py                                   # random weights of SmolLM2-135M's shape; long
    python bench.py --quick                           # a smaller model, one round: minutes
    python bench.py --model DIR --data gsm8k.jsonl    # real weights, real prompts, natural stops

Machines are noisy, so nothing here is an absolute claim. Contestants take turns (A B C, A B C,
...), each figure is a median, and what counts is the ratio within one run (--only picks parts):

    sampling      ours: one prefill a prompt, finished rows leave the batch; dense: one prefill a
                  sample, all rows go on until the last has ended; transformers
    step          ours, as in train.py; peers: a large library's VIMPO trainer by default
    logps         ours: in chunks; dense: log_softmax of the full [N, V] logits of both models
    recurrence    ours: log T tensor operations; loops: the definition, token after token
    scaling       score + update against response length, group size, vocabulary and batch

Limits come from the same run: sampling is compared with the time of its own matrix products, score
and update with 10 x parameters x tokens at the rate of one large product (matmul_gflops).
Transformers is optional. The last line is all of it as JSON.
"""

import lib  # noqa: F401, I001  before torch: it sets how torch's threads wait

import ctypes
import gc
import json
import math
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import train
import vimpo
from lib import console, data
from lib.batch import make_batch, score
from lib.checkpoint import read_config
from lib.console import number, say
from lib.fast import choose_device, keep_freed_memory, keep_less, sampling_copy
from lib.logprobs import score_tokens, token_logps
from lib.tokenizer import Tokenizer
from model import Transformer, frozen_copy, load_model, save_model
from rollout import Rollout, generate, generate_plain

PARTS = ("sampling", "step", "logps", "recurrence", "scaling")
FLAGS = [
    ("--model", str, None, "checkpoint folder (default: random weights, SmolLM2-135M's shape)"),
    ("--data", str, None, "JSONL problems to sample from, with --model (default: random prompts)"),
    ("--rounds", number(int, 1), 3, "turns of each contestant"),
    ("--quick", bool, False, "a smaller model and one round"),
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
DEFAULTS = train.parse_args(["--model", "DIR", "--data", "FILE"])
CLIP = DEFAULTS.clip_low, DEFAULTS.clip_high, DEFAULTS.dual_clip
METHOD = vars(DEFAULTS) | {"value_kind": DEFAULTS.value_loss, "huber_delta": 1.0, "clip": CLIP}
VIMPO = vimpo.OBJECTIVES["vimpo"]

# ---- Measuring -----------------------------------------------------------------------------------


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
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    flops = 2 * 2048**3 / clock(lambda: a @ a, device, 15)
    big = torch.randn(2**26, device=device)  # 256 MiB, read and written
    bandwidth = 2 * big.numel() * 4 / clock(big.clone, device)
    cpu = torch.backends.cpu.get_cpu_capability() + " CPU"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."), "matmul_gflops": round(flops / 1e9),
        "copy_gb_per_s": round(bandwidth / 1e9, 1), "V": model.config.V,
        "parameters": sum(p.numel() for p in model.parameters()),
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
            sampler_logps=logps.detach(), ref_logps=ref_logps, kl=kl, response_share=share, token_share=share,
        )  # fmt: skip
        VIMPO.credit(part, **method)
        VIMPO.loss(logps, part, **method)[0].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def bench_step(model, peers, prompts, rounds, quick, facts):
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
    # 2 to score with each of two models and 6 to update; a prompt is computed once for its samples.
    flops = 10 * facts["parameters"] * (sum(map(len, prompts)) + len(rollouts) * new)
    share = flops / seconds / (facts["matmul_gflops"] * 1e9)
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


def random_model(folder, device, dtype, **changes):
    """Random weights of SmolLM2-135M's shape, changed as asked; its config.json goes to folder."""
    Path(folder, "config.json").write_text(json.dumps(SMOLLM2 | changes))
    model = Transformer(read_config(folder))
    for p in model.parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.02)
    model.compute_dtype = dtype
    return keep_less(model.to(device))


def bench_scaling(model, folder, rounds, quick):
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
    folder = tempfile.TemporaryDirectory()
    try:
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
    if "scaling" in args.only:
        results["scaling"] = bench_scaling(model, folder.name, rounds, quick)
    say(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
