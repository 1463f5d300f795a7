"""Talking to the person at the command line: flags, one-line errors, warnings, progress.

What a user got wrong costs one line on stderr, which names the file, line or flag, what was found
and what was wanted, and exit code 2. Of several processes the first speaks for all.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path


def first():
    """Whether this process speaks: the first one, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def die(program, message, code=2):
    """One line on stderr, then the end: something the user can put right.

    Processes other than the first speak up only if it has nothing to say, and so has not ended
    them all after a few seconds.
    """
    if not first():
        time.sleep(5)
    if isinstance(message, OSError) and message.filename is not None:
        message = f"{message.filename}: {message.strerror}"
    print(f"{program}: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


def say(text):
    """Process 0 speaks for all."""
    if first():
        print(text, flush=True)


def warn(message):
    """Something that a reader of the log must not miss."""
    if first():
        print(f"\n!!! WARNING: {message}\n", file=sys.stderr, flush=True)


def short(value, most=70):
    """JSON of a value, cut to one short line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 3] + "..."


# ---- Flags ---------------------------------------------------------------------------------------


def make_parser(prog, description):
    """An ArgumentParser for which a wrong flag costs one line and not a screen of usage."""
    parser = argparse.ArgumentParser(prog=prog, description=description)

    def error(message):
        hint = ""
        if message.startswith("unrecognized") and "_" in message:
            hint = ": flags have dashes, no underscores"
        die(prog, f"{message}{hint} (see {prog} --help)")

    parser.error = error
    return parser


def add_flags(parser, title, rows):
    """A group of flags from rows (flag, type, default, help).

    type: a function of the text; bool, for a flag without a value; a tuple, of which it is one; a
    list [function], for several values. The help says the default where there is one.
    """
    group = parser.add_argument_group(title)
    for flag, kind, default, text in rows:
        # 0 is a default worth saying, though it equals False.
        if default is not None and default is not False and default != []:
            text += f" (default: {default})"
        # argparse fills in what stands behind a % in the help.
        options = {"default": default, "help": text.replace("%", "%%")}
        if kind is bool:
            options["action"] = "store_true"
        elif isinstance(kind, tuple):
            options["choices"] = kind
        else:
            one = kind[0] if isinstance(kind, list) else kind
            options["type"] = one
            options["nargs"] = "+" if isinstance(kind, list) else None
            # N and X for numbers: --prompts-per-step STEP would look as if it took a step.
            options["metavar"] = getattr(one, "metavar", flag.split("-")[-1].upper())
        group.add_argument(flag, **options)


def number(kind, least=None, most=None, above=None, below=None):
    """A type for flags: a whole number (int) or a finite one (float) within these bounds.

    least and most are allowed themselves, above and below are not.
    """
    named = {"at least": least, "at most": most, "above": above, "below": below}
    bounds = [f"{word} {bound}" for word, bound in named.items() if bound is not None]
    name = "a whole number" if kind is int else "a number"
    wanted = f"{name} {' and '.join(bounds)}".strip()

    def fits(value):
        return (
            math.isfinite(value)
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    def parse(text):
        try:
            value = kind(text)
            if fits(value):
                return value
        except (ValueError, OverflowError):
            pass
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted {wanted}")

    parse.metavar = "N" if kind is int else "X"
    return parse


def check_file(flag, path):
    """ValueError unless a file of this name can be written: hours of work are to end in it."""
    path = Path(path)
    if not path.name or path.is_dir():
        raise ValueError(f"{flag} {path}: a folder; wanted the name of a file")
    if not path.parent.is_dir():
        found = f"no such folder {path.parent}"
        raise ValueError(f"{flag} {path}: {found}; wanted a file in a folder that exists")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as e:
        wanted = "wanted a file that can be written"
        raise ValueError(f"{flag} {path}: {e.strerror}; {wanted}") from None


# ---- Progress ------------------------------------------------------------------------------------


def progress(phase, every=10.0):
    """A callback (done, total, tokens=0) that shows phase, share done, tokens/s and time to go.

    On a terminal it is one line that rewrites itself. Elsewhere it is a plain line every `every`
    seconds at most, and none for what is over sooner.
    """
    start = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    pause = 0.1 if terminal else every

    def show(done, total, tokens=0):
        nonlocal shown
        now = time.monotonic()
        last = terminal and done == total
        if not first() or (now - shown < pause and not last):
            return
        shown = now
        # A clock may stand still between two calls: never divide by 0.
        seconds = max(now - start, 1e-3)
        line = f"{phase} {done}/{total}"
        if tokens:
            line += f"  {tokens / seconds:.0f} tokens/s"
        # The shortest samples end first: before a twentieth is done, the estimate is too low.
        if 0 < done < total and done >= total / 20:
            left = int(seconds * (total - done) / done)
            line += f"  {left // 60}:{left % 60:02d} to go"
        if terminal:
            print(f"\r\x1b[K{'' if last else line}", end="", file=sys.stderr, flush=True)
        else:
            print(f"  {line}", file=sys.stderr, flush=True)

    return show
