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

from lib.spelling import CURRENCIES, FUNCTIONS, GREEK, SCALING, UNITS, table, tokens_of, want

MAX_DEPTH = 24  # nested brackets, arguments and exponents
MAX_SUM = 20_000  # characters it would take to print the sums of an answer term by term
MAX_WORDS = 8  # after a value: more words are a sentence and no unit

# ---- Grammar -------------------------------------------------------------------------------------
COUNTING = {"fact": math.factorial, "binom": math.comb, "gcd": math.gcd, "lcm": math.lcm}
COUNTING |= {"max": max, "min": min}
RELATIONS = table(r"=,<,>,<= \le,>= \ge,!= \ne,in \in,~ \approx")
CHAINS = (  # separators and operators by precedence, loosest first
    ("list", {",": ",", ";": ",", r"\and": "and", r"\or": "or"}),
    ("ratio", {":": ":"}),
    ("rel", RELATIONS),
    ("sets", {r"\cup": set.union, r"\cap": set.intersection, r"\setminus": set.difference}),
)
OPERATORS = {token for _, chain in CHAINS for token in chain}
MARKS = {"%": "%", r"\%": "%", r"\degree": "°"}
POSTFIX = {"^", "!", *MARKS}
# what a pair of brackets means: ]1, 2[ is (1, 2)
PAIRS = table(r"""() ][ ]) ([ \langle\rangle,(] ]],[) [[,[],{},set \{\},abs ||,floor \lfloor\rfloor,
    ceil \lceil\rceil""")
OPENINGS = set(table(r"( [ ] { | \{ \langle \lfloor \lceil"))
ENDS = set(table(r") ] } \} \rangle \rfloor \rceil"))
ONE = ("num", Fraction(1))
MINUS_ONE = ("num", Fraction(-1))
REALS = ("seq", (("inf", -1), ("inf", 1)), "()")
NAMES = [*GREEK, "varepsilon", "varphi", "vartheta", "ell", "max", "min"]
KNOWN = {name: ("sym", name) for name in NAMES}
KNOWN |= {"pi": ("const", "pi"), "infty": ("inf", 1), "emptyset": ("set", ())}
# ± takes its two values everywhere at once, and ∓ the other one
SIGN_TOKENS = {"+": [], "-": [MINUS_ONE]}
SIGN_TOKENS |= {r"\pm": [("sym", "±")], r"\mp": [("sym", "∓")]}
STOPS = {"", *"*/&^_!", r"\\", r"\over", r"\choose", *ENDS, *OPERATORS, *SIGN_TOKENS, *MARKS}
NEGATIONS = {r"\not", r"\neg", r"\lnot", r"\cancel", r"\sout"}
MATRIX = re.compile(r"begin ?\{(?:[pb]?matrix|smallmatrix|array|(cases|aligned))\}")
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
    scale = [x for x in flat if x[0] != "mat"]
    if scale and len(scale) == len(flat) - 1:
        _, items, columns = next(x for x in flat if x[0] == "mat")
        return ("mat", tuple(product(*scale, x) for x in items), columns)
    return ("mul", *flat) if len(flat) > 1 else flat[0]


def minus(a, b):
    return ("add", a, product(MINUS_ONE, b))


def divided(a, b):
    if a[0] == b[0] == "num" and b[1]:
        return ("num", a[1] / b[1])
    return product(a, ("pow", b, MINUS_ONE))


def substitute(node, name, value):
    """`value` for each symbol `name`; also for i, which may count the terms of a sum."""
    if node[1:] == (name,) and node[0] in ("sym", "const"):
        return value
    return tuple(substitute(x, name, value) if isinstance(x, tuple) else x for x in node)


