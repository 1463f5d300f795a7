"""How fast, how much memory, how near the limit of the machine: side by side, in one run.

    python bench.py                                   # random weights of SmolLM2-135M's shape; ten minutes or so on two cores
    python bench.py --quick                           # a smaller model, fewer rounds: about a minute
    python bench.py --model DIR --data gsm8k.jsonl    # real weights, real prompts, natural stops

Machines are noisy, so nothing here is an absolute claim: contestants take turns (A B C, A B C, ...), each figure is a median, and what counts is
the ratio within one run. Contestants:

    sampling      ours (one prefill a prompt, finished rows leave); dense (a prefill a sample, all rows until the last ends); transformers
    step          ours; the formula of a large library's VIMPO trainer on transformers' model: generate, full logits of policy and reference
    log-probs     ours (chunked, made again in the backward pass); dense (log_softmax of the full [N, V] logits of both models)
    recurrence    ours (log T tensor operations); two loops over time
    scaling       seconds and memory of score + update against response length, group size, vocabulary and batch

Limits, measured in the same run: a product of the shapes used gives matmul_gflops; decoding is compared with the time of its own matrix
products at each batch size it went through, the update with 6 x parameters x tokens (and the recomputed head) at that rate.
Transformers is optional. The last line is all of it as JSON.
"""

import ctypes
import functools
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import time
import types

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: a waiting thread sleeps. Spinning beside another busy
# program made a step of the demo five times as slow on two cores.

import torch
from torch.nn import functional as F

import data
import model as transformer
import train
import vimpo
from data import die, ranged
from rollout import Rollout, generate, sample
from tokenizer import Tokenizer

SMOLLM2 = {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "head_dim": 64,
           "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
LENGTHS = [97, 131, 84, 163, 118, 142, 76, 109]  # of eight prompts: GSM8K problems under a chat template


# ---------------------------------------------------------------------------------------------------------------------------------
# Measuring


def peak_memory(device):
    """A function that tells, in MiB, the most memory in use since this call beyond what was in use then; None where that can't be known."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier rounds have freed, or it would hide what this one needs
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # Linux: the high-water mark starts again from the present
    except OSError:
        return lambda: None

    def status(key):
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith(key)) / 1024

    before = status("VmRSS")
    return lambda: max(status("VmHWM") - before, 0)


def race(contestants, rounds, device):
    """{name: function} -> {name: {"seconds": median, "mib": median peak, "result": of the last round}}; they take turns after one warm-up."""
    seconds, memory, result = ({name: [] for name in contestants} for _ in range(3))
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            peak, start = peak_memory(device), time.perf_counter()
            result[name] = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
                memory[name].append(peak())
    return {name: {"seconds": statistics.median(seconds[name]), "result": result[name],
                   "mib": None if memory[name][0] is None else statistics.median(memory[name])} for name in contestants}


def clock(run, device, repeats=5):
    """Median seconds of run()."""
    return race({"it": run}, repeats, device)["it"]["seconds"]


def card(device, dtype):
    """What this machine can do: the static part."""
    a, b = (torch.randn(n, 2048, device=device, dtype=dtype) for n in (2048, 2048))
    matmul = 2 * 2048**3 / clock(lambda: a @ b, device, 15) / 1e9
    big = torch.randn(2**26, device=device)  # 256 MiB
    bandwidth = 2 * big.numel() * 4 / clock(lambda: big.clone(), device) / 1e9
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability() + " CPU"
    return {"device": name, "threads": torch.get_num_threads(), "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__,
            "matmul_gflops": round(matmul), "copy_gb_per_s": round(bandwidth, 1)}


def say(text=""):
    print(text, flush=True)


# ---------------------------------------------------------------------------------------------------------------------------------
# Sampling


@torch.no_grad()
def dense_generate(model, prompts, samples, max_new_tokens, stop_ids):
    """The obvious sampler: every sample prefills its prompt, every row decodes until the last has ended -> number of tokens sampled."""
    rows = [p for p in prompts for _ in range(samples)]
    B, device = len(rows), model.device
    lengths = torch.tensor([len(p) for p in rows], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in rows], batch_first=True).to(device)  # [B, P]
    cache = transformer.KVCache(model, B, padded.size(1) + max_new_tokens)
    keys, stops = torch.randint(2**32, (B, 2), device=device), torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    logits = model.head(model.hidden(padded, cache)[torch.arange(B, device=device), lengths - 1])  # [B, V]
    cache.lengths += lengths
    alive, count = torch.ones(B, dtype=torch.bool, device=device), torch.zeros(B, dtype=torch.long, device=device)
    for t in range(max_new_tokens):
        token, _ = sample(logits, keys, torch.full_like(count, t), 1.0)
        count += alive
        alive &= ~(token[:, None] == stops).any(1)
        if not alive.any() or t == max_new_tokens - 1:
            break
        logits = model.head(model.hidden(token[:, None], cache)[:, 0])
        cache.lengths += 1
    return int(count.sum())


@torch.no_grad()
def peer_generate(peer, prompts, samples, max_new_tokens, stop_ids):
    """transformers' generate on left-padded prompts -> number of tokens sampled, sequences."""
    P = max(map(len, prompts))
    ids = torch.tensor([[0] * (P - len(p)) + p for p in prompts], device=peer.device)
    mask = torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in prompts], device=peer.device)
    out = peer.generate(ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=samples,
                        max_new_tokens=max_new_tokens, eos_token_id=sorted(stop_ids) or None, pad_token_id=0)
    stopped = torch.isin(out[:, P:], torch.tensor(sorted(stop_ids), dtype=torch.long, device=peer.device))
    return int((stopped.cumsum(1) - stopped.long() == 0).sum()), out


