r"""Does an answer mean the gold answer? In doubt it does not: the verdict decides what is learned.

    normalise   lib/latex.py: one spelling for what looks alike
    parse       lib/latex.py: text -> expression
    compare     by shape (list, tuple, interval, equation, matrix, ...) down to pairs of scalars
                a, b. Is a - b zero?

    rational    closed expressions give one fraction each: exact
    identity    with symbols, at 6 fixed pseudo-random rational points: exactly if both are rational
                functions. Not zero at one proves a != b; a numerator of degree d vanishes at all by
                chance with probability below (d / 8192)^6 (Schwartz-Zippel)
    numeric     with surds, logs, trigonometry, pi, e, i: a first pass adds up the digits H of all
                constants and powers; a second, with 70 + 2H digits, asks |a - b| < 10^-(50 + H).
                So pi + 10^-100 is not pi, and no decimal is an irrational

Conventions: principal values, but odd roots of negative reals are real; \log without a base
cancels, or is base 10 beside a base; 90 and pi/2 both equal 90 degrees; 62.5 and 0.625 both equal
62.5%; n, m, k are whole numbers where that matters; two units must agree, one may be left out.

The caps below hold before anything is computed, and each step spends fuel. (sympy is not used: its
time cannot be bounded from outside.)

>>> is_equivalent("0.5", r"\frac12"), is_equivalent("0.33", r"\frac13")
(True, False)
>>> is_equivalent("2, 1", r"\{1, 2\}"), is_equivalent("(2, 1)", "(1, 2)")
(True, False)
"""

import math
import re
import threading
from contextlib import suppress
from fractions import Fraction
from hashlib import blake2b

import mpmath  # here, not at first use: loading takes about 100 ms, twice what a verdict may

from lib import latex
from lib.latex import COUNTING, MINUS_ONE, ONE, REALS, minus, product, substitute, want

MAX_BITS = 8000  # of a numerator and denominator together (about 2400 digits)
MAX_DIGITS = 600  # working precision; what would need more is not equal
MAX_MAGNITUDE = 1000  # decimal exponent of an irrational power
MAX_ANGLE = 10**6  # argument of a trigonometric function
MAX_COUNT = 1000  # of a factorial, the n of a binomial
MAX_FUEL = 8000  # units of work (a microsecond or two each) for one comparison
POINTS = 6  # rational points at which an identity in symbols must hold


class Inexact(Exception):
    """A value is not rational: the exact stage stops and the numeric one starts."""


# --------------------------------------------------------------------------- symbols and shapes
STRUCTURES = {"list", "set", "seq", "sets", "mat", "text", "eqn", "ineq", "named", "rel"}
ORDERED = ({"seq"}, {"mat"}, {"mat", "seq"})
MARK_VALUES = {
    "%": ("num", Fraction(1, 100)),
    "°": ("mul", ("const", "pi"), ("num", Fraction(1, 180))),
}
NO_NAMES = {"%", "°", "±"}
COMMON_LOG = MARK_VALUES | {"log": ("fn", "ln", ("num", Fraction(10)))}
MINUS_INFINITY, INFINITY = ("inf", -1), ("inf", 1)


def inventory(node, spend):
    """The symbols of an expression and, with a backslash, its functions."""
    spend(0.3)
    found = set()
    if node[0] == "sym":
        found = {node[1]}
    elif node[0] == "fn":
        found = {"\\" + node[1]}
    for part in node:
        if isinstance(part, tuple) and part:
            found |= inventory(part, spend)
    return found


def point(names, k, bits):
    """The k-th point, the same in every run: what stands for each symbol.

    Rationals of so many bits and either sign, or for 0 bits whole numbers from -9 to 30.
    """
    values = {}
    for n, name in enumerate(names):
        seed = blake2b(f"{name} {k}".encode("ascii", "replace"), digest_size=9)
        random = int.from_bytes(seed.digest(), "big")
        if bits:
            # both signs of every symbol: sqrt(x^2) is not x
            sign = -1 if k >> n % 3 & 1 and name != "log" else 1
            values[name] = ("num", Fraction(random % 2**bits + 1, 1009) * sign)
        else:
            values[name] = ("num", Fraction((k * (7 * n + 1) + n) % 40 - 9))
    return values


