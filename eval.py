"""Evaluation: how often a model's sampled answers are right, on JSONL benchmarks.

    python eval.py --model DIR --data math500.jsonl              # one sample a problem
    python eval.py --model DIR --data aime24.jsonl --samples 32 --out aime.json
    torchrun --nproc-per-node 8 eval.py --model DIR --data math500.jsonl

avg@k is the share of right answers among k samples, averaged over the problems. The authors report
avg@1 on MATH-500 and OlympiadBench and avg@32 on AIME, at temperature 1 and top-p 0.7 (paper,
section 5). "+-" is one standard error over problems.
"""

import lib  # noqa: F401, I001  before torch: it sets how torch's threads wait

import json
import statistics
import time
from pathlib import Path

import torch

from lib import console, data, distributed
from lib.checkpoint import read_config
from lib.console import progress
from lib.fast import choose_device
from lib.settings import eval_args
from lib.tokenizer import Tokenizer
from model import load_model
from rewards import extract_answer, load_reward
from rollout import generate_together


def evaluate(model, tokenizer, problems, prompts, *, grade, samples=1, seed=0, **sampling):
    """Sample and grade -> one dict a file, with the graded responses of each of its problems.

    problems as from load_problems, prompts their token ids, grade(response, problem) -> [0, 1];
    sampling goes to generate. Several processes share the sampling; process 0 grades, the others
    get None.
    """
    rollouts = generate_together(
        model,
        prompts,
        samples_per_prompt=samples,
        stop_ids=tokenizer.eos_ids,
        seed=f"eval {seed}",
        **sampling,
    )
    if distributed.rank() > 0:
        return None
    files = {}
    for i, problem in enumerate(problems):
        mine = rollouts[i * samples : (i + 1) * samples]
        responses = [tokenizer.decode(r.response_ids, skip_special=True) for r in mine]
        files.setdefault(problem["file"], []).append({
            "id": problem["id"],
            "answer": problem["answer"],
            "responses": responses,
            "answers": [extract_answer(text) for text in responses],
            "scores": [grade(text, problem) for text in responses],
            "lengths": [len(r.response_ids) for r in mine],
            "truncated": [not r.finished for r in mine],
        })  # fmt: skip
    return [summary(file, rows) for file, rows in files.items()]


def summary(file, rows):
    """The means over a file's problems."""
    means = [statistics.mean(row["scores"]) for row in rows]  # of each problem
    n, spread = len(rows), statistics.stdev(means) if len(rows) > 1 else 0.0
    return {
        "file": file,
        "n": n,
        "accuracy": statistics.mean(means),
        "stderr": spread / n**0.5,
        "response_tokens": statistics.mean(x for row in rows for x in row["lengths"]),
        "truncated": statistics.mean(x for row in rows for x in row["truncated"]),
        "problems": rows,
    }


def format_table(table, samples):
    """The lines a person reads, one a file."""
    names = [Path(row["file"]).name for row in table]
    width = max(map(len, [*names, "file"]))
    score = f"avg@{samples}"
    lines = [f"{'file':<{width}}  problems  {score:>8}      +-   tokens     cut"]
    for name, row in zip(names, table, strict=True):
        lines.append(
            f"{name:<{width}}  {row['n']:>8}  {row['accuracy']:>8.1%}  {row['stderr']:>6.1%}  "
            f"{row['response_tokens']:>7.1f}  {row['truncated']:>6.1%}"
        )
    return "\n".join(lines)


def describe(row):
    """The line that a training run prints: one row of the table, and its first response."""
    shown = row["problems"][0]
    verdict = "right" if shown["scores"][0] else "wrong"
    return (
        f"eval  {Path(row['file']).name}: {row['accuracy']:.1%} of {row['n']} right, "
        f"{row['response_tokens']:.1f} tokens, {row['truncated']:.1%} cut\n"
        f"      {shown['id']}: {console.short(shown['responses'][0])} {verdict}"
    )


def set_up(args):
    """Check what can be wrong, cheapest first -> model, tokenizer, problems, prompts, grade."""
    grade = load_reward(args.reward)
    problems = data.load_problems(args.data, need_answer=args.reward == "math")
    if args.out is not None:
        console.check_file("--out", args.out)
    read_config(args.model)
    tokenizer = Tokenizer.from_pretrained(args.model)
    template = data.choose_template(args.prompt_template, tokenizer, problems)
    device, dtype = choose_device(distributed.local_device(args.device), args.dtype)
    limit = args.max_prompt_tokens
    prompts = [data.prompt_ids(p, tokenizer, template, limit) for p in problems]
    distributed.join(device)
    return load_model(args.model, device, dtype), tokenizer, problems, prompts, grade


def main(argv=None):
    """Set up, sample, grade, print the table."""
    args, start = eval_args(argv), time.time()
    try:
        model, tokenizer, problems, prompts, grade = set_up(args)
        table = evaluate(
            model,
            tokenizer,
            problems,
            prompts,
            grade=grade,
            samples=args.samples,
            seed=args.seed,
            temperature=args.temperature,
            top_p=args.top_p,
            max_new_tokens=args.max_new_tokens,
            slots=args.slots,
            on_progress=progress("eval"),
        )
    except (ValueError, OSError) as e:
        console.die("eval.py", e)
    except torch.OutOfMemoryError as e:
        advice = "lower --slots or --max-new-tokens"
        console.die("eval.py", f"out of GPU memory: {advice} ({e})", code=1)
    if distributed.rank() > 0:
        return 0
    print(format_table(table, args.samples))
    if args.out:
        seconds = round(time.time() - start, 1)
        result = {"settings": vars(args), "seconds": seconds, "table": table}
        text = json.dumps(result, ensure_ascii=False, indent=1)
        Path(args.out).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    distributed.leave(main())
