"""Draws docs/credit.svg: which step of a wrong sum the model blames.

    python train.py --beta 0.2 --gae-lambda 0.95 --actor-share 0.2 --steps 40 --out runs/picture
    python demo/picture.py runs/picture

The two commands made the picture in docs/. At beta 0.2 V moves far enough to be read as a chance.

The responses are chosen by a rule, not by hand. Of the problems that are asked at every evaluation,
take those with right and wrong responses at the last one. Of their wrong responses take the middle
one by the largest fall of V at one token: neither the clearest nor the faintest. Beside it stands
the first right response to the same problem.
"""

import argparse
import html
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the project is no package: its root goes on the path first

from lib.console import die  # noqa: E402
from lib.page import curve, read_run, scale  # noqa: E402

WIDTH, LEFT, CHAR = 760, 74, 12.6  # pixels; of the first token, and of a character
PANEL, HEIGHT = 242, 84  # of a response; of the line above it
ORANGE, BLUE, WHITE = (240, 128, 40), (90, 150, 225), (255, 255, 255)
INK, SOFT, LINE = "#1b1d22", "#5d636e", "#3b3f8f"


# ---- Which responses -----------------------------------------------------------------------------


def choose(rows):
    """(wrong, right) by the rule above. ValueError if no problem has both."""
    watched = [row for row in rows if row["watched"] and row["td"]]
    last = max((row["step"] for row in watched), default=0)
    watched = [row for row in watched if row["step"] == last]
    right = {}
    for row in watched:
        if row["reward"] >= 1:
            right.setdefault(row["id"], row)
    wrong = [row for row in watched if row["reward"] < 1 and row["id"] in right]
    if not wrong:
        raise ValueError(f"rollouts.jsonl: no right and wrong response to one problem, step {last}")
    wrong.sort(key=lambda row: min(x or 0 for x in row["td"]))
    middle = wrong[len(wrong) // 2]
    return middle, right[middle["id"]]


def what_it_blames(row):
    """(index of the token at which V falls most, a sentence on the step of the sum it is in)."""
    t = min(range(len(row["td"])), key=lambda i: row["td"][i] or 0)
    values = curve(row)
    said = f"V falls from {values[t]:.2f} to {values[t + 1]:.2f} here."
    # 68+5+2-6=63+2-6=... : the step is the first operation before the "=" and the number after it.
    before, text = "".join(row["tokens"][:t]), "".join(row["tokens"])
    start = before.rfind("=") + 1
    todo = re.search(r"(\d+)([+-])(\d+)[^=]*=$", row["prompt"] + text[:start])
    number = re.match(r"\d+", text[start:])
    if todo and number and len(before) < start + number.end():
        a, sign, b = int(todo[1]), todo[2], int(todo[3])
        true, found = a + b if sign == "+" else a - b, int(number[0])
        verdict = "which is right" if true == found else f"not {true}"
        said = f"The model blames {a}{sign}{b} = {found} ({verdict}). {said}"
    return t, said


# ---- Drawing -------------------------------------------------------------------------------------


def text(x, y, words, size=14, colour=INK, more=""):
    """A line of text. Its end is at y."""
    words = html.escape(words)
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" {more}>{words}</text>'


def rect(x, y, width, height, fill, more=""):
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {box} fill="{fill}" {more}/>'


def colour(x, size):
    """White at 0, orange below, blue above; the full colour from `size` on."""
    part = min(1, abs(x or 0) / size)
    end = BLUE if (x or 0) > 0 else ORANGE
    mixed = [round(a + (b - a) * part) for a, b in zip(WHITE, end, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def edges(tokens):
    """x of the left edge of each token, and of the right edge of the last."""
    xs = [float(LEFT)]
    for token in tokens:
        xs.append(xs[-1] + CHAR * max(1, len(token)))
    return xs


def tokens_row(row, tokens, xs, top, size):
    """The tokens in boxes of their colour; what falls is underlined, what rises dotted."""
    for i, token in enumerate(tokens):
        td, width = row["td"][i] or 0, xs[i + 1] - xs[i]
        yield rect(xs[i], top, width, 26, colour(td, size))
        # Fonts differ from machine to machine: each token is stretched to the width it has here.
        shown = token.strip()
        long = f'textLength="{CHAR * len(shown) - 2:.1f}" lengthAdjust="spacingAndGlyphs"'
        look = f'text-anchor="end" font-family="monospace" {long if shown else ""}'
        yield text(xs[i + 1] - 1, top + 18, shown, 17, INK, look)
        if abs(td) > 0.03 * size:
            dash = "" if td < 0 else 'stroke-dasharray="2 2"'
            ends = f'x1="{xs[i] + 1:.1f}" x2="{xs[i + 1] - 1:.1f}" y1="{top + 25}" y2="{top + 25}"'
            yield f'<line {ends} stroke="{INK}" stroke-width="2" {dash}/>'


def value_line(row, xs, top):
    """V_t over the edges of the tokens, on a scale from 0 to 1."""
    y = [top + HEIGHT * (1 - min(1.05, max(-0.05, v))) for v in curve(row)]
    for v in (0, 0.5, 1):
        at = top + HEIGHT * (1 - v)
        yield text(LEFT - 8, at + 4, f"{v:g}", 12, SOFT, 'text-anchor="end"')
        yield f'<line x1="{LEFT}" x2="{xs[-1]:.1f}" y1="{at}" y2="{at}" stroke="#d9dce2"/>'
    yield text(18, top + HEIGHT / 2 + 5, "V", 15, LINE, 'font-weight="bold"')
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, y, strict=True))
    yield f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2.5"/>'


def panel(row, top, title, said, blamed, size, grpo):
    """One response: heading, V, tokens, and GRPO's credit below."""
    tokens = list(row["tokens"])
    if row["finished"]:
        tokens[-1] = "  stop"
    xs, line = edges(tokens), top + 52
    yield text(18, top, title, 16, INK, 'font-weight="bold"')
    yield text(18, top + 21, said, 14, INK)
    if blamed is not None:
        width = xs[blamed + 1] - xs[blamed]
        yield rect(xs[blamed], line - 10, width, HEIGHT + 20, "#f5d3bd")
    yield from value_line(row, xs, line)
    yield from tokens_row(row, tokens, xs, line + HEIGHT + 12, size)
    below = line + HEIGHT + 12
    if blamed is not None:
        more = 'stroke="#c2410c" stroke-width="2"'
        yield rect(xs[blamed] - 1, below - 1, xs[blamed + 1] - xs[blamed] + 2, 28, "none", more)
    yield rect(LEFT, below + 34, xs[-1] - LEFT, 10, colour(row["grpo"], grpo))
    credit = f"GRPO: every token {row['grpo']:+.2f}".replace("-", "\u2212")
    yield text(xs[-1] + 8, below + 44, credit, 12, SOFT)


def legend(top, size):
    """What the colours mean, in words."""
    for i in range(41):
        yield rect(LEFT + 5 * i, top, 5.2, 12, colour((i - 20) / 20 * size, size))
    for x, word in ((0, f"\u2212{size:.2g}"), (102, "0"), (205, f"+{size:.2g}")):
        yield text(LEFT + x, top + 27, word, 12, SOFT, 'text-anchor="middle"')
    lines = [
        "Orange: V falls, a right answer has become less likely. Blue: V rises.",
        "No step was ever marked: the model learned from final answers alone.",
    ]
    for i, words in enumerate(lines):
        yield text(LEFT + 236, top + 10 + 17 * i, words, 12, INK)


def draw(wrong, right, size):
    """The whole picture as SVG, on a card of its own."""
    blamed, said = what_it_blames(wrong)
    grpo = max(abs(wrong["grpo"]), abs(right["grpo"]))
    height = 2 * PANEL + 132
    values = curve(right)
    rises = f"V goes from {values[0]:.2f} to {values[-1]:.2f}."
    if min(right["td"]) > -0.1 * size:
        rises += " No step is blamed."
    what = "V: how likely a right answer is in the model's own view, token by token."
    bold = 'font-weight="bold"'
    parts = [
        rect(0.5, 0.5, WIDTH - 1, height - 1, "#ffffff", 'rx="10" stroke="#d9dce2"'),
        text(18, 32, f"{wrong['prompt']}? Which step does the model blame?", 19, INK, bold),
        text(18, 54, what, 13, SOFT),
        *panel(wrong, 90, "A wrong response", said, blamed, size, grpo),
        *panel(right, 90 + PANEL, "A right response", rises, None, size, grpo),
        *legend(90 + 2 * PANEL - 8, size),
    ]
    view = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {view} font-family="sans-serif" role="img">'
    name = f"<title>{html.escape(said)}</title>"
    return "\n".join([head, name, *parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder of the demo")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "credit.svg")
    args = parser.parse_args()
    try:
        run = read_run(args.run)
        wrong, right = choose(run["rollouts"])
        picture = draw(wrong, right, scale(run["rollouts"], "td"))
        args.out.write_text(picture, encoding="utf-8")
    except (ValueError, OSError) as error:
        die("picture.py", error)
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
