"""What an evaluation finds and leaves behind; lib/eval_tables.py prints it.

    OUT              settings, versions, digests, and the table with every graded response, as JSON
    OUT.parts        while it runs: a line of settings, then one for the responses to each problem

A part is a few hundred responses: what is sampled in one go. Its lines reach the disk before the
next part begins, and the same command goes on behind them. Samples do not depend on the parts, and
all are graded at the end, so that an evaluation that was cut off ends in the same file as one that
was not.
"""

import datetime
import hashlib
import json
import os
import re
import statistics
from pathlib import Path

import torch

from lib.checkpoint import weights_digest
from lib.console import progress, short, warn
from lib.data import template_digest
from lib.distributed import world_size
from lib.equivalence import is_equivalent
from lib.estimates import interval, majority, paired, pass_at, powers, spread
from lib.run_folder import reward_digest, write_whole, writing

# The benchmarks of --preset paper: how a file's name says which it is; samples a problem.
PAPER = {
    "MATH-500": (r"math[-_]?500", 1),
    "AIME 2024": (r"aime[-_]?(20)?24", 32),
    "AIME 2025": (r"aime[-_]?(20)?25", 32),
    "OlympiadBench": (r"olympiad", 1),
}
VERIFIER = ("rewards.py", "lib/equivalence.py", "lib/latex.py", "lib/spelling.py")
# What may have changed when an evaluation goes on: responses are graded at its end.
MAY_DIFFER = {"slots", "out", "compare", "reward", "verifier", "settings", "date"}


def benchmark(file):
    """Which of PAPER a file is, by its name, or None.

    >>> benchmark("data/aime24.jsonl"), benchmark("AIME-2025_test.jsonl"), benchmark("amc23.jsonl")
    ('AIME 2024', 'AIME 2025', None)
    """
    stem = Path(file).stem.lower()
    return next((name for name, (form, _) in PAPER.items() if re.search(form, stem)), None)


def samples_of(files, preset, samples):
    """{file: samples a problem}. ValueError if --preset paper lacks a file, or has one too many."""
    if preset is None:
        return dict.fromkeys(files, samples)
    found = [benchmark(file) for file in files]
    missing = [name for name in PAPER if name not in found]
    if missing:
        wanted = "wanted math500.jsonl, aime24.jsonl, aime25.jsonl, olympiadbench.jsonl"
        raise ValueError(f"--preset paper: no file of {', '.join(missing)} in --data; {wanted}")
    for i, (file, name) in enumerate(zip(files, found, strict=True)):
        if name is None or name in found[:i]:
            what = "a second file of " + name if name else "none of its benchmarks"
            raise ValueError(f"--preset paper: {file} is {what}; wanted one file of each")
    return {file: samples or PAPER[benchmark(file)][1] for file in files}


# ---- One line of the table -----------------------------------------------------------------------


def summary(file, rows):
    """A file's line of the table, from the graded rows of its problems.

    Without any answer in the form that rewards.py looks for there is nothing to vote on: "majority"
    is None then, and otherwise counts 0 for a problem without an answer.
    """
    scores = [row["scores"] for row in rows]
    means = [statistics.mean(one) for one in scores]
    n, k, (between, within) = len(rows), len(scores[0]), spread(scores)
    votes = [majority(row["answers"], row["scores"], is_equivalent) for row in rows]
    voted = any(answer is not None for row in rows for answer in row["answers"])
    tokens = {True: [], False: []}
    for row in rows:
        for score, length in zip(row["scores"], row["lengths"], strict=True):
            tokens[score >= 1].append(length)
    return {
        "file": file,
        "n": n,
        "samples": k,
        "accuracy": statistics.mean(means),
        "interval": list(interval(scores)),
        "stderr": statistics.stdev(means) / n**0.5 if n > 1 else 0.0,
        "between": between,
        "within": within,
        "pass_at": {str(j): statistics.mean(pass_at(s, j) for s in scores) for j in powers(k)},
        "majority": statistics.mean(votes) if voted else None,
        "boxed": statistics.mean(x for row in rows for x in row["boxed"]),
        "truncated": statistics.mean(x for row in rows for x in row["truncated"]),
        "response_tokens": statistics.mean(tokens[True] + tokens[False]),
        "tokens_right": lengths(tokens[True]),
        "tokens_wrong": lengths(tokens[False]),
        "problems": rows,
    }


