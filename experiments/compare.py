"""Objectives x conditions x seeds, on equal budgets of samples: one JSON line a run.

    python experiments/tasks.py                        # once: makes the models and problems
    python experiments/compare.py --quick              # 10 minutes: VIMPO and GRPO on the demo
    python experiments/compare.py --tune --jobs 2      # learning rates, on seeds 100 and 101
    python experiments/compare.py --seeds 5 --jobs 2   # everything; start it again to go on
    python experiments/write_tables.py                       # tables and plots from results/*.jsonl

Seed s gives the same problems, the same random numbers and the same flips to every method, so that
methods can be compared seed by seed. The jobs are ordered by seed: whatever is finished is a fair
comparison of all methods on the seeds so far.
"""

import argparse
import itertools

from launch import COMMON, RESULTS, WORK, read_jsonl, run_all
from tables import differences

TASKS = {  # see tasks.py; "sums" is the demo, as it is shipped
    "sums": {
        "model": "demo/model",
        "data": "demo/train.jsonl",
        "eval-data": "demo/test.jsonl",
        "max-new-tokens": 48,
    },
    "star": {
        "model": "runs/experiments/star/model",
        "data": "runs/experiments/star/train.jsonl",
        "eval-data": "runs/experiments/star/test.jsonl",
        "max-new-tokens": 12,
        "reward": "experiments/grades.py:exact",
    },
    "filler": {
        "model": "runs/experiments/filler/model",
        "data": "runs/experiments/filler/train.jsonl",
        "eval-data": "runs/experiments/filler/test.jsonl",
        "max-new-tokens": 200,
        "prompts-per-step": 16,
    },
}

# "default" is train.py's default: beta 5e-4, lambda 1, actor share 0.025. The others change what
# they say and leave the rest. "local" is where first trials put their hope: a beta at which the
# implied value means something, credit that reaches back 20 tokens, and a stronger actor. The gate
# turns the actor down in steps where the curves do not tell right from wrong.
METHODS = {
    "default": {},
    "value_only": {"actor-share": 0},
    "lambda_0": {"gae-lambda": 0},
    "lambda_0.95": {"gae-lambda": 0.95},
    "beta_0.2": {"beta": 0.2},
    "local": {"beta": 0.2, "gae-lambda": 0.95, "actor-share": 0.2},
    "gated": {"actor-gate": True},
    "local_gated": {"beta": 0.2, "gae-lambda": 0.95, "actor-share": 0.2, "actor-gate": True},
    "value_and_grpo": {"algo": "vimpo_grpo"},
    "grpo": {"algo": "grpo"},
    "dr_grpo": {"algo": "dr_grpo"},
    "rloo": {"algo": "rloo"},
}
# More of beta and of the actor, asked for by name: --methods share_0.1 --conditions clean group
SWEEP = {
    "share_0.1": {"actor-share": 0.1},
    "share_0.3": {"actor-share": 0.3},
    "beta_0.05": {"beta": 0.05},
    "local_0.5": {"beta": 0.2, "gae-lambda": 0.5, "actor-share": 0.1},
}

# What is done to the signal. A group flip with probability p multiplies the expected centred reward
# R - V_0 by 1 - 2p, 1/2 here. "half" gives every run exactly that expectation without the noise:
# rewards 0.75 and 0.25. "quarter" has the whole signal and a quarter of the samples: the gradient
# then has the ratio of mean to standard deviation that flips leave, which a scale, undone by AdamW,
# does not imitate. "reuse" is clean, with four updates on each batch.
CONDITIONS = {
    "clean": {},
    "group": {"reward-noise": 0.25, "reward-noise-by": "group"},
    "response": {"reward-noise": 0.25, "reward-noise-by": "response"},
    "half": {"reward": "experiments/grades.py:half"},  # star: exact_half
    "quarter": {},  # see flags_of
    "reuse": {"updates-per-step": 4},
}
# These are run for some methods only.
LIMITED = {
    "quarter": ("default", "local", "grpo"),
    "reuse": ("default", "value_only", "beta_0.2", "local", "grpo"),
}

