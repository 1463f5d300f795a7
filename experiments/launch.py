"""Start trainings, a few at a time, and keep one JSON line of each.

    flags {"algo": "grpo", "lr": 5e-4}  ->  python train.py --algo grpo --lr 5e-4 --out FOLDER
    the run folder                      ->  one row: settings, accuracy, KL, did it collapse?

A results file is a list of jobs that are done: starting the same command again does the rest. A
training uses one thread, because these models are too small for two.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))  # the project is no package: its root goes on the path
RESULTS = HERE / "results"
WORK = ROOT / "runs" / "experiments"  # models that are made, runs under way; git ignores it

# What all small trainings have in common. KL is logged for every objective.
COMMON = {
    "steps": 40,
    "prompts-per-step": 32,
    "samples-per-prompt": 8,
    "warmup": 5,
    "weight-decay": 0.0,
    "eval-every": 10,
    "eval-top-p": 1.0,
    "save-every": 0,
    "log-kl": True,
    "device": "cpu",
}


def to_arguments(flags):
    """{"algo": "grpo", "log-kl": True, "kl": None} -> ["--algo", "grpo", "--log-kl"].

    >>> to_arguments({"algo": "grpo", "log-kl": True, "data": ["a", "b"], "kl": None})
    ['--algo', 'grpo', '--log-kl', '--data', 'a', 'b']
    """
    arguments = []
    for name, value in flags.items():
        if value is None or value is False:
            continue
        arguments.append(f"--{name}")
        if value is not True:
            values = value if isinstance(value, list) else [value]
            arguments += [str(x) for x in values]
    return arguments


def read_jsonl(path):
    """The rows of a JSON-lines file; none where there is no file. A line cut off is left out."""
    rows = []
    if Path(path).exists():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


def append_jsonl(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rounded(x, digits=4):
    return None if x is None else round(x, digits)


def summarise(folder, half=False):
    """A run folder -> what the tables and the plots need.

    half: the reward was 0.75 and 0.25 in place of 1 and 0, so accuracies are read back from it.
    mean: of the held-out accuracies after step 0, the area under the curve.
    collapsed: held-out accuracy ends below where it began.
    """
    metrics, evals = read_jsonl(folder / "metrics.jsonl"), read_jsonl(folder / "eval.jsonl")

    def share_right(mean_reward):
        return rounded((mean_reward - 0.25) / 0.5 if half else mean_reward)

    row = {
        "train_accuracy": [share_right(row["reward_clean"]) for row in metrics],
        "kl": [rounded(row["kl"], 5) for row in metrics[4::5]],  # of every fifth step
        "largest_share": max(row["actor_share"] or 0 for row in metrics),
        "grad_norm": sum(row["grad_norm"] for row in metrics) / len(metrics),
        "tokens": rounded(metrics[-1]["response_tokens"], 1),
    }
    if not evals:
        return row
    accuracy = [share_right(row["accuracy"]) for row in evals]
    return row | {
        "eval_steps": [row["step"] for row in evals],
        "accuracy": accuracy,
        "final": accuracy[-1],
        "mean": rounded(sum(accuracy[1:]) / len(accuracy[1:])),
        "collapsed": accuracy[-1] < accuracy[0],
    }


def log_of(folder):
    """The file beside a run folder that takes what the training prints."""
    return folder.parent / f"{folder.name}.log"


def train(name, flags, threads=1, keep=False):
    """One training in a process of its own -> (run folder, seconds, its warnings).

    keep: leave a finished folder of this name as it is, and go on with one that was cut off.
    RuntimeError with the last line of its output, if it fails.
    """
    folder = WORK / "runs" / name
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    resume = keep and (folder / "config.json").exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "train.py", *to_arguments(flags), "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    log, started = log_of(folder), time.time()
    with open(log, "w", encoding="utf-8") as output:
        run = subprocess.run(
            command + ["--resume"] * resume,
            cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    if run.returncode != 0:
        raise RuntimeError(f"{name}: {text.splitlines()[-1] if text else run.returncode}")
    warnings = [line for line in text.splitlines() if line.startswith("!!! WARNING")]
    return folder, round(time.time() - started, 1), warnings


def run_job(job):
    """A job {"task", "method", "noise", "seed", ..., "flags"} -> its row of the results file."""
    flags = job["flags"]
    name = "-".join(str(value) for key, value in job.items() if key != "flags")
    folder, seconds, warnings = train(name, flags)
    row = job | summarise(folder, half=str(flags.get("reward")).endswith("half"))
    shutil.rmtree(folder)
    log_of(folder).unlink()
    return row | {"warnings": len(warnings), "seconds": seconds}


def same_job(job):
    """What tells one job of a results file from another."""
    return json.dumps({key: job[key] for key in job if key != "flags"}, sort_keys=True)


def run_all(jobs, file, at_once=1, minutes=None, run=run_job):
    """Run the jobs that `file` lacks, `at_once` side by side, and append a line for each.

    minutes: start no more after this time. A job that fails is reported and left out.
    """
    fields = [key for key in jobs[0] if key != "flags"] if jobs else []
    done = {same_job({key: row.get(key) for key in fields}) for row in read_jsonl(file)}
    left = [job for job in jobs if same_job(job) not in done]
    print(f"{file.name}: {len(jobs) - len(left)} of {len(jobs)} done", flush=True)
    started = time.time()

    def unless_late(job):
        late = minutes is not None and time.time() - started > 60 * minutes
        return None if late else run(job)

    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(unless_late, job): job for job in left}
        for number, future in enumerate(as_completed(futures), 1):
            try:
                row = future.result()
            except RuntimeError as error:
                print(f"failed: {error}", flush=True)
                continue
            if row is not None:
                append_jsonl(file, row)
                name = " ".join(str(row[key]) for key in fields)
                now = (time.time() - started) / 60
                shown = f"{row['final']:.3f}  " if "final" in row else ""
                print(f"{number}/{len(left)}  {name}  {shown}{now:.1f} min", flush=True)
