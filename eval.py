"""Evaluation: how often a model's sampled answers are right, on JSONL benchmarks.

    python eval.py --model DIR [DIR ...] --data math500.jsonl aime24.jsonl --samples 32 --out o.json
    python eval.py --model DIR --data math500.jsonl aime24.jsonl aime25.jsonl olympiadbench.jsonl \\
        --preset paper --out paper.json              # the settings of the paper's Table 1
    python eval.py --regrade o.json --compare paper.json       # saved responses, without a model
    torchrun --nproc-per-node 8 eval.py --model DIR --data math500.jsonl

k samples of each of n problems are drawn and graded:

    avg@k     the share of right ones, averaged over the problems; its interval is over problems
    pass@j    the chance that one of j samples is right, for j = 1, 2, 4, ... k
    maj@k     whether the answer with the most votes is right        (all three: lib/estimates.py)

The authors report avg@1 on MATH-500 and OlympiadBench and avg@32 on AIME, at temperature 1 and
top-p 0.7 (paper, section 5). With --out every finished part is saved, and the same command goes on
where it was cut off (lib/evaluation.py).
"""

import lib  # noqa: F401, I001  before torch: it sets how torch's threads wait

import functools
from datetime import datetime

import torch

from lib import console, data, distributed, evaluation
from lib.checkpoint import read_config
from lib.eval_tables import report
from lib.evaluation import summary
from lib.fast import choose_device
from lib.settings import eval_args
from lib.tokenizer import Tokenizer
from model import load_model
from rewards import extract, load_reward
from rollout import generate_together

SETTINGS = ("seed", "temperature", "top_p", "max_new_tokens", "slots")
PART = {"cpu": 256, "cuda": 1024}  # responses between two savings; each part ends with a slow tail


def evaluate(
    model,
    tokenizer,
    problems,
    prompts,
    *,
    grade,
    samples=1,
    seed=0,
    done=None,
    save=None,
    **sampling,
):
    """Sample and grade -> one dict a file, with the graded responses of each of its problems.

    problems as from load_problems, prompts their token ids, grade(response, problem) -> [0, 1];
    sampling goes to generate. done: {number of a problem: its responses}, from before; save(such a
    dict) is called after each part. Several processes share the sampling; process 0 saves and
    grades, the others get None.
    """
    rows, most = dict(done or {}), len(prompts)
    if save:
        most = max(1, PART[model.device.type] * distributed.world_size() // samples)
    for numbers in evaluation.split(prompts, rows.keys(), most):
        rollouts = generate_together(
            model,
            [prompts[i] for i in numbers],
            samples_per_prompt=samples,
            stop_ids=tokenizer.eos_ids,
            seed=f"eval {seed}",
            **sampling,
        )
        part = {}
        for place, i in enumerate(numbers):
            mine = rollouts[place * samples : (place + 1) * samples]
            part[i] = {
                "responses": [tokenizer.decode(r.response_ids, skip_special=True) for r in mine],
                "lengths": [len(r.response_ids) for r in mine],
                "truncated": [not r.finished for r in mine],
            }
        if save and distributed.rank() == 0:
            save(part)
        rows |= part
    if distributed.rank() > 0:
        return None
    # Grading comes last: a response on which a reward function fails costs no samples.
    files = {}
    for i, problem in enumerate(problems):
        row = graded(problem, rows[i]["responses"], grade) | rows[i]
        files.setdefault(problem["file"], []).append(row)
    return [summary(file, rows) for file, rows in files.items()]


def graded(problem, responses, grade):
    """Responses of a problem with what was made of them."""
    found = [extract(text) for text in responses]
    return {
        "id": problem["id"],
        "answer": problem["answer"],
        "row": problem["row"],
        "responses": responses,
        "answers": [answer for answer, _ in found],
        "boxed": [step == "last box" for _, step in found],
        "scores": [grade(text, problem) for text in responses],
    }


def set_up(args):
    """Check what can be wrong, cheapest first -> grade, {file: problems}, {file: samples a
    problem}, {model: (tokenizer, template)}, device, dtype."""
    grade, need_answer = load_reward(args.reward), args.reward == "math"
    samples = evaluation.samples_of(args.data, args.preset, args.samples)
    files = {file: data.load_problems([file], need_answer)[: args.limit] for file in samples}
    every, readers = [problem for some in files.values() for problem in some], {}
    for path in args.model:
        read_config(path)
        tokenizer = Tokenizer.from_pretrained(path)
        readers[path] = tokenizer, data.choose_template(args.prompt_template, tokenizer, every)
    device, dtype = choose_device(distributed.local_device(args.device), args.dtype)
    return grade, files, samples, readers, device, dtype


def measure(args):
    """Sample and grade all models on all files -> (what they depend on, the lines of the table).

    With several processes both are those of the first.
    """
    grade, files, samples, readers, device, dtype = set_up(args)
    about, known = {}, {}  # (model, file, number of a problem) -> row, from before it was cut off
    if distributed.rank() == 0:
        about = evaluation.describe_run(args, readers, device, dtype)
        known = evaluation.begin(args.out, about)
    distributed.join(device)
    # All processes sample the same problems, with the date in their prompts that the first has.
    date, keys = distributed.all_gather([about.get("date"), [*known]])[0]
    known = {tuple(key): known.get(tuple(key)) for key in keys}
    todo = len(readers) * sum(samples[file] * len(files[file]) for file in files)
    todo -= sum(samples[file] for _, file, _ in known)
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings |= {"grade": grade, "on_progress": evaluation.progress_of_parts(todo)}
    table = []
    for path, (tokenizer, template) in readers.items():
        tokenizer.now = datetime.fromisoformat(date)
        model, limit = load_model(path, device, dtype), args.max_prompt_tokens
        for file, problems in files.items():
            prompts = [data.prompt_ids(p, tokenizer, template, limit) for p in problems]
            done = {i: row for (*of, i), row in known.items() if of == [path, file]}
            save = args.out and functools.partial(evaluation.append, args.out, about, path, file)
            parts = {"samples": samples[file], "done": done, "save": save}
            found = evaluate(model, tokenizer, problems, prompts, **parts, **settings)
            table += [{"model": path} | line for line in found or ()]
        del model  # before the next one is loaded
    return about, table


def regrade(args):
    """Saved responses under the present verifier, or another --reward -> as measure."""
    grade = load_reward(args.reward)
    about, table = evaluation.read_regrade(args), []
    for line in about.pop("table"):
        file, rows = line["file"], []
        for row in line["problems"]:
            rows.append(row | graded(row | {"file": file}, row["responses"], grade))
        table.append({"model": line["model"]} | summary(file, rows))
    return about, table


def main(argv=None):
    """Sample or read, grade, print the tables, save."""
    args = eval_args(argv)
    try:
        if args.out is not None:
            console.check_file("--out", args.out)
        other = evaluation.read_compare(args)
        about, table = measure(args) if args.regrade is None else regrade(args)
        if distributed.rank() == 0:
            report(args, about, table, other)
    except (ValueError, OSError) as e:
        console.die("eval.py", e)
    except torch.OutOfMemoryError as e:
        advice = "lower --slots or --max-new-tokens"
        console.die("eval.py", f"out of GPU memory: {advice} ({e})", code=1)
    except KeyboardInterrupt:
        kept = "the same command goes on from what is saved" if args.out else "nothing is saved"
        console.die("eval.py", f"stopped; {kept}", code=130)
    return 0


if __name__ == "__main__":
    distributed.leave(main())
