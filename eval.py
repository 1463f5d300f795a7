"""Evaluation: how often a model's sampled answers are right, on JSONL benchmarks.

    python eval.py --model DIR --data math500.jsonl [more.jsonl ...]                     # temperature 1, top-p 0.7, one sample a problem
    python eval.py --model DIR --data aime24.jsonl --samples 32 --out aime.json          # avg@32
    python eval.py --model DIR --data gsm8k_test.jsonl --temperature 0                   # greedy
    torchrun --nproc-per-node 8 eval.py --model DIR --data math500.jsonl                 # the same on 8 GPUs, each with the whole model

avg@k is the share of right answers among k samples, averaged over the problems: an unbiased estimate of the accuracy of one sample. The
authors report avg@1 on MATH-500 and OlympiadBench and avg@32 on AIME, with temperature 1 and top-p 0.7 (paper, section 5).
The +- printed is one standard error over problems.
"""

import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch loads: threads that wait for each other soon go to sleep. Spinning on, as they
# do by default, made a step of the demo five times as slow on two cores beside one other busy program.

import data
import model as transformer
import several
from data import die, ranged
from rewards import extract_answer, score
from tokenizer import Tokenizer


def evaluate(model, tokenizer, problems, prompts, *, samples=1, temperature=1.0, top_p=0.7, max_new_tokens, seed=0, slots=None, on_progress=None):
    """Sample and grade -> one dict a file, {"file", "n", "accuracy", "stderr", "response_tokens", "truncated", "problems"}, in order.

    problems as from data.load_problems, prompts their token ids. "problems" holds, for each, its id, answer, and the samples' responses,
    extracted answers, scores and lengths. Several processes share the sampling; process 0 grades, the others get None.
    """
    rollouts = several.sample(model, prompts, samples_per_prompt=samples, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
                              stop_ids=tokenizer.eos_ids, seed=f"eval {seed}", slots=slots, on_progress=on_progress)
    if several.rank():
        return None
    files = {}
    for i, problem in enumerate(problems):
        mine = rollouts[i * samples : (i + 1) * samples]
        texts = [tokenizer.decode(r.response_ids, skip_special=True) for r in mine]
        files.setdefault(problem["file"], []).append({
            "id": problem["id"], "answer": problem["answer"], "responses": texts, "answers": [extract_answer(t) for t in texts],
            "scores": [score(t, problem["answer"]) for t in texts], "lengths": [len(r.response_ids) for r in mine],
            "truncated": [not r.finished for r in mine]})
    table = []
    for file, rows in files.items():
        means = [sum(r["scores"]) / samples for r in rows]
        n, accuracy = len(rows), sum(means) / len(rows)
        stderr = (sum((m - accuracy) ** 2 for m in means) / max(n - 1, 1) / n) ** 0.5
        table.append({"file": file, "n": n, "accuracy": accuracy, "stderr": stderr,
                      "response_tokens": sum(sum(r["lengths"]) for r in rows) / (n * samples),
                      "truncated": sum(sum(r["truncated"]) for r in rows) / (n * samples), "problems": rows})
    return table


def format_table(table, samples):
    """The lines a person reads: one a file."""
    width = max([len(Path(row["file"]).name) for row in table] + [len("file")])
    lines = [f"{'file':<{width}}  {'problems':>8}  {f'avg@{samples}':>8}  {'+-':>6}  {'tokens':>7}  {'cut':>6}"]
    for row in table:
        lines.append(f"{Path(row['file']).name:<{width}}  {row['n']:>8}  {row['accuracy']:>8.1%}  {row['stderr']:>6.1%}  "
                     f"{row['response_tokens']:>7.1f}  {row['truncated']:>6.1%}")
    return "\n".join(lines)


def parse_args(argv):
    """The flags -> a namespace."""
    parser = data.Parser(prog="eval.py", description="Accuracy of a checkpoint folder on JSONL benchmarks.")
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--data", required=True, nargs="+", metavar="FILE", help="JSONL files of problems")
    parser.add_argument("--samples", type=ranged(int, 1), default=1, metavar="K", help="samples a problem (default 1)")
    parser.add_argument("--temperature", type=ranged(float, 0), default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-p", type=ranged(float, above=0, most=1), default=0.7, help="nucleus (default 0.7)")
    parser.add_argument("--max-prompt-tokens", type=ranged(int, 1), default=2048, help="cut prompts on the left (default 2048)")
    parser.add_argument("--max-new-tokens", type=ranged(int, 1), default=4096, help="response limit (default 4096)")
    parser.add_argument("--prompt-template", metavar="FILE|chat|plain", help="default: chat where the tokenizer has a chat template")
    parser.add_argument("--seed", type=int, default=0, help="(default 0)")
    parser.add_argument("--slots", type=ranged(int, 1), help="rows decoded together (default: as memory allows)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="auto: bf16 on cuda, fp32 on cpu")
    parser.add_argument("--out", metavar="FILE.json", help="write settings, table and every graded sample here")
    return parser.parse_args(argv)


def check_out(out):
    """Whether hours of samples will find a place."""
    if not out.name or out.is_dir():
        raise ValueError(f"--out {out}: a folder; wanted the name of a file")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: no such folder {out.parent}; wanted a file in a folder that exists")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as e:
        raise ValueError(f"--out {out}: {e.strerror}; wanted a file that can be written") from None


def main(argv=None):
    """Check what can be wrong, load, sample, grade, print the table."""
    args = parse_args(argv)
    try:
        problems = data.load_problems(args.data)
        if args.out is not None:
            check_out(Path(args.out))
        transformer.read_config(args.model)
        tokenizer = Tokenizer.from_pretrained(args.model)
        template = data.choose_template(args.prompt_template, tokenizer, problems)
        device, dtype = transformer.choose_device(several.local_device(args.device), args.dtype)
        prompts = [data.prompt_ids(p, tokenizer, template, args.max_prompt_tokens) for p in problems]
        several.join(device)
        model = transformer.load_model(args.model, device=device, dtype=dtype)
    except (ValueError, OSError) as e:
        die("eval.py", e)
    start = time.time()
    with several.memory("eval.py", "sampling", "lower --slots or --max-new-tokens"):
        table = evaluate(model, tokenizer, problems, prompts, samples=args.samples, temperature=args.temperature, top_p=args.top_p,
                         max_new_tokens=args.max_new_tokens, seed=args.seed, slots=args.slots, on_progress=several.watch("eval"))
    if several.rank():
        return 0
    print(format_table(table, args.samples))
    if args.out:
        result = {"settings": vars(args), "seconds": round(time.time() - start, 1), "table": table}
        Path(args.out).write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    several.leave(main())