def lengths(tokens):
    """Mean and median of these numbers of tokens; None if there are none."""
    if not tokens:
        return None
    return {"mean": statistics.mean(tokens), "median": statistics.median(tokens)}


# ---- What it was made of -------------------------------------------------------------------------


def sha256(*files):
    """One SHA-256 of the contents of these files; of a single one, what sha256sum prints."""
    total = hashlib.sha256()
    for file in files:
        total.update(Path(file).read_bytes())
    return total.hexdigest()


def verifier_version():
    """Changes whenever the code of the verifier does."""
    root = Path(__file__).resolve().parent.parent
    return sha256(*(root / name for name in VERIFIER))[:16]


def describe_run(args, readers, device, dtype):
    """All that the responses and scores depend on. readers: {model: (tokenizer, template)}."""
    models = {}
    for path, (tokenizer, template) in readers.items():
        digest = template_digest(template, tokenizer)
        models[path] = {"weights": weights_digest(path), "template": digest}
    return {
        "settings": vars(args),
        "models": models,
        "data": {file: sha256(file) for file in args.data},
        "verifier": verifier_version(),
        "reward": reward_digest(args.reward),
        "dtype": "bf16" if dtype == torch.bfloat16 else "fp32",
        "device": str(device),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),  # chat templates may print it
    }


# ---- Parts ---------------------------------------------------------------------------------------


def parts_file(out):
    """Where the parts lie while the evaluation runs."""
    return Path(f"{out}.parts")


def begin(out, about):
    """Go on where an evaluation of this --out was cut off -> {(model, file, number): row} so far.

    about: as from describe_run; its date becomes that of the beginning. ValueError if the file of
    parts is of another evaluation.
    """
    path = parts_file(out)
    if out is None or not path.exists():
        return {}
    # What was cut off in the middle of a line was not finished. No split at U+2028: it may stand
    # inside a response.
    *whole, cut = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if not whole:
        path.unlink()  # cut off in its first line: nothing was finished
        return {}
    try:
        before, *lines = map(json.loads, whole)
        known = {(x["model"], x["file"], x["number"]): x["row"] for x in lines}
        changed = changes(before, about)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: damaged; wanted it as it was written, or no such file") from None
    if changed:
        wanted = "wanted the settings it began with, another --out, or no such file"
        raise ValueError(f"{path}: an evaluation that was cut off; {changed}; {wanted}")
    about["date"] = before["date"]
    if cut:
        write_whole(path, "".join(line + "\n" for line in whole))
    return known


def changes(before, about):
    """What makes it another evaluation, as text; empty if nothing does."""
    found = []
    for name in about["settings"].keys() - MAY_DIFFER:
        old, new = before["settings"].get(name), about["settings"][name]
        if old != new:
            flag = "--" + name.replace("_", "-")
            found.append(f"{flag} was {short(old)} and is {short(new)} now")
    for name in sorted(about.keys() - MAY_DIFFER):
        if not found and before[name] != about[name]:
            found.append(f"{name} was {short(before[name])} and is {short(about[name])} now")
    return "; ".join(sorted(found))