# ---- Parse ---------------------------------------------------------------------------------------
def parse(text):
    """Spelled text -> (expression, units in it)."""
    tokens = tokens_of(text)
    try:
        return Parser(tokens).parse()
    except ValueError:  # P(A \cup B) = 1/2: what is not understood may name what is right of it
        cut = last_equality(tokens)
        if not cut:
            raise
    name = ("text", " ".join(tokens[:cut]))
    node, units = Parser(tokens[cut + 1 :]).parse()
    return ("rel", (name, node), ("=",)), units


def last_equality(tokens):
    """The place of the last equality sign after words or letters, or 0; no other operator."""
    depth = cut = 0
    for n, token in enumerate(tokens):
        depth += (token in OPENINGS and token not in "]|") - (token in ENDS)
        if depth <= 0 and token in OPERATORS:
            cut = n
            if token != "=":
                return 0
    named = any(token[0].isalpha() or '"' in token for token in tokens[:cut])
    return cut if named and not NEGATIONS & set(tokens[:cut]) else 0


class Parser:
    """Recursive descent. All nesting passes through atom(), which counts its depth."""

    def __init__(self, tokens):
        self.tokens, self.at = [*tokens, "", "", "", ""], 0
        self.depth, self.room = 0, MAX_SUM
        self.bars = False  # does an open | wait for its end?
        self.units = set()

    def parse(self):
        node = self.chain()
        self.need("")
        return node, self.units

    @property
    def next(self):
        return self.tokens[self.at]

    def take(self, wanted):
        """The next token if it is among `wanted`, else None."""
        found = self.next in wanted
        self.at += found
        return self.tokens[self.at - 1] if found else None

    def need(self, wanted):
        end = "the end"
        want(self.next == wanted, f"{wanted or end} expected, found {self.next[:20] or end}")
        self.at += 1

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
            if signs[-2:] == [MINUS_ONE, MINUS_ONE]:  # --5
                del signs[-2:]
        return signs

    def product(self):
        """Factors with * or / between them or side by side; a unit ends it."""
        factors = [self.power()]
        slashed = False  # was something other than numbers divided by a slash?
        while (operator := self.take(("*", "/"))) or self.starts():
            if self.unit():
                break
            before = self.tokens[self.at - 1]
            signs = self.signs()
            start, (first, after) = self.at, self.tokens[self.at : self.at + 2]
            factor, left = self.power(), factors[-1]
            if factor[0] == "seq" and left[0] == "sym" and not operator:
                # C(10, 2) is a binomial, d(A, B) a name
                choose = left[1] == "C" and len(factor[1]) == 2
                called = ("sym", left[1] + "".join(self.tokens[start : self.at]))
                factors[-1] = ("fn", "binom", *factor[1]) if choose else called
                continue
            want("text" not in (factor[0], left[0]), "words beside a value")
            if not operator:
                want(not slashed, "a/bc: what is divided by what?")
                apart = left[0] == "pow" or (left[0] != "num" and after == "^")  # n2^n
                apart |= before in (")", "!")
                want(apart or first[0] not in FIGURES, "two numbers side by side")
            if operator == "/":
                slashed |= not factor[0] == left[0] == "num"
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
        nouns, unit = [], "/" * (self.tokens[self.at - 1] == "/")
        while True:
            token, after = self.tokens[self.at : self.at + 2]
            if token == r"\$" or '"' in token:
                noun = token[1:].lower()
                letter = len(noun) == 1 and noun.isascii()
                want(noun in UNITS or not (letter or SCALING & set(noun)), f"{noun!r} is no unit")
                unit += " " + UNITS.get(noun, "")
                nouns.append(noun)
                self.at += 1
            elif token in ("/", "*") and '"' in after:
                unit += f" {token} "
                self.at += 1
            elif nouns and self.take(("^",)):
                kind, exponent = self.argument()[:2]
                want(kind == "num", "a power of a unit")
                unit += f" / ^{-exponent}" if exponent < 0 else f" ^{exponent}"
            else:
                break
        sentence = len(nouns) > MAX_WORDS or " ".join(nouns).endswith("ed")  # 5 excluded
        want(not sentence, "a sentence")
        parts = set(unit.replace("/", " / ").split()) - {"*", "^1"}
        if not UNITS.keys() >= set(nouns):  # dollars per egg: of eggs nothing is asked
            parts = {part for part in parts if part[0] not in "/^"}
        if any(part[0] not in "/^" for part in parts):
            self.units.add(" ".join(sorted(parts)))
        return bool(nouns)

    def power(self):
        """An atom with its subscripts, exponents, factorials, percent and degree signs."""
        node, seen = self.atom(), 0
        # f(2) is a value of f; so is h(x) in h(x) = 2x. But n(n+1) is a product
        name, opening, argument, closing, relation = self.tokens[self.at - 1 : self.at + 4]
        defined = opening + closing == "()" and relation in RELATIONS
        called = name in ("f", "g") or (argument.isalpha() and defined)
        while node[0] == "sym" and (self.take(("_",)) or (called and self.next == "(")):
            start, called = self.at, called and self.next != "("
            self.argument()  # is part of the name
            marks = NAME_MARKS.sub("", "".join(self.tokens[start : self.at]))
            node = ("sym", f"{node[1]}_{marks}")
        while token := self.take(POSTFIX):
            seen += 3 if token == "^" else 1
            want(seen <= 5, "too many marks on one term")  # TeX refuses two exponents in a row
            if node[0] == "seq" and self.take(("T",)):
                pass  # a tuple may be written as a row
            elif node[0] == "mat" and self.take(("T",)):
                _, items, columns = node
                cells = tuple(x for n in range(columns) for x in items[n::columns])
                node = ("mat", cells, len(items) // columns)
            elif token == "^":
                node = ("pow", node, self.argument())
            elif token == "!" and self.next != "!":
                node = ("fn", "fact", node)
            else:
                want(token in MARKS, f"{token} not understood")
                node = product(node, ("sym", MARKS[token]))
                self.units |= {"°"} & {MARKS[token]}
        return node

    def argument(self, digit=False):
        r"""What ^, _ or a command applies to: a group or one token; \frac12 takes one digit."""
        token = self.next
        if digit and token[:1].isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return product(*self.signs(), self.atom())

    def atom(self):
        """A number, letter, word or bracket, or a command with its arguments."""
        self.depth += 1
        want(self.depth <= MAX_DEPTH, f"nested more than {MAX_DEPTH} deep")
        token = self.next
        self.at += token != ""
        if token in OPENINGS:
            node = self.bracket(token)
        elif token.lstrip(".")[:1].isdigit():
            want(len(token.lower().partition("e")[2]) <= 4, "exponent", OverflowError)
            node = ("num", Fraction(token))
        elif UNITS.get(token[1:].lower()) in CURRENCIES:
            self.units.add(UNITS[token[1:].lower()])
            node = self.atom()
        elif '"' in token and len(token) == 2:  # \text{A}
            node = ("sym", token[1])
        elif '"' in token:
            words = token[1:]
            while '"' in self.next:
                words += self.next[1:]
                self.at += 1
            node = ("text", words.lower())
        elif token[:1] == "\\":
            node = self.command(token[1:])
        else:
            letter = token.isascii() and token.isalpha()
            want(letter, f"{token[:20] or 'the end'} not understood")
            node = ("const" if token in "ei" else "sym", token)
        self.depth -= 1
        return node

    def bracket(self, opening):
        """Between brackets: a group, |x|, a set, a tuple or interval, a floor or ceiling."""
        bars, self.bars = self.bars, opening == "|"
        empty = opening == r"\{" and self.next == r"\}"
        node = ("list", ()) if empty else self.chain()
        pair = opening + self.next
        want(pair in PAIRS, f"{opening} is not closed")
        self.at, self.bars = self.at + 1, bars
        items = node[1] if node[0] == "list" else (node,)
        kind = PAIRS[pair]
        if kind == "set":
            return ("set", items)
        if pair == "{}" or (len(items) == 1 and pair in ("()", "[]")):
            return node
        if len(items) == 1 and kind in ("abs", "floor", "ceil"):
            return ("fn", kind, node)
        commas = len(items) > 1 and set(node[2]) <= {",", ";"}
        want(commas and kind[0] in "([", "brackets not understood")
        return ("seq", items, kind)

    def command(self, name):
        r"""What follows a backslash: \frac, \sqrt, \sin, a matrix, a Greek letter ..."""
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("frac", "binom"):
            top, bottom = self.argument(True), self.argument(True)
            return divided(top, bottom) if name == "frac" else ("fn", "binom", top, bottom)
        if name == "sqrt":
            degree = self.atom() if self.next == "[" else ("num", Fraction(2))
            return ("pow", self.argument(), divided(ONE, degree))
        if name in ("sum", "prod"):
            return self.finite_sum(name)
        if name in COUNTING and self.next == "(":
            items = self.atom()
            want(items[0] == "seq", f"{name} of one thing")
            return ("fn", name, *items[1])
        if matrix := MATRIX.match(name):
            return self.matrix(system=matrix[1])
        if name == "mathbb":
            name = self.argument()
            return REALS if name == ("sym", "R") else ("text", str(name[1]))
        want(name in KNOWN, f"\\{name[:20]} not understood")
        return KNOWN[name]

    def finite_sum(self, name):
        r"""\sum_{k=1}^{5} k^2 written out, where its bounds are whole numbers."""
        self.need("_")
        low = self.argument()
        self.need("^")
        high, body = self.argument(), self.product()
        want(low[0] == "rel" and low[1][1][0] == high[0] == "num", "the bounds of a sum")
        (_, variable), (_, first) = low[1][:2]
        count = max(0, math.floor(high[1] - first) + 1)
        self.room -= count * len(repr(body))
        want(self.room >= 0, "the terms of a sum", OverflowError)
        terms = [substitute(body, variable, ("num", first + n)) for n in range(count)]
        return ("add", ("num", Fraction(0)), *terms) if name == "sum" else ("mul", ONE, *terms)

    def matrix(self, system):
        """A matrix row by row; the lines of a `system`, as in cases, are a list."""
        rows, marks = [[self.chain(2)]], ("&", r"\\", ",")
        while (mark := self.take(marks)) and not self.next.startswith(r"\end"):
            if mark == "&":
                rows[-1].append(self.chain(2))
            elif self.next != r"\\":
                rows.append([self.chain(2)])
        columns = len(rows[0])
        want(all(len(row) == columns for row in rows), "a matrix not understood")
        want(self.next.startswith(r"\end"), "a matrix not understood")
        self.at += 1
        cells = tuple(cell for row in rows for cell in row)
        if system or any(cell[0] == "rel" for cell in cells):  # x = 1 \\ y = 2
            want(columns == 1, "cases not understood")
            return ("list", cells, (",",) * (len(cells) - 1)) if cells[1:] else cells[0]
        return ("mat", cells, columns)

    def function(self, name):
        """sin, log ... with base and power; without brackets a number, bracket or sign ends it."""
        base = self.argument() if name == "log" and self.take(("_",)) else None
        power = self.argument() if self.take(("^",)) else None
        if power == MINUS_ONE and name in ("sin", "cos", "tan"):
            name, power = "arc" + name, None
        bracketed = self.next in ("(", "{")
        x = self.atom() if bracketed else self.power()
        while not bracketed and self.starts():
            if self.next[0] in '(["' + FIGURES or self.next[1:] in FUNCTIONS:
                break
            x = product(x, self.power())
        node = ("pow", ("const", "e"), x) if name == "exp" else ("fn", name, x)
        if name == "log":
            below = ("fn", "ln", base) if base else ("sym", "log")
            node = divided(("fn", "ln", x), below)
        return ("pow", node, power) if power else node
