"""Rows of results/*.jsonl -> tables in Markdown. write_tables.py puts them in their places."""

from statistics import mean

from intervals import iqm, paired, stratified_bootstrap, student

DASH = "-"


def table(head, rows):
    """A Markdown table of text cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(x, digits=1):
    return DASH if x is None else f"{100 * x:.{digits}f}"


def number(x, digits=2):
    return DASH if x is None else f"{x:.{digits}f}"


def plus_minus(center, half, scale=100, digits=1):
    """12.3 +- 0.4, with a star if the interval does not hold 0."""
    if center is None:
        return DASH
    if half is None:
        return f"{scale * center:+.{digits}f}"
    star = "*" if abs(center) > half else ""
    return f"{scale * center:+.{digits}f} ± {scale * half:.{digits}f}{star}"


def by_seed(rows, key, **wanted):
    """{seed: row[key]} of the rows that have these values."""
    chosen = [row for row in rows if all(row[name] == x for name, x in wanted.items())]
    return {row["seed"]: row[key] for row in chosen}


def present(rows, key):
    """The values of a key in the order in which they first occur."""
    return list(dict.fromkeys(row[key] for row in rows))


# --------------------------------------------------------------------------------------------------
# compare.jsonl


def differences(rows, task, key="final", against="grpo"):
    """Methods x conditions: accuracy of `against`, then each method's paired difference from it."""
    rows = [row for row in rows if row["task"] == task]
    conditions = present(rows, "condition")
    lines = []
    for method in [against, *[m for m in present(rows, "method") if m != against]]:
        cells = [method]
        for condition in conditions:
            ours = by_seed(rows, key, method=method, condition=condition)
            theirs = by_seed(rows, key, method=against, condition=condition)
            if method == against:
                cells.append(f"{percent(mean(ours.values()))} (n {len(ours)})" if ours else DASH)
            else:
                center, half, _ = paired(ours, theirs)
                cells.append(plus_minus(center, half))
        lines.append(cells)
    return table([f"{task}: {key}", *conditions], lines)


def everything(rows):
    """One line for each task, condition and method."""
    head = ["task", "condition", "method", "lr", "seeds", "final %", "IQM %", "95%"]
    head += ["mean of run %", "final - GRPO", "KL at end", "collapsed"]
    lines = []
    for task in present(rows, "task"):
        for condition in present(rows, "condition"):
            for method in present(rows, "method"):
                wanted = {"task": task, "condition": condition, "method": method}
                final = by_seed(rows, "final", **wanted)
                if not final:
                    continue
                values = list(final.values())
                low, high = stratified_bootstrap([values], mean)
                grpo = by_seed(rows, "final", **wanted | {"method": "grpo"})
                kl = [row[-1] for row in by_seed(rows, "kl", **wanted).values()]
                flags = next(iter(by_seed(rows, "flags", **wanted).values()))
                collapsed = sum(by_seed(rows, "collapsed", **wanted).values())
                area = by_seed(rows, "mean", **wanted).values()
                lines.append([
                    task, condition, method, f"{flags['lr']:g}", str(len(values)),
                    percent(mean(values)), percent(iqm(values)),
                    f"{percent(low)} to {percent(high)}", percent(mean(area)),
                    plus_minus(*paired(final, grpo)[:2]) if method != "grpo" else "",
                    number(mean(kl), 4), f"{collapsed}/{len(values)}",
                ])  # fmt: skip
    return table(head, lines)


def over_tasks(rows):
    """Methods x conditions: IQM over all tasks and seeds, seeds redrawn within a task."""
    conditions, tasks = present(rows, "condition"), present(rows, "task")
    lines = []
    for method in present(rows, "method"):
        cells = [method]
        for condition in conditions:
            strata = []
            for task in tasks:
                found = by_seed(rows, "final", task=task, condition=condition, method=method)
                strata.append(list(found.values()))
            if not all(strata):
                cells.append(DASH)
                continue
            low, high = stratified_bootstrap(strata, iqm)
            middle = iqm([x for values in strata for x in values])
            cells.append(f"{percent(middle)} ({percent(low)} to {percent(high)})")
        lines.append(cells)
    return table(["IQM of final %", *conditions], lines)


def collapses(rows):
    """Methods x conditions: runs that end below their start, of all runs."""
    conditions = present(rows, "condition")
    lines = []
    for method in present(rows, "method"):
        cells = [method]
        for condition in conditions:
            found = [row["collapsed"] for row in rows
                     if row["method"] == method and row["condition"] == condition]  # fmt: skip
            cells.append(f"{sum(found)}/{len(found)}" if found else DASH)
        lines.append(cells)
    return table(["collapsed", *conditions], lines)


