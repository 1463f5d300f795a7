"""Credit against the truth: do td_t and A_t point at the tokens that earned or lost the reward?

    python experiments/credit.py --jobs 2         # trains, measures, one JSON line a checkpoint
    python experiments/credit.py --tasks star --seeds 1

A policy is trained with each beta, and at some checkpoints its credit is held against the truth:

    Monte-Carlo   V(s_t) is the share of right ones among 64 continuations of the first t tokens,
                  and the advantage of token t is V(s_{t+1}) - V(s_t). Correlations with td_t, with
                  A_t at five lambdas, and with the one number a response that GRPO gives all of
                  its tokens, are over all tokens of the responses that are measured.
    broadcast     no credit that is constant within a response can correlate better than
                  sqrt(1 - H), H being the share of the advantages' variance within responses.
                  Products of two independent halves of the continuations keep noise out of H.
    noise         what remains of a correlation of 1 with 64 continuations: sqrt(reliability)
    first fault   the share of wrong responses whose lowest td is at their first wrong token, and
                  the share that a token drawn at random would have
    AUC           of two responses, one right and one wrong, how often does the right one have the
                  higher V_t, at 0, 25, 50, 75 and 100% of its length? V_0 alone says something as
                  well, so also for V_t - V_0

A policy that was trained by GRPO has a log-ratio too: it is measured in the same way.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from compare import TASKS, best_rate, flags_of
from launch import RESULTS, read_jsonl, run_all, train
from tasks import ROOT, demo_solution, first_wrong
from torch.nn.utils.rnn import pad_sequence

from lib.tokenizer import Tokenizer
from model import load_model
from rollout import generate
from vimpo import gae, group_baseline, grpo_advantages, implied_values, td_terms

BETAS = [5e-4, 5e-3, 5e-2, 0.2]
LAMBDAS = [0, 0.5, 0.9, 0.95, 1]
STEPS = [10, 20, 40]
QUARTERS = [0, 0.25, 0.5, 0.75, 1]
CONTINUATIONS = 64


# --------------------------------------------------------------------------------------------------
# Statistics


def correlation(x, y):
    """Pearson's, of two tensors of any equal shape; None where one of them is constant."""
    x, y = x.double().flatten(), y.double().flatten()
    x, y = x - x.mean(), y - y.mean()
    size = x.norm() * y.norm()
    return float(x @ y / size) if size > 0 else None


def area_under_curve(scores, right):
    """The chance that a right one has the higher score (a tie counts half): [B], [B] bool -> float.

    >>> area_under_curve(torch.tensor([0.1, 0.4, 0.4]), torch.tensor([False, True, False]))
    0.75
    """
    above = (scores[right][:, None] - scores[~right][None]).sign()  # [right, wrong]
    return float((above + 1).mean() / 2) if above.numel() else None


def variance_within(first, second, rows):
    """(variance within rows, variance in all) of a quantity seen twice with independent noise.

    first, second, rows [N]: two measurements of each token, and its response. Products of the two
    have no noise in their mean.
    """
    count = torch.bincount(rows).clamp(min=1)

    def centred(x):
        return x - (torch.bincount(rows, weights=x) / count)[rows]

    within = (centred(first) * centred(second)).mean()
    whole = ((first - first.mean()) * (second - second.mean())).mean()
    return float(within), float(whole)


# --------------------------------------------------------------------------------------------------
# A checkpoint's own view of its responses