def name_of(node):
    r"""The name an equation gives to its value: x, x_1, AB, f(x), (x, y), \text{speed}; or None."""
    parts = (node,)
    if node[0] == "mul":
        parts = node[1:]
    elif node[0] == "seq" and node[2] == "()":
        parts = node[1]
    letters = [p[0] in ("sym", "text") or p in (("const", "e"), ("const", "i")) for p in parts]
    if not all(letters) or {p[1] for p in parts} & NO_NAMES:
        return None
    return ("," if node[0] == "seq" else "").join(p[1] for p in parts)


def flat(items):
    found = []
    for item in items:
        found += item[1] if item[0] == "list" else [item]
    return tuple(found)


def is_set(node):
    return node[0] in ("sets", "set") or (node[0] == "seq" and len(node[1]) == 2)


def ends_of(node):
    """The finite end points of a set of reals."""
    if node[0] == "sets":
        return set().union(*map(ends_of, node[1]))
    return set(node[1]) - {INFINITY, MINUS_INFINITY}


def cells_of(node, rank):
    """A set of reals as numbers of cells; `rank` says in which cell an end point lies."""
    if node[0] == "sets":
        found, *others = [cells_of(side, rank) for side in node[1]]
        for operator, other in zip(node[2], others, strict=True):
            found = operator(found, other)
        return found
    if node[0] == "set":
        return {rank[x] for x in node[1]}
    low, high = (rank[x] for x in node[1])
    opening, closing = node[2]
    open_at_infinity = (low > -1 or opening == "(") and (high < rank[INFINITY] or closing == ")")
    want(low <= high and open_at_infinity, "not an interval")
    return set(range(low + (opening == "("), high + (closing == "]")))


# -------------------------------------------------------------------------------------- evaluate
local = threading.local()  # mpmath's global context is shared by all threads: each keeps its own


