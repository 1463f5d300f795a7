r"""The verifier: does a response answer the question? It decides what the policy learns, so in doubt it says no.

    extract     text after the last </think>; last complete non-empty \boxed{} or \fbox{}; else "#### x"; else "answer is x"; else None
    normalise   one spelling: Unicode to LaTeX, sizing, spacing and phantoms dropped; units split off, mixed numbers and bases worked out
    parse       tokens -> expression (nested tuples), by the recursive-descent parser below; text is never evaluated as code
    evaluate    an expression is a Fraction for as long as it is rational, else a number of 50 digits or more
    compare     by shape (list, tuple, interval, equation, matrix, ...) down to pairs of scalars a, b. Is a - b zero?

    rational    closed expressions give one fraction each: exact
    identity    with symbols, at 6 fixed pseudo-random rational points: exactly if both are rational functions. Not zero at one proves a != b;
                a numerator of degree d vanishes at all by chance with probability below (d / 8192)^6 (Schwartz-Zippel)
    numeric     with surds, logs, trigonometry, pi, e, i: a first pass adds up the digits H of all constants and powers; a second,
                with 70 + 2H digits, asks |a - b| < 10^-(50 + H). So pi + 10^-100 is not pi, and no decimal is an irrational

Conventions: principal values, but odd roots of negative reals are real; \log without a base cancels, or is base 10 beside a base; 90 and pi/2
both equal 90 degrees; 62.5 and 0.625 both equal 62.5%; n, m, k are whole numbers where that matters; two units must agree, one may be left
out. The caps below hold before anything is computed, and each step spends fuel (sympy is not used: its time cannot be bounded from outside).

    python rewards.py --gold '\frac{1}{2}' --response 'So \boxed{0.5}.'     # explains each step
    python rewards.py --data pairs.jsonl      # {"gold", "response", "expected", "kind"} a line: agreement by kind, errors, times

>>> is_equivalent("0.5", r"\frac12"), is_equivalent("0.33", r"\frac13"), is_equivalent("2, 1", r"\{1, 2\}")
(True, False, True)
>>> score(r"No. \boxed{(x+1)^2}", "x^2 + 2x + 1")
1.0
"""

import json
import math
import re
import sys
import threading
import time
import unicodedata
from contextlib import suppress
from fractions import Fraction
from hashlib import blake2b
from itertools import islice

import mpmath  # here, not at first use: loading takes about 100 ms, twice what a single verdict may

from data import Parser, die

# ------------------------------------------------------------------------------------------------------------------ caps
MAX_CHARS = 1200  # of an answer that is parsed (the longest gold answer in MATH and OlympiadBench has 198); longer: equal if identical
MAX_BOXES = 20  # boxes looked at, from the end
MAX_TAIL = 20_000  # braces read after the first of these; characters in which "answer is" is looked for
MAX_DEPTH = 24  # nested brackets, arguments and exponents
MAX_BITS = 8000  # of a numerator and denominator together (about 2400 digits)
MAX_DIGITS = 600  # working precision; what would need more is not equal
MAX_MAGNITUDE = 1000  # decimal exponent of an irrational power
MAX_ANGLE = 10**6  # argument of a trigonometric function
MAX_COUNT = 1000  # of a factorial, the n of a binomial
MAX_SUM = 60_000  # characters it would take to print the sums of an answer term by term
MAX_FUEL = 8000  # units of work (a microsecond or two each) for one comparison
POINTS = 6  # rational points at which an identity in symbols must hold


# An answer that is not understood or contradictory is a ValueError, one undefined or too large an ArithmeticError; neither leaves this file.
def _want(condition, otherwise, error=ValueError):
    if not condition:
        raise error(otherwise)


class _Inexact(Exception):
    """A value is not rational: the exact stage stops and the numeric one starts."""


# --------------------------------------------------------------------------------------------------------------- extract
_BRACE = re.compile(r"\\boxed\s{0,20}\{|\\[\\{}]|[{}]")  # \\boxed is a line break and the word "boxed"


def extract_answer(response):
    r"""The final answer in `response`, or None. Where nothing marks an answer there is none: a number in the text is only mentioned.

    >>> extract_answer("<think>\\boxed{3}</think> It is \\boxed {4}."), extract_answer("2+2\n#### 4"), extract_answer("It is 4.")
    ('4', '4', None)
    """
    return _extract(response)[0]


def _extract(response):
    """-> (answer or None, the step that found it)."""
    text = response.rpartition("</think>")[2].partition("<think>")[0]  # an unfinished thought is no answer; what came before it may be
    if box := _last_box(text):
        return box, "last box"
    if line := text.rpartition("####")[2].strip().partition("\n")[0].strip() if "####" in text else "":
        return line, "after ####"
    if found := re.match(r"(?is).*\banswer\s{1,5}is\b\s{0,5}:?\s*(.*)", text[-MAX_TAIL:]):
        return re.split(r"\.(?:\s|$)|\n", found[1], maxsplit=1)[0].strip("* \t") or None, 'after "answer is"'
    return None, 'no box, no ####, no "answer is"'


def _last_box(text):
    """Content of the complete, non-empty box that closes last (an outer box wins over the one inside it), or None."""
    text = text.replace(r"\fbox", r"\boxed")
    start = len(text.rsplit(r"\boxed", MAX_BOXES)[0].rstrip("\\"))
    best, opened = None, []  # where each open box begins, None for any other open brace
    for brace in islice(_BRACE.finditer(text, start), MAX_TAIL):
        if brace[0] == "}" and opened:
            begin = opened.pop()
            best = (begin and text[begin : brace.start()].strip()) or best
        elif brace[0][-1] == "{" and brace[0] != r"\{":
            opened.append(brace.end() if brace[0] != "{" else None)
    return best


# ------------------------------------------------------------------------------------------------------------- normalise
# ruff: noqa: SIM905  (tables of words read better as text)
def _table(text):
    """"a b c,d e" -> {a: a, b: a, c: a, d: d, e: d}: each word of a group leads to the first."""
    return {word: group.split()[0] for group in text.split(",") for word in group.split()}