def sample(model, tokenizer, rows, task, samples, seed):
    """Responses to the rows' problems -> rollouts, rewards [B]; `samples` of each row in turn."""
    prompts = [tokenizer.encode(row["problem"]) for row in rows]
    rollouts = generate(
        model, prompts, samples_per_prompt=samples, stop_ids=tokenizer.eos_ids, seed=seed,
        max_new_tokens=TASKS[task]["max-new-tokens"],
    )  # fmt: skip
    return rollouts, torch.tensor([grade(tokenizer, r, rows[i // samples])
                                   for i, r in enumerate(rollouts)])  # fmt: skip


def grade(tokenizer, rollout, row):
    """Does the whole response end in the right answer? The same on all three tasks."""
    text = tokenizer.decode(rollout.response_ids, skip_special=True)
    return float(text == row["answer"] or text.endswith(f"\\boxed{{{row['answer']}}}"))


@torch.no_grad()
def log_probs(model, rollouts):
    """All log-probs at the response's tokens -> [B, T, V]."""
    ids = [torch.tensor([*r.prompt_ids, *r.response_ids]) for r in rollouts]
    logps = model(pad_sequence(ids, batch_first=True)).log_softmax(-1)  # [B, P + T, V]
    parts = []
    for i, r in enumerate(rollouts):
        first = len(r.prompt_ids) - 1
        parts.append(logps[i, first : first + len(r.response_ids)])
    return pad_sequence(parts, batch_first=True)


def scores_of(model, reference, rollouts, chunk=64):
    """-> logps, ref_logps, exact KL and mask, all [B, T]."""
    T = max(len(r.response_ids) for r in rollouts)
    out = torch.zeros(4, len(rollouts), T)
    for start in range(0, len(rollouts), chunk):
        part = rollouts[start : start + chunk]
        policy, ref = log_probs(model, part), log_probs(reference, part)  # [b, T', V]
        kl = (policy.exp() * (policy - ref)).sum(-1)
        for i, r in enumerate(part):
            n = len(r.response_ids)
            taken = torch.arange(n), torch.tensor(r.response_ids)
            values = policy[i][taken], ref[i][taken], kl[i, :n], torch.ones(n)
            out[:, start + i, :n] = torch.stack(values)
    logps, ref_logps, kl, mask = out
    return logps, ref_logps, kl, mask.bool()


# --------------------------------------------------------------------------------------------------
# The truth, by Monte-Carlo


def monte_carlo_values(model, tokenizer, rollouts, rows, reward, task, seed):
    """V(s_t) for t = 0 .. T of each rollout, by two halves of the continuations: -> [2, T+1] each.

    The last state has ended: its value is the reward.
    """
    values = []
    half = CONTINUATIONS // 2
    for number, (r, row) in enumerate(zip(rollouts, rows, strict=True)):
        prefixes = [r.prompt_ids + r.response_ids[:t] for t in range(len(r.response_ids))]
        continued = generate(
            model, prefixes, samples_per_prompt=CONTINUATIONS, stop_ids=tokenizer.eos_ids,
            seed=f"{seed} {number}", max_new_tokens=TASKS[task]["max-new-tokens"],
        )  # fmt: skip
        right = []
        for c in continued:
            whole = c.prompt_ids[len(r.prompt_ids) :] + c.response_ids
            right.append(grade(tokenizer, c._replace(response_ids=whole), row))
        shares = torch.tensor(right).view(len(prefixes), 2, half).mean(2).T  # [2, T]
        end = reward[number].expand(2, 1)
        values.append(torch.cat((shares, end), 1))
    return values


def fidelity(credits, values, mask):
    """Correlations of each credit [B, T] with the Monte-Carlo advantages of its first responses."""
    n = len(values)
    halves = [(v[:, 1:] - v[:, :-1]).double() for v in values]  # [2, T] each
    first, second = torch.cat(halves, 1)
    rows = torch.repeat_interleave(torch.arange(n), mask[:n].sum(1))
    truth = (first + second) / 2
    found = {name: correlation(x[:n][mask[:n]], truth) for name, x in credits.items()}
    within, whole = variance_within(first, second, rows)
    seen = float(truth.var(correction=0))
    return {
        "correlation": found,
        "H": within / whole if whole > 0 else None,
        "broadcast_ceiling": max(0.0, 1 - within / whole) ** 0.5 if whole > 0 else None,
        "noise_ceiling": max(0.0, whole / seen) ** 0.5 if seen > 0 else None,
    }


# --------------------------------------------------------------------------------------------------
# One checkpoint


def lowest_at_fault(credit, mask, faults):
    """The share of responses whose lowest credit is at the fault; faults {row: place}."""
    if not faults:
        return None
    lowest = torch.where(mask, credit, torch.inf).argmin(1)
    return sum(int(lowest[i]) == place for i, place in faults.items()) / len(faults)


def areas(values, v0, mask, right):
    """AUC of V_t and of V_t - V_0 at each quarter of a response's length."""
    lengths = mask.sum(1)
    found = {"V": [], "move": []}
    for quarter in QUARTERS:
        at = (quarter * lengths).round().long()
        V = values.gather(1, at[:, None])[:, 0]
        found["V"].append(area_under_curve(V, right))
        found["move"].append(area_under_curve(V - v0, right))
    return found


def measure(folder, reference, task, beta, seed, prompts=64, samples=8, judged=24):
    """All numbers on one checkpoint folder. `judged` responses get Monte-Carlo values."""
    tokenizer = Tokenizer.from_pretrained(folder)
    model, reference = load_model(folder), load_model(reference)
    rows = read_jsonl(ROOT / TASKS[task]["eval-data"])
    rows = random.Random(seed).sample(rows, prompts)
    # All first samples, then all second ones: those that are judged answer different problems.
    rollouts, rewards = sample(model, tokenizer, rows, task, samples, f"credit {seed}")
    order = [p * samples + s for s in range(samples) for p in range(prompts)]
    rollouts, rewards = [rollouts[i] for i in order], rewards[order]
    rows = rows * samples
    group = torch.arange(prompts).repeat(samples)

    logps, ref_logps, kl, mask = scores_of(model, reference, rollouts)
    td = td_terms(logps, ref_logps, kl, mask, beta)
    credits = {"td": td} | {f"A_{lam:g}": gae(td, mask, lam) for lam in LAMBDAS}
    broadcast = {"broadcast": grpo_advantages(rewards, group, mask)}

    faults = {}
    for i, (r, row) in enumerate(zip(rollouts, rows, strict=True)):
        solution = row.get("solution") or demo_solution(row["problem"])
        if rewards[i] == 0:
            faults[i] = first_wrong(r.response_ids, tokenizer.encode(solution) + tokenizer.eos_ids)
    values = monte_carlo_values(
        model, tokenizer, rollouts[:judged], rows[:judged], rewards[:judged], task, seed
    )
    v0 = group_baseline(rewards, group)
    chance = [1 / len(rollouts[i].response_ids) for i in faults]
    return {
        "accuracy": float(rewards.mean()),
        "kl": float(kl.sum() / mask.sum()),
        "wrong": len(faults),
        "fault_lowest": {name: lowest_at_fault(x, mask, faults) for name, x in credits.items()},
        "fault_chance": sum(chance) / len(chance) if chance else None,
        "auc": areas(implied_values(td, mask, v0), v0, mask, rewards == 1),
        "curve_move": float(td.sum(1).abs().mean()),  # |V_T - V_0|; it should be |R - V_0|
        "wanted_move": float((rewards - v0).abs().mean()),
    } | fidelity(credits | broadcast, values, mask)


def rounded(x):
    """Floats within lists and dicts, to four digits."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list):
        return [rounded(value) for value in x]
    return round(x, 4 if abs(x) > 0.01 else 7) if isinstance(x, float) else x


# --------------------------------------------------------------------------------------------------
# All of them


def credit_jobs(tasks, betas, seeds):
    """Seed by seed: VIMPO with each beta, and GRPO, whose log-ratio is measured as well."""
    tuned = read_jsonl(RESULTS / "tuning.jsonl")
    jobs = []
    for seed in seeds:
        for task in tasks:
            for method, beta in [("default", beta) for beta in betas] + [("grpo", betas[0])]:
                like = "local" if method == "default" and beta >= 0.05 else method
                lr = best_rate(tuned, task, like)
                flags = flags_of(task, method, "clean", seed, lr) | {"beta": beta}
                flags |= {"save-every": 10, "keep": 10, "eval-every": 0}
                job = {"task": task, "method": method, "beta": beta, "seed": seed}
                jobs.append(job | {"flags": flags})
    return jobs


def run_job(job):
    """Train, then measure the checkpoints, in processes of their own -> the results row."""
    name = "credit-" + "-".join(str(value) for key, value in job.items() if key != "flags")
    folder, seconds, _ = train(name, job["flags"])
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(folder)]
    command += ["--tasks", job["task"], "--betas", str(job["beta"])]
    done = subprocess.run([*command, "--seeds", str(job["seed"])], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    shutil.rmtree(folder)
    return job | {"checkpoints": json.loads(done.stdout), "train_seconds": seconds}


def measure_run(folder, task, beta, seed):
    """The checkpoints at STEPS of one run folder -> a list of what `measure` returns."""
    found = []
    for step in STEPS:
        checkpoint = folder / f"checkpoint-{step}"
        if not checkpoint.exists():
            checkpoint = folder / "checkpoint"  # the last step
        numbers = measure(checkpoint, ROOT / TASKS[task]["model"], task, beta, seed)
        found.append({"step": step} | rounded(numbers))
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sums", "star"])
    parser.add_argument("--betas", nargs="+", type=float, default=BETAS)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, a core each")
    parser.add_argument("--measure", type=Path, help="only measure this run folder; used inside")
    args = parser.parse_args()
    if args.measure:
        torch.set_num_threads(1)
        print(json.dumps(measure_run(args.measure, args.tasks[0], args.betas[0], args.seeds)))
        return
    seeds = range(args.first_seed, args.seeds)
    run_all(credit_jobs(args.tasks, args.betas, seeds), RESULTS / "credit.jsonl", args.jobs,
            run=run_job)  # fmt: skip


if __name__ == "__main__":
    main()
