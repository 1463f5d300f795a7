r"""LaTeX of an answer -> expression tree. The text of a model is read, never evaluated as code.

parse takes a text as lib/spelling.py spells it and gives nested tuples, each with its kind first:

    scalars     ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i")  ("inf", 1 | -1)
                ("add", x, ...)  ("mul", x, ...)  ("pow", x, y)  ("fn", name, x, ...)
                the symbols % ° ± ∓ and "log" get their values in lib/equivalence.py
    structures  ("list", items, separators)  ("ratio", items, ...)  ("rel", sides, operators)
                ("sets", sides, operators)  ("set", items)  ("seq", items, brackets)
                ("mat", items, columns)  ("text", words)

Parsing is linear in the length of the text, and the caps below hold before anything is computed.
What is not understood is a ValueError, what is too large an OverflowError.

>>> parse(r"2 * x \$")
(('mul', ('num', Fraction(2, 1)), ('sym', 'x')), {'usd'})
"""

import math
import re
from fractions import Fraction

from lib.spelling import CURRENCIES, FUNCTIONS, GREEK, UNITS, tokens_of, unit_of, want

MAX_DEPTH = 24  # nested brackets, arguments and exponents
MAX_SUM = 20_000  # characters it would take to print the sums of an answer term by term
MAX_WORDS = 8  # after a value: more words are a sentence and no unit

# ---------------------------------------------------------------------------------------- grammar
COUNTING = {"fact": math.factorial, "binom": math.comb, "gcd": math.gcd, "lcm": math.lcm}
COUNTING |= {"max": max, "min": min}
RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", "!=": "!="}
RELATIONS |= {r"\in": "in", r"\approx": "~"}
CHAINS = (  # separators and operators by precedence, loosest first
    ("list", {",": ",", ";": ",", r"\and": "and", r"\or": "or"}),
    ("ratio", {":": ":"}),
    ("rel", RELATIONS),
    ("sets", {r"\cup": set.union, r"\cap": set.intersection, r"\setminus": set.difference}),
)
OPERATORS = {token for _, chain in CHAINS for token in chain}
MARKS = {"%": "%", r"\%": "%", r"\degree": "°"}
POSTFIX = {"^", "!", "_", *MARKS}
ROUNDING = {"||": "abs", r"\lfloor\rfloor": "floor", r"\lceil\rceil": "ceil"}
CLOSING = {"(": ")][", "[": "])[", "]": "][)", "{": "}", r"\{": [r"\}"]}
CLOSING |= {rf"\l{name}": [rf"\r{name}"] for name in ("angle", "floor", "ceil")}
ENDS = {")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\rangle"}
TUPLES = {r"\langle\rangle": "()", "]]": "(]", "[[": "[)"}
TUPLES |= dict.fromkeys(("][", "])", "(["), "()")  # ]1, 2[ is (1, 2)
ONE = ("num", Fraction(1))
MINUS_ONE = ("num", Fraction(-1))
HALF = ("num", Fraction(1, 2))
REALS = ("seq", (("inf", -1), ("inf", 1)), "()")
NAMES = [*GREEK, "varepsilon", "varphi", "vartheta", "ell", "max", "min"]
KNOWN = {name: ("sym", name) for name in NAMES}
KNOWN |= {"pi": ("const", "pi"), "infty": ("inf", 1), "emptyset": ("set", ())}
# ± takes its two values everywhere at once, and ∓ the other one
SIGN_TOKENS = {"+": [], "-": [MINUS_ONE]}
SIGN_TOKENS |= {r"\pm": [("sym", "±")], r"\mp": [("sym", "∓")]}
STOPS = {"", *"*/&^_!", r"\\", r"\over", r"\choose", *ENDS, *OPERATORS, *SIGN_TOKENS, *MARKS}
NEGATIONS = {r"\not", r"\neg", r"\lnot", r"\cancel", r"\sout"}
MATRIX = re.compile(r"begin ?\{(?:[pb]?matrix|smallmatrix|array|cases|aligned)\}")
FIGURES = ".0123456789"
NAME_MARKS = re.compile(r'["\\{}]')


