"""The tables that eval.py prints, from the lines that lib/evaluation.py makes and keeps.

describe             the line of an evaluation during training
report               all that an evaluation prints at its end; it also writes --out
format_table         one line a file and model: avg@k with its interval, maj@k, lengths, ...
format_more          where k > 1: pass@j, deviations between and within problems, medians
format_paper         --preset paper: the benchmarks side by side
format_comparison    --compare
"""

from pathlib import Path

from lib.console import short
from lib.evaluation import PAPER, benchmark, compare, finish
from lib.run_folder import run_name

SIDES = ("tokens_right", "tokens_wrong")


def describe(row):
    """The line that a training run prints: one row of the table, and its first response. In
    brackets the 95% interval over problems."""
    shown = row["problems"][0]
    verdict = "right" if shown["scores"][0] else "wrong"
    return (
        f"eval  {Path(row['file']).name}: {row['accuracy']:.1%} of {row['n']} right "
        f"({between(*row['interval'])}), "
        f"{row['response_tokens']:.1f} tokens, {row['truncated']:.1%} cut\n"
        f"      {shown['id']}: {short(shown['responses'][0])} {verdict}"
    )


def report(args, about, table, other):
    """Print the tables, write --out, compare with `other`, a result or None.

    about: all of the result but its table.
    """
    print(format_table(table))
    if about["settings"].get("preset"):
        print(f"\n{format_paper(table)}")
    if args.out:
        finish(args.out, about | {"table": table})
    if other:
        rows = compare(f"--compare {args.compare}", about | {"table": table}, other)
        print(f"\n{format_comparison(rows, args.compare)}")
        if args.out:
            finish(args.out, about | {"comparison": rows, "table": table})


def columns(lines):
    """Lists of texts -> one text, columns one above the other, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        rows.append("  ".join(cells))
    return "\n".join(rows)


def percent(share):
    """A share in percent, a dash for None."""
    return "-" if share is None else f"{share:.1%}"


def between(low, high):
    """An interval of shares in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def model_names(table):
    """{model: a short name}, the folder's path where two would be called the same."""
    models = list(dict.fromkeys(line["model"] for line in table))
    short = [run_name(model) for model in models]
    return dict(zip(models, short if len(set(short)) == len(short) else models, strict=True))


def line_names(table):
    """What stands at the beginning of each line: the file, after its model if there are several."""
    models, names = model_names(table), []
    for line in table:
        model = f"{models[line['model']]}  " if len(models) > 1 else ""
        names.append(model + Path(line["file"]).name)
    return names


def format_table(table):
    """The lines a person reads: one a file and model, and where k > 1 pass@k and more below."""
    ks = sorted({line["samples"] for line in table})
    k = ks[0] if len(ks) == 1 else "k"
    names = line_names(table)
    head = ["file", "problems", "k", f"avg@{k}", "95% interval", f"maj@{k}", "boxed", "cut"]
    lines = [[*head, "tokens", "right", "wrong"]]
    for name, line in zip(names, table, strict=True):
        counts = [str(line["n"]), str(line["samples"]), percent(line["accuracy"])]
        shares = [percent(line[key]) for key in ("majority", "boxed", "truncated")]
        tokens = [f"{line['response_tokens']:.1f}"]
        tokens += [f"{line[of]['mean']:.1f}" if line[of] else "-" for of in SIDES]
        lines.append([name, *counts, between(*line["interval"]), *shares, *tokens])
    if ks == [1]:
        return columns(lines)
    return columns(lines) + "\n\n" + format_more(names, table)


def format_more(names, table):
    """pass@k, standard deviations between and within problems, median tokens."""
    powers = sorted({int(j) for line in table for j in line["pass_at"]})
    head = ["file", *(f"pass@{j}" for j in powers)]
    lines = [[*head, "sd between", "sd within", "median right", "median wrong"]]
    for name, line in zip(names, table, strict=True):
        cells = [percent(line["pass_at"].get(str(j))) for j in powers]
        for part in ("between", "within"):
            cells.append("-" if line[part] is None else f"{line[part] ** 0.5:.3f}")
        for of in SIDES:
            cells.append(f"{line[of]['median']:.0f}" if line[of] else "-")
        lines.append([name, *cells])
    return columns(lines)


def format_paper(table):
    """The four benchmarks side by side and their mean, in percent, as in the paper's Table 1."""
    models = {}
    for line in table:
        models.setdefault(line["model"], {})[benchmark(line["file"])] = line
    names, some = model_names(table), next(iter(models.values()))
    lines = [["model", *(f"{name} avg@{some[name]['samples']}" for name in PAPER), "mean"]]
    for model, found in models.items():
        shares = [100 * found[name]["accuracy"] for name in PAPER]
        shares.append(sum(shares) / len(shares))
        lines.append([names[model], *(f"{share:.1f}" for share in shares)])
    return columns(lines)


def format_comparison(rows, path):
    """Differences to the results in the file `path`, one line a file and model."""
    head = ["difference", "problems", "ours - theirs", "95% interval", "p", "won", "lost", "tied"]
    lines = [[*head, "detectable"]]
    for name, row in zip(line_names(rows), rows, strict=True):
        counts = [str(row[key]) for key in ("won", "lost", "tied")]
        figures = [f"{row['difference']:+.1%}", between(*row["interval"]), f"{row['p']:.3g}"]
        lines.append([name, str(row["n"]), *figures, *counts, percent(row["detectable"])])
    return f"against {path}:\n{columns(lines)}"