class Comparison:
    """One comparison: the work it may still spend, and the numeric context it is in."""

    def __init__(self):
        self.fuel = MAX_FUEL
        self.mp = None  # mpmath's context; None in the exact stage
        self.height = 0.0  # digits of all constants and powers met in this pass
        self.digits = 30  # of the first numeric pass
        self.how = "same form"

    def spend(self, cost):
        self.fuel -= cost
        want(self.fuel >= 0, "too much work")

    def inventory(self, node):
        return inventory(node, self.spend)

    def free(self, node):
        """The symbols of an expression that stand for numbers."""
        names = {name for name in self.inventory(node) if name[0] != "\\"}
        return names - NO_NAMES

    def numeric(self, digits):
        """Start a numeric pass."""
        want(digits <= MAX_DIGITS, "precision", OverflowError)
        if not hasattr(local, "mp"):
            local.mp = mpmath.MPContext()
        self.mp = local.mp
        self.mp.dps = int(digits)
        self.height = 0.0

    def real(self, x):
        """x as a number of the context; the digits of rationals count as height."""
        if self.mp is None:
            raise Inexact
        if not isinstance(x, Fraction):
            return x
        self.height += 0.302 * (x.numerator * x.denominator).bit_length()
        return self.mp.mpf(x.numerator) / x.denominator

    def fit(self, x):
        """A rational over the cap is refused as soon as it appears, and pays for its length."""
        if isinstance(x, Fraction):
            bits = (x.numerator * x.denominator).bit_length()
            self.spend(bits**2 >> 18)
            want(bits <= MAX_BITS, f"more than {MAX_BITS} bits", OverflowError)
        return x

    def cost(self, kind):
        if self.mp is None:
            return 3
        if kind in ("pow", "fn"):
            return self.mp.dps / 3
        return 4 + self.mp.dps / 20

    def value(self, node, env):
        """Fraction while everything is rational, else a number of the context.

        env: what stands for a symbol. ArithmeticError: undefined or too large.
        """
        kind, *parts = env.get(node[1], node) if node[0] == "sym" else node
        self.spend(self.cost(kind))
        if kind == "num":
            return parts[0]
        if kind == "const":
            self.real(None)
            return {"pi": +self.mp.pi, "e": +self.mp.e, "i": self.mp.j}[parts[0]]
        want(kind in ("add", "mul", "pow", "fn"), f"a {kind} is not a number")
        try:
            args = [self.value(x, env) for x in parts if isinstance(x, tuple)]
        except OverflowError:
            if kind != "pow" or self.value(parts[0], env) != 1:
                raise
            return Fraction(1)  # 1 to any power, however large
        if kind == "pow":
            return self.power(*args)
        if kind == "fn":
            return self.function(parts[0], args)
        if not all(isinstance(x, Fraction) for x in args):
            args = [self.real(x) for x in args]
        total, *args = args
        for x in args:
            total = self.fit(total + x if kind == "add" else total * x)
        return total

    def power(self, x, y):
        """x^y: exact for whole y, else by mpmath; odd roots of negative reals are real."""
        rational = isinstance(y, Fraction)
        if x == 0:
            want(rational and y > 0, "undefined", ZeroDivisionError)
            return x
        if isinstance(x, Fraction) and rational and y.denominator == 1:
            return self.whole_power(x, int(y))
        x, z, mp = self.real(x), self.real(y), self.mp
        tiny = abs(x) <= mp.mpf(10) ** (15 - mp.dps)
        want(not tiny, "zero, or too near to tell", ZeroDivisionError)
        negative = mp.im(x) == 0 and mp.re(x) < 0
        odd_root = negative and rational and y.denominator % 2 == 1 < y.denominator
        log = z * mp.ln(-x if odd_root else x)
        want(abs(log) <= 2.3 * MAX_MAGNITUDE, "power", OverflowError)
        self.height += float(abs(mp.re(log))) / 2.3
        if rational and y.denominator == 1:  # stays exactly real, or imaginary
            return x**y.numerator
        if rational and y.denominator == 2:
            return mp.sqrt(x) ** y.numerator
        return -mp.exp(log) if odd_root and y.numerator % 2 else mp.exp(log)

    def whole_power(self, x, n):
        bits = max(x.numerator.bit_length(), x.denominator.bit_length()) - 1
        small = abs(x) == 1 or abs(n) * bits <= MAX_BITS
        want(small, f"more than {MAX_BITS} bits", OverflowError)
        return self.fit(x ** (n % 2 if abs(x) == 1 else n))

    def function(self, name, args):
        """A function's value.

        ZeroDivisionError where it has none, or lies on a step or a pole, or too near one to tell.
        """
        mp, x = self.mp, args[0]
        if name in COUNTING:
            return self.count(name, args)
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil"):
            return self.step(name, x)
        x = self.real(x)
        want(name == "ln" or abs(x) <= MAX_ANGLE, name, OverflowError)
        result = getattr(mp, name.replace("arc", "a"))(x)
        pole = abs(result) >= mp.mpf(10) ** (mp.dps / 2)
        want(not pole, "a pole, like tan(pi/2)", ZeroDivisionError)
        return result

    def count(self, name, args):
        """A factorial, a binomial, a greatest common divisor ... of whole numbers."""
        whole = all(isinstance(n, Fraction) and n.denominator == 1 for n in args)
        want(whole, f"{name} of other than whole numbers")
        if name in ("fact", "binom"):
            want(max(args) <= MAX_COUNT, f"{name} of more than {MAX_COUNT}", OverflowError)
            want(min(args) >= 0, "negative", ZeroDivisionError)
        return self.fit(Fraction(COUNTING[name](*map(int, args))))

    def step(self, name, x):
        """Floor or ceiling."""
        if isinstance(x, Fraction):
            return Fraction(getattr(math, name)(x))
        mp = self.mp
        distance = abs(x - mp.nint(mp.re(x)))
        clear = mp.im(x) == 0 and distance > mp.mpf(10) ** (15 - mp.dps)
        want(clear, "on a step, or too near to tell", ZeroDivisionError)
        return Fraction(int(getattr(mp, name)(x)))

    # ------------------------------------------------------------------------------ compare scalars
    def scalars(self, a, b):
        """Are two scalars equal?"""
        if a == b or a[0] == b[0] == "num" or "inf" in (a[0], b[0]):
            return a == b
        one, two = self.inventory(a), self.inventory(b)
        # 62.5% is 0.625 and, where the question asks for percent, 62.5; 90 degrees are pi/2 and
        # may be written 90
        meanings = [MARK_VALUES]
        for mark in MARK_VALUES:
            if mark in one ^ two and ("sym", mark) in (a[-1], b[-1]):
                meanings.append(MARK_VALUES | {mark: ONE})
        if "log" in one ^ two:
            meanings.append(COMMON_LOG)
        return any(self.zero(minus(a, b), one | two, env) for env in meanings)

    def zero(self, node, names, env):
        """Does an expression vanish, for all values of its symbols?"""
        free = sorted(name for name in names if name[0] != "\\" and name not in env)
        if not free:
            return self.vanishes(node, [env])
        stepped = names & {r"\floor", r"\ceil", r"\abs"}
        whole = names & {r"\fact", r"\binom"}
        points, bits = (3 * POINTS, 20) if stepped else (POINTS, 12)  # steps agree by chance
        rationals = [env | point(free, k, bits) for k in range(points)]
        if not whole and self.vanishes(node, rationals):
            return True
        if whole or ((stepped or self.mp) and set(free) <= set("nmkNMK")):
            return self.vanishes(node, [env | point(free, k, 0) for k in range(40)])
        return False

    def vanishes(self, node, points):
        """Is it zero at each of these points where it is defined, and defined at three or all?"""
        defined, self.digits = 0, 30
        for env in points:
            with suppress(ZeroDivisionError):
                if not self.is_zero(node, env):
                    return False
                defined += 1
        self.how = "rational arithmetic" if self.mp is None else "50 digits or more"
        if len(points) > 1:
            self.how += f" at {len(points)} points"
        return defined >= min(3, len(points))

    def is_zero(self, node, env):
        """Exactly where the value is rational, else to 30 digits and then to as many as its height
        asks for."""
        self.mp = None
        with suppress(Inexact):
            return self.value(node, env) == 0
        while True:
            self.numeric(self.digits)
            value = self.real(self.value(node, env))
            if abs(value) >= self.mp.mpf(10) ** int(self.height + 10 - self.digits):
                return False
            if self.digits > 58 + 2 * self.height:
                return True
            self.digits = 70 + 2 * int(self.height)  # the height may be a little more later on

    def proportional(self, d1, d2, positive=False):
        """Are two expressions equal up to a constant factor?

        It is found at one point and then checked as any other equality.
        """
        if not d1 or not d2:
            return False
        names = self.free(d1)
        if not names or names != self.free(d2):
            return False
        self.mp, env = None, MARK_VALUES | point(sorted(names), 0, 12)
        try:
            factors = [self.value(d1, env) / self.value(d2, env)]
        except (Inexact, OverflowError):
            factors = [Fraction(1), Fraction(-1)]
        for f in factors:
            allowed = f > 0 if positive else f != 0
            if allowed and self.scalars(d1, product(("num", f), d2)):
                return True
        return False

    # --------------------------------------------------------------------------- compare structures
    def resolve(self, node):
        """The shape to compare.

        Relations worked out, the name of a list factored out, plus-or-minus as two values.
        """
        kind = node[0]
        if kind == "rel":
            return self.relation(node[1], node[2])
        if kind == "list":
            return self.named_list(tuple(map(self.resolve, node[1])), node[2])
        if kind == "sets":
            items = tuple(map(self.resolve, node[1]))
            want(all(map(is_set, items)), "not a set of reals")
            return (kind, items, node[2])
        if kind == "set":
            items = []
            for item in flat(map(self.resolve, node[1])):
                if not any(self.same(item, other) for other in items):
                    items.append(item)
            return (kind, tuple(items))
        if kind == "seq":
            signed = [item for item in node[1] if "±" in self.inventory(item)]
            want(len(signed) < 2, "two independent signs")
        if "±" in self.inventory(node):
            return ("list", tuple(substitute(node, "±", sign) for sign in (ONE, MINUS_ONE)))
        return node

    def named_list(self, items, separators):
        """x = 1, x = 2  or  x = 1, 2  or  x < 1 or x > 2: the name stands for the whole list."""
        names = {item[1] for item in items if item[0] == "named"}
        if len(names) != 1 or items[0][0] != "named":
            return ("list", flat(items))
        values = tuple(item[2] if item[0] == "named" else item for item in items)
        joined = set(separators) - {","}
        if len(joined) == 1 and all(map(is_set, values)):
            operator = set.union if "or" in joined else set.intersection
            value = ("sets", values, (operator,) * (len(values) - 1))
        else:
            value = ("list", flat(values))
        return ("named", *names, value, None)

    def relation(self, sides, operators):
        """Sides and the relations between them -> one of these, a list of them, or a value.

        ("named", name, value, difference or None)  ("eqn", difference)
        ("ineq", difference, operator)
        """
        if set(operators) <= {">", ">="}:
            operators = tuple(op.replace(">", "<") for op in reversed(operators))
            sides = sides[::-1]
        if set(operators) == {"="}:
            return self.equation(sides)
        name = name_of(sides[0])
        if name is not None and operators == ("in",):
            return ("named", name, self.resolve(sides[1]), None)
        if name is not None and operators == ("!=",):
            others = ("sets", (REALS, ("set", (sides[1],))), (set.difference,))
            return ("named", name, self.resolve(others), None)
        scalar = not any(side[0] in STRUCTURES for side in sides)
        want(scalar and set(operators) <= {"<", "<="}, "a relation not understood")
        return self.inequality(sides, operators)

    def equation(self, sides):
        name = name_of(sides[0])
        scalar = not any(side[0] in STRUCTURES for side in sides)
        if name is None and name_of(sides[-1]) is not None:
            sides = sides[::-1]
            name = name_of(sides[0])
        if name is None and scalar and any(map(self.free, sides)):
            want(len(sides) == 2, "a chain of equations")
            return ("eqn", minus(*sides))
        first, *rest = map(self.resolve, sides if name is None else sides[1:])
        want(all(self.same(first, other) for other in rest), "a contradiction")
        if name is None:
            return first
        return ("named", name, first, minus(*sides[:2]) if scalar else None)

    def inequality(self, sides, operators):
        """A chain of < and <=: an interval for the one name in it, else one difference a step."""
        line, signs = (MINUS_INFINITY, *sides, INFINITY), ("<", *operators, "<")
        free = [n for n, side in enumerate(line) if self.free(side)]
        if len(free) == 1:
            n = free[0]
            name = name_of(line[n])
            if name is not None and (len(sides) == 2 or (len(sides) == 3 and n == 2)):
                opening = "[" if signs[n - 1] == "<=" else "("
                closing = "]" if signs[n] == "<=" else ")"
                interval = ("seq", (line[n - 1], line[n + 1]), opening + closing)
                return ("named", name, interval, None)
        steps = zip(sides, operators, sides[1:], strict=False)
        parts = tuple(("ineq", minus(high, low), operator) for low, operator, high in steps)
        return ("list", parts) if len(parts) > 1 else parts[0]

    def same(self, a, b):
        """Do two resolved nodes mean the same?"""
        self.spend(6)
        a, b = sorted((a, b), key=lambda node: node[0])  # so that one order of kinds matters below
        kinds = {a[0], b[0]}
        if kinds == {"named"}:
            # m_{max} is m
            heads = b[1] in a[1].split("_")[:1] or a[1] in b[1].split("_")[:1]
            if (a[1] == b[1] or heads) and self.same(a[2], b[2]):
                return True
            return self.proportional(a[3], b[3])
        if kinds == {"eqn", "named"}:
            return self.proportional(a[1], b[3])
        if "named" in kinds:  # x = 5 against 5
            named, other = (a, b) if a[0] == "named" else (b, a)
            solved = not (named[3] and named[1] in self.free(named[2]))
            return solved and self.same(named[2], other)
        if kinds in ({"eqn"}, {"ineq"}):
            positive = kinds == {"ineq"}
            return a[2:] == b[2:] and self.proportional(a[1], b[1], positive)
        if kinds <= {"list", "set"}:
            return self.each(a[1], b[1])
        if kinds in ORDERED:  # a column of numbers may be written as a tuple
            alike = a[2] == b[2] or (a[2], b[2]) == (1, "()")
            return alike and self.each(a[1], b[1], ordered=True)
        if kinds == {"list", "seq"} and {item[0] for item in a[1]} == {"named"}:
            # x = 2, y = 3 against (2, 3)
            names, values = [item[1] for item in a[1]], [item[2] for item in a[1]]
            in_order = b[2] == "()" and names == sorted(set(names))
            return in_order and self.each(values, b[1], ordered=True)
        if "sets" in kinds and is_set(a) and is_set(b):
            return self.same_points(a, b)
        if "ratio" in kinds and not kinds & STRUCTURES:  # 2:4 is 1:2 and 1/2
            xs, ys = (n[1] if n[0] == "ratio" else (n, ONE) for n in (a, b))
            xs, ys = [product(x, ys[0]) for x in xs], [product(y, xs[0]) for y in ys]
            return self.each(xs, ys, ordered=True)
        return a == b if kinds & STRUCTURES else self.scalars(a, b)

    def each(self, xs, ys, ordered=False):
        """Are two sequences equal item by item, in order or in any order?"""
        left = list(ys)
        for x in xs:
            candidates = left[:1] if ordered else left
            n = next((n for n, y in enumerate(candidates) if self.same(x, y)), None)
            if n is None:
                return False
            del left[n]
        return not left

    def same_points(self, a, b):
        """Sets of reals as sets of cells of the line.

        Its k end points cut the line into 2k + 1 cells: an open gap, a point, a gap, ...
        """
        values = {}
        for end in ends_of(a) | ends_of(b):
            self.numeric(40)
            value = self.real(self.value(end, MARK_VALUES))
            want(self.mp.im(value) == 0, "an end that is not real")
            values[end] = value.real
        rank, last = {MINUS_INFINITY: -1}, None
        for end in sorted(values, key=values.get):
            if last is None:
                rank[end] = 1
            else:
                rank[end] = rank[last] + (0 if self.scalars(end, last) else 2)
            last = end
        rank[INFINITY] = 2 + max(rank.values())
        return cells_of(a, rank) == cells_of(b, rank)