def product(*factors):
    """A product, flattened; signs go into numbers and infinity, numbers into a matrix."""
    flat = []
    for factor in factors:
        flat += factor[1:] if factor[0] == "mul" else [factor]
    sign, (kind, *rest) = flat[0], flat[-1]
    if sign == MINUS_ONE and len(flat) == 2 and kind in ("num", "inf"):
        return (kind, -rest[0])
    scale = [factor for factor in flat if factor[0] != "mat"]
    matrices = [factor for factor in flat if factor[0] == "mat"]
    if scale and len(matrices) == 1:
        _, items, columns = matrices[0]
        return ("mat", tuple(product(*scale, x) for x in items), columns)
    return ("mul", *flat) if len(flat) > 1 else flat[0]


def minus(a, b):
    return ("add", a, product(MINUS_ONE, b))


def divided(a, b):
    if a[0] == b[0] == "num" and b[1]:
        return ("num", a[1] / b[1])
    return product(a, ("pow", b, MINUS_ONE))


def transposed(node):
    kind, items, columns = node
    if kind == "seq":  # a tuple may be written as a row
        return node
    rows = (items[n::columns] for n in range(columns))
    return ("mat", tuple(x for row in rows for x in row), len(items) // columns)


def substitute(node, name, value):
    """`value` for each symbol `name`; also for i, which may count the terms of a sum."""
    if node[1:] == (name,) and node[0] in ("sym", "const"):
        return value
    parts = [substitute(x, name, value) if isinstance(x, tuple) else x for x in node]
    return tuple(parts)


# ------------------------------------------------------------------------------------------ parse
def parse(text):
    """Spelled text -> (expression, units in it)."""
    tokens = tokens_of(text)
    try:
        return parse_tokens(tokens)
    except ValueError:
        if "=" not in tokens:
            raise
        left, right = last_equality(tokens)
    # P(A \cup B) = 1/2: whatever the left side is, it is no number, and the right is its value
    node, units = parse_tokens(right)
    name = ("text", " ".join(left))
    return ("rel", (name, node), ("=",)), units


def parse_tokens(tokens):
    parser = Parser(tokens)
    node = parser.chain()
    parser.need("")
    return node, parser.units


def last_equality(tokens):
    """-> the tokens before and after the last equality sign; no other operator beside it."""
    depth = cut = 0
    for n, token in enumerate(tokens):
        depth += (token in CLOSING and token != "]") - (token in ENDS)
        if depth <= 0 and token in OPERATORS:
            want(token == "=", "not understood")
            cut = n
    left = tokens[:cut]
    named = any(token[0].isalpha() or token[0] == '"' for token in left)
    want(named and not NEGATIONS & set(left), "not understood")
    return left, tokens[cut + 1 :]


class Parser:
    """Recursive descent over the tokens of one answer.

    All nesting passes through atom(), which counts its depth; chains are collected flat.
    """

    def __init__(self, tokens):
        self.tokens = [*tokens, "", "", "", ""]
        self.at = 0
        self.depth = 0
        self.room = MAX_SUM
        self.bars = False  # does an open | wait for its end?
        self.units = set()

    @property
    def next(self):
        return self.tokens[self.at]

    def take(self, wanted):
        """The next token if it is among `wanted`, else None."""
        token = self.tokens[self.at]
        if token not in wanted:
            return None
        self.at += 1
        return token

    def need(self, *wanted):
        wish, found = " or ".join(wanted) or "the end", self.next[:20] or "the end"
        want(self.next in wanted, f"{wish} expected, found {found}")
        self.at += 1
        return self.tokens[self.at - 1]

    def chain(self, level=0):
        """x, or (kind, (x, y, ...), operators between them) with looser chains outside."""
        if level == len(CHAINS):
            return self.sum()
        kind, operators = CHAINS[level]
        sides, found = [self.chain(level + 1)], []
        while operator := self.take(operators):
            if operator == ",":  # 1, 2, and 3
                operator = self.take({r"\and", r"\or"}) or operator
            found.append(operators[operator])
            sides.append(self.chain(level + 1))
        return (kind, tuple(sides), tuple(found)) if found else sides[0]

    def sum(self):
        terms = []
        while not terms or self.next in SIGN_TOKENS:
            terms.append(product(*self.signs(), self.product()))
        node = ("add", *terms) if len(terms) > 1 else terms[0]
        if operator := self.take((r"\over", r"\choose")):  # {a + 1 \over b}
            below = self.sum()
            return divided(node, below) if operator == r"\over" else ("fn", "binom", node, below)
        return node

    def signs(self):
        """A run of signs, as factors."""
        signs = []
        while sign := self.take(SIGN_TOKENS):
            signs += SIGN_TOKENS[sign]
        others = [sign for sign in signs if sign != MINUS_ONE]
        return [MINUS_ONE] * (signs.count(MINUS_ONE) % 2) + others

    def product(self):
        factors = [self.power()]
        slashed = False  # was something other than numbers divided by a slash?
        while (operator := self.take(("*", "/"))) or self.starts():
            if self.unit():
                break
            before = self.tokens[self.at - 1]
            signs = self.signs() if operator else []
            first, after = self.tokens[self.at : self.at + 2]
            start = self.at
            factor = self.power()
            if factor[0] == "seq" and factors[-1][0] == "sym" and not operator:
                # C(10, 2) is a binomial, d(A, B) a name
                _, name = factors.pop()
                called = ("sym", name + "".join(self.tokens[start : self.at]))
                choose = name == "C" and len(factor[1]) == 2
                factors.append(("fn", "binom", *factor[1]) if choose else called)
                continue
            want("text" not in (factor[0], factors[-1][0]), "words beside a value")
            if not operator:
                want(not slashed, "a/bc: what is divided by what?")
                apart = factors[-1][0] == "pow" or before in (")", "!") or after == "^"  # n2^n
                apart &= factors[-1][0] != "num" or before in (")", "!")
                want(apart or first[0] not in FIGURES, "two numbers side by side")
            if operator == "/":
                slashed |= not factor[0] == factors[-1][0] == "num"
                factor = ("pow", factor, MINUS_ONE)
            factors += [*signs, factor]
        return product(*factors)

    def starts(self):
        """Does the next token begin a factor?"""
        token, after = self.tokens[self.at : self.at + 2]
        if token == "[" and after in STOPS:  # the end of [1, 2[
            return False
        return not (token in STOPS or token.startswith(r"\end") or (token == "|" and self.bars))

    def unit(self):
        r"""Reads and notes a unit: \$, cm^2, square miles per hour, eggs. Was there one?"""
        start, nouns = self.at, []
        parts = ["/"] if self.tokens[start - 1] == "/" else []
        while True:
            token, after = self.tokens[self.at : self.at + 2]
            if token == "^" and self.at > start:
                self.at += 1
                kind, exponent = self.argument()[:2]
                want(kind == "num", "a power of a unit")
                parts += ["/"] * (exponent < 0) + [f"^{abs(exponent)}"] * (abs(exponent) != 1)
                continue
            if token == r"\$":
                parts.append("usd")
            elif token[:1] == '"':
                nouns.append(token[1:].lower())
                parts += unit_of(nouns[-1])
            elif token in ("/", "*") and self.at > start and after[:1] == '"':
                parts += ["/"] if token == "/" else []
            else:
                break
            self.at += 1
        want(len(nouns) <= MAX_WORDS, "a sentence")
        want(not nouns or not nouns[-1].endswith("ed"), "5 excluded")
        if not all(noun in UNITS for noun in nouns):  # dollars per egg: of eggs nothing is asked
            parts = [part for part in parts if part[0] not in "/^"]
        if any(part[0] not in "/^" for part in parts):
            self.units.add(" ".join(sorted({*parts})))
        return self.at > start

    def power(self):
        """An atom with its subscripts, exponents, factorials, percent and degree signs."""
        node = self.atom()
        called = self.is_call()
        seen = 0
        while True:
            callable_name = called and node[0] == "sym"
            token = self.take(POSTFIX | {"("} if callable_name else POSTFIX)
            if not token:
                return node
            seen += 3 if token == "^" else 1
            want(seen <= 5, "too many marks on one term")  # TeX refuses two exponents in a row
            if token == "(" or (token == "_" and node[0] == "sym"):
                # f(2) is a value and x_1 a name: what follows is part of the name
                self.at -= token == "("
                start = self.at
                self.argument()
                marks = NAME_MARKS.sub("", "".join(self.tokens[start : self.at]))
                node = ("sym", node[1] + token.strip("(") + marks)
            elif token == "^" and node[0] in ("mat", "seq") and self.take(("T",)):
                node = transposed(node)
            elif token == "^":
                node = ("pow", node, self.argument())
            elif token == "!" and self.next != "!":
                node = ("fn", "fact", node)
            else:
                want(token in MARKS, f"{token} not understood")
                node = product(node, ("sym", MARKS[token]))
                self.units |= {"°"} & {MARKS[token]}
            called = called and token != "("

    def is_call(self):
        """f(2) is a value of f; so is h(x) in h(x) = 2x. But n(n+1) is a product."""
        name, *after = self.tokens[self.at - 1 : self.at + 4]
        opening, argument, closing, relation = after
        alone = opening + closing == "()" and argument.isalpha()
        return name in ("f", "g") or (alone and len(name) == 1 and relation in RELATIONS)

    def argument(self, digit=False):
        r"""What ^, _ or a command applies to: a group or one token; \frac12 takes one digit."""
        token = self.next
        if digit and token[:1].isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return product(*self.signs(), self.atom())

    def atom(self):
        self.depth += 1
        want(self.depth <= MAX_DEPTH, f"nested more than {MAX_DEPTH} deep")
        token = self.next
        self.at += token != ""
        if token in CLOSING or token == "|":
            node = self.bracket(token)
        elif token.lstrip(".")[:1].isdigit():
            exponent = token.lower().partition("e")[2]
            want(len(exponent) <= 4, "exponent", OverflowError)
            node = ("num", Fraction(token))
        elif token == r"\$" or UNITS.get(token[1:].lower()) in CURRENCIES:
            self.units.add(UNITS.get(token[1:].lower(), "usd"))
            node = self.atom()
        elif token[:1] == '"':
            node = self.words(token)
        elif token[:1] == "\\":
            node = self.command(token[1:])
        else:
            plain = token.isascii() and token.isalpha()
            want(plain, f"{token[:20] or 'the end'} not understood")
            node = ("const" if token in "ei" else "sym", token)
        self.depth -= 1
        return node

    def words(self, token):
        if len(token) == 2:  # \text{A}
            return ("sym", token[1])
        words = token[1:].lower()
        while self.next[:1] == '"':
            words += self.next[1:].lower()
            self.at += 1
        return ("text", words)

    def bracket(self, opening):
        """Between brackets: a group, |x|, a set, a tuple or interval, a floor or ceiling."""
        bars, self.bars = self.bars, opening == "|"
        if opening == r"\{" and self.next == r"\}":
            node = ("list", ())
        else:
            node = self.sum() if self.bars else self.chain()
        pair = opening + self.need(*CLOSING.get(opening, "|"))
        self.bars = bars
        items = node[1] if node[0] == "list" else (node,)
        if pair == r"\{\}":
            return ("set", items)
        if pair == "{}" or (len(items) == 1 and pair in ("()", "[]")):
            return node
        if len(items) == 1 and pair in ROUNDING:
            return ("fn", ROUNDING[pair], node)
        commas = len(items) > 1 and set(node[2]) <= {",", ";"}
        want(commas and pair not in ROUNDING, "brackets not understood")
        return ("seq", items, TUPLES.get(pair, pair))

    def command(self, name):
        r"""What follows a backslash: \frac, \sqrt, \sin, a matrix, a Greek letter ..."""
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("frac", "binom"):
            top, bottom = self.argument(True), self.argument(True)
            return divided(top, bottom) if name == "frac" else ("fn", "binom", top, bottom)
        if name == "sqrt":
            return self.root()
        if name in ("sum", "prod"):
            return self.finite_sum(name)
        if name in COUNTING and self.next == "(":
            items = self.atom()
            want(items[0] == "seq", f"{name} of one thing")
            return ("fn", name, *items[1])
        if MATRIX.match(name):
            return self.matrix("cases" in name or "aligned" in name)
        if name == "mathbb":
            name = self.argument()
            return REALS if name == ("sym", "R") else ("text", str(name[1]))
        want(name in KNOWN, f"\\{name[:20]} not understood")
        return KNOWN[name]

    def root(self):
        exponent = HALF
        if self.take(("[",)):
            exponent = ("pow", self.sum(), MINUS_ONE)
            self.need("]")
        return ("pow", self.argument(), exponent)

    def finite_sum(self, name):
        r"""\sum_{k=1}^{5} k^2 written out, where its bounds are whole numbers."""
        self.need("_")
        low = self.argument()
        self.need("^")
        high = self.argument()
        body = self.product()
        numbers = low[0] == "rel" and low[1][1][0] == high[0] == "num"
        want(numbers, "the bounds of a sum")
        (_, variable), (_, first) = low[1][:2]
        count = max(0, math.floor(high[1] - first) + 1)
        self.room -= count * len(repr(body))
        want(self.room >= 0, "the terms of a sum", OverflowError)
        terms = [substitute(body, variable, ("num", first + n)) for n in range(count)]
        if name == "sum":
            return ("add", ("num", Fraction(0)), *terms)
        return ("mul", ONE, *terms)

    def matrix(self, system):
        rows = [[self.chain(2)]]
        while mark := self.take(("&", r"\\", "," if system else "&")):
            if self.next.startswith(r"\end"):
                break
            if mark == "&":
                rows[-1].append(self.chain(2))
            elif self.next != r"\\":
                rows.append([self.chain(2)])
        columns = {len(row) for row in rows}
        want(self.next.startswith(r"\end") and len(columns) == 1, "a matrix not understood")
        self.at += 1
        cells = tuple(cell for row in rows for cell in row)
        if system or any(cell[0] == "rel" for cell in cells):  # x = 1 \\ y = 2
            want(columns == {1}, "cases not understood")
            commas = (",",) * (len(cells) - 1)
            return ("list", cells, commas) if commas else cells[0]
        return ("mat", cells, len(rows[0]))

    def function(self, name):
        r"""sin, log ... with base and power.

        Without brackets the argument ends at the next function, bracket, number, sign or operator.
        """
        base = self.argument() if name == "log" and self.take(("_",)) else None
        power = self.argument() if self.take(("^",)) else None
        if power == MINUS_ONE and name in ("sin", "cos", "tan"):
            name, power = "arc" + name, None
        if self.next in ("(", "{"):
            x = self.atom()
        else:
            x = self.power()
            while self.starts() and self.continues():
                x = product(x, self.power())
        node = ("pow", ("const", "e"), x) if name == "exp" else ("fn", name, x)
        if name == "log":
            base = ("fn", "ln", base) if base else ("sym", "log")
            node = divided(("fn", "ln", x), base)
        return ("pow", node, power) if power else node

    def continues(self):
        """Does the next factor belong to an argument without brackets?"""
        return self.next[0] not in '(["' + FIGURES and self.next[1:] not in FUNCTIONS
