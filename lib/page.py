"""What report.py shows of a run folder, and the HTML file that shows it.

    the lines of RUN/*.jsonl -> read_run, one object a run, as much as a page holds -> write_page

rollouts.jsonl of a long run is too large for memory. It is read twice: once line by line, to count
and to measure what the value knows, and then only the lines that are shown.

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
MOST_MISSES = 20  # groups of responses that did not fit, before the search for smaller ones ends
MOST_TOKENS = 20_000  # of one response
QUARTERS = (0.25, 0.5, 0.75, 1)  # of a response: where V_t is asked whether it knows


# ---- Reading a run folder ------------------------------------------------------------------------


def read_lines(path):
    """(place, object) of each line, NaN as None; one that was cut off, or no object, is left out.

    place is where in the file the line begins, in bytes.
    """
    if not path.is_file():
        return
    place = 0
    with path.open("rb") as file:
        for line in file:
            row = parsed(line)
            if row:
                yield place, row
            place += len(line)


def parsed(line):
    """The object of a line with its step; None if there is none."""
    try:
        row = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def read_run(folder, parts=1):
    """A run folder -> its part of the page, one of `parts`.

    ValueError if it is no run folder, or holds no step yet.
    """
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
    rows = [row for _, row in read_lines(folder / "metrics.jsonl")]
    if not rows:
        raise ValueError(f"{folder / 'metrics.jsonl'}: no step in it; wanted one at least")
    curves, every = read_curves(rows, MOST_STEPS // parts)
    shown, brief = read_rollouts(folder / "rollouts.jsonl", MOST_BYTES // parts)
    return {
        "name": folder.resolve().name,
        "settings": settings,
        "versions": config.get("versions") or {},
        "date": str(config.get("date")),
        "metrics": curves,
        "every": every,
        "eval": [with_interval(row) for _, row in read_lines(folder / "eval.jsonl")],
        "knows": what_the_value_knows(brief),
        "logged": len(brief),
        "scales": {key: scale(shown, key) for key in TOKEN_NUMBERS},
        "rollouts": shown,
    }


def read_curves(rows, most):
    """Rows of metrics.jsonl -> (name -> numbers, step among them; every how many steps).

    Of a long run every second, third, ... step and the last one; numbers have five digits.
    """
    every = -(-len(rows) // most)
    kept = [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]
    keys = dict.fromkeys(key for row in rows for key in row)
    curves = {key: [rounded(number(row.get(key)), 5) for row in kept] for key in keys}
    return curves | {"step": [row["step"] for row in kept]}, every


def read_rollouts(path, room):
    """-> (the responses that fit into `room` bytes, by step; the brief form of all of them).

    The problems that are watched come first, at their first and last evaluation; then what is
    spread over the steps.
    """
    places, brief = {}, {}
    for place, row in read_lines(path):
        row = checked(row)
        if row:
            # A response that is there twice (a run that went on) counts once, the last time.
            key = (row["step"], row["watched"], str(row["id"]), row["sample"])
            places[key], brief[key] = place, briefly(row)
    groups = {}
    for key in places:
        groups.setdefault(key[:3], []).append(places[key])
    watched = [step for step, is_watched, _ in groups if is_watched]
    ends = (min(watched, default=0), max(watched, default=0))
    order = random.Random(0).sample(list(groups), len(groups))
    order.sort(key=lambda group: (not group[1], group[0] not in ends))
    kept, misses = [], 0
    for group in order:
        rows = read_at(path, groups[group])
        size = sum(len(as_json(for_page(row))) for row in rows)
        if size <= room:
            room -= size
            kept += rows
        else:
            misses += 1
        if misses == MOST_MISSES:
            break
    return sorted(kept, key=lambda row: row["step"]), list(brief.values())


def read_at(path, places):
    """The responses whose lines begin at these places."""
    rows = []
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            rows.append(checked(parsed(file.readline())))
    return rows


def number(x):
    """A finite number, or None."""
    return x if isinstance(x, (int, float)) and math.isfinite(x) else None


def rounded(x, digits):
    return x if x is None else float(f"{x:.{digits}g}")


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


def briefly(row):
    """What is needed of a response to ask whether the value knows: V at each of QUARTERS."""
    kept = {key: row[key] for key in ("step", "watched", "id", "reward", "baseline")}
    known = row["td"] and None not in (row["baseline"], row["reward"])
    values = curve(row) if known else []
    kept["quarters"] = [values[round(q * (len(values) - 1))] for q in QUARTERS if known]
    return kept


def what_the_value_knows(rows):
    """For each evaluation: V_t of right and wrong responses since the one before -> a list.

    rows: the brief form of responses. area: of two responses to one prompt, a right and a wrong
    one, how often does the right one have the higher V_t, at each of QUARTERS (0.5: no better than
    a coin); interval: of the last of them, 95%, by drawing prompts anew. moved: the mean V_T - V_0
    of right and of wrong ones, which should be `wanted`, R - V_0. bins: (mean V_T, share right,
    count), where all samples were logged.
    """
    rows = [row for row in rows if row["quarters"]]
    found, before = [], -1
    for step in sorted({row["step"] for row in rows if row["watched"]} - {0}):
        since = [row for row in rows if before < row["step"] <= step and row["step"] > 0]
        before = step
        groups = {}
        for row in since:
            groups.setdefault((row["step"], row["watched"], str(row["id"])), []).append(row)
        wins = [w for w in map(pairs_won, groups.values()) if w]
        watched = [row for row in since if row["watched"] and row["step"] == step]
        if not wins:
            continue
        draws = [area(random.Random(i).choices(wins, k=len(wins)))[-1] for i in range(400)]
        entry = {"step": step, "prompts": len(wins), "pairs": sum(w[1] for w in wins)}
        entry |= {"area": area(wins), "interval": [sorted(draws)[10], sorted(draws)[389]]}
        for name, right in (("right", True), ("wrong", False)):
            some = [row for row in since if (row["reward"] >= 1) == right]
            moved = [row["quarters"][-1] - row["baseline"] for row in some]
            wanted = [row["reward"] - row["baseline"] for row in some]
            if some:
                entry[name] = [sum(moved) / len(some), sum(wanted) / len(some)]
        found.append(entry | {"bins": calibration(watched)})
    return found


def pairs_won(group):
    """([pairs won at each quarter], pairs) of a prompt's responses; None if all are alike."""
    right = [row["quarters"] for row in group if row["reward"] >= 1]
    wrong = [row["quarters"] for row in group if row["reward"] < 1]
    if not right or not wrong:
        return None
    won = []
    for i in range(len(QUARTERS)):
        pairs = [(a[i], b[i]) for a in right for b in wrong]
        won.append(sum((a > b) + (a == b) / 2 for a, b in pairs))
    return won, len(right) * len(wrong)