# --------------------------------------------------------------------------------------- verdict
LOOSE_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # a space between digits stays
SHOWN = re.compile(r"\w|\\\{")
LETTER_OR_COMMAND = re.compile(r"[A-Za-z\\]")
LETTERS = re.compile(r"[A-Za-z ]*")
LONG_WORD = re.compile(r"[A-Za-z]{4}")
TWO_LETTERS = re.compile("[a-z]{2}")
FULL_STOP = re.compile(r"(?<=[a-z])\.(?!\d)")
ONE_WORD = re.compile(r"[A-Za-z]{2,}")
CHOICE = re.compile(r"\(([A-J])\)(?:\\?[$%\d.,]+|\\frac\{\d+\}\{\d+\})")


def printed_alike(a, g):
    """How two normalised texts are shown to be equal as they are printed, or ""."""
    keys = [LOOSE_SPACE.sub("", latex.TEXT.sub(r"\2", text)) for text in (a, g)]
    want(all(SHOWN.search(key) for key in keys), "nothing is shown")
    # in an answer in words, capitals and abbreviating full stops do not matter
    word, other = (FULL_STOP.sub("", key.lower()) for key in keys)
    in_words = is_wordy(a) or is_wordy(g)
    if keys[0] == keys[1] or (word == other and in_words and TWO_LETTERS.search(word)):
        return "same text"
    want(not all(map(is_one_word, keys)), "two words")  # not the product ABCD
    for key, letter in (keys, keys[::-1]):  # (C) 18 against (C)
        choice = CHOICE.fullmatch(key)
        if choice and choice[1] == letter.strip("()"):
            return "same choice"
    return ""


