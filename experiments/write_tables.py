"""results/*.jsonl -> the tables in README.md, results/tables.md, and the plots.

    python experiments/write_tables.py

In README.md a table stands between <!-- NAME --> and <!-- end -->; what is between is replaced, the
text around it is left alone. The plots need matplotlib; without it they are left as they are.
"""

import re
from statistics import mean

import tables
from launch import HERE, RESULTS, read_jsonl

SHOWN = {  # method: colour in the plots
    "default": "tab:blue",
    "local": "tab:green",
    "value_only": "tab:orange",
    "grpo": "tab:red",
}
NAMES = {"td": "td", "A_0.5": "A, lambda 0.5", "A_0.95": "A, lambda 0.95", "A_1": "A, lambda 1"}


def all_tables():
    """{name: Markdown} of all that there are rows for."""
    compare, credit = read_jsonl(RESULTS / "compare.jsonl"), read_jsonl(RESULTS / "credit.jsonl")
    found = {}
    if compare:
        for task in tables.present(compare, "task"):
            found[f"difference {task}"] = tables.differences(compare, task)
            found[f"speed {task}"] = tables.differences(compare, task, "mean")
        found["over tasks"] = tables.over_tasks(compare)
        found["collapses"] = tables.collapses(compare)
        found["everything"] = tables.everything(compare)
    for task in dict.fromkeys(row["task"] for row in credit):
        found[f"credit {task}"] = tables.correlations(credit, task)
        found[f"faults {task}"] = tables.faults_and_values(credit, task)
    for name in ("tuning", "smollm2", "defaults"):
        rows = read_jsonl(RESULTS / f"{name}.jsonl")
        if rows:
            found[name] = getattr(tables, name)(rows)
    return found


def fill(text, found):
    """Put each table between its two marks; ValueError for a mark without an end."""
    for name, content in found.items():
        mark = f"<!-- {name} -->"
        if mark in text:
            if "<!-- end -->" not in text.partition(mark)[2]:
                raise ValueError(f"README.md: {mark} has no end; wanted <!-- end --> after it")
            pattern = re.escape(mark) + r".*?<!-- end -->"
            block = f"{mark}\n{content}\n<!-- end -->"
            text = re.sub(pattern, lambda _, block=block: block, text, flags=re.S)
    return text


# --------------------------------------------------------------------------------------------------
# Plots


def plot_curves(plt, rows, task):
    """Held-out accuracy over steps, a panel for each condition: seeds thin, their mean thick."""
    rows = [row for row in rows if row["task"] == task]
    conditions = tables.present(rows, "condition")
    size = 3 * len(conditions), 2.8
    figure, _ = plt.subplots(1, len(conditions), figsize=size, sharey=True)
    for axis, condition in zip(figure.axes, conditions, strict=True):
        for method, colour in SHOWN.items():
            wanted = condition, method
            chosen = [row for row in rows if (row["condition"], row["method"]) == wanted]
            for row in chosen:
                axis.plot(row["eval_steps"], row["accuracy"], color=colour, lw=0.5, alpha=0.6)
            if chosen:
                middle = [mean(values) for values in zip(*[row["accuracy"] for row in chosen],
                                                          strict=True)]  # fmt: skip
                axis.plot(chosen[0]["eval_steps"], middle, color=colour, lw=2, label=method)
        axis.set_title(f"{task}, {condition}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out accuracy", fontsize=8)
    figure.axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / f"curves_{task}.svg")
    plt.close(figure)


def plot_credit(plt, rows, task):
    """Correlation with the Monte-Carlo advantage over beta, a panel for each step."""
    points = {key: value for key, value in tables.checkpoints(rows).items()
              if key[0] == task and key[1] == "default"}  # fmt: skip
    steps = sorted({key[3] for key in points})
    figure, _ = plt.subplots(1, len(steps), figsize=(3 * len(steps), 2.8), sharey=True)
    for axis, step in zip(figure.axes, steps, strict=True):
        betas = sorted({key[2] for key in points if key[3] == step})
        for name, label in NAMES.items():
            seeds = [[p["correlation"][name] for p in points[task, "default", beta, step]]
                     for beta in betas]  # fmt: skip
            (line,) = axis.plot(betas, [mean(x) for x in seeds], lw=2, label=label)
            for beta, values in zip(betas, seeds, strict=True):
                axis.plot([beta] * len(values), values, ".", ms=3, color=line.get_color())
        axis.set_xscale("log")
        axis.axhline(0, color="black", lw=0.5)
        axis.set_title(f"{task}, step {step}", fontsize=9)
        axis.set_xlabel("beta", fontsize=8)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("correlation with Monte-Carlo", fontsize=8)
    figure.axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / f"credit_{task}.svg")
    plt.close(figure)


def plots():
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: the plots stay as they are")
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vimpo"  # the same rows give the same file
    import matplotlib.pyplot as plt

    compare, credit = read_jsonl(RESULTS / "compare.jsonl"), read_jsonl(RESULTS / "credit.jsonl")
    for task in dict.fromkeys(row["task"] for row in compare):
        plot_curves(plt, compare, task)
    for task in dict.fromkeys(row["task"] for row in credit):
        plot_credit(plt, credit, task)


def main():
    found = all_tables()
    parts = [f"## {name}\n\n{content}\n" for name, content in found.items()]
    text = "# All tables\n\nMade by write_tables.py from the rows beside this file.\n\n"
    (RESULTS / "tables.md").write_text(text + "\n".join(parts), encoding="utf-8")
    readme = HERE / "README.md"
    if readme.exists():
        before = readme.read_text(encoding="utf-8")
        readme.write_text(fill(before, found), encoding="utf-8")
    plots()


if __name__ == "__main__":
    main()