# Learning rates are searched for the methods named here; the others take that of their relative.
RELATIVE = {
    "default": "default", "value_only": "default", "lambda_0": "default",
    "lambda_0.95": "default", "value_and_grpo": "default", "gated": "default",
    "beta_0.2": "local", "local": "local", "local_gated": "local",
    "grpo": "grpo", "dr_grpo": "dr_grpo", "rloo": "dr_grpo",
    "share_0.1": "default", "share_0.3": "default", "beta_0.05": "local", "local_0.5": "local",
}  # fmt: skip
RATES = {
    "sums": [2.5e-4, 5e-4, 1e-3],
    "star": [2.5e-4, 5e-4, 1e-3],
    "filler": [2.5e-4, 5e-4, 1e-3],
}
TUNING_SEEDS = [100, 101]


def flags_of(task, method, condition, seed, lr):
    """All flags of one training."""
    flags = COMMON | TASKS[task] | (METHODS | SWEEP)[method] | CONDITIONS[condition]
    if condition == "half" and "reward" in TASKS[task]:
        flags["reward"] = TASKS[task]["reward"] + "_half"
    if condition == "quarter":
        flags["prompts-per-step"] //= 4
    return flags | {"seed": seed, "lr": lr}


def tuning_jobs(tasks):
    """The search: clean rewards, other seeds, three learning rates for each family of methods."""
    jobs = []
    families = dict.fromkeys(RELATIVE.values())
    for seed, task, method in itertools.product(TUNING_SEEDS, tasks, families):
        for lr in RATES[task]:
            job = {"task": task, "method": method, "condition": "clean", "seed": seed, "lr": lr}
            jobs.append(job | {"flags": flags_of(**job)})
    return jobs


def best_rate(rows, task, method):
    """The learning rate with the best held-out accuracy, averaged over evaluations and seeds.

    ValueError where nothing was tried.
    """
    tried = {}
    for row in rows:
        if row["task"] == task and row["method"] == RELATIVE[method]:
            tried.setdefault(row["lr"], []).append(row["mean"])
    if not tried:
        raise ValueError(f"results/tuning.jsonl: nothing on {task}, {method}; wanted --tune first")
    return max(tried, key=lambda lr: sum(tried[lr]) / len(tried[lr]))


def comparison_jobs(tasks, methods, conditions, seeds):
    """Seed by seed, all conditions, tasks and methods."""
    rows = read_jsonl(RESULTS / "tuning.jsonl")
    jobs = []
    for seed, condition, task, method in itertools.product(seeds, conditions, tasks, methods):
        if method in LIMITED.get(condition, methods):
            job = {"task": task, "method": method, "condition": condition, "seed": seed}
            flags = flags_of(**job, lr=best_rate(rows, task, method))
            jobs.append(job | {"flags": flags})
    return jobs


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tune", action="store_true", help="search learning rates instead")
    parser.add_argument("--quick", action="store_true", help="a subset of 10 minutes")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sums", "star"])
    parser.add_argument("--methods", nargs="+", choices=METHODS | SWEEP,
                        default=list(METHODS))  # fmt: skip
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, a core each")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.tune:
        run_all(tuning_jobs(args.tasks), RESULTS / "tuning.jsonl", args.jobs)
        return
    seeds = range(args.first_seed, args.seeds)
    if args.quick:
        methods, conditions = ["default", "local", "grpo"], ["clean", "group"]
        jobs = comparison_jobs(["sums"], methods, conditions, seeds)
        run_all(jobs, WORK / "quick.jsonl", args.jobs, minutes=9)
        print(differences(read_jsonl(WORK / "quick.jsonl"), "sums"))
        return
    jobs = comparison_jobs(args.tasks, args.methods, args.conditions, seeds)
    run_all(jobs, RESULTS / "compare.jsonl", args.jobs)


if __name__ == "__main__":
    main()