def is_wordy(text):
    """Is it all \\text{}, or are there only letters and among them a word?"""
    letters = LETTERS.fullmatch(text) and LONG_WORD.search(text)
    return bool(letters) or not LETTER_OR_COMMAND.search(latex.TEXT.sub("", text))


def is_one_word(key):
    long_or_capital = len(key) >= 4 or any(c.isupper() for c in key[:-1])
    return bool(ONE_WORD.fullmatch(key)) and long_or_capital


def compare(answer, gold):
    """-> (how the two are shown to be equal, or ""; notes on the way).

    The notes are the forms compared and, if refused, why.
    """
    notes, work = [], Comparison()
    if answer.strip() == gold.strip():
        return "identical" if answer.strip() else "", notes
    try:
        a, g = latex.normalise(answer), latex.normalise(gold)
        notes.append(f"normalised  {a}   |   {g}")
        if how := printed_alike(a, g):
            return how, notes
        want(a.isascii() and g.isascii(), "a character not understood")
        (a, unit), (g, gold_unit) = latex.literals(a), latex.literals(g)
        units = f"   units {unit}   |   {gold_unit}" if unit or gold_unit else ""
        notes.append(f"parsed      {a}   |   {g}{units}")
        want(not (unit and gold_unit) or unit == gold_unit, "different units")
        for x in latex.readings(a, g):
            for y in latex.readings(g, a):
                work.spend(3 * (len(x) + len(y)))
                if work.same(work.resolve(latex.parse(x)), work.resolve(latex.parse(y))):
                    return work.how, notes
    except (ValueError, ArithmeticError) as refusal:
        notes.append(f"refused     {refusal}")
    return "", notes


def is_equivalent(answer, gold):
    """Does `answer` mean what `gold` means? Symmetric; bounded in time and memory; never raises."""
    try:
        return bool(compare(answer, gold)[0])
    except Exception:  # a net for the training run: the tests call compare without it
        return False