def tuning(rows):
    """Task x method: mean accuracy of the run at each learning rate; the best one in bold."""
    rates = sorted(present(rows, "lr"))
    lines = []
    for task in present(rows, "task"):
        for method in present(rows, "method"):
            found = []
            for lr in rates:
                values = by_seed(rows, "mean", task=task, method=method, lr=lr).values()
                found.append(mean(values) if values else None)
            tried = [x for x in found if x is not None]
            if tried:
                cells = [f"**{percent(x)}**" if x == max(tried) else percent(x) for x in found]
                lines.append([task, method, *cells])
    return table(["task", "method", *[f"lr {lr:g}" for lr in rates]], lines)


# --------------------------------------------------------------------------------------------------
# credit.jsonl


def over_seeds(values, digits=2):
    """Mean +- half width over the seeds that have a value."""
    values = [x for x in values if x is not None]
    if not values:
        return DASH
    center, half = student(values)
    return f"{center:.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")


def checkpoints(rows):
    """{(task, method, beta, step): [measurements of each seed]}."""
    found = {}
    for row in rows:
        for point in row["checkpoints"]:
            key = row["task"], row["method"], row["beta"], point["step"]
            found.setdefault(key, []).append(point)
    return dict(sorted(found.items(), key=lambda item: str(item[0][:2]) + f"{item[0][2:]}"))


def correlations(rows, task):
    """Correlation with the Monte-Carlo advantage, by beta and step."""
    names = ["td", "A_0.5", "A_0.9", "A_0.95", "A_1", "broadcast"]
    head = ["trained by", "step", "seeds", *names, "most for broadcast", "most with 64 samples"]
    lines = []
    for (of, method, beta, step), points in checkpoints(rows).items():
        if of != task:
            continue
        label = f"VIMPO, beta {beta:g}" if method == "default" else "GRPO"
        cells = [label, str(step), str(len(points))]
        cells += [over_seeds([p["correlation"][name] for p in points]) for name in names]
        cells += [over_seeds([p[key] for p in points])
                  for key in ("broadcast_ceiling", "noise_ceiling")]  # fmt: skip
        lines.append(cells)
    return table(head, lines)


def faults_and_values(rows, task):
    """Where the lowest credit lies, and whether V_t tells right from wrong."""
    head = ["trained by", "step", "accuracy %", "KL", "lowest td at fault %", "lowest A_0.95",
            "lowest A_1", "chance", "AUC of V_t - V_0: 25%", "50%", "75%", "100%",
            "curve moves", "should move"]  # fmt: skip
    lines = []
    for (of, method, beta, step), points in checkpoints(rows).items():
        if of != task:
            continue
        label = f"VIMPO, beta {beta:g}" if method == "default" else "GRPO"
        cells = [label, str(step), percent(mean(p["accuracy"] for p in points))]
        cells.append(number(mean(p["kl"] for p in points), 4))
        for name in ("td", "A_0.95", "A_1"):
            shares = [p["fault_lowest"][name] for p in points if p["wrong"]]
            cells.append(over_seeds([100 * x for x in shares], 0))
        cells.append(over_seeds([100 * p["fault_chance"] for p in points if p["wrong"]], 0))
        for i in range(1, 5):
            cells.append(over_seeds([p["auc"]["move"][i] for p in points]))
        cells += [f"{mean(p[key] for p in points):.2g}" for key in ("curve_move", "wanted_move")]
        lines.append(cells)
    return table(head, lines)


# --------------------------------------------------------------------------------------------------
# smollm2.jsonl, defaults.jsonl


def smollm2(rows):
    """Held-out accuracy before and after."""
    head = ["", "lr", "steps", "seed", "sampled %", "greedy %", "KL at end", "minutes"]
    lines = []
    for row in rows:
        cells = [row["method"], f"{row['lr']:g}", str(row["steps"]), str(row["seed"])]
        cells += [percent(row["sampled"]), percent(row["greedy"])]
        if "kl" in row:
            cells += [number(row["kl"][-1], 4), number(row["seconds"] / 60, 0)]
        else:
            cells += [DASH, DASH]
        lines.append(cells)
    return table(head, lines)


def defaults(rows):
    """How each setting went under default flags."""
    head = ["setting", "tokens", "steps", "accuracy: first 3 steps %", "last 3 steps %"]
    head += ["largest share of the actor", "warnings"]
    lines = []
    for row in rows:
        curve = row["train_accuracy"]
        lines.append([
            row["setting"], number(row["tokens"], 0), str(len(curve)), percent(mean(curve[:3])),
            percent(mean(curve[-3:])), f"{row['largest_share']:.3g}", str(len(row["warnings"])),
        ])  # fmt: skip
    return table(head, lines)