_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega"
    " Gamma Delta Theta Lambda Sigma Phi Omega Psi varepsilon varphi vartheta ell max min"
).split()
_UNICODE = {c: f"\\{name} " for c, name in zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΣΦΩ", _NAMES, strict=False)}
_UNICODE |= {c: new + " " * new[-1].isalpha() for c, new in _table(
    r"\pm ±,\mp ∓,\le ≤ ⩽,\ge ≥ ⩾,\ne ≠,\infty ∞,\sqrt √,\sqrt[3] ∛,\cup ∪,\cap ∩,\setminus ∖,\in ∈,\emptyset ∅,\lfloor ⌊,\rfloor ⌋,\lceil ⌈,"
    r"\rceil ⌉,\langle ⟨,\rangle ⟩,\approx ≈,\degree ° º,\mathbb{R} ℝ,\text{cents} ¢,\text{euros} €,- − ‐ ‑,* × · ⋅ ∙,/ ÷ ∕ ⁄").items()}  # fmt: skip
_UNICODE |= dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\xad", "") | dict.fromkeys("\u2009\u202f", r"\,")  # 18<ZWSP>7 is read as 187
_SAME = _table(
    r"\frac dfrac tfrac cfrac,\binom dbinom tbinom,\le leq leqslant,\ge geq geqslant,\ne neq,< lt,> gt,* cdot times ast,/ div,: colon,\{ lbrace,"
    r"\} rbrace,| vert lvert rvert mid,\or lor,\and land,\setminus backslash smallsetminus,\emptyset varnothing,\log_{10} lg"
)
_SPELLINGS = (  # in this order
    (r"\d{1,3}(?:(?:,|\{,\}|,?\s*\\!\s*|\\,)\d{3})+(?!\d)", lambda m: re.sub(r"\D", "", m[0]) if "\\" in m[0] or "{" in m[0] else m[0]),  # 10{,}080
    (r"(\\\\)(?:\s*\[\s*\d+\s*[a-z]{2}\])?|\\[!,;:> ]|\\(?:left|right)(?![a-zA-Z])(?:\s*\.)?|\\[bB]igg?[lrm]?(?![a-zA-Z])|\\[()\[\]]"
     r"|\\(?:quad|qquad|displaystyle|textstyle|limits|boxed|fbox|ensuremath|boldsymbol|bm|underline|angle|therefore|bf|rm|sf)(?![a-zA-Z])"
     r"|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{])|\\(?:hspace|vspace|color|textcolor)\*?\s*\{[^{}]*\}|(?<!\\)\$|(?<=.)~",
     lambda m: m[1] or " " * (m[0] != r"\!")),  # group 1, a line break in a matrix, stays
    (r"\\([a-zA-Z]+)", lambda m: _SAME.get(m[1], m[0])),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\(\s*\\circ\s*\)|\\circ(?![a-zA-Z]))", r"\\degree "),
    (r"\s+", " "),
)  # fmt: skip
_TEXT = re.compile(r"\\(text[a-z]*|[hm]box|math(?:rm|bf|it|sf)|operatorname)\*?\s*\{([^{}]*)\}")


def _normalise(text):
    """One spelling for what looks alike; linear in the length."""
    _want(len(text) <= MAX_CHARS, f"longer than {MAX_CHARS} characters")
    for mark, raised in (("^", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"), ("_", "₀₁₂₃₄₅₆₇₈₉")):
        text = re.sub(f"[{raised}]+", lambda m, mark=mark: f"{mark}{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = re.sub(r"(?<![\w)}\] ]) ?–", "-", text)  # an en dash before an operand is a minus, after one it makes a range
    text = "".join(map(_ascii, text))
    for pattern, new in _SPELLINGS:
        text = re.sub(pattern, new, text)
    text = text.strip(' ,;:*`"')
    text = text.replace(" ", "") if re.fullmatch(r"-?\d{1,3}(?: \d{3})+", text) else text  # 10 080
    return text[:-1].rstrip(" \\") if text.endswith((".", "\\")) and not text.endswith("..") else text


def _ascii(c):
    """ASCII for symbols, digits of any script, vulgar fractions and full-width or bold letters; other characters stay, to be refused."""
    if c.isascii() or c in _UNICODE:
        return _UNICODE.get(c, c)
    wide, digit = unicodedata.normalize("NFKC", c), unicodedata.decimal(c, "")
    if "\u2044" in wide:
        return r"\frac{%s}{%s}" % tuple(wide.split("\u2044"))  # noqa: UP031
    return str(digit) or (c if unicodedata.category(c) == "No" else wide)  # a circled 1 is not a digit


_FUNCTIONS = set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth ln log exp".split())
_COUNTING = {"fact": math.factorial, "binom": math.comb, "gcd": math.gcd, "lcm": math.lcm, "max": max, "min": min}
_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_PHRASES = {word: str(n) for n, word in enumerate(_NUMERALS.split())}
_PHRASES |= {"all real numbers": r"\mathbb{R}", "infinity": r"\infty", "and": r"\and", "or": r"\or"}
_UNITS = _table(  # two of these must agree; any other noun ("ways", "apples") is ignored
    "cm centimeter centimeters centimetre centimetres,mm millimeter millimeters,m meter meters metre metres,km kilometer kilometers,"
    "in inch inches,ft foot feet,yd yard yards,mi mile miles,usd dollar dollars,cent cents,euro euros,lb lbs pound pounds,"
    "g gm gram grams,kg kilogram kilograms,s sec second seconds,min mins minute minutes,h hr hrs hour hours,day days,week weeks,"
    "month months,yr year years,rad radian radians,l liter liters litre litres,ml milliliter milliliters,gal gallon gallons,am,pm,"
    "degree degrees deg,percent,^2 square sq,^3 cubic,/ per"
)
_NO_UNIT = {*_PHRASES, *(
    "or and not no nor but to than least most between about around approximately approx roughly almost nearly less more up under if is are was mod"
    " root base half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths thousandth thousandths"
    " hundred hundreds thousand thousands million millions billion billions trillion dozen squared cubed factorial over by times plus minus"
    " negative positive pi point equals equal except without with where when for any all either neither wrong false incorrect maybe possibly"
    " only modulo remainder i e x y z n k").split()}  # fmt: skip
_ATOMS = re.compile(r"\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|" + _TEXT.pattern + r"|\\[A-Za-z]+|( ?)([A-Za-z]{2,})")
_PLAIN = re.compile(r"[\d\s.,()+*/-]*|\(?[A-Z]\)?(?: ?, ?[A-Z])*|[A-Z]*\d+[A-Z]*")  # \text{13}, \text{(C)}, \text{A, B}, \text{A5}
_TRAILING = re.compile(r"(?:\\text\{[^{}]*\} ?(?:\^ ?(?:\d|\{ ?-?\d ?\}))? ?/? ?)+$")
_NUMBER = re.compile(  # the order matters: 0.1\overline{6}; 52_8; 1 4/5 and 1\frac{4}{5}
    r"(\d{0,99})\.(\d{0,99}) ?\\overline ?\{ ?(\d{1,99}) ?\}"
    r"|(?<![\w.\\}])(?=[A-Z]*\d)([0-9A-Z]{1,99})(?:\.(\d{1,99}))? ?_ ?(?:\{ ?(\d\d?) ?\}|(\d\d?))"
    r"|(?<![\d.^_}A-Za-z])(\d{1,99}) ?(?:\\frac ?(?:\{ ?(\d{1,99}) ?\}|(\d)) ?(?:\{ ?(\d{1,99}) ?\}|(\d))|(?<= )(\d{1,99})/(\d{1,99})(?!\d))"
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)(?![^(\[]*?(?:[)\]]|\\\}))")  # not inside brackets
_CHOICE = re.compile(r"\(([A-J])\)(?:\\?[$%\d.,]+|\\frac\{\d+\}\{\d+\})")


