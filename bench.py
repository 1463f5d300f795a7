"""How fast, how much memory, how near the limit of the machine: side by side, in one run.

    python bench.py                                   # random weights of SmolLM2-135M's shape; long: --only picks parts
    python bench.py --quick                           # a smaller model, one round; minutes on two cores
    python bench.py --model DIR --data gsm8k.jsonl    # real weights, real prompts, natural stops

Machines are noisy, so nothing here is an absolute claim: contestants take turns (A B C, A B C, ...), each figure is a median, and what counts is
the ratio within one run. Contestants:

    sampling      ours (one prefill a prompt, finished rows leave); dense (a prefill a sample, all rows until the last ends); transformers
    step          ours; what a large library's VIMPO trainer computes by default, on transformers' model (see peer_step)
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

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch loads: threads that wait for each other soon go to sleep. Spinning on, as they
# do by default, made a step of the demo five times as slow on two cores beside one other busy program.

import torch

import data
import model as transformer
import train
import vimpo
from data import die, ranged
from rollout import Rollout, generate, sample
from tokenizer import Tokenizer

SMOLLM2 = {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "head_dim": 64,
           "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
ARGS = types.SimpleNamespace(tokens_per_microbatch=8192, temperature=1.0, kl="exact", beta=5e-4, algo="vimpo", gae_lambda=1.0, clip_low=0.2,
                             clip_high=0.28, dual_clip=10.0, actor_coef=5e-3, value_loss="squared")  # of train.py: its defaults
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


def say(text=""):
    print(text, flush=True)


def race(contestants, rounds, device, steady=True):
    """{name: function} -> {name: {"seconds": median, "mib": peak, "result": of the last turn}}; they take turns.

    The first turn warms up and measures memory, which means giving back what is free; the others measure time, and keep it (steady), as a
    program at work does, or not, where all contestants' memory together would be too much.
    """
    seconds, memory, result = {name: [] for name in contestants}, {}, {}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            peak = peak_memory(device) if turn == 0 or not steady else None
            if device.type == "cpu":  # the library runs with the C library's own settings, where its thresholds end up, as its users run it
                transformer.keep_freed_memory(*((64 << 20, 32 << 20) if name in ("transformers", "peers") else ()))
            start = time.perf_counter()
            result[name] = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            if peak:
                memory[name] = peak()
    return {name: {"seconds": statistics.median(seconds[name][1:]), "mib": memory[name], "result": result[name]} for name in contestants}


def clock(run, device, repeats=5):
    """Median seconds of run()."""
    return race({"it": run}, repeats, device)["it"]["seconds"]


def report(title, rows, note):
    """Print what each contestant took, beside ours -> the figures alone."""
    say(f"{title}")
    for name, row in rows.items():
        memory = "" if row["mib"] is None else f"  {row['mib']:8.0f} MiB at most beyond what was there"
        say(f"  {name:14} {row['seconds']:9.4f} s ({row['seconds'] / rows['ours']['seconds']:.2f} x ours){memory}")
    say(f"  {note}\n")
    return {name: {"seconds": row["seconds"], "mib": row["mib"]} for name, row in rows.items()}


def card(device, dtype):
    """What this machine can do: the static part."""
    a, b = (torch.randn(n, 2048, device=device, dtype=dtype) for n in (2048, 2048))
    matmul = 2 * 2048**3 / clock(lambda: a @ b, device, 15) / 1e9
    big = torch.randn(2**26, device=device)  # 256 MiB
    bandwidth = 2 * big.numel() * 4 / clock(lambda: big.clone(), device) / 1e9
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability() + " CPU"
    return {"device": name, "threads": torch.get_num_threads(), "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__,
            "matmul_gflops": round(matmul), "copy_gb_per_s": round(bandwidth, 1)}


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


@torch.no_grad()
def matmul_limit(model, prompts, rollouts, slots):
    """Seconds that nothing but the sampler's own matrix products would take: a prefill, then steps at the batch sizes gone through."""
    model = transformer.sampling_copy(model)
    products = [m for m in model.model.modules() if isinstance(m, transformer.Linear)]

    def layers(rows):
        inputs = {D: torch.randn(rows, D, device=model.device, dtype=model.compute_dtype) for D in {m.in_features for m in products}}
        return clock(lambda: [m(inputs[m.in_features]) for m in products], model.device, 3)

    def head(rows):
        hidden = torch.randn(rows, model.config.D, device=model.device, dtype=model.compute_dtype)
        return clock(lambda: model.head(hidden), model.device, 3)

    left = sorted((len(r.response_ids) - 1 for r in rollouts), reverse=True)
    if slots < len(left):  # with refill the batch is full until the end, near enough
        steps = {slots: sum(left) / slots}
    else:
        steps = {}
        for t in range(left[0]):
            rows = sum(n > t for n in left)
            rows = rows if rows <= 4 else -(-rows // 4) * 4  # time every fourth size only
            steps[rows] = steps.get(rows, 0) + 1
    return layers(sum(map(len, prompts))) + sum(n * (layers(rows) + head(rows)) for rows, n in steps.items())


# ---------------------------------------------------------------------------------------------------------------------------------
# One step


def our_step(model, reference, optimizer, prompts, samples, max_new_tokens):
    """Sample, score, credit, update, as train.run_step does, with rewards from a coin."""
    rollouts = generate(model, prompts, samples_per_prompt=samples, max_new_tokens=max_new_tokens, stop_ids=[])
    return learn(model, reference, optimizer, rollouts, samples)


def learn(model, reference, optimizer, rollouts, samples):
    batch = train.make_batch(rollouts, [float(i % 2) for i in range(len(rollouts))], samples, model.device, torch.float32)
    batch |= train.score_batch(model, reference, batch, ARGS, lambda *_: None, keep=True)
    batch |= train.assign_credit(batch, ARGS)
    losses = train.accumulate_gradients(model, batch, ARGS, lambda *_: None)
    if optimizer is not None:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return losses


def peer_step(peer, peer_reference, optimizer, prompts, samples, max_new_tokens):
    """The same step as the library's trainer takes it by default: eight sequences at a time, prompt included, with recomputed activations,
    the [b, T, V] log-softmax of both models, gradient through the policy's, advantages whitened per micro-batch."""
    _, out = peer_generate(peer.eval(), prompts, samples, max_new_tokens, ())
    T, B = max_new_tokens, len(out)
    lengths = torch.tensor([len(p) for p in prompts for _ in range(samples)], device=out.device)
    mask = (torch.arange(out.size(1), device=out.device)[None] >= out.size(1) - T - lengths[:, None]).long()
    rewards = torch.arange(B, device=out.device) % 2.0
    peer.train()  # or nothing is recomputed
    for i in range(0, B, 8):
        ids, ones = out[i : i + 8], torch.ones(min(8, B - i), T, device=out.device)
        inputs = {"input_ids": ids, "attention_mask": mask[i : i + 8], "logits_to_keep": T + 1, "use_cache": False}
        all_logps = peer(**inputs).logits[:, :-1].log_softmax(-1)  # [b, T, V]
        with torch.no_grad():
            ref_logps = peer_reference(**inputs).logits[:, :-1].log_softmax(-1)  # [b, T, V]
            kl = (all_logps.exp() * (all_logps - ref_logps)).sum(-1)
        logps, ref_logps = (x.gather(2, ids[:, -T:, None])[..., 0] for x in (all_logps, ref_logps))
        td = vimpo.td_terms(logps, ref_logps, kl, ones, ARGS.beta)
        advantages = vimpo.whiten(vimpo.gae(td, ones), ones)
        loss = vimpo.value_loss(td, rewards[i : i + 8], torch.full_like(rewards[i : i + 8], 0.5), ones)
        loss = loss + ARGS.actor_coef * vimpo.ppo_loss(logps, logps.detach(), advantages, ones)
        (loss * len(ids) / B).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


# ---------------------------------------------------------------------------------------------------------------------------------
# Log-probs and the recurrence


def logps_and_kl(chunked, hidden, ref_hidden, head, ref_head, targets):
    """Log-probs with gradient into hidden and head, and the exact KL -> both, and both gradients."""
    hidden, head = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    if chunked:
        known, _, kl, _ = vimpo.score_tokens(hidden, head, ref_hidden, ref_head, targets)
        logps = vimpo.token_logps(hidden, head, targets, known=known)
    else:
        all_logps = (hidden @ head.T).log_softmax(-1)  # [N, V]
        with torch.no_grad():  # with care: three tensors of that size, where the formula as it stands would hold five
            difference = (ref_hidden @ ref_head.T).log_softmax(-1).neg_().add_(all_logps)  # [N, V]
            kl = difference.mul_(all_logps.exp()).sum(-1)
            del difference
        logps = all_logps.gather(1, targets[:, None])[:, 0]
    logps.sum().backward()
    return logps.detach(), kl, hidden.grad, head.grad


def gae_by_loops(td, mask, lam):
    """As trainers commonly have it: one loop makes the value curve, another goes back over it; a mask, as numbers, carries over the holes."""
    mask, value, values = mask.to(td.dtype), torch.zeros(td.size(0)), [torch.zeros(td.size(0))]
    for t in range(td.size(1)):
        value = value + td[:, t] * mask[:, t]
        values.append(value)
    advantage, following, out = torch.zeros(td.size(0)), values.pop(), []
    for t in reversed(range(td.size(1))):
        delta = following - values[t]
        following = values[t] * mask[:, t] + following * (1 - mask[:, t])
        advantage = (delta + lam * advantage) * mask[:, t] + advantage * (1 - mask[:, t])
        out.append(advantage)
    return torch.stack(out[::-1], dim=1) * mask


def difference(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---------------------------------------------------------------------------------------------------------------------------------
# The parts


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


def bench_sampling(model, peers, prompts, stop_ids, rounds, quick):
    new, kept = 32 if quick else 128, {}

    def ours():
        kept["rollouts"] = generate(model, prompts, samples_per_prompt=8, max_new_tokens=new, stop_ids=stop_ids)
        return sum(len(r.response_ids) for r in kept["rollouts"])

    contestants = {"ours": ours, "dense": lambda: dense_generate(model, prompts, 8, new, stop_ids)}
    if peers:
        contestants["transformers"] = lambda: peer_generate(peers[0], prompts, 8, new, stop_ids)[0]
    rows = race(contestants, rounds, model.device)
    rate = {name: row["result"] / row["seconds"] for name, row in rows.items()}
    limit = matmul_limit(model, prompts, kept["rollouts"], 64) / rows["ours"]["seconds"]
    note = "tokens/s: " + ", ".join(f"{name} {r:.0f} (ours {rate['ours'] / r:.2f}x)" for name, r in rate.items())
    return report(f"sampling: {len(prompts)} prompts x 8 samples, at most {new} new tokens", rows,
                  f"{note}; ours at {limit:.0%} of its matrix products alone") | {"tokens_per_second": rate, "fraction_of_limit": limit}


def bench_step(model, peers, prompts, rounds, quick, peak):
    new, prompts = 16 if quick else 64, prompts[:4]
    reference, optimizer = transformer.frozen_copy(model), torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    contestants = {"ours": lambda: our_step(model, reference, optimizer, prompts, 8, new)}
    if peers:
        peers[0].gradient_checkpointing_enable()
        peer_optimizer = torch.optim.AdamW(peers[0].parameters(), lr=1e-9)
        contestants["peers"] = lambda: peer_step(*peers, peer_optimizer, prompts, 8, new)
    rows = race(contestants, rounds, model.device)
    rollouts = generate(model, prompts, samples_per_prompt=8, max_new_tokens=new, stop_ids=[])
    seconds = clock(lambda: learn(model, reference, optimizer, rollouts, 8), model.device, rounds)
    computed = sum(map(len, prompts)) + 32 * new  # each prompt once
    share = 10 * sum(p.numel() for p in model.parameters()) * computed / peak / seconds  # 2 + 2 to score with two models, 6 to update
    return report(f"step: 4 prompts x 8 samples x {new} new tokens, one update", rows, f"score and update {seconds:.2f} s, {share:.0%} of the "
                  "matrix-product rate for 10 x parameters x tokens computed") | {"fraction_of_peak": share}


def bench_logps(device, dtype, quick):
    N, D, V = (1024, 256, 32768) if quick else (8192, 1024, 151936)
    hidden, ref_hidden = (torch.randn(N, D, device=device, dtype=dtype) for _ in range(2))
    head = torch.randn(V, D, device=device, dtype=dtype) / D**0.5
    ref_head, targets = head + 0.01 * torch.randn_like(head), torch.randint(V, (N,), device=device)
    rows = race({name: functools.partial(logps_and_kl, name == "ours", hidden, ref_hidden, head, ref_head, targets) for name in ("ours", "dense")},
                1, device, steady=False)
    worst = max(difference(a, b) for a, b in zip(rows["ours"]["result"], rows["dense"]["result"], strict=True))
    return report(f"log-probs with gradient, and exact KL: {N} tokens, D {D}, V {V}", rows,
                  f"largest relative difference of log-probs, KL and gradients {worst:.1e}") | {"difference": worst}


def bench_recurrence():
    td, mask = torch.randn(64, 4096), torch.rand(64, 4096) < 0.9

    def repeated(run, times):  # one call is too short to time alone
        start = time.perf_counter()
        for _ in range(times):
            out = run(td, mask, 0.95)
        return (time.perf_counter() - start) / times, out

    turns = [(repeated(vimpo.gae, 20), repeated(gae_by_loops, 1)) for _ in range(6)][1:]
    rows = {name: {"seconds": statistics.median(turn[i][0] for turn in turns), "mib": None} for i, name in enumerate(("ours", "loops"))}
    (_, ours), (_, loops) = turns[-1]
    return report("recurrence: 64 x 4096, lambda 0.95, one token in ten masked", rows, f"difference {difference(ours, loops):.1e}")


def bench_scaling(folder, device, dtype, rounds, quick):
    """Score + update of rollouts made up in each size; a new small model for each row."""
    say("scaling: score + update, 4 layers of width 256, prompts of 128 tokens; a row varies one thing")
    base, results = {"T": 256, "group": 4, "V": 8192, "prompts": 2}, []
    rows = [base | {"T": T} for T in ((64, 256, 1024) if quick else (64, 256, 1024, 2048, 4096))]
    rows += [base | {key: n} for key, values in (("group", (2, 8, 16)), ("V", (32768, 131072)), ("prompts", (4, 8))) for n in values]
    for row in rows:
        model = random_model(f"{folder}/small", device, dtype, vocab_size=row["V"], hidden_size=256, intermediate_size=768, num_hidden_layers=4,
                             num_attention_heads=4, num_key_value_heads=2)
        rollouts = [Rollout([p + 1] * 128, torch.randint(row["V"], (row["T"],)).tolist(), [-1.0] * row["T"], False)
                    for p in range(row["prompts"]) for _ in range(row["group"])]
        run = functools.partial(learn, model, transformer.frozen_copy(model), None, rollouts, row["group"])
        measured, tokens = race({"it": run}, rounds, device)["it"], row["T"] * len(rollouts)
        row |= {"seconds": measured["seconds"], "us_per_token": measured["seconds"] / tokens * 1e6, "mib": measured["mib"]}
        say("  " + "  ".join(f"{key} {n:6}" if isinstance(n, int) else f"{key} {n or math.nan:9.1f}" for key, n in row.items()))
        results.append(row)
    say()
    return results


def main(argv=None):
    """Load, say what the machine can do, run the parts asked for, end in a line of JSON."""
    parts = ["sampling", "step", "logps", "recurrence", "scaling"]
    parser = data.Parser(prog="bench.py", description="Side-by-side timings and memory; the last line is JSON.")
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder (default: random weights of SmolLM2-135M's shape)")
    parser.add_argument("--data", metavar="FILE", help="JSONL problems to sample from, with --model (default: random prompts)")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to run (default: all)")
    parser.add_argument("--rounds", type=ranged(int, 1), default=3, help="turns of each contestant (default 3)")
    parser.add_argument("--quick", action="store_true", help="a smaller model and one round")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="auto: bf16 on cuda, fp32 on cpu")
    args = parser.parse_args(argv)
    rounds, folder = 1 if args.quick else args.rounds, tempfile.TemporaryDirectory()
    try:
        if args.data and not args.model:
            raise ValueError("--data wants --model: random weights have no tokenizer")
        device, dtype = transformer.choose_device(args.device, args.dtype)
        path = args.model or folder.name
        if args.data:  # before the weights: whatever is wrong here is found at once
            transformer.read_config(path)
            tokenizer, problems = Tokenizer.from_pretrained(path), data.load_problems([args.data])[:8]
            template = data.choose_template(None, tokenizer, problems)
        if args.model:
            model = transformer.load_model(path, device)
            model.compute_dtype = dtype
        else:
            model = random_model(path, device, dtype, **({"num_hidden_layers": 6, "vocab_size": 16384} if args.quick else {}))
        torch.manual_seed(0)
        V = model.config.V
        prompts, stop_ids = [torch.randint(V // 64, V, (n,)).tolist() for n in LENGTHS], set(range(V // 64))  # stops after 64 tokens or so
        if args.data:
            prompts, stop_ids = [data.prompt_ids(p, tokenizer, template, 2048) for p in problems], set(tokenizer.eos_ids)
    except (ValueError, OSError) as e:
        die("bench.py", e)
    peers = []
    if {"sampling", "step"} & set(args.only):
        try:
            from transformers import AutoModelForCausalLM, logging

            logging.set_verbosity_error()
            logging.disable_progress_bar()
            peers = [AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device) for _ in range(2)]
        except ImportError:
            say("transformers is not installed: its rows are left out (pip install transformers)")
    result = {"card": card(device, dtype) | {"parameters": sum(p.numel() for p in model.parameters()), "V": V}}
    say("  ".join(f"{key} {value}" for key, value in result["card"].items()) + "\n")
    if "sampling" in args.only:
        result["sampling"] = bench_sampling(model, peers, prompts, stop_ids, rounds, args.quick)
    if "step" in args.only:
        result["step"] = bench_step(model, peers, prompts, rounds, args.quick, result["card"]["matmul_gflops"] * 1e9)
    del peers
    if "logps" in args.only:
        result["logps"] = bench_logps(device, dtype, args.quick)
    if "recurrence" in args.only:
        result["recurrence"] = bench_recurrence()
    if "scaling" in args.only:
        result["scaling"] = bench_scaling(folder.name, device, dtype, rounds, args.quick)
    say(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
