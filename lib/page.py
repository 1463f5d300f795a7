"""What report.py shows of a run folder, and the HTML file that shows it.

    the lines of RUN/*.jsonl -> read_run, one object a run -> fit, what a page holds -> write_page

All that a model wrote goes into the page as JSON in which no < stands, and lib/report.js puts it
into text nodes alone. The content security policy names the hash of the one script and of the one
style sheet: the page can run nothing else, and asks no network.
"""

import base64
import datetime
import hashlib
import html
import itertools
import json
import math
import random
from pathlib import Path

from lib.run_folder import write_whole

ASSETS = Path(__file__).resolve().parent
TOKEN_NUMBERS = ("td", "advantages", "log_ratio", "kl", "entropy")  # one number a token
MOST_BYTES = 3_600_000  # of all responses on a page, which stays below 5 MB
MOST_STEPS = 2_000  # of all curves on a page
MOST_TOKENS = 20_000  # of one response
QUARTERS = (0.25, 0.5, 0.75, 1)  # of a response: where V_t is asked whether it knows


# ---- Reading a run folder ------------------------------------------------------------------------


def read_jsonl(path):
    """The objects of a file, NaN as None; a line that was cut off, or is no object, is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line, parse_constant=lambda _: None)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def read_run(folder):
    """A run folder -> its part of the page. ValueError if it is none, or holds no step yet."""
    wanted = "wanted a run folder, as train.py writes it"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {wanted}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = dict(config["settings"])
    except FileNotFoundError:
        raise ValueError(f"{folder}: no config.json in it; {wanted}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / 'config.json'}: damaged; {wanted}") from None
    rows = read_jsonl(folder / "metrics.jsonl")
    if not rows:
        raise ValueError(f"{folder / 'metrics.jsonl'}: no step in it; wanted one at least")
    keys = dict.fromkeys(key for row in rows for key in row)
    # A response that is there twice (a run that went on) counts once, the last time.
    shown = {}
    for row in map(checked, read_jsonl(folder / "rollouts.jsonl")):
        if row:
            shown[row["step"], row["watched"], row["id"], row["sample"]] = row
    shown = list(shown.values())
    return {
        "name": folder.resolve().name,
        "settings": settings,
        "versions": config.get("versions") or {},
        "date": str(config.get("date")),
        "metrics": {key: [number(row.get(key)) for row in rows] for key in keys},
        "eval": [with_interval(row) for row in read_jsonl(folder / "eval.jsonl")],
        "knows": what_the_value_knows(shown),
        "rollouts": shown,
    }


def number(x):
    """A finite number, or None."""
    return x if isinstance(x, (int, float)) and math.isfinite(x) else None


def checked(row):
    """A line of rollouts.jsonl in the form of the page, V_t left out; None if it can't be shown."""
    tokens = row.get("tokens")
    if not (isinstance(tokens, list) and tokens and all(isinstance(x, str) for x in tokens)):
        return None
    kept = {key: row.get(key) for key in ("step", "id", "sample", "prompt", "answer", "finished")}
    kept |= {"watched": bool(row.get("watched")), "tokens": tokens}
    kept |= {"ids": row.get("response_ids"), "prompt_ids": row.get("prompt_ids")}
    for key in ("reward", "reward_clean", "baseline", "grpo"):
        kept[key] = number(row.get(key))
    values = row.get("values")
    if row.get("td") is None and isinstance(values, list):  # folders of before td was logged
        row["td"] = [b - a for a, b in itertools.pairwise(values)]
    for key in TOKEN_NUMBERS:
        x = row.get(key)
        right = isinstance(x, list) and len(x) == len(tokens)
        kept[key] = [number(v) for v in x] if right else None
    return kept


def with_interval(row):
    """A line of eval.jsonl and Wilson's 95% interval of its accuracy."""
    n, p, z = number(row.get("n")), number(row.get("accuracy")), 1.96
    if not n or p is None:
        return row
    middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    scale = 1 + z * z / n
    return row | {"low": (middle - half) / scale, "high": (middle + half) / scale}


# ---- Does the value know -------------------------------------------------------------------------


def curve(row):
    """V_0 .. V_T of a response."""
    values = [row["baseline"]]
    for x in row["td"]:
        values.append(values[-1] + (x or 0))
    return values


def what_the_value_knows(rows):
    """For each evaluation: V_t of right and wrong responses since the one before -> a list.

    area: of two responses to one prompt, a right and a wrong one, how often does the right one have
    the higher V_t, at each of QUARTERS (0.5: no better than a coin); interval: of the last of them,
    95%, by drawing prompts anew. moved: the mean V_T - V_0 of right and of wrong ones, which should
    be `wanted`, R - V_0. bins: (mean V_T, share right, count), where all samples were logged.
    """
    rows = [row for row in rows if row["td"] and None not in (row["baseline"], row["reward"])]
    found, before = [], -1
    for step in sorted({row["step"] for row in rows if row["watched"]} - {0}):
        since = [row for row in rows if before < row["step"] <= step and row["step"] > 0]
        before = step
        groups = {}
        for row in since:
            groups.setdefault((row["step"], row["watched"], row["id"]), []).append(row)
        wins = [w for w in map(pairs_won, groups.values()) if w]
        watched = [row for row in since if row["watched"] and row["step"] == step]
        if not wins:
            continue
        draws = [area(random.Random(i).choices(wins, k=len(wins)))[-1] for i in range(400)]
        entry = {"step": step, "prompts": len(wins), "pairs": sum(w[1] for w in wins)}
        entry |= {"area": area(wins), "interval": [sorted(draws)[10], sorted(draws)[389]]}
        for name, right in (("right", True), ("wrong", False)):
            some = [row for row in since if (row["reward"] >= 1) == right]
            moved = [sum(x or 0 for x in row["td"]) for row in some]
            wanted = [row["reward"] - row["baseline"] for row in some]
            if some:
                entry[name] = [sum(moved) / len(some), sum(wanted) / len(some)]
        found.append(entry | {"bins": calibration(watched)})
    return found