def matmul_limit(model, prompts, rollouts, slots):
    """Seconds that nothing but the matrix products of this sampling would take: a prefill, then steps at the batch sizes gone through."""
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not model.model.embed_tokens.weight]

    def layers(rows):
        inputs = {D: torch.randn(rows, D, device=model.device, dtype=model.compute_dtype) for D in {m.size(1) for m in matrices}}
        return clock(lambda: [F.linear(inputs[m.size(1)], m) for m in matrices if m is not model.head_weight], model.device, 3)

    def head(rows):
        h = torch.randn(rows, model.config.D, device=model.device, dtype=model.compute_dtype)
        return clock(lambda: h @ model.head_weight.T, model.device, 3)

    left = sorted((len(r.response_ids) - 1 for r in rollouts), reverse=True)
    if slots < len(left):  # with refill the batch is full until the end, near enough
        steps = {slots: sum(left) / slots}
    else:
        steps = {}
        for t in range(left[0]):
            rows = sum(n > t for n in left)
            rows = rows if rows <= 4 else -(-rows // 4) * 4  # time every fourth size only
            steps[rows] = steps.get(rows, 0) + 1
    with torch.no_grad():
        return layers(sum(map(len, prompts))) + sum(n * (layers(rows) + head(rows)) for rows, n in steps.items())


# ---------------------------------------------------------------------------------------------------------------------------------
# One step


def our_step(model, reference, optimizer, prompts, samples, max_new_tokens, args):
    """Sample, score, credit, update, as train.run_step does, with rewards from a coin."""
    rollouts = generate(model, prompts, samples_per_prompt=samples, max_new_tokens=max_new_tokens, stop_ids=[])
    return learn(model, reference, optimizer, rollouts, samples, args)


def learn(model, reference, optimizer, rollouts, samples, args):
    batch = train.make_batch(rollouts, [float(i % 2) for i in range(len(rollouts))], samples, model.device, torch.float32)
    batch |= train.score_batch(model, reference, batch, args, lambda *_: None)
    batch |= train.assign_credit(batch, args)
    losses = train.accumulate_gradients(model, batch, args, lambda *_: None)
    if optimizer is not None:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return losses


def peer_step(peer, peer_reference, optimizer, prompts, samples, max_new_tokens, args):
    """The same step in the peers' way: whole sequences, [B, T, V] log-softmax of both models, gradient through it."""
    _, out = peer_generate(peer, prompts, samples, max_new_tokens, ())
    P, T = out.size(1) - max_new_tokens, max_new_tokens
    lengths = torch.tensor([len(p) for p in prompts for _ in range(samples)], device=out.device)
    mask = (torch.arange(out.size(1), device=out.device)[None] >= P - lengths[:, None]).long()
    targets = out[:, P:, None]
    with torch.no_grad():
        ref_logps = peer_reference(out, attention_mask=mask).logits[:, -T - 1 : -1].log_softmax(-1)  # [B, T, V]
    all_logps = peer(out, attention_mask=mask).logits[:, -T - 1 : -1].log_softmax(-1)  # [B, T, V]
    kl = (all_logps.exp() * (all_logps - ref_logps)).sum(-1).detach()
    logps, ones = all_logps.gather(2, targets)[..., 0], torch.ones(out.size(0), T, device=out.device)
    rewards = torch.arange(out.size(0), device=out.device) % 2.0
    td = vimpo.td_terms(logps, ref_logps.gather(2, targets)[..., 0], kl, ones, args.beta)
    advantages = vimpo.whiten(vimpo.gae(td, ones), ones)
    loss = vimpo.value_loss(td, rewards, torch.full_like(rewards, 0.5), ones)
    loss = loss + args.actor_coef * vimpo.ppo_loss(logps, logps.detach(), advantages, ones)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


# ---------------------------------------------------------------------------------------------------------------------------------
# Log-probs and the recurrence


def logps_and_kl(chunked, hidden, ref_hidden, head, ref_head, targets):
    """Log-probs with gradient into hidden and head, and the exact KL -> both, and both gradients."""
    hidden, head = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    if chunked:
        kl = vimpo.reference_stats(hidden, head, ref_hidden, ref_head, targets)[1]
        logps = vimpo.token_logps(hidden, head, targets)
    else:
        all_logps = (hidden @ head.T).log_softmax(-1)  # [N, V]
        with torch.no_grad():
            ref_logps = (ref_hidden @ ref_head.T).log_softmax(-1)  # [N, V]
            kl = (all_logps.exp() * (all_logps - ref_logps)).sum(-1)
        logps = all_logps.gather(1, targets[:, None])[:, 0]
    logps.sum().backward()
    return logps.detach(), kl, hidden.grad, head.grad


def gae_by_loops(td, mask, lam):
    """What a first implementation looks like: for every token a loop step, values carried over the holes."""
    values, out = torch.zeros_like(td), torch.zeros_like(td)
    running = torch.zeros(td.size(0), dtype=td.dtype)
    for t in range(td.size(1)):  # the value curve
        running = torch.where(mask[:, t], running + td[:, t], running)
        values[:, t] = running
    running = torch.zeros_like(running)
    for t in reversed(range(td.size(1))):
        running = torch.where(mask[:, t], td[:, t] + lam * running, running)
        out[:, t] = torch.where(mask[:, t], running, 0)
    return out


def difference(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---------------------------------------------------------------------------------------------------------------------------------


def random_model(folder, device, dtype, **changes):
    """A folder with random weights of SmolLM2-135M's shape, changed as asked -> the loaded model."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as f:
        json.dump(SMOLLM2 | changes, f)
    model = transformer.Transformer(transformer.read_config(folder))
    for p in model.parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.02)
    transformer.save_model(model, folder)
    model = transformer.load_model(folder, device)
    model.compute_dtype = dtype
    return model


def main(argv=None):
    parser = data.Parser(prog="bench.py", description="Side-by-side timings and memory; the last line is JSON.")
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder (default: random weights of SmolLM2-135M's shape)")
    parser.add_argument("--data", metavar="FILE", help="JSONL problems to sample from, with --model (default: random prompts)")
    parser.add_argument("--only", nargs="+", choices=["sampling", "step", "logps", "recurrence", "scaling"], help="parts to run (default: all)")
    parser.add_argument("--rounds", type=ranged(int, 1), default=3, help="turns of each contestant (default 3)")
    parser.add_argument("--quick", action="store_true", help="a smaller model and one round: about a minute")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"])
    args = parser.parse_args(argv)
    parts = set(args.only or ["sampling", "step", "logps", "recurrence", "scaling"])
    rounds, folder = 1 if args.quick else args.rounds, tempfile.TemporaryDirectory()
    try:
        device, dtype = transformer.choose_device(args.device, args.dtype)
        if args.model:
            model, path = transformer.load_model(args.model, device), args.model
            model.compute_dtype = dtype
        else:
            path = folder.name
            model = random_model(path, device, dtype, **({"num_hidden_layers": 6, "vocab_size": 16384} if args.quick else {}))
        torch.manual_seed(0)
        V = model.config.V
        prompts, stop_ids = [torch.randint(V // 64, V, (n,)).tolist() for n in LENGTHS], set(range(V // 64))  # stops after 64 tokens or so
        if args.data:
            if not args.model:
                parser.error("--data wants --model: random weights have no tokenizer")
            tokenizer, problems = Tokenizer.from_pretrained(path), data.load_problems([args.data])[:8]
            template = data.choose_template(None, tokenizer, problems)
            prompts, stop_ids = [data.prompt_ids(p, tokenizer, template, 2048) for p in problems], set(tokenizer.eos_ids)
    except (ValueError, OSError) as e:
        die("bench.py", e)
    try:
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        peer, peer_reference = (AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device) for _ in range(2))
    except ImportError:
        peer = peer_reference = None
        say("transformers is not installed: its rows are left out (pip install transformers)")

    result = {"card": card(device, dtype)}
    say("  ".join(f"{k} {v}" for k, v in result["card"].items()))
    peak_flops = result["card"]["matmul_gflops"] * 1e9
    size = sum(p.numel() for p in model.parameters())
    say(f"model: {size / 1e6:.1f}M parameters, vocabulary {V}\n")
    settings = types.SimpleNamespace(tokens_per_microbatch=8192, temperature=1.0, kl="exact", beta=5e-4, algo="vimpo", gae_lambda=1.0, clip_low=0.2,
                                     clip_high=0.28, dual_clip=10.0, actor_coef=5e-3, value_loss="squared")

    if "sampling" in parts:
        new = 32 if args.quick else 128
        kept = {}

        def ours():
            kept["rollouts"] = generate(model, prompts, samples_per_prompt=8, max_new_tokens=new, stop_ids=stop_ids)
            return sum(len(r.response_ids) for r in kept["rollouts"])

        contestants = {"ours": ours, "dense": lambda: dense_generate(model, prompts, 8, new, stop_ids)}
        if peer is not None:
            contestants["transformers"] = lambda: peer_generate(peer, prompts, 8, new, stop_ids)[0]
        rows = race(contestants, rounds, device)
        limit = matmul_limit(model, prompts, kept["rollouts"], 64)
        say(f"sampling: {len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens x 8 samples, at most {new} new")
        rate = {name: row["result"] / row["seconds"] for name, row in rows.items()}
        for name, row in rows.items():
            say(f"  {name:14} {row['seconds']:8.2f} s  {row['result']:6} tokens  {rate[name]:8.1f} tokens/s  "
                f"ours is {rate['ours'] / rate[name]:.2f}x")
        say(f"  matrix products alone: {limit:.2f} s; ours runs at {limit / rows['ours']['seconds']:.0%} of that limit\n")
        result["sampling"] = {"tokens_per_second": rate, "fraction_of_matmul_limit": limit / rows["ours"]["seconds"]}

    if "step" in parts:
        new = 16 if args.quick else 64
        reference = transformer.frozen_copy(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
        contestants = {"ours": lambda: our_step(model, reference, optimizer, prompts[:4], 8, new, settings)}
        if peer is not None:
            peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-9)
            contestants["peers"] = lambda: peer_step(peer, peer_reference, peer_optimizer, prompts[:4], 8, new, settings)
        rows = race(contestants, rounds, device)
        rollouts = generate(model, prompts[:4], samples_per_prompt=8, max_new_tokens=new, stop_ids=[])
        update = clock(lambda: learn(model, reference, optimizer, rollouts, 8, settings), device, rounds)
        shared = sum(map(len, prompts[:4])) + 32 * new  # tokens really computed: each prompt once
        flops = (6 + 4) * (size * shared)  # update 6, scoring 2 for each of policy and reference
        say(f"step: 4 prompts x 8 samples x {new} new tokens, one update")
        for name, row in rows.items():
            say(f"  {name:14} {row['seconds']:8.2f} s  peak {row['mib'] or math.nan:8.0f} MiB beyond weights and optimizer   ours takes "
                f"{rows['ours']['seconds'] / row['seconds']:.2f} of its time, "
                f"{(rows['ours']['mib'] or math.nan) / (row['mib'] or math.nan):.2f} of its memory")
        say(f"  score and update: {update:.2f} s, {flops / peak_flops / update:.0%} of the matrix-product rate for 10 x parameters x tokens\n")
        result["step"] = {name: {"seconds": row["seconds"], "mib": row["mib"]} for name, row in rows.items()}
        result["step"]["score_update_fraction_of_peak"] = flops / peak_flops / update
        del optimizer, reference, contestants
        peer_optimizer = None
    peer = peer_reference = None
    gc.collect()

    if "logps" in parts:
        N, D, big_V = (1024, 256, 32768) if args.quick else (8192, 1024, 151936)
        hidden, ref_hidden = (torch.randn(N, D, device=device, dtype=dtype) for _ in range(2))
        head = torch.randn(big_V, D, device=device, dtype=dtype) / D**0.5
        ref_head, targets = head + 0.01 * torch.randn_like(head), torch.randint(big_V, (N,), device=device)
        rows = race({name: lambda chunked=chunked: logps_and_kl(chunked, hidden, ref_hidden, head, ref_head, targets)
                     for name, chunked in (("ours", True), ("dense", False))}, 1, device)
        worst = max(difference(a, b) for a, b in zip(rows["ours"]["result"], rows["dense"]["result"], strict=True))
        say(f"log-probs with gradient and exact KL: {N} tokens, D {D}, V {big_V}")
        for name, row in rows.items():
            say(f"  {name:14} {row['seconds']:8.2f} s  peak extra {row['mib'] or math.nan:8.0f} MiB")
        say(f"  largest relative difference of log-probs, KL and gradients: {worst:.1e}\n")
        result["logps"] = {name: {"seconds": row["seconds"], "mib": row["mib"]} for name, row in rows.items()} | {"difference": worst}
        del hidden, ref_hidden, head, ref_head, rows

    if "recurrence" in parts:
        td, mask = torch.randn(64, 4096), torch.rand(64, 4096) < 0.9
        rows = race({"ours": lambda: vimpo.gae(td, mask, 0.95), "loops": lambda: gae_by_loops(td, mask, 0.95)}, 5, torch.device("cpu"))
        ratio = rows["loops"]["seconds"] / rows["ours"]["seconds"]
        say("recurrence: 64 x 4096, lambda 0.95, one token in ten masked")
        for name, row in rows.items():
            say(f"  {name:14} {row['seconds'] * 1e3:8.2f} ms")
        say(f"  ours is {ratio:.0f}x as fast; difference {difference(rows['ours']['result'], rows['loops']['result']):.1e}\n")
        result["recurrence"] = {"speedup": ratio}

    if "scaling" in parts:
        say("scaling: score + update, 4 layers of width 256; a row varies one thing")
        result["scaling"] = []
        base = {"T": 256, "group": 4, "V": 8192, "prompts": 2}
        rows = [{**base, "T": T} for T in ((64, 256, 1024) if args.quick else (64, 256, 1024, 2048, 4096))]
        rows += [{**base, key: value} for key, values in (("group", (2, 8, 16)), ("V", (32768, 131072)), ("prompts", (4, 8))) for value in values]
        for row in rows:
            small = random_model(folder.name + "/small", device, dtype, vocab_size=row["V"], hidden_size=256, intermediate_size=768,
                                 num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)
            ref = transformer.frozen_copy(small)
            rollouts = [Rollout([p + 1] * 128, torch.randint(row["V"], (row["T"],)).tolist(), [-1.0] * row["T"], False)
                        for p in range(row["prompts"]) for _ in range(row["group"])]
            measured = race({"it": functools.partial(learn, small, ref, None, rollouts, row["group"], settings)}, rounds, device)["it"]
            tokens = row["T"] * len(rollouts)
            row |= {"seconds": measured["seconds"], "us_per_token": measured["seconds"] / tokens * 1e6, "mib": measured["mib"]}
            say(f"  T {row['T']:5}  group {row['group']:3}  V {row['V']:6}  prompts {row['prompts']:2}: {row['seconds']:7.2f} s  "
                f"{row['us_per_token']:7.0f} us a response token  peak {row['mib'] or math.nan:6.0f} MiB")
            result["scaling"].append(row)
        say()
    say(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