def _literals(text):
    """Words and numbers of normalised text in the form the parser knows -> (text, known unit or None)."""
    text, unit = re.sub(r"\(([0-9A-Z]{1,99})\) ?_", r"\1_", _ATOMS.sub(_word, text)), None  # (52)_8 is 52_8
    text = re.sub(r"^\\\{ ?[A-Za-z] ?[|:](.*)\\\}$", r"\1", text)  # {x | x > 3} is x > 3
    text = re.sub(r", *(\\and|\\or)(?![a-z])", r"\1", text)
    time_of_day = re.search(r"(?:^|[,;])[^:,;]*(?:: ?[0-5]\d(?![\d.])[^:,;]*)+(?:$|[,;])", text)
    _want(not time_of_day, "a time of day, equal only to itself")
    if r"\$" in text:
        text, unit = re.sub(r"(?:^|(?<=[-,=( ]))\\\$ ?(?=[\d.\\])|(?<=\d) ?\\\$$", "", text), "usd"
    tail = _TRAILING.search(text)
    value = text[: tail.start()].rstrip() if tail else ""
    if re.search(r"[\w})!]$", value) and not re.search(r"\\(?:and|or|in)$", value):
        words = re.sub(r"\\text|[{} ]+", " ", tail[0].lower().replace(".", ""))
        found = re.findall(r"[a-z]+|\^ ?-?\d|\S", words)
        known = sorted(_UNITS.get(word, word).replace(" ", "") for word in found)
        _want(not set(found) & _NO_UNIT and re.fullmatch(r"(?:[a-z\s/'()-]|\^ ?-?\d)*", words), f"{words.strip()!r} is no unit")
        text = value + {"degree": r"\degree", "percent": r"\%"}.get(" ".join(known), "")
        if not unit and all(word[0] == "^" or word in _UNITS.values() for word in known):
            unit = "".join(known)
    return _NUMBER.sub(_number, text), unit or ("degree" if r"\degree" in text else None)


def _word(match):
    r"""One \text{}, bare word or command: separators, functions and numbers lose their wrapping, other words get one."""
    macro, content, space, bare = match.groups()
    if macro is None and bare is None:
        return match[0]
    word = (content if bare is None else bare).strip(" ,.")
    low = word.lower()
    if low in _PHRASES or word in _FUNCTIONS or word in ("pi", "sqrt", "gcd", "lcm", "max", "min"):
        return f" {_PHRASES.get(low) or chr(92) + word} "
    if macro:
        plain = _PLAIN.fullmatch(word) or (len(word) == 1 and macro.startswith("math"))
    else:
        plain = (len(word) == 4 and word.isupper()) or (len(word) < 4 and not (space and low in _UNITS))
    return (space or "") + word if plain else rf"\text{{{word}}}"


def _number(match):
    r"""0.1\overline{6} -> (0.1+6/90); 52_8 -> (42); 1 4/5 -> (1+4/5)."""
    head, places, period, digits, fraction, *rest = match.groups(default="")
    if period:
        return f"({head or 0}.{places}+{period}/{'9' * len(period)}{'0' * len(places)})"
    if digits:
        base = int(rest[0] or rest[1])
        return f"({Fraction(int(digits + fraction, base), base ** len(fraction))})"
    whole, top, bottom = (int(part) for part in rest[2:] if part)
    _want(top < bottom, "an improper fraction after a whole number")
    return f"({whole}+{top}/{bottom})"


def _readings(text, other):
    """A comma before three digits outside brackets groups thousands; where the other answer is clearly a list it may also separate."""
    grouped = _GROUPED.sub(lambda m: m[0].replace(",", ""), text)
    listed = grouped != text and ",0" not in text and not _GROUPED.search(other) and re.search(r", |;|=|\\(?:and|or|\{)", other)
    return [grouped, text] if listed else [grouped]