def pairs_won(group):
    """([pairs won at each quarter], pairs) of a prompt's responses; None if all are alike."""
    right = [curve(row) for row in group if row["reward"] >= 1]
    wrong = [curve(row) for row in group if row["reward"] < 1]
    if not right or not wrong:
        return None
    won = []
    for quarter in QUARTERS:
        a = [values[round(quarter * (len(values) - 1))] for values in right]
        b = [values[round(quarter * (len(values) - 1))] for values in wrong]
        won.append(sum((x > y) + (x == y) / 2 for x in a for y in b))
    return won, len(right) * len(wrong)


def area(wins):
    pairs = sum(n for _, n in wins)
    return [sum(won[i] for won, _ in wins) / pairs for i in range(len(QUARTERS))]


def calibration(rows, bins=5):
    """Responses by V_T, in bins of one size -> [mean V_T, share right, count] of each."""
    ends = sorted((curve(row)[-1], row["reward"]) for row in rows)
    cuts = [round(i * len(ends) / bins) for i in range(bins + 1)]
    parts = [ends[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    return [[sum(x) / len(part) for x in zip(*part, strict=True)] + [len(part)] for part in parts]


# ---- The page ------------------------------------------------------------------------------------


def fit(runs):
    """Leave as many responses as fit on a page, and numbers of three digits; set the scales.

    The problems that are watched come first, at their first and last evaluation; then what is
    spread over the steps. A response that is very long is cut.
    """
    for run in runs:
        thin(run, MOST_STEPS // len(runs))
        for row in run["rollouts"]:
            shorten(row)
        run["scales"] = {key: scale(run["rollouts"], key) for key in TOKEN_NUMBERS}
        steps = [row["step"] for row in run["rollouts"] if row["watched"]]
        ends = (min(steps, default=0), max(steps, default=0))
        groups = {}
        for row in run["rollouts"]:
            groups.setdefault((row["step"], row["watched"], str(row["id"])), []).append(row)
        order = random.Random(0).sample(list(groups), len(groups))
        order.sort(key=lambda key: (not key[1], key[0] not in ends))
        room, kept = MOST_BYTES / len(runs), []
        for key in order:
            size = sum(len(as_json(row)) for row in groups[key])
            if size <= room:
                room -= size
                kept += groups[key]
        run["logged"] = len(run["rollouts"])
        run["rollouts"] = sorted(kept, key=lambda row: row["step"])


def thin(run, most):
    """Of a long run every second, third, ... step and the last one; numbers of five digits."""
    steps = run["metrics"]["step"]
    run["every"] = every = -(-len(steps) // most)
    places = sorted({*range(0, len(steps), every), len(steps) - 1})
    for key, xs in run["metrics"].items():
        run["metrics"][key] = [xs[i] if xs[i] is None else float(f"{xs[i]:.5g}") for i in places]
    run["metrics"]["step"] = [steps[i] for i in places]


def shorten(row):
    """A row of a page: without ids, cut, rounded."""
    row.pop("ids", None), row.pop("prompt_ids", None)
    row["length"] = len(row["tokens"])
    row["tokens"] = row["tokens"][:MOST_TOKENS]
    for key in (*TOKEN_NUMBERS, "truth"):
        if row.get(key):
            cut = row[key][: MOST_TOKENS + (key == "truth")]
            row[key] = [x if x is None else float(f"{x:.3g}") for x in cut]


def scale(rows, key):
    """The size that gets the full colour: of 200 tokens one is beyond it. None without numbers."""
    sizes = sorted(abs(x) for row in rows for x in row[key] or () if x)
    return float(f"{sizes[int(0.995 * len(sizes))]:.2g}") if sizes else None


def write_page(runs, path):
    """Runs as of read_run -> one HTML file."""
    fit(runs)
    content = {"made": datetime.datetime.now().isoformat(" ", "minutes"), "runs": runs}
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(" and ".join(run["name"] for run in runs)),
        "SCRIPT_HASH": digest(script),
        "STYLE_HASH": digest(style),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": as_json(content),
    }
    page = (ASSETS / "report.html").read_text(encoding="utf-8")
    pieces = page.split("@@")  # text, NAME, text, NAME, ..., text
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    write_whole(path, "".join(pieces))


def as_json(x):
    """JSON without "<", which could end the script element; it is ASCII, too."""
    return json.dumps(x, allow_nan=False).replace("<", "\\u003c")


def digest(text):
    """How a content security policy names a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
