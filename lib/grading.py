"""Around the verifier: a reward function from a user's own file, and how often a grader is right.

    load_function("FILE.py:function") -> the function, for --reward
    agreement(path, score)            prints how `score` agrees with a file of graded pairs

A graded pair is a line {"gold": text, "response": text, "expected": true or false, "kind": text}.
A kind that ends in "-debatable" is a convention, and is counted apart.
"""

import importlib.util
import json
import sys
import time
import traceback
from pathlib import Path

FORM = {"gold": str, "response": str, "expected": bool, "kind": str}


def load_function(spec):
    """ "FILE.py:function" -> (the function, the path of its file). ValueError in one line.

    The file is run as a script is: it may import what lies beside it.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).resolve()
    if path.suffix != ".py" or not name:
        raise ValueError(f"found {spec!r}, wanted math or FILE.py:function")
    if not path.is_file():
        raise ValueError(f"no file {path}, wanted math or FILE.py:function")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # a name that no import statement can mean, so that it hides no other module
    module_spec = importlib.util.spec_from_file_location(f"reward file {path}", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(describe(error, path)) from error
    function = getattr(module, name, None)
    if not callable(function):
        found = "is no function" if hasattr(module, name) else "is not in it"
        raise ValueError(f"{path}: {name} {found}, wanted a function (response, problem)")
    return function, path


def describe(error, path):
    """An exception in one line: the line of the user's file at `path`, and what was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    where = f"{path}:{lines[-1]}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {one_line(error)}"


def one_line(value):
    return " ".join(str(value).split())[:200]


def read_pairs(path):
    """Yields gold, response, expected, kind of each line. ValueError: file, line, what is wrong."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                pair = {"kind": "no kind"} | json.loads(line)
                good = all(type(pair.get(key)) is kind for key, kind in FORM.items())
            except (ValueError, TypeError, RecursionError):
                good = False
            if not good:
                wanted = '{"gold": text, "response": text, "expected": true or false}'
                raise ValueError(f"{path}:{number}: found {line.strip()[:60]!r}, wanted {wanted}")
            yield [pair[key] for key in FORM]


def agreement(path, score):
    """Prints how score(response, gold) agrees with a file of graded pairs, by kind, and times."""
    table, times = {"undisputed": [0, 0, 0], "debatable": [0, 0, 0]}, []
    for gold, response, expected, kind in read_pairs(path):
        start = time.perf_counter()
        accepted = score(response, gold) == 1.0
        times.append(1000 * (time.perf_counter() - start))
        column = 0 if accepted == expected else 1 if accepted else 2
        for row in ("debatable" if kind.endswith("-debatable") else "undisputed", kind):
            table.setdefault(row, [0, 0, 0])[column] += 1
    if not times:
        raise ValueError(f"{path}: no pairs in it")
    print(f"{'kind':40}  pairs  agree  false accepts  false rejects")
    for kind, row in table.items():
        print(f"{kind:40}  {sum(row):5}  {row[0]:5}  {row[1]:13}  {row[2]:13}")
    median = sorted(times)[len(times) // 2]
    print(f"time per pair: median {median:.2f} ms, longest {max(times):.2f} ms")
