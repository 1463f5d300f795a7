r"""The parser against values computed beside the text; every pattern against long input.

pytest tests/test_latex.py
"""

import doctest
import random
import re
import time
from fractions import Fraction
from pathlib import Path
from re import _constants as codes
from re import _parser as patterns

import mpmath
import pytest

import rewards
from lib import equivalence, latex, spelling


def random_expression(rng, depth):
    """-> (LaTeX, value at a point): made together, so that the value judges the parser."""
    if depth == 0:
        n = rng.randint(1, 9)
        leaves = [(str(n), lambda x, n=n: n), ("x", lambda x: x)]
        leaves += [(r"\sqrt{2}", lambda x: mpmath.sqrt(2)), (r"\pi", lambda x: mpmath.pi)]
        return rng.choice(leaves)
    (a, f), (b, g) = random_expression(rng, depth - 1), random_expression(rng, depth - 1)
    single = "+" not in a + b and "-" not in a + b
    times = rf"{{{a}}} \cdot {{{b}}}" if single else f"({a})({b})"
    return rng.choice([
        (f"({a}) + ({b})", lambda x: f(x) + g(x)),
        (rf"\left({a}\right)\left({b}\right)", lambda x: f(x) * g(x)),
        (f"({a})-({b})", lambda x: f(x) - g(x)),
        (rf"\frac{{{a}}}{{{b}}}", lambda x: f(x) / g(x)),
        (f"({a})^2", lambda x: f(x) ** 2),
        (times, lambda x: f(x) * g(x)),
    ])  # fmt: skip


def test_the_parser_agrees_with_values_computed_beside_the_text():
    """A precedence or an argument rule of the parser is off: the tree means something else than the
    text."""
    rng, point = random.Random(1), Fraction(7, 5)
    compared = 0
    for _ in range(300):
        text, value = random_expression(rng, rng.randint(1, 3))
        work = equivalence.Comparison()
        work.numeric(30)
        try:
            tree = latex.parse(spelling.spell(spelling.normalise(text)))[0]
            found = work.value(tree, {"x": ("num", point)})
            wanted = value(mpmath.mpf(7) / 5)
        except (ArithmeticError, ValueError):
            continue
        compared += 1
        found = float(found) if isinstance(found, Fraction) else found
        assert abs(found - wanted) <= 1e-9 * (1 + abs(wanted)), text
    assert compared > 200


# ---- Patterns ------------------------------------------------------------------------------------
def compiled(value):
    """All regular expressions in a module's variable."""
    if isinstance(value, re.Pattern):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return [pattern for item in value for pattern in compiled(item)]
    return []


MODULES = (spelling, latex, equivalence, rewards)
PATTERNS = {p.pattern: p for module in MODULES for v in vars(module).values() for p in compiled(v)}


def of_set(members):
    """A character of [...]."""
    allowed = [chr(n) for n in range(32, 127)]
    negated = members[0][0] is codes.NEGATE
    found = set()
    for kind, value in members:
        if kind is codes.LITERAL:
            found.add(chr(value))
        elif kind is codes.RANGE:
            found |= {chr(n) for n in range(value[0], min(value[1], value[0] + 99) + 1)}
        elif kind is codes.CATEGORY:
            name = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[str(value).split("_")[-1]]
            name = name.upper() if "NOT" in str(value) else name
            found |= {c for c in allowed if re.match(name, c)}
    return sorted(set(allowed) - found if negated else found)[0]


def forms(pattern):
    """Texts in which each alternative of a pattern occurs, each repetition long and short."""
    texts = {""}
    for kind, value in pattern:
        options = {""}
        if kind is codes.LITERAL:
            options = {chr(value)}
        elif kind in (codes.NOT_LITERAL, codes.ANY):
            options = {"a"}
        elif kind is codes.IN:
            options = {of_set(value)}
        elif kind is codes.BRANCH:
            options = {text for branch in value[1] for text in forms(branch)}
        elif kind is codes.SUBPATTERN:
            options = forms(value[3])
        elif kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            least, most, item = value
            options = {text * least for text in forms(item)}
            options |= {text * min(most, max(least, 2)) for text in forms(item)}
        texts = {text + option for text in texts for option in options}
        by_length = sorted(texts, key=lambda text: (len(text), text))
        texts = {*by_length[:6], *by_length[-6:]}
    return texts


def alternatives(pattern):
    """Each alternative of a pattern, at whatever depth, as a parsed pattern of its own."""
    found = [pattern]
    for kind, value in pattern:
        if kind is codes.BRANCH:
            found += [part for branch in value[1] for part in alternatives(branch)]
        elif kind is codes.SUBPATTERN:
            found += alternatives(value[3])
        elif kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            found += alternatives(value[2])
    return found


def seconds(pattern, text, runs=3):
    """The least of a few runs: the machine may be busy."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        pattern.sub("", text)
        pattern.fullmatch(text)
        times.append(time.perf_counter() - start)
        if times[-1] < 0.002:
            break
    return min(times)


def slow_text(pattern, longest=20_000):
    """A repeated form for which the time of a pattern grows faster than the text, or None."""
    pieces = set()
    for part in alternatives(patterns.parse(pattern.pattern, pattern.flags & ~re.UNICODE)):
        for form in forms(part):
            pieces |= {form, form[:-1], form + " "} - {""}
    for piece in sorted(pieces):
        for tail in ("", "5", "\0"):
            count = 4
            while count * len(piece) < longest:
                text = piece * count + tail
                time_taken = seconds(pattern, text)
                # 100 ns a character is several times what a linear pattern takes
                if time_taken > 0.005 + 1e-6 * len(text):
                    return f"{piece!r} * {count} + {tail!r}: {time_taken:.3f} s"
                count *= 2
    return None


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=lambda p: repr(p.pattern[:30]))
def test_every_pattern_takes_linear_time(pattern):
    """A pattern matches one text in two ways or looks at the rest of the text from each place, and
    an answer with a loop in it hangs the verifier."""
    assert slow_text(pattern) is None


def test_the_pattern_that_took_years_is_found():
    """The test above cannot fail: three optional spaces side by side matched a space in three ways,
    and 30 texts took years."""
    old = re.compile(r"(?:\\text\{[^{}]*\} ?(?:\^ ?(?:\d|\{ ?-?\d ?\}))? ?/? ?)+$")
    quadratic = re.compile(r"[A-Za-z ]*[A-Za-z]{4}[A-Za-z ]*")
    assert slow_text(old) and slow_text(quadratic)


def test_all_patterns_are_among_those_tested():
    """A pattern is written where it is used, and the test of its time does not see it."""
    for module in MODULES:
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert not re.search(r"\bre\.(?!compile\b)[a-z]", source)


def test_doctests():
    """The examples in the docstrings are what the functions do."""
    assert doctest.testmod(latex).failed == 0