def area(wins):
    pairs = sum(n for _, n in wins)
    return [sum(won[i] for won, _ in wins) / pairs for i in range(len(QUARTERS))]


def calibration(rows, bins=5):
    """Responses by V_T, in bins of one size -> [mean V_T, share right, count] of each."""
    ends = sorted((row["quarters"][-1], row["reward"]) for row in rows)
    cuts = [round(i * len(ends) / bins) for i in range(bins + 1)]
    parts = [ends[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    return [[sum(x) / len(part) for x in zip(*part, strict=True)] + [len(part)] for part in parts]


# ---- The page ------------------------------------------------------------------------------------


def for_page(row):
    """A response without ids, cut if it is very long, with numbers of three digits."""
    kept = {key: row[key] for key in row if key not in ("ids", "prompt_ids")}
    kept |= {"length": len(row["tokens"]), "tokens": row["tokens"][:MOST_TOKENS]}
    for key in (*TOKEN_NUMBERS, "truth"):
        if row.get(key):
            cut = row[key][: MOST_TOKENS + (key == "truth")]
            kept[key] = [rounded(x, 3) for x in cut]
    return kept


def scale(rows, key):
    """The size that gets the full colour: of 200 tokens one is beyond it. None without numbers."""
    sizes = sorted(abs(x) for row in rows for x in row[key] or () if x)
    return float(f"{sizes[int(0.995 * len(sizes))]:.2g}") if sizes else None


def write_page(runs, path):
    """Runs as of read_run -> one HTML file."""
    shown = [run | {"rollouts": list(map(for_page, run["rollouts"]))} for run in runs]
    content = {"made": datetime.datetime.now().isoformat(" ", "minutes"), "runs": shown}
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