# ----------------------------------------------------------------------------------------------------------------- parse
# An expression is a nested tuple, its kind first:
#   scalars     ("num", Fraction) ("sym", name) ("const", "pi" | "e" | "i") ("inf", 1 | -1) ("add", x, ...) ("mul", x, ...) ("pow", x, y)
#               ("fn", name, x, ...); the symbols % ° ± and "log" get their values in scalars()
#   structures  ("list", items, separators) ("ratio", items, ...) ("rel", sides, operators) ("sets", sides, operators)
#               ("set", items) ("seq", items, brackets) ("mat", items, columns) ("text", words)
_LEXER = re.compile(
    r"\s*((?:\d+\.\d*|\.\d+|\b1)[eE][+-]?\d+|\d+(?:e\d+|E[+-]?\d+)|\d+\.?\d*|\.\d+"
    r"|\\text\{[^{}]*\}|\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|\\\\|\\[a-zA-Z]+|\\.|\S)"
)
_CHAINS = [  # separators and operators by precedence, loosest first
    ("list", {",": ",", ";": ",", r"\and": "and", r"\or": "or"}),
    ("ratio", {":": ":"}),
    ("rel", {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in"}),
    ("sets", {r"\cup": set.union, r"\cap": set.intersection, r"\setminus": set.difference}),
]
_MARKS = {"%": "%", r"\%": "%", r"\degree": "°"}
_ROUND = {"||": "abs", r"\lfloor\rfloor": "floor", r"\lceil\rceil": "ceil"}
_CLOSING = {"(": ")]", "[": "])", r"\{": (r"\}",), "{": "}", r"\langle": (r"\rangle",), r"\lfloor": (r"\rfloor",), r"\lceil": (r"\rceil",)}
_KNOWN = {name: ("sym", name) for name in _NAMES} | {"pi": ("const", "pi"), "infty": ("inf", 1), "emptyset": ("set", ())}
_REALS = ("seq", (("inf", -1), ("inf", 1)), "()")
_ONE, _MINUS, _HALF = (("num", Fraction(n)) for n in (1, -1, "1/2"))
_SIGNS = {"+": [], "-": [_MINUS], r"\pm": [("sym", "±")], r"\mp": [_MINUS, ("sym", "±")]}  # ± takes its two values everywhere at once
_STOPS = {"", *"*/&^_!)]}", r"\\", r"\}", r"\rangle", r"\rfloor", r"\rceil", *_SIGNS, *_MARKS, *(token for _, chain in _CHAINS for token in chain)}


def _mul(*factors):
    """A product, flattened; signs are taken into numbers and infinity, numbers into a matrix."""
    flat = [g for f in factors for g in (f[1:] if f[0] == "mul" else (f,))]
    if len(flat) == 2 and flat[0] == _MINUS and flat[1][0] in ("num", "inf"):
        return (flat[1][0], -flat[1][1])
    scale, matrices = [f for f in flat if f[0] != "mat"], [f for f in flat if f[0] == "mat"]
    if scale and len(matrices) == 1:
        return ("mat", tuple(_mul(*scale, x) for x in matrices[0][1]), matrices[0][2])
    return ("mul", *flat) if len(flat) > 1 else flat[0]


def _minus(a, b):
    return ("add", a, _mul(_MINUS, b))


class _Parser:
    """Recursive descent. All nesting passes through atom(), which counts its depth; chains are collected flat, not nested."""

    def __init__(self, text):
        self.tokens, self.at, self.depth, self.room = [*_LEXER.findall(text), ""], 0, 0, MAX_SUM
        self.bars = False  # does an open | wait for its end?

    def parse(self):
        node = self.chain()
        self.need("")
        return node

    def take(self, *wanted):
        """The next token if it is one of `wanted`, else None."""
        token = self.tokens[self.at]
        self.at += token in wanted
        return token if token in wanted else None

    def need(self, *wanted):
        _want(self.tokens[self.at] in wanted, f"{' or '.join(wanted) or 'the end'} expected, found {self.tokens[self.at][:20] or 'the end'}")
        return self.take(*wanted)

    def chain(self, level=0):
        """x, or (kind, (x, y, ...), operators between them) with looser chains outside."""
        if level == len(_CHAINS):
            return self.sum()
        (kind, operators), sides, found = _CHAINS[level], [self.chain(level + 1)], []
        while operator := self.take(*operators):
            found.append(operators[operator])
            sides.append(self.chain(level + 1))
        return (kind, tuple(sides), tuple(found)) if found else sides[0]

    def sum(self):
        terms = []
        while not terms or self.tokens[self.at] in _SIGNS:
            terms.append(_mul(*self.signs(), self.product()))
        return ("add", *terms) if len(terms) > 1 else terms[0]

    def signs(self):
        """A run of signs, as factors."""
        signs = [factor for sign in iter(lambda: self.take(*_SIGNS), None) for factor in _SIGNS[sign]]
        return [_MINUS] * (signs.count(_MINUS) % 2) + [sign for sign in signs if sign != _MINUS]

    def product(self):
        factors, slashed = [self.power()], False
        while (operator := self.take("*", "/")) or self.starts():
            before, signs, first = self.tokens[self.at - 1], self.signs() if operator else [], self.tokens[self.at]
            factor = self.power()
            if not operator:
                _want(not slashed, "a/bc: what is divided by what?")
                apart = factors[-1][0] == "pow" or before in (")", "!")
                _want(apart or first[0] not in ".0123456789", "two numbers side by side")
            slashed |= operator == "/" and not factor[0] == factors[-1][0] == "num"
            factors += [*signs, ("pow", factor, _MINUS) if operator == "/" else factor]
        return _mul(*factors)

    def starts(self):
        """Does the next token begin a factor?"""
        token = self.tokens[self.at]
        return not (token in _STOPS or token.startswith(r"\end") or (token == "|" and self.bars))

    def power(self):
        """An atom with its subscripts, exponents, factorials, percent and degree signs."""
        node, seen = self.atom(), 0
        while token := self.take("^", "!", "_", *_MARKS, *["("] * (node in (("sym", "f"), ("sym", "g")))):
            seen += 3 if token == "^" else 1
            _want(seen <= 5, "too many marks on one term")  # also two exponents in a row, which TeX refuses too
            if token == "(" or (token == "_" and node[0] == "sym"):  # f(2) is a value, not a product; x_1 is a name
                self.at -= token == "("
                start = self.at
                self.arg()
                node = ("sym", node[1] + token.strip("(") + re.sub(r"\\text|[\\{}]", "", "".join(self.tokens[start : self.at])))
            elif token == "^" and node[0] in ("mat", "seq") and self.take("T"):
                _, items, columns = node
                node = ("mat", sum((items[n::columns] for n in range(columns)), ()), len(items) // columns) if node[0] == "mat" else node
            elif token == "^":
                node = ("pow", node, self.arg())
            elif token == "!" and self.tokens[self.at] not in ("!", "="):
                node = ("fn", "fact", node)
            else:
                _want(token in _MARKS, f"{token} not understood")
                node = _mul(node, ("sym", _MARKS[token]))
        return node

    def arg(self, digit=False):
        r"""What ^, _ or a command applies to: a group or one token; \frac12 takes one digit at a time."""
        token = self.tokens[self.at]
        if digit and token[:1].isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return _mul(*self.signs(), self.atom())

    def atom(self):
        self.depth += 1
        _want(self.depth <= MAX_DEPTH, f"nested more than {MAX_DEPTH} deep")
        token = self.tokens[self.at]
        self.at += token != ""
        if token in _CLOSING or token == "|":
            node = self.bracket(token)
        elif re.match(r"\.?\d", token):
            _want(len(token.lower().partition("e")[2]) <= 4, "exponent", OverflowError)
            node = ("num", Fraction(token))
        elif token.startswith(r"\text{"):
            node = ("sym", token[6]) if len(token) == 8 else ("text", token[6:-1].lower().replace(" ", ""))
        elif token[:1] == "\\":
            node = self.command(token[1:])
        else:
            _want(token.isalpha(), f"{token[:20] or 'the end'} not understood")
            node = ("const" if token in "ei" else "sym", token)
        self.depth -= 1
        return node

    def bracket(self, opening):
        """What stands between brackets: a group, |x|, a set, a tuple or interval, a floor or ceiling."""
        bars, self.bars = self.bars, opening == "|"
        empty = opening == r"\{" and self.tokens[self.at] == r"\}"
        node = ("list", ()) if empty else self.sum() if self.bars else self.chain()
        opening += self.need(*_CLOSING.get(opening, "|"))
        self.bars = bars
        items = node[1] if node[0] == "list" else (node,)
        if opening == r"\{\}":
            return ("set", items)
        if opening == "{}" or (len(items) == 1 and opening in ("()", "[]")):
            return node
        if len(items) == 1 and opening in _ROUND:
            return ("fn", _ROUND[opening], node)
        _want(len(items) > 1 and opening not in _ROUND and set(node[2]) == {","}, "brackets not understood")
        return ("seq", items, "()" if opening == r"\langle\rangle" else opening)

    def command(self, name):
        r"""What follows a backslash: \frac, \sqrt, \sin, a matrix, a Greek letter ..."""
        if name in _FUNCTIONS:
            return self.function(name)
        if name in ("frac", "binom"):
            top, bottom = self.arg(True), self.arg(True)
            return ("fn", "binom", top, bottom) if name == "binom" else _mul(top, ("pow", bottom, _MINUS))
        if name == "sqrt":
            index = self.take("[") and (self.sum(), self.need("]"))[0]
            return ("pow", self.arg(), ("pow", index, _MINUS) if index else _HALF)
        if name in ("sum", "prod"):  # \sum_{k=1}^{n}
            low, high, body = self.need("_") and self.arg(), self.need("^") and self.arg(), self.product()
            _want(low[0] == "rel" and low[1][1][0] == high[0] == "num", "the bounds of a sum")
            (_, variable), (_, first) = low[1][:2]
            count = max(0, math.floor(high[1] - first) + 1)
            self.room -= count * len(repr(body))
            _want(self.room >= 0, "the terms of a sum", OverflowError)
            terms = [_substitute(body, variable, ("num", first + n)) for n in range(count)]
            return ("add" if name == "sum" else "mul", ("num", Fraction(name == "prod")), *terms)
        if name in _COUNTING and self.tokens[self.at] == "(" and (items := self.atom())[0] == "seq":
            return ("fn", name, *items[1])
        if re.fullmatch(r"begin ?\{(?:[pb]?matrix|smallmatrix|array)\}.*", name):
            rows = [[self.sum()]]
            while (mark := self.take("&", r"\\")) and not self.tokens[self.at].startswith(r"\end"):
                rows = rows if mark == "&" else [*rows, []]
                rows[-1].append(self.sum())
            _want(self.tokens[self.at].startswith(r"\end") and len({len(row) for row in rows}) == 1, "a matrix not understood")
            self.at += 1
            return ("mat", tuple(x for row in rows for x in row), len(rows[0]))
        if name == "mathbb" and self.arg() == ("sym", "R"):
            return _REALS
        _want(name in _KNOWN, f"\\{name[:20]} not understood")
        return _KNOWN[name]

    def function(self, name):
        r"""sin, log ... with base and power. Without brackets the argument ends at the next function, bracket, number, sign or operator."""
        base = self.arg() if name == "log" and self.take("_") else None
        power = self.arg() if self.take("^") else None
        name, power = ("arc" + name, None) if power == _MINUS and name in ("sin", "cos", "tan") else (name, power)
        if self.tokens[self.at] in ("(", "{"):
            x = self.atom()
        else:
            x = self.power()
            while self.starts() and self.tokens[self.at][0] not in "([.0123456789" and self.tokens[self.at][1:] not in _FUNCTIONS:
                x = _mul(x, self.power())
        node = ("pow", ("const", "e"), x) if name == "exp" else ("fn", name, x)
        if name == "log":
            node = _mul(("fn", "ln", x), ("pow", ("fn", "ln", base) if base else ("sym", "log"), _MINUS))
        return ("pow", node, power) if power else node


# --------------------------------------------------------------------------------------------------- symbols and shapes
_STRUCTURES = {"list", "set", "seq", "sets", "mat", "text", "eqn", "ineq", "named", "rel"}
_MARK_VALUES = {"%": ("num", Fraction(1, 100)), "°": ("mul", ("const", "pi"), ("num", Fraction(1, 180)))}


def _inventory(node):
    """The symbols of an expression and, with a backslash, its functions."""
    found = {node[1]} if node[0] == "sym" else {"\\" + node[1]} if node[0] == "fn" else set()
    return found.union(*[_inventory(x) for x in node if isinstance(x, tuple) and x])


def _free(node):
    return {name for name in _inventory(node) if name[0] != "\\"} - {"%", "°", "±"}


def _substitute(node, name, value):
    found = node[1:] == (name,) and node[0] in ("sym", "const")  # i may count the terms of a sum
    return value if found else tuple([_substitute(x, name, value) if isinstance(x, tuple) else x for x in node])


def _point(names, k, bits):
    """The k-th point, the same in every run: rationals of so many bits and either sign, or for 0 bits whole numbers from -9 to 30."""
    env = {}
    for n, name in enumerate(names):
        random = int.from_bytes(blake2b(f"{name} {k}".encode("ascii", "replace"), digest_size=9).digest(), "big")
        sign = -1 if k >> n % 3 & 1 and name != "log" else 1  # both signs of every symbol: sqrt(x^2) is not x
        env[name] = ("num", Fraction(random % 2**bits + 1, 1009) * sign if bits else Fraction((k * (7 * n + 1) + n) % 40 - 9))
    return env


def _name(node):
    r"""The name an equation gives to its value: x, x_1, AB, f(x), (x, y), \text{speed}; or None."""
    parts = node[1:] if node[0] == "mul" else node[1] if node[0] == "seq" and node[2] == "()" else (node,)
    if all(p[0] in ("sym", "text") or p in (("const", "e"), ("const", "i")) for p in parts) and not {p[1] for p in parts} & {"%", "°", "±"}:
        return ("," if node[0] == "seq" else "").join(p[1] for p in parts)
    return None


def _flat(items):
    return tuple(x for item in items for x in (item[1] if item[0] == "list" else (item,)))


def _is_set(node):
    return node[0] in ("sets", "set") or (node[0] == "seq" and len(node[1]) == 2)


# -------------------------------------------------------------------------------------------------------------- evaluate
_local = threading.local()  # mpmath's global context is shared by all threads, and making one takes a millisecond: each thread keeps its own


class _Comparison:
    """One comparison: the work it may still spend, and the numeric context it is in (mp; None in the exact stage)."""

    def __init__(self):
        self.fuel, self.mp, self.how = MAX_FUEL, None, "same form"

    def spend(self, cost):
        self.fuel -= cost
        _want(self.fuel >= 0, "too much work")

    def numeric(self, digits):
        """Start a numeric pass."""
        _want(digits <= MAX_DIGITS, "precision", OverflowError)
        if not hasattr(_local, "mp"):
            _local.mp = mpmath.MPContext()
        self.mp, self.height, _local.mp.dps = _local.mp, 0.0, int(digits)

    def real(self, x):
        """x as a number of the context; the digits of rationals count as height."""
        if self.mp is None:
            raise _Inexact
        if not isinstance(x, Fraction):
            return x
        self.height += 0.302 * (x.numerator * x.denominator).bit_length()
        return self.mp.mpf(x.numerator) / x.denominator

    def fit(self, x):
        """A rational over the cap is refused as soon as it appears, and pays for its length."""
        if isinstance(x, Fraction):
            bits = (x.numerator * x.denominator).bit_length()
            self.spend(bits**2 >> 18)
            _want(bits <= MAX_BITS, f"more than {MAX_BITS} bits", OverflowError)
        return x

    def value(self, node, env):
        """Fraction while everything is rational, else a number of the context. env: what stands for a symbol."""
        kind, *parts = env.get(node[1], node) if node[0] == "sym" else node
        self.spend(3 if self.mp is None else self.mp.dps / 3 if kind in ("pow", "fn") else 4 + self.mp.dps / 20)
        if kind == "num":
            return parts[0]
        if kind == "const":
            self.real(None)
            return {"pi": +self.mp.pi, "e": +self.mp.e, "i": self.mp.j}[parts[0]]
        _want(kind in ("add", "mul", "pow", "fn"), f"a {kind} is not a number")
        try:
            args = [self.value(x, env) for x in parts if isinstance(x, tuple)]
        except OverflowError:
            if kind != "pow" or self.value(parts[0], env) != 1:
                raise
            return Fraction(1)  # 1 to any power, however large
        if kind in ("pow", "fn"):
            return self.power(*args) if kind == "pow" else self.function(parts[0], args)
        total, *args = args if all(isinstance(x, Fraction) for x in args) else map(self.real, args)
        for x in args:
            total = self.fit(total + x if kind == "add" else total * x)
        return total

    def power(self, x, y):
        """x^y: exact for whole y, else by mpmath; odd roots of negative reals are real."""
        rational = isinstance(y, Fraction)
        if x == 0:
            _want(rational and y > 0, "undefined", ZeroDivisionError)
            return x
        if isinstance(x, Fraction) and rational and y.denominator == 1:
            bits = max(x.numerator.bit_length(), x.denominator.bit_length()) - 1
            _want(abs(x) == 1 or abs(y) * bits <= MAX_BITS, f"more than {MAX_BITS} bits", OverflowError)
            return self.fit(x ** (int(y) if abs(x) != 1 else int(y) % 2))
        x, z, mp = self.real(x), self.real(y), self.mp
        _want(abs(x) > mp.mpf(10) ** (15 - mp.dps), "zero, or too near to tell", ZeroDivisionError)
        odd_root = rational and y.denominator % 2 == 1 < y.denominator and mp.im(x) == 0 and mp.re(x) < 0
        log = z * mp.ln(-x if odd_root else x)
        _want(abs(log) <= 2.3 * MAX_MAGNITUDE, "power", OverflowError)
        self.height += float(abs(mp.re(log))) / 2.3
        if rational and y.denominator < 3:  # stays exactly real, or imaginary
            return (x if y.denominator == 1 else mp.sqrt(x)) ** y.numerator
        return -mp.exp(log) if odd_root and y.numerator % 2 else mp.exp(log)

    def function(self, name, args):
        """A function's value. ZeroDivisionError where it has none, or lies on a step or a pole, or too near one to tell."""
        mp, x = self.mp, args[0]
        if name in _COUNTING:
            _want(all(isinstance(n, Fraction) and n.denominator == 1 for n in args), f"{name} of other than whole numbers")
            _want(name not in ("fact", "binom") or max(args) <= MAX_COUNT, f"{name} of more than {MAX_COUNT}", OverflowError)
            _want(name not in ("fact", "binom") or min(args) >= 0, "negative", ZeroDivisionError)
            return self.fit(Fraction(_COUNTING[name](*map(int, args))))
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil"):
            clear = isinstance(x, Fraction) or (mp.im(x) == 0 and abs(x - mp.nint(mp.re(x))) > mp.mpf(10) ** (15 - mp.dps))
            _want(clear, "on a step, or too near to tell", ZeroDivisionError)
            return Fraction(int(getattr(math if isinstance(x, Fraction) else mp, name)(x)))
        x = self.real(x)
        _want(name == "ln" or abs(x) <= MAX_ANGLE, name, OverflowError)
        result = getattr(mp, name.replace("arc", "a"))(x)
        _want(abs(result) < mp.mpf(10) ** (mp.dps / 2), "a pole, like tan(pi/2)", ZeroDivisionError)
        return result

    # ----------------------------------------------------------------------------------------------------- compare scalars
    def scalars(self, a, b):
        """Are two scalars equal?"""
        if a == b or a[0] == b[0] == "num" or "inf" in (a[0], b[0]):
            return a == b
        one, two = _inventory(a), _inventory(b)
        # 62.5% is 0.625 and, where the question asks for percent, 62.5; 90 degrees are pi/2 and may be written 90
        marks = [mark for mark in _MARK_VALUES if mark in one ^ two and ("sym", mark) in (a[-1], b[-1])]
        readings = [_MARK_VALUES, *(_MARK_VALUES | {mark: _ONE} for mark in marks)]
        if "log" in one ^ two:
            readings.append(_MARK_VALUES | {"log": ("fn", "ln", ("num", Fraction(10)))})
        return any(self.zero(_minus(a, b), one | two, env) for env in readings)

    def zero(self, node, inventory, env):
        """Does an expression vanish, for all values of its symbols?"""
        free = sorted(name for name in inventory if name[0] != "\\" and name not in env)
        if not free:
            return self.vanishes(node, [env])
        stepped, whole = inventory & {r"\floor", r"\ceil", r"\abs"}, inventory & {r"\fact", r"\binom"}
        points, bits = (3 * POINTS, 20) if stepped else (POINTS, 12)  # steps agree here and there by chance
        if not whole and self.vanishes(node, [env | _point(free, k, bits) for k in range(points)]):
            return True
        integers = whole or ((stepped or self.mp) and set(free) <= set("nmkNMK"))
        return bool(integers) and self.vanishes(node, [env | _point(free, k, 0) for k in range(40)])

    def vanishes(self, node, points):
        """Is the expression zero at each of these points where it is defined, and defined at three or at all?"""
        defined, self.digits = 0, 30
        for env in points:
            with suppress(ZeroDivisionError):
                if not self.is_zero(node, env):
                    return False
                defined += 1
        self.how = ("rational arithmetic" if self.mp is None else "50 digits or more") + f" at {len(points)} points" * (len(points) > 1)
        return defined >= min(3, len(points))

    def is_zero(self, node, env):
        """Exactly where the value is rational, else to 30 digits and then to as many as its height asks for."""
        self.mp = None
        with suppress(_Inexact):
            return self.value(node, env) == 0
        while True:
            self.numeric(self.digits)
            if abs(self.real(self.value(node, env))) >= self.mp.mpf(10) ** int(self.height + 10 - self.digits):
                return False
            if self.digits > 58 + 2 * self.height:
                return True
            self.digits = 70 + 2 * int(self.height)  # at later points the height may be a little more

    def proportional(self, d1, d2, positive=False):
        """Are two expressions equal up to a constant factor? It is found at one point and then checked as any other equality."""
        if not d1 or not d2 or not _free(d1) or _free(d1) != _free(d2):
            return False
        self.mp, env = None, _MARK_VALUES | _point(sorted(_free(d1)), 0, 12)
        try:
            factors = [self.value(d1, env) / self.value(d2, env)]
        except (_Inexact, OverflowError):
            factors = [Fraction(1), Fraction(-1)]
        return any(self.scalars(d1, _mul(("num", f), d2)) for f in factors if f > 0 or (f and not positive))

    # -------------------------------------------------------------------------------------------------- compare structures
    def resolve(self, node):
        """The shape to compare: relations worked out, the name of a list factored out, plus-or-minus written as two values."""
        kind = node[0]
        if kind == "rel":
            return self.relation(node[1], node[2])
        if kind in ("list", "set", "sets"):
            items = tuple(map(self.resolve, node[1]))
        if kind == "sets":
            _want(all(map(_is_set, items)), "not a set of reals")
            return (kind, items, node[2])
        if kind == "set":
            items = _flat(items)
            return (kind, tuple(item for n, item in enumerate(items) if not any(self.same(item, other) for other in items[:n])))
        if kind == "list":
            names = {item[1] for item in items if item[0] == "named"}
            if len(names) != 1 or items[0][0] != "named":
                return (kind, _flat(items))
            values = tuple(item[2] if item[0] == "named" else item for item in items)  # x = 1, x = 2  and  x = 1, 2  and  x < 1 or x > 2
            joined = set(node[2]) - {","}
            if len(joined) == 1 and all(map(_is_set, values)):
                return ("named", *names, ("sets", values, (set.union if "or" in joined else set.intersection,) * (len(values) - 1)), None)
            return ("named", *names, (kind, _flat(values)), None)
        _want(kind != "seq" or sum("±" in _inventory(item) for item in node[1]) < 2, "two independent signs")
        if "±" in _inventory(node):
            return ("list", tuple(_substitute(node, "±", sign) for sign in (_ONE, _MINUS)))
        return node

    def relation(self, sides, operators):
        """-> ("named", name, value, difference or None), ("eqn", difference), ("ineq", difference, operator), a list of those, or a value."""
        if set(operators) <= {">", ">="}:
            operators, sides = tuple(op.replace(">", "<") for op in reversed(operators)), sides[::-1]
        name, scalar = _name(sides[0]), not any(side[0] in _STRUCTURES for side in sides)
        if set(operators) == {"="}:
            if name is None and _name(sides[-1]) is not None:
                sides = sides[::-1]
                name = _name(sides[0])
            if name is None and scalar and any(map(_free, sides)):
                _want(len(sides) == 2, "a chain of equations")
                return ("eqn", _minus(*sides))
            first, *rest = map(self.resolve, sides if name is None else sides[1:])
            _want(all(self.same(first, other) for other in rest), "a contradiction")
            return first if name is None else ("named", name, first, _minus(*sides[:2]) if scalar else None)
        if operators in (("in",), ("!=",)) and name is not None:
            value = sides[1] if operators == ("in",) else ("sets", (_REALS, ("set", (sides[1],))), (set.difference,))
            return ("named", name, self.resolve(value), None)
        _want(scalar and set(operators) <= {"<", "<="}, "a relation not understood")
        line, signs = (("inf", -1), *sides, ("inf", 1)), ("<", *operators, "<")
        free = [n for n, side in enumerate(line) if _free(side)]
        if len(free) == 1 and _name(line[n := free[0]]) is not None and (len(sides) == 2 or (len(sides) == 3 and n == 2)):
            brackets = ("[" if signs[n - 1] == "<=" else "(") + ("]" if signs[n] == "<=" else ")")
            return ("named", _name(line[n]), ("seq", (line[n - 1], line[n + 1]), brackets), None)
        parts = tuple(("ineq", _minus(high, low), op) for low, op, high in zip(sides, operators, sides[1:], strict=False))
        return ("list", parts) if len(parts) > 1 else parts[0]

    def same(self, a, b):
        """Do two resolved nodes mean the same?"""
        self.spend(6)
        a, b = sorted((a, b), key=lambda node: node[0])  # by kind, so that only one order of two kinds matters below
        kinds = {a[0], b[0]}
        if kinds == {"named"}:
            names = a[1] == b[1] or b[1] in a[1].split("_")[:1] or a[1] in b[1].split("_")[:1]  # m_{max} is m
            return (names and self.same(a[2], b[2])) or self.proportional(a[3], b[3])
        if kinds == {"eqn", "named"}:
            return self.proportional(a[1], b[3])
        if "named" in kinds:  # x = 5 against 5
            named, other = (a, b) if a[0] == "named" else (b, a)
            return not (named[3] and named[1] in _free(named[2])) and self.same(named[2], other)
        if kinds in ({"eqn"}, {"ineq"}):
            return a[2:] == b[2:] and self.proportional(a[1], b[1], positive=kinds == {"ineq"})
        if kinds <= {"list", "set"}:
            return self.each(a[1], b[1])
        if kinds in ({"seq"}, {"mat"}, {"mat", "seq"}):  # a column of numbers may be written as a tuple
            return (a[2] == b[2] or (a[2], b[2]) == (1, "()")) and self.each(a[1], b[1], ordered=True)
        if kinds == {"list", "seq"} and {item[0] for item in a[1]} == {"named"}:  # x = 2, y = 3 against (2, 3)
            names, values = [item[1] for item in a[1]], [item[2] for item in a[1]]
            return b[2] == "()" and names == sorted(set(names)) and self.each(values, b[1], ordered=True)
        if "sets" in kinds and _is_set(a) and _is_set(b):
            return self.same_points(a, b)
        if "ratio" in kinds and not kinds & _STRUCTURES:  # 2:4 is 1:2 and 1/2
            xs, ys = (n[1] if n[0] == "ratio" else (n, _ONE) for n in (a, b))
            return self.each([_mul(x, ys[0]) for x in xs], [_mul(y, xs[0]) for y in ys], ordered=True)
        return a == b if kinds & _STRUCTURES else self.scalars(a, b)

    def each(self, xs, ys, ordered=False):
        """Are two sequences equal item by item, in order or in any order?"""
        left = list(ys)
        for x in xs:
            n = next((n for n, y in enumerate(left[:1] if ordered else left) if self.same(x, y)), None)
            if n is None:
                return False
            del left[n]
        return not left

    def same_points(self, a, b):
        """Sets of reals as sets of cells of the line: its k end points cut it into 2k + 1 cells, an open gap, a point, a gap, ..."""
        def ends(node):
            return set().union(*map(ends, node[1])) if node[0] == "sets" else set(node[1]) - {("inf", 1), ("inf", -1)}

        def cells(node):
            if node[0] == "sets":
                found, *others = map(cells, node[1])
                for operator, other in zip(node[2], others, strict=True):
                    found = operator(found, other)
                return found
            if node[0] == "set":
                return {rank[x] for x in node[1]}
            (low, high), (opening, closing) = (rank[x] for x in node[1]), node[2]
            _want(low <= high and (low > -1 or opening == "(") and (high < rank["inf", 1] or closing == ")"), "not an interval")
            return set(range(low + (opening == "("), high + (closing == "]")))

        values, rank, last = {}, {("inf", -1): -1}, None
        for end in ends(a) | ends(b):
            self.numeric(40)
            values[end] = self.real(self.value(end, _MARK_VALUES))
            _want(self.mp.im(values[end]) == 0, "an end that is not real")
        for end in sorted(values, key=lambda end: values[end].real):
            rank[end] = 1 if last is None else rank[last] + (0 if self.scalars(end, last) else 2)
            last = end
        rank["inf", 1] = 2 + max(rank.values())
        return cells(a) == cells(b)


# --------------------------------------------------------------------------------------------------------------- verdict
def _printed_alike(a, g):
    """How two normalised texts are shown to be equal as they are printed, or ""."""
    keys = [re.sub(r"(?<!\d) | (?!\d)", "", _TEXT.sub(r"\2", text)) for text in (a, g)]  # a space between digits stays
    _want(all(re.search(r"\w|\\\{", key) for key in keys), "nothing is shown")
    # in an answer in words, capitals and abbreviating full stops do not matter
    wordy = [not re.search(r"[A-Za-z\\]", _TEXT.sub("", t)) or re.fullmatch(r"[A-Za-z ]*[A-Za-z]{4}[A-Za-z ]*", t) for t in (a, g)]
    word, other = (re.sub(r"(?<=[a-z])\.(?!\d)", "", key.lower()) for key in keys)
    if keys[0] == keys[1] or (word == other and any(wordy) and re.search("[a-z]{2}", word)):
        return "same text"
    _want(not all(re.fullmatch(r"[A-Za-z]*[A-Z][A-Za-z]+|[A-Za-z]{4,}", key) for key in keys), "two words")  # not the product ABCD
    choices = [(_CHOICE.fullmatch(this), that.strip("()")) for this, that in (keys, keys[::-1])]  # (C) 18 against (C)
    return "same choice" if any(choice and choice[1] == that for choice, that in choices) else ""


def _compare(answer, gold):
    """-> (how the two are shown to be equal, or ""; notes on the way: the forms compared and, if refused, why)."""
    notes, w = [], _Comparison()
    if answer.strip() == gold.strip():
        return "identical" if answer.strip() else "", notes
    try:
        a, g = _normalise(answer), _normalise(gold)
        notes.append(f"normalised  {a}   |   {g}")
        if how := _printed_alike(a, g):
            return how, notes
        _want(a.isascii() and g.isascii(), "a character not understood")
        (a, unit), (g, gold_unit) = _literals(a), _literals(g)
        notes.append(f"parsed      {a}   |   {g}" + (f"   units {unit}   |   {gold_unit}" if unit or gold_unit else ""))
        _want(not (unit and gold_unit) or unit == gold_unit, "different units")
        for x, y in ((x, y) for x in _readings(a, g) for y in _readings(g, a)):
            w.spend(3 * (len(x) + len(y)))
            if w.same(w.resolve(_Parser(x).parse()), w.resolve(_Parser(y).parse())):
                return w.how, notes
    except (ValueError, ArithmeticError) as refusal:
        notes.append(f"refused     {refusal}")
    return "", notes


def is_equivalent(answer, gold):
    """Does `answer` mean what `gold` means? Symmetric; bounded in time and memory; never raises."""
    try:
        return bool(_compare(answer, gold)[0])
    except Exception:  # a net for the training run: no text is known to reach it, and the tests call _compare without it
        return False


def score(response, gold):
    """1.0 if the final answer of `response` is `gold`, else 0.0; never raises."""
    return float(isinstance(response, str) and is_equivalent(extract_answer(response), gold))


# ---------------------------------------------------------------------------------------------------------- command line
def _grade(path):
    """Prints agreement by kind, false accepts and false rejects apart, and times. ValueError: file, line, what is wrong."""
    table, times = {"undisputed": [0, 0, 0], "debatable": [0, 0, 0]}, []  # right, false accepts, false rejects
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                gold, response, expected, kind = map(({"kind": "no kind"} | json.loads(line)).get, ("gold", "response", "expected", "kind"))
            except (ValueError, TypeError, RecursionError):
                gold = None
            wanted = '{"gold": text, "response": text, "expected": true or false}'
            good = gold is not None and [type(x) for x in (gold, response, expected, kind)] == [str, str, bool, str]
            _want(good, f"{path}:{number}: wanted {wanted}, found {line.strip()[:60]!r}")
            start = time.perf_counter()
            accepted = score(response, gold) == 1.0
            times.append(1000 * (time.perf_counter() - start))
            for row in ("debatable" if kind.endswith("-debatable") else "undisputed", kind):
                table.setdefault(row, [0, 0, 0])[0 if accepted == expected else 1 if accepted else 2] += 1
    _want(times, f"{path}: no pairs in it")
    print(f"{'kind':36}  pairs  agree  false accepts  false rejects")
    for kind, (right, accepts, rejects) in table.items():
        print(f"{kind:36}  {right + accepts + rejects:5}  {right:5}  {accepts:13}  {rejects:13}")
    print(f"time per pair: median {sorted(times)[len(times) // 2]:.2f} ms, longest {max(times):.2f} ms")


def main(arguments=None):
    parser = Parser(prog="rewards.py", description="Grade one response, or a file of graded pairs.")
    parser.add_argument("--gold", help="the right answer")
    parser.add_argument("--response", help="the whole response to grade, explained step by step")
    parser.add_argument("--data", metavar="FILE", help='JSONL file of {"gold", "response", "expected", "kind"}')
    options = parser.parse_args(arguments)
    if [options.data is None, options.gold is None, options.response is None] not in ([True, False, False], [False, True, True]):
        parser.error("wanted --gold and --response, or --data")
    try:
        if options.data is not None:
            _grade(options.data)
            return 0
        answer, step = _extract(options.response)
        how, notes = _compare(answer, options.gold) if answer is not None else ("", [])
        print(f"extracted   {answer}   ({step})", *notes, f"compared    {how or 'not shown to be equal'}", sep="\n")
        print(f"verdict     {float(bool(how))}")
    except (OSError, ValueError) as error:
        die("rewards.py", error)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a response may hold what a terminal cannot show
    sys.exit(main())
