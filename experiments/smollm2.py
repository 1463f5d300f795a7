"""A real language model: SmolLM2-135M learns two-digit sums from a few worked examples.

    python experiments/smollm2.py --model DIR               # VIMPO and GRPO, two seeds each
    python experiments/smollm2.py --model DIR --seeds 1 --methods default --steps 10

DIR is the model's folder as it was published (SmolLM2-135M-Instruct, 270 MB). It stays as it is: a
folder in runs/ links to its files, but for the list of stop tokens, which there holds the ends of a
line as well. The prompt shows a few sums that are worked out, and the response to "47 + 38" is to
be like

     = 85, answer is 85

graded by the verifier as any other. Held-out accuracy is measured by eval.py before and after the
training, sampled as in training (temperature 1, top-p 1) and greedily. A line of
results/smollm2.jsonl for each run. A training that was cut off goes on where it was saved.
"""

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from launch import RESULTS, ROOT, WORK, rounded, run_all, summarise, train

from lib.tokenizer import Tokenizer

FOLDER = WORK / "smollm2"
EXAMPLES = [(23, 45), (67, 18), (50, 39), (84, 77)]
TRAIN, TEST = 3000, 200  # problems
FLAGS = {
    "model": "runs/experiments/smollm2/model",
    "data": "runs/experiments/smollm2/train.jsonl",
    "prompt-template": "runs/experiments/smollm2/template.txt",
    "max-new-tokens": 20,
    "prompts-per-step": 16,
    "samples-per-prompt": 12,
    "steps": 40,
    "warmup": 5,
    "weight-decay": 0.0,
    "save-every": 10,
    "keep": 1,
    "eval-every": 0,
    "log-kl": True,
    "device": "cpu",
    "tokens-per-microbatch": 2048,
}
RATE = 1e-5
METHODS = {"default": {"algo": "vimpo"}, "grpo": {"algo": "grpo"}}


def wordy(a, b):
    """A response of about 50 tokens, for defaults.py."""
    c = a + b
    return f" = {c}. Check: {c} - {a} = {b} and {c} - {b} = {a}. So {a} + {b} = {c}, answer is {c}"


def prepare(model):
    """The folder with links to the model, and with the problems and the template."""
    model, folder = Path(model).resolve(), FOLDER / "model"
    folder.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        link = folder / file.name
        if file.name != "generation_config.json" and not link.exists():
            link.symlink_to(file)
    tokenizer = Tokenizer.from_pretrained(model)
    ends = [tokenizer.encode(text, add_special=False)[-1] for text in ("\n", "\n\n")]
    stops = sorted({*tokenizer.eos_ids, *ends})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}) + "\n")

    lines = [f"{a} + {b} = {a + b}, answer is {a + b}\n" for a, b in EXAMPLES]
    (FOLDER / "template.txt").write_text("".join(lines) + "{problem}")
    lines = [f"{a} + {b}{wordy(a, b)}\n" for a, b in EXAMPLES]
    (FOLDER / "template_long.txt").write_text("".join(lines) + "{problem}")
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100) if (a, b) not in EXAMPLES]
    random.Random(0).shuffle(pairs)
    parts = {"test": pairs[:TEST], "train": pairs[TEST : TEST + TRAIN]}
    for name, part in parts.items():
        rows = []
        for i, (a, b) in enumerate(part):
            rows.append({"id": f"{name}-{i}", "problem": f"{a} + {b}", "answer": str(a + b)})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (FOLDER / f"{name}.jsonl").write_text(text)


def held_out(model, threads):
    """Accuracy on the test problems by eval.py: {"sampled": share, "greedy": share}."""
    found = {}
    for name, temperature in (("sampled", 1), ("greedy", 0)):
        out = Path(tempfile.mkdtemp()) / "table.json"
        command = [sys.executable, "eval.py", "--model", model, "--data", FOLDER / "test.jsonl"]
        command += ["--prompt-template", FOLDER / "template.txt", "--out", out]
        command += ["--temperature", temperature, "--top-p", 1]
        command += ["--max-new-tokens", FLAGS["max-new-tokens"]]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        words = [str(x) for x in command]
        subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True)
        found[name] = rounded(json.loads(out.read_text())["table"][0]["accuracy"])
        shutil.rmtree(out.parent)
    return found


def run_job(job, threads):
    """Train if there is something to train, evaluate -> the row."""
    if job["method"] == "before":
        return job | held_out(FOLDER / "model", threads)
    name = f"smollm2-{job['method']}-{job['lr']:g}-{job['steps']}-{job['seed']}"
    folder, seconds, warnings = train(name, job["flags"], threads, keep=True)
    row = job | held_out(folder / "checkpoint", threads) | summarise(folder)
    shutil.rmtree(folder)
    return row | {"warnings": len(warnings), "seconds": seconds}


def all_jobs(args):
    """The model as it is, then seed by seed."""
    jobs = [{"method": "before", "lr": 0, "steps": 0, "seed": 0, "flags": {}}]
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for method in args.methods:
            for lr in args.lr:
                job = {"method": method, "lr": lr, "steps": args.steps, "seed": seed}
                flags = FLAGS | METHODS[method] | {"seed": seed, "lr": lr, "steps": args.steps}
                jobs.append(job | {"flags": flags})
    return jobs


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--lr", nargs="+", type=float, default=[RATE], help="learning rates")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    args = parser.parse_args()
    prepare(args.model)
    run = functools.partial(run_job, threads=args.threads)
    run_all(all_jobs(args), RESULTS / "smollm2.jsonl", args.jobs, run=run)


if __name__ == "__main__":
    main()