def append(out, about, model, file, rows):
    """A finished part, on to the disk. rows: {number of the problem in its file: responses}."""
    path = parts_file(out)
    lines = [] if path.exists() else [about]
    for number, row in rows.items():
        lines.append({"model": model, "file": file, "number": number, "row": row})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with writing(path), open(path, "a", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def finish(out, result):
    """Write the whole result, and take the parts away."""
    text = json.dumps(result, ensure_ascii=False, indent=1)
    write_whole(Path(out), text + "\n")
    parts_file(out).unlink(missing_ok=True)


def split(prompts, done, most):
    """The numbers of the prompts that are not done yet, in lists of about `most`.

    Equal prompts stay in one list, because the sampler numbers the samples of a prompt that stands
    twice.

    >>> split([[1], [2], [3], [2]], done={0}, most=1)
    [[1, 3], [2]]
    """
    twins, lists = {}, [[]]
    for number, prompt in enumerate(prompts):
        twins.setdefault(tuple(prompt), []).append(number)
    for numbers in twins.values():
        if len(lists[-1]) >= most:
            lists.append([])
        if not done >= set(numbers):
            lists[-1] += numbers
    return [numbers for numbers in lists if numbers]


def progress_of_parts(total):
    """A callback for the sampler, called part after part, that shows the progress of the whole.

    total: samples of all parts. Of several processes the first shows its own share.
    """
    show, before, total = progress("eval"), [0, 0], total // world_size()

    def on_progress(done, part, tokens=0):
        show(min(before[0] + done, total), total, before[1] + tokens)
        if done == part:
            before[:] = before[0] + done, before[1] + tokens

    return on_progress


# ---- Saved results -------------------------------------------------------------------------------

SAVED = {"id", "answer", "row", "responses", "scores", "lengths", "truncated"}


def read_result(flag, path):
    """The --out of an evaluation. ValueError in one line if the file is none."""
    wanted = "wanted the --out of eval.py"
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
        sound = isinstance(result["settings"], dict) and bool(result["table"])
        for line in result["table"]:
            sound = sound and {"model", "file", "samples", "problems"} <= line.keys()
            sound = sound and all(row.keys() >= SAVED for row in line["problems"])
    except OSError as e:
        raise ValueError(f"{flag} {path or repr('')}: {e.strerror}; {wanted}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(f"{flag} {path}: not in the form of a result; {wanted}")
    return result


def read_regrade(args):
    """The result in --regrade, with what is to be another one: --reward, --out, the verifier."""
    where = f"--regrade {args.regrade}"
    result = read_result("--regrade", args.regrade)
    for line in result["table"]:
        lacks = [row["id"] for row in line["problems"] if row["answer"] is None]
        if lacks and args.reward == "math":
            found = f"problem {lacks[0]} of {line['file']} has no answer"
            raise ValueError(f"{where}: {found}; wanted --reward FILE.py:function")
    given = {name: getattr(args, name) for name in ("reward", "regrade", "compare", "out")}
    result["settings"] |= given
    return result | {"verifier": verifier_version(), "reward": reward_digest(args.reward)}


def read_compare(args):
    """The result in --compare, None without it. ValueError if it is of other files."""
    if args.compare is None:
        return None
    other = read_result("--compare", args.compare)
    theirs = {Path(line["file"]).name for line in other["table"]}
    ours = {Path(file).name for file in args.data or ()}
    if ours and not ours & theirs:
        found = f"results on {', '.join(sorted(theirs))} only"
        raise ValueError(f"--compare {args.compare}: {found}; wanted one of the files in --data")
    return other


def compare(where, result, other):
    """Paired differences, a dict for each model and file of `result` that `other` has as well.

    Problems are the same where their whole JSONL rows are. If `other` holds several models, a model
    is compared with itself.
    """
    others, rows = {}, []
    models = {line["model"] for line in other["table"]}
    for line in other["table"]:
        others[line["model"], Path(line["file"]).name] = line
    for line in result["table"]:
        model = line["model"] if len(models) > 1 else next(iter(models))
        theirs = others.get((model, Path(line["file"]).name))
        ours, theirs = problem_means(line), problem_means(theirs) if theirs else {}
        both = [key for key in ours if key in theirs]
        if both:
            found = paired([ours[key] for key in both], [theirs[key] for key in both])
            rows.append({"model": line["model"], "file": line["file"], "other": model} | found)
    if not rows:
        found = "no model and problem in common"
        raise ValueError(f"{where}: {found}; wanted results on the same benchmarks")
    names = ("temperature", "top_p", "max_new_tokens", "prompt_template", "reward")
    settings = [(name, result["settings"].get(name), other["settings"].get(name)) for name in names]
    settings.append(("verifier", result.get("verifier"), other.get("verifier")))
    differ = [f"{name} {short(a)} and {short(b)}" for name, a, b in settings if a != b]
    if differ:
        warn(f"{where}: compared are results of different settings: {'; '.join(differ)}")
    return rows


def problem_means(line):
    """{a problem, as text: its mean score}, for a line of the table."""
    means = {}
    for row in line["problems"]:
        key, twins = json.dumps(row["row"], sort_keys=True), 0
        while (key, twins) in means:
            twins += 1
        means[key, twins] = sum(row["scores"]) / len(row["scores"])
    return means
