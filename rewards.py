r"""The verifier: does a response answer the question? It decides what the policy learns, so in doubt it says no.

Four steps, in the order of this file:

    extract     text after the last </think>; last complete non-empty \boxed{} or \fbox{}; else "#### x"; else "answer is x"; else None
    normalise   one spelling: Unicode to LaTeX, sizing, spacing and phantoms dropped; units split off, mixed numbers and bases worked out
    parse       tokens -> expression (nested tuples), by the recursive-descent parser below; text is never evaluated as code
    compare     by shape (list, tuple, interval, equation, matrix, ...) down to pairs of scalars a, b, judged by a zero test

Is a - b zero? One evaluator computes in exact rationals for as long as it can:

    rational    closed expressions give one fraction each: exact
    identity    rational functions of symbols are evaluated exactly at two points of 60 random bits. Not zero proves a != b; a numerator of
                degree d that is not zero vanishes at both with probability below (d / 2^60)^2 (Schwartz-Zippel)
    numeric     with surds, logs, trigonometry, pi, e, i: at 50 digits or more, and at several rational points if there are symbols.
                A first pass adds up the digits H of all constants and powers; a second, with 60 + 2H digits, asks |a - b| < 10^-(50 + H).
                So pi + 10^-100 is not pi, and no decimal is an irrational

sympy is not used: its time cannot be bounded from outside, and nothing here needs it. Conventions: principal values, but odd roots of
negative reals are real; \log without a base cancels, or is base 10 beside a base; 90 and pi/2 both equal 90 degrees; 62.5 and 0.625 both
equal 62.5%; n, m, k are whole numbers where that matters; two units must agree, one may be left out.

Bounded by construction: the caps below are checked before anything is computed, and each step spends fuel (a microsecond or two each).

    python rewards.py --gold '\frac{1}{2}' --response 'So \boxed{0.5}.'     # explains each step
    python rewards.py --data pairs.jsonl      # {"gold", "response", "expected", "kind"} a line: agreement by kind, errors, times

>>> extract_answer(r"First \boxed{3}. No: \boxed{\frac{1}{2}}.")
'\\frac{1}{2}'
>>> is_equivalent("0.5", r"\frac12"), is_equivalent("0.33", r"\frac13"), is_equivalent("2, 1", r"\{1, 2\}")
(True, False, True)
>>> score(r"\boxed{(x+1)^2}", "x^2 + 2x + 1")
1.0
"""

import argparse
import json
import math
import re
import statistics
import sys
import threading
import time
import unicodedata
from fractions import Fraction
from hashlib import blake2b

import mpmath  # here, not at first use: loading takes about 100 ms, twice what a single verdict may

# ------------------------------------------------------------------------------------------------------------------ caps
MAX_CHARS = 1200  # of an answer that is parsed (the longest gold answer in MATH and OlympiadBench has 198); longer: equal if identical
MAX_BOXES = 20  # boxes looked at, from the end
MAX_BOX = 20_000  # characters of a box, and of the tail in which "answer is" is looked for
MAX_BRACES = 8000  # braces read in all
MAX_DEPTH = 24  # nested brackets, arguments and exponents
MAX_BITS = 8000  # of a numerator and denominator together (about 2400 digits)
MAX_DIGITS = 600  # working precision; what would need more is not equal
MAX_MAGNITUDE = 1000  # decimal exponent of an irrational power
MAX_ANGLE = 10**6  # argument of a trigonometric function
MAX_COUNT = 1000  # of a factorial, the n of a binomial, the terms of a sum
MAX_FUEL = 8000  # units of work for one comparison
POINTS = 6  # rational points at which an irrational identity in symbols must hold


class _Refused(Exception):
    """The answer cannot be judged: not understood, undefined, contradictory. None of the three leaves this file."""


class _TooLarge(_Refused):
    """A number over a cap."""


class _Inexact(Exception):
    """A value is not rational: the exact stages stop and the numeric one starts."""


# --------------------------------------------------------------------------------------------------------------- extract
_OPEN = re.compile(r"\\(?:boxed|fbox)\s{0,20}\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANSWER_IS = re.compile(r"\banswer\s{1,5}is\b\s{0,5}:?", re.IGNORECASE)


def extract_answer(response):
    r"""The final answer in `response`, or None. Where nothing marks an answer there is none: a number in the text is only mentioned.

    >>> extract_answer("<think>\\boxed{3}</think> It is \\boxed {4}."), extract_answer("2+2\n#### 4"), extract_answer("It is 4.")
    ('4', '4', None)
    """
    return _extract(response)[0]


def _extract(response):
    """-> (answer or None, the step that found it)."""
    text = response[response.rfind("</think>") + 8 :] if "</think>" in response else response
    if "<think>" in text:  # an unfinished thought is no answer; what came before it may be
        text = text[: text.index("<think>")]
    if box := _last_box(text):
        return box, "last box"
    at = text.rfind("####")
    if at >= 0 and (line := text[at + 4 : at + 4 + MAX_BOX].strip().split("\n")[0].strip()):
        return line, "after ####"
    tail = text[-MAX_BOX:]
    if found := list(_ANSWER_IS.finditer(tail)):
        sentence = re.split(r"\.(?:\s|$)|\n", tail[found[-1].end() :].strip(), maxsplit=1)[0].strip("* \t")
        return sentence or None, 'after "answer is"'
    return None, 'no box, no ####, no "answer is"'


def _last_box(text):
    """Content of the complete, non-empty box that closes last (an outer box wins over the one inside it), or None."""
    best_end, best, at, braces = -1, None, len(text), MAX_BRACES
    heads = (r"\boxed", r"\fbox") if r"\fbox" in text else (r"\boxed",)
    for _ in range(MAX_BOXES):
        at = max(text.rfind(head, 0, at) for head in heads)
        if at < 0:
            break
        before = text[max(0, at - 64) : at]
        slashes = len(before) - len(before.rstrip("\\"))
        opening = _OPEN.match(text, at)
        if not opening or slashes % 2 or slashes == 64:  # \\boxed is a line break and the word "boxed"
            continue
        depth = 1
        for brace in _BRACE.finditer(text, opening.end(), opening.end() + MAX_BOX):
            depth += (brace[0] == "{") - (brace[0] == "}")
            braces -= 1
            if braces < 0:
                return best
            if depth == 0:
                content = text[opening.end() : brace.start()].strip()
                if content and brace.start() > best_end:
                    best_end, best = brace.start(), content
                break
    return best


# ------------------------------------------------------------------------------------------------------------- normalise
# ruff: noqa: SIM905  (tables of words read better as text)
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho . sigma tau upsilon phi chi psi omega"
_UNICODE = {chr(0x3B1 + n): f"\\{name} " for n, name in enumerate(_GREEK.split()) if name != "."}
_UNICODE |= {c: f"\\{name} " for c, name in zip(
    "ΓΔΘΛΣΦΩ±∓≤⩽≥⩾≠∞√∪∩∖∈∅⌊⌋⌈⌉⟨⟩≈",
    "Gamma Delta Theta Lambda Sigma Phi Omega pm mp le le ge ge ne infty sqrt cup cap setminus in emptyset lfloor rfloor lceil rceil"
    " langle rangle approx".split(), strict=True)}  # fmt: skip
_UNICODE |= dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\xad", "")  # invisible: 18<ZWSP>7 is read as 187
_UNICODE |= dict.fromkeys("−‐‑", "-") | dict.fromkeys("×·⋅∙", "*") | dict.fromkeys("÷∕⁄", "/") | dict.fromkeys("\u2009\u202f", r"\,")
_UNICODE |= {"ℝ": r"\mathbb{R}", "∛": r"\sqrt[3]", "′": "'", "¢": r"\text{cents}", "€": r"\text{euros}"} | dict.fromkeys("°º", r"^\circ ")
_RAISED, _LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n"), str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_INVISIBLE = re.compile(  # group 1, a line break in a matrix, stays
    r"(\\\\)(?:\s*\[\s*\d+\s*[a-z]{2}\])?|\\[!,;:> ]|\\(?:left|right)(?![a-zA-Z])(?:\s*\.)?|\\[bB]igg?[lrm]?(?![a-zA-Z])"
    r"|\\(?:quad|qquad|displaystyle|textstyle|limits|boxed|fbox|ensuremath|boldsymbol|bm|underline|angle|therefore|bf|rm|sf)(?![a-zA-Z])"
    r"|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{])|\\(?:hspace|vspace|color|textcolor)\*?\s*\{[^{}]*\}|\\[()\[\]]|(?<!\\)\$|(?<=.)~"
)
_TEX_GROUPS = re.compile(r"\d{1,3}(?:(?:,|\{,\}|,?\s*\\!\s*|\\,)\d{3})+(?!\d)")  # 10{,}080, 10,\!080, 10\,080
_SAME = {"dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom", "leq": r"\le", "geq": r"\ge"}
_SAME |= {"leqslant": r"\le", "geqslant": r"\ge", "neq": r"\ne", "lt": "<", "gt": ">", "cdot": "*", "times": "*", "ast": "*", "div": "/"}
_SAME |= {"vert": "|", "lvert": "|", "rvert": "|", "lbrace": r"\{", "rbrace": r"\}", "lor": r"\or", "land": r"\and", "colon": ":"}
_SAME |= {"mid": "|", "degree": r"^\circ", "mod": r"\bmod"}
_SAME |= {"backslash": r"\setminus", "smallsetminus": r"\setminus", "varnothing": r"\emptyset"}
_TEXT = re.compile(r"\\(text[a-z]*|[hm]box|math(?:rm|bf|it|sf)|operatorname)\*?\s*\{([^{}]*)\}")


def _normalise(text):
    """One spelling for what looks alike; linear in the length."""
    if len(text) > MAX_CHARS:
        raise _Refused(f"longer than {MAX_CHARS} characters")
    if not text.isascii():
        text = re.sub(r"(?<![\w)}\] ]) ?–", "-", text)  # an en dash before an operand is a minus, after one it makes a range
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m[0].translate(_RAISED) + "}", text)
        text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(_LOWERED) + "}", text)
        text = "".join(c if c.isascii() else _UNICODE[c] if c in _UNICODE else _ascii(c) for c in text)
    text = _TEX_GROUPS.sub(lambda m: m[0] if re.fullmatch(r"[\d,]+", m[0]) else re.sub(r"\D", "", m[0]), text)
    text = _INVISIBLE.sub(lambda m: m[1] or ("" if m[0] == r"\!" else " "), text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda m: _SAME.get(m[1], m[0]), text)
    text = re.sub(r"\s+", " ", text).strip(' ,;:*`"')
    text = text.replace(" ", "") if re.fullmatch(r"-?\d{1,3}(?: \d{3})+", text) else text  # 10 080
    return text[:-1].rstrip(" \\") if text.endswith((".", "\\")) and not text.endswith("..") else text


def _ascii(c):
    """ASCII for digits of any script, vulgar fractions and full-width or bold letters; other characters stay, to be refused."""
    wide = unicodedata.normalize("NFKC", c)
    top, _, bottom = wide.partition("\u2044")
    if bottom:
        return rf"\frac{{{top}}}{{{bottom}}}"
    digit = unicodedata.decimal(c, None)
    return str(digit) if digit is not None else c if unicodedata.category(c) == "No" else wide  # a circled 1 is not a digit


def _key(text):
    """Normalised text without spaces and text macros: equal keys are printed alike. A space between digits stays."""
    return re.sub(r"(?<!\d) | (?!\d)", "", _TEXT.sub(r"\2", text))


def _words(text):
    """-> (key in which capitals and abbreviating full stops do not matter, is it an answer in words?)."""
    outside = _TEXT.sub("", text)
    wordy = not re.search(r"[A-Za-z\\]", outside) or re.fullmatch(r"[A-Za-z ]*[A-Za-z]{4}[A-Za-z ]*", text)
    key = re.sub(r"(?<=[a-z])\.(?!\d)", "", _key(text).lower())
    return key, bool(wordy and re.search("[a-z]{2}", key))


_FUNCTIONS = set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth ln log lg exp".split())
_OVER_LISTS = {"gcd": math.gcd, "lcm": math.lcm, "max": max, "min": min}
_PHRASES = {word: str(n) for n, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen"
    " fourteen fifteen sixteen seventeen eighteen nineteen twenty".split())}
_PHRASES |= {"all real numbers": r"\mathbb{R}", "infinity": r"\infty", "and": r"\and", "or": r"\or"}
# Units by spelling. Two known units must agree; any other noun ("ways", "apples") is ignored.
_UNITS = {spelling: line.split()[0] for line in (
    "cm centimeter centimeters centimetre centimetres,mm millimeter millimeters,m meter meters metre metres,km kilometer kilometers,"
    "in inch inches,ft foot feet,yd yard yards,mi mile miles,usd dollar dollars,cent cents,euro euros,lb lbs pound pounds,"
    "g gm gram grams,kg kilogram kilograms,s sec second seconds,min mins minute minutes,h hr hrs hour hours,day days,week weeks,"
    "month months,yr year years,rad radian radians,l liter liters litre litres,ml milliliter milliliters,gal gallon gallons,am,pm,"
    "degree degrees deg,percent,^2 square sq,^3 cubic,/ per").split(",") for spelling in line.split()}  # fmt: skip
_NO_UNIT = set(
    "or and not no nor but to than least most between about around approximately approx roughly almost nearly less more up under if is are"
    " was mod root base half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths thousandth"
    " thousandths hundred hundreds thousand thousands million millions billion billions trillion dozen squared cubed factorial over by"
    " times plus minus negative positive pi point equals equal except without with where when for any all either neither wrong"
    " false incorrect maybe possibly only modulo remainder i e x y z n k".split()
) | set(_PHRASES)
_ATOMS = re.compile(r"\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|" + _TEXT.pattern + r"|\\[A-Za-z]+|( ?)([A-Za-z]{2,})")
_PLAIN = re.compile(r"[\d\s.,()+*/-]*|\(?[A-Z]\)?(?: ?, ?[A-Z])*|[A-Z]*\d+[A-Z]*")  # \text{13}, \text{(C)}, \text{A, B}, \text{A5}
_TRAILING = re.compile(r"(?:\\text\{[^{}]*\} ?(?:\^ ?(?:\d|\{ ?-?\d ?\}))? ?/? ?)+$")
_FRACTION = r"\\frac ?(?:\{ ?(\d{1,99}) ?\}|(\d)) ?(?:\{ ?(\d{1,99}) ?\}|(\d))"
_MIXED = re.compile(rf"(?<![\d.^_}}A-Za-z])(\d{{1,99}}) ?(?:{_FRACTION}|(?<= )(\d{{1,99}})/(\d{{1,99}})(?!\d))")
_BASED = re.compile(r"(?<![\w.\\}])(?=[A-Z]*\d)([0-9A-Z]{1,99})(?:\.(\d{1,99}))? ?_ ?(?:\{ ?(\d\d?) ?\}|(\d\d?))")
_PERIODIC = re.compile(r"(\d{0,99})\.(\d{0,99}) ?\\overline ?\{ ?(\d{1,99}) ?\}")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_CHOICE = re.compile(r"\(([A-J])\)(?:\\?[$%\d.,]+|\\frac\{\d+\}\{\d+\})")


def _literals(text):
    """Words and numbers of normalised text in the form the parser knows -> (text, known unit or None)."""
    text, unit = re.sub(r"\(([0-9A-Z]{1,99})\) ?_", r"\1_", _ATOMS.sub(_word, text)), None  # (52)_8 is 52_8
    if r"\$" in text:
        text, unit = re.sub(r"(?:^|(?<=[-,=( ]))\\\$ ?(?=[\d.\\])|(?<=\d) ?\\\$$", "", text), "usd"
    tail = _TRAILING.search(text)
    value = text[: tail.start()].rstrip() if tail else ""
    if re.search(r"[\w})!]$", value) and not re.search(r"\\(?:and|or|in)$", value):
        words = re.sub(r"\\text|[{} ]+", " ", tail[0].lower().replace(".", ""))
        found = re.findall(r"[a-z]+|\^ ?-?\d|\S", words)
        known = sorted(_UNITS.get(word, word).replace(" ", "") for word in found)
        if set(found) & _NO_UNIT or not re.fullmatch(r"(?:[a-z\s/'()-]|\^ ?-?\d)*", words):
            raise _Refused(f"{words.strip()!r} is no unit")
        text = value + {"degree": r"^\circ", "percent": r"\%"}.get(" ".join(known), "")
        if not unit and all(word[0] == "^" or word in _UNITS.values() for word in known):
            unit = "".join(known)
    if r"\circ" in text and not unit:
        unit = "degree"
    return _MIXED.sub(_mixed, _BASED.sub(_in_base, _PERIODIC.sub(_periodic, text))), unit


def _word(match):
    r"""One \text{}, bare word or command: separators, functions and numbers lose their wrapping, other words get one."""
    macro, content, space, bare = match.groups()
    if macro is None and bare is None:
        return match[0]
    word = (content if bare is None else bare).strip(" ,.")
    low = word.lower()
    if low in _PHRASES or word in _FUNCTIONS or word in ("pi", "sqrt", *_OVER_LISTS):
        return f" {_PHRASES.get(low) or chr(92) + word} "
    if bare is None:
        plain = _PLAIN.fullmatch(word) or (len(word) == 1 and macro.startswith("math"))
    else:
        plain = (len(word) == 4 and word.isupper()) or (len(word) < 4 and not (space and low in _UNITS))
    return (space or "") + word if plain else rf"\text{{{word}}}"


def _mixed(match):
    """1 4/5 -> (1+4/5)."""
    whole, top, bottom = (int(digits) for digits in match.groups() if digits)
    if top >= bottom:
        raise _Refused("an improper fraction after a whole number")
    return f"({whole}+{top}/{bottom})"


def _periodic(match):
    r"""0.1\overline{6} -> (1/6)."""
    head, tail = match[1] + match[2], match[3]
    return f"({Fraction(int(head + tail) - int(head or 0), (10 ** len(tail) - 1) * 10 ** len(match[2]))})"


def _in_base(match):
    """52_8 -> (42)."""
    base, places = int(match[3] or match[4]), match[2] or ""
    digits = [int(c, 36) for c in match[1] + places]
    if not 2 <= base <= 36 or max(digits) >= base:
        raise _Refused(f"not a number in base {base}")
    return f"({Fraction(sum(d * base**n for n, d in enumerate(reversed(digits))), base ** len(places))})"


def _readings(text, other):
    """A comma before three digits outside brackets groups thousands; where the other answer is clearly a list it may also separate."""

    def group(match):
        before = text[: match.start()]
        nested = sum(before.count(c) for c in ("(", "[", r"\{")) - sum(before.count(c) for c in (")", "]", r"\}"))
        return match[0] if nested else match[0].replace(",", "")

    grouped = _GROUPED.sub(group, text)
    listed = grouped != text and ",0" not in text and not _GROUPED.search(other) and re.search(r", |;|=|\\(?:and|or|\{)", other)
    return [grouped, text] if listed else [grouped]


# ----------------------------------------------------------------------------------------------------------------- parse
# An expression is a nested tuple, its kind first:
#   scalars     ("num", Fraction) ("sym", name) ("const", "pi" | "e" | "i") ("inf", 1 | -1) ("add", x, ...) ("mul", x, ...) ("pow", x, y)
#               ("fn", name, x, ...) ("sum" | "prod", name, low, high, body); the symbols % ° ± and "log" get their values in _scalars
#   structures  ("list", items, separators) ("set", items) ("seq", brackets, items) ("mat", rows) ("ratio", items) ("text", words)
#               ("rel", operators, sides) ("sets", operators, sides) ("reals",)
_LEXER = re.compile(
    r"\s*((?:\d+\.\d*|\.\d+|\b1)[eE][+-]?\d+|\d+(?:e\d+|E[+-]?\d+)|\d+\.?\d*|\.\d+"
    r"|\\text\{[^{}]*\}|\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|\\\\|\\[a-zA-Z]+|\\.|\S)"
)
_OPERATORS = [  # by precedence, loosest first
    {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in"},
    {r"\cup": "|", r"\cap": "&", r"\setminus": "-"},
    {"+": "+", "-": "-", r"\pm": "±", r"\mp": "∓"},
]
_NAMES = set(_GREEK.split()) | set("Gamma Delta Theta Lambda Sigma Phi Psi Omega varepsilon varphi vartheta ell max min".split())
_STARTS = set("frac sqrt binom pi infty lfloor lceil langle sum prod text begin gcd lcm".split()) | _FUNCTIONS | _NAMES
_CLOSING = {"(": ")]", "[": "])", r"\{": (r"\}",), "{": "}", r"\langle": (r"\rangle",), r"\lfloor": (r"\rfloor",), r"\lceil": (r"\rceil",)}
_ONE, _MINUS, _HALF = (("num", Fraction(n)) for n in (1, -1, "1/2"))


def _mul(*factors):
    """A product, flattened; signs are taken into numbers and infinity, numbers into a matrix."""
    flat = [g for f in factors for g in (f[1:] if f[0] == "mul" else (f,))]
    if len(flat) == 2 and flat[0] == _MINUS and flat[1][0] in ("num", "inf"):
        return (flat[1][0], -flat[1][1])
    matrices = [f for f in flat if f[0] == "mat"]
    if len(matrices) == 1 and len(flat) > 1:
        scale = [f for f in flat if f[0] != "mat"]
        return ("mat", tuple(tuple(_mul(*scale, x) for x in row) for row in matrices[0][1]))
    return ("mul", *flat) if len(flat) > 1 else flat[0]


class _Parser:
    """Recursive descent. All nesting passes through atom(), which counts its depth; chains are collected flat, not nested."""

    def __init__(self, text):
        self.tokens = [*_LEXER.findall(text), ""]
        self.at = self.depth = self.bars = self.angles = 0

    def take(self, *wanted):
        """The next token if it is one of `wanted`, else None."""
        if self.tokens[self.at] not in wanted:
            return None
        self.at += 1
        return self.tokens[self.at - 1]

    def need(self, *wanted):
        found = self.take(*wanted)
        if not found:
            raise _Refused(f"{' or '.join(wanted)} expected, found {self.tokens[self.at][:20] or 'the end'}")
        return found

    def answer(self):
        node = self.items()
        if self.tokens[self.at]:
            raise _Refused(f"not understood from {self.tokens[self.at][:20]}")
        return node

    def items(self):
        """item (separator item)*: one node, or a list."""
        items, separators = [self.item()], []
        while separator := self.take(",", ";", r"\and", r"\or"):
            separators.append((separator == "," and self.take(r"\and", r"\or")) or separator)
            items.append(self.item())
        return ("list", tuple(items), frozenset(separators)) if separators else items[0]

    def item(self):
        items, minutes = [self.chain(0)], []
        while self.take(":"):
            minutes.append(re.fullmatch(r"[0-5]\d", self.tokens[self.at]))
            items.append(self.sum())
        if minutes and all(minutes):
            raise _Refused("a time of day, equal only to itself")
        return ("ratio", tuple(items)) if len(items) > 1 else items[0]

    def chain(self, level):
        """Sides of relations (level 0) or set operations (1)."""
        sides, operators = [self.sum() if level else self.chain(1)], []
        while self.tokens[self.at] in _OPERATORS[level]:
            operators.append(_OPERATORS[level][self.take(self.tokens[self.at])])
            sides.append(self.sum() if level else self.chain(1))
        return (("rel", "sets")[level], tuple(operators), tuple(sides)) if operators else sides[0]

    def sum(self):
        terms = []
        while not terms or self.tokens[self.at] in _OPERATORS[2]:
            terms.append(_mul(*self.signs(), self.product()))
        return ("add", *terms) if len(terms) > 1 else terms[0]

    def signs(self):
        """A run of signs, as factors. Plus-or-minus is the symbol ±, which takes its two values everywhere at once."""
        sign, factors = 1, []
        while token := self.take(*_OPERATORS[2]):
            sign = -sign if token in ("-", r"\mp") else sign
            factors += [("sym", "±")] if token in (r"\pm", r"\mp") else []
        return [_MINUS, *factors] if sign < 0 else factors

    def product(self):
        factors, slashed = [self.power()], False
        while True:
            if self.take(r"\bmod"):
                factors = [("fn", "mod", _mul(*factors), self.power())]
            elif token := self.take("*", "/"):
                signs, factor = self.signs(), self.power()
                slashed |= token == "/" and not factor[0] == factors[-1][0] == "num"
                factors += [*signs, ("pow", factor, _MINUS) if token == "/" else factor]
            elif self.starts():
                if slashed:
                    raise _Refused("a/bc: what is divided by what?")
                if self.tokens[self.at][0] in ".0123456789" and factors[-1][0] != "pow" and self.tokens[self.at - 1] not in (")", "!"):
                    raise _Refused("two numbers side by side")
                factors.append(self.power())
            else:
                return _mul(*factors)

    def starts(self):
        """Does the next token begin a factor?"""
        token = self.tokens[self.at]
        if token[:1] == "\\":
            return token in _CLOSING or re.match(r"\\([a-zA-Z]*)", token)[1] in _STARTS
        return token[:1].isalnum() or token in ("(", "[", "{") or token[:1] == "." or (token == "|" and not self.bars)

    def power(self):
        node, seen = self.atom(), 0
        if node in (("sym", "f"), ("sym", "g")) and self.tokens[self.at] == "(":  # f(2) is a value, not a product
            start = self.at
            self.atom()
            node = ("sym", node[1] + "".join(self.tokens[start : self.at]))
        while token := self.take("^", "!", "%", r"\%", "_", "'"):
            seen += 1 if token != "^" else 3
            if seen > 5:  # also two exponents in a row, which TeX refuses too
                raise _Refused("too many marks on one term")
            if token == "^" and self.tokens[self.at : self.at + 3] in (["{", r"\circ", "}"], ["(", r"\circ", ")"]):
                self.tokens[self.at : self.at + 3] = [r"\circ"]
            if token == "^" and self.take(r"\circ"):
                node = _mul(node, *((("const", "pi"), ("num", Fraction(1, 180))) if self.angles else [("sym", "°")]))
            elif token == "^" and node[0] in ("mat", "seq") and self.take("T"):
                node = ("mat", tuple(zip(*node[1], strict=True))) if node[0] == "mat" else node
            elif token == "^":
                node = ("pow", node, self.arg())
            elif token == "!" and self.tokens[self.at] not in ("!", "="):
                node = ("fn", "fact", node)
            elif token in ("%", r"\%"):
                node = _mul(node, ("sym", "%"))
            elif token == "'" and node[0] == "sym":
                node = ("sym", node[1] + "'")
            elif token == "_" and node[0] == "sym":
                start = self.at
                self.arg()
                node = ("sym", f"{node[1]}_" + re.sub(r"\\text|[\\{}]", "", "".join(self.tokens[start : self.at])))
            else:
                raise _Refused(f"{token} not understood")
        return node

    def arg(self, digit=False):
        r"""What ^, _ or a command applies to: a group or one token; \frac12 takes one digit at a time."""
        token = self.tokens[self.at]
        if digit and token[:1].isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return _mul(*self.signs(), self.atom())

    def atom(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} deep")
        token = self.tokens[self.at]
        if not token:
            raise _Refused("unfinished")
        self.at += 1
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            if len(token.lower().partition("e")[2]) > 4:
                raise _TooLarge("exponent")
            node = ("num", Fraction(token))
        elif token in _CLOSING or token == "|":
            node = self.bracket(token)
        elif token.isalpha():
            node = ("const", token) if token in "ei" else ("sym", token)
        elif token.startswith(r"\text{"):
            node = ("sym", token[6:-1]) if len(token) == 8 else ("text", token[6:-1])
        elif re.match(r"\\[A-Za-z]", token):
            node = self.command(token[1:])
        else:
            raise _Refused(f"{token[:20]} not understood")
        self.depth -= 1
        return node

    def bracket(self, opening):
        bars, self.bars = self.bars, opening == "|"
        closing, node = None, None
        if opening == "|":
            node = ("fn", "abs", self.sum())
            self.need("|")
        elif opening != r"\{" or not (closing := self.take(r"\}")):
            if opening == r"\{" and self.tokens[self.at].isalpha() and self.tokens[self.at + 1] in ("|", ":"):  # {x | x > 3} is x > 3
                self.at += 2
                opening, node = "{", self.items()
                self.need(r"\}")
            else:
                node = self.items()
                closing = self.need(*_CLOSING[opening])
        self.bars = bars
        items = () if node is None else node[1] if node[0] == "list" else (node,)
        if opening == r"\{":
            return ("set", items)
        if opening in ("|", "{") or (len(items) == 1 and opening + closing in ("()", "[]")):
            return node
        if len(items) == 1 and opening in (r"\lfloor", r"\lceil"):
            return ("fn", opening[2:], node)
        if len(items) < 2 or opening in (r"\lfloor", r"\lceil") or node[2] & {r"\and", r"\or"}:
            raise _Refused("brackets not understood")
        return ("seq", "()" if opening == r"\langle" else opening + closing, items)

    def command(self, name):
        if name in _FUNCTIONS:
            return self.function(name)
        if name == "frac":
            return _mul(self.arg(True), ("pow", self.arg(True), _MINUS))
        if name == "binom":
            return ("fn", "binom", self.arg(True), self.arg(True))
        if name == "sqrt":
            index = self.take("[") and self.sum()
            if index:
                self.need("]")
            return ("pow", self.arg(), ("pow", index, _MINUS) if index else _HALF)
        if name in ("sum", "prod"):  # \sum_{k=1}^{n}
            self.need("_") and self.need("{")
            variable, _, low, _, _ = self.atom(), self.need("="), self.sum(), self.need("}"), self.need("^")
            return (name, variable[1], low, self.arg(), self.product())
        if name in _OVER_LISTS and self.tokens[self.at] == "(" and (items := self.atom())[0] == "seq":
            return ("fn", name, *items[2])
        if re.fullmatch(r"begin ?\{(?:[pb]?matrix|smallmatrix|array)\}.*", name):
            rows = [[]]
            while not self.tokens[self.at].startswith(r"\end"):
                rows[-1].append(self.sum())
                if self.take(r"\\"):
                    rows.append([])
                elif not self.tokens[self.at].startswith(r"\end"):
                    self.need("&")
            self.at += 1
            rows = tuple(tuple(row) for row in rows if row)
            if len({len(row) for row in rows}) != 1:
                raise _Refused("rows of different lengths")
            return ("mat", rows)
        if name == "mathbb" and self.tokens[self.at : self.at + 3] == ["{", "R", "}"]:
            self.at += 3
            return ("reals",)
        known = {"pi": ("const", "pi"), "infty": ("inf", 1), "emptyset": ("set", ())}
        if name in known or name in _NAMES:
            return known.get(name, ("sym", name))
        raise _Refused(f"\\{name[:20]} not understood")

    def function(self, name):
        r"""sin, log ... with base and power. Without brackets the argument ends at the next function, bracket, number, sign or operator."""
        base = self.arg() if name == "log" and self.take("_") else ("num", Fraction(10)) if name == "lg" else None
        power = self.arg() if self.take("^") else None
        if power == _MINUS and name in ("sin", "cos", "tan"):
            name, power = "arc" + name, None
        self.angles += 1
        if self.tokens[self.at] in ("(", "{"):
            x = self.atom()
        else:
            factors = [self.power()]
            while self.starts() and self.tokens[self.at][0] not in "([.0123456789" and self.tokens[self.at][1:] not in _FUNCTIONS:
                factors.append(self.power())
            x = _mul(*factors)
        self.angles -= 1
        if name == "exp":
            node = ("pow", ("const", "e"), x)
        elif name in ("log", "lg"):
            node = _mul(("fn", "ln", x), ("pow", ("fn", "ln", base) if base else ("sym", "log"), _MINUS))
        else:
            node = ("fn", name, x)
        return ("pow", node, power) if power else node


# -------------------------------------------------------------------------------------------------------------- evaluate
_local = threading.local()


class _Work:
    """What one comparison may still spend, and the numeric context it works in (None in the exact stages)."""

    def __init__(self):
        self.fuel, self.mp, self.height = MAX_FUEL, None, 0.0

    def spend(self, cost):
        self.fuel -= cost
        if self.fuel < 0:
            raise _Refused("too much work")

    def numeric(self, digits):
        """Start a numeric pass. mpmath's global context is shared by all threads, so each has its own."""
        if digits > MAX_DIGITS:
            raise _TooLarge("precision")
        if not hasattr(_local, "mp"):
            _local.mp = mpmath.MPContext()
        self.mp, self.height = _local.mp, 0.0
        self.mp.dps = int(digits)

    def real(self, x):
        """x as a number of the context; the digits of rationals count as height."""
        if self.mp is None:
            raise _Inexact
        if not isinstance(x, Fraction):
            return x
        self.height += 0.302 * (x.numerator.bit_length() + x.denominator.bit_length())
        return self.mp.mpf(x.numerator) / x.denominator

    def fit(self, x):
        """A rational over the cap is refused as soon as it appears, and pays for its length."""
        if isinstance(x, Fraction):
            bits = x.numerator.bit_length() + x.denominator.bit_length()
            self.spend(bits * bits >> 18)
            if bits > MAX_BITS:
                raise _TooLarge(f"more than {MAX_BITS} bits")
        return x


def _value(node, env, w):
    """Fraction while everything is rational, else a number of the context w.mp. env gives the symbols' values, or their expressions."""
    kind = node[0]
    w.spend(3 if w.mp is None else 4 + w.mp.dps / 20)
    if kind == "num":
        return node[1]
    if kind == "sym" and node[1] in env:
        value = env[node[1]]
        return _value(value, env, w) if isinstance(value, tuple) else value
    if kind == "const":
        w.real(None)
        return {"pi": +w.mp.pi, "e": +w.mp.e, "i": w.mp.j}[node[1]]
    if kind in ("add", "mul"):
        total = _value(node[1], env, w)
        for part in node[2:]:
            x = _value(part, env, w)
            if not (isinstance(x, Fraction) and isinstance(total, Fraction)):
                x, total = w.real(x), w.real(total)
            total = w.fit(total + x if kind == "add" else total * x)
        return total
    if kind == "pow":
        return _power(_value(node[1], env, w), node[2], env, w)
    if kind == "fn":
        return _function(node[1], [_value(x, env, w) for x in node[2:]], w)
    if kind in ("sum", "prod"):
        low, high = (_value(x, env, w) for x in node[2:4])
        if not (_whole(low) and _whole(high)) or high - low >= MAX_COUNT:
            raise _Refused("the bounds of a sum")
        w.spend(6 * max(0, high - low))
        terms = [_substitute(node[4], node[1], ("num", Fraction(k))) for k in range(int(low), int(high) + 1)]
        return _value(("add" if kind == "sum" else "mul", ("num", Fraction(kind == "prod")), *terms), env, w)
    raise _Refused(f"a {kind} is not a number")


def _whole(x):
    return isinstance(x, Fraction) and x.denominator == 1


def _power(x, exponent, env, w):
    try:
        y = _value(exponent, env, w)
    except _TooLarge:
        if x == 1:  # 1 to any power, however large
            return x
        raise
    if isinstance(x, Fraction) and x == 0:
        if not isinstance(y, Fraction) or y <= 0:
            raise ZeroDivisionError
        return x
    if isinstance(x, Fraction) and _whole(y):
        if abs(x) != 1 and abs(y) * (max(x.numerator.bit_length(), x.denominator.bit_length()) - 1) > MAX_BITS:
            raise _TooLarge(f"more than {MAX_BITS} bits")
        return w.fit(x ** (int(y) if abs(x) != 1 else int(y) % 2))
    x, z = w.real(x), w.real(y)
    w.spend(w.mp.dps * (2 if w.mp.im(x) else 0.5))
    if abs(x) < w.mp.mpf(10) ** (15 - w.mp.dps):
        raise ZeroDivisionError  # zero, or too near to tell
    if isinstance(y, Fraction) and (y == Fraction(1, 2) or (_whole(y) and abs(y) < 9)):
        w.height += abs(w.mp.mag(x) * float(y)) * 0.302
        return w.mp.sqrt(x) if y.denominator == 2 else x ** int(y)
    odd_root = isinstance(y, Fraction) and y.denominator % 2 == 1 and w.mp.im(x) == 0 and w.mp.re(x) < 0 and y.denominator > 1
    log = z * w.mp.ln(-x if odd_root else x)
    if abs(log) > 2.3 * MAX_MAGNITUDE:
        raise _TooLarge("power")
    w.height += float(abs(w.mp.re(log))) / 2.3
    return -w.mp.exp(log) if odd_root and y.numerator % 2 else w.mp.exp(log)


def _function(name, args, w):
    x = args[0]
    if name in ("fact", "binom", "mod", *_OVER_LISTS):
        if not all(map(_whole, args)):
            raise _Refused(f"{name} of other than whole numbers")
        if name == "mod":
            return Fraction(x % args[1])
        if name in _OVER_LISTS:
            return w.fit(Fraction(_OVER_LISTS[name](*map(int, args))))
        if max(args) > MAX_COUNT:
            raise _TooLarge(f"{name} of more than {MAX_COUNT}")
        if min(args) < 0:
            raise ZeroDivisionError
        return w.fit(Fraction(math.factorial(int(x)) if name == "fact" else math.comb(int(x), int(args[1]))))
    if name == "abs":
        return abs(x)
    if name in ("floor", "ceil"):
        if not isinstance(x, Fraction):
            nearest = w.mp.nint(w.mp.re(x))
            if w.mp.im(x) != 0 or abs(x - nearest) < w.mp.mpf(10) ** (15 - w.mp.dps):
                raise ZeroDivisionError  # on a step, or too near to tell
            x = Fraction(int(w.mp.floor(w.mp.re(x)))) + Fraction(1, 2)
        return Fraction(getattr(math, name)(x))
    if name == "ln" and x in (0, 1):
        return Fraction(0) if x else 1 / x
    x = w.real(x)
    w.spend(w.mp.dps / (1 if w.mp.im(x) else 4))
    if abs(x) > MAX_ANGLE and name != "ln":
        raise _TooLarge(name)
    result = getattr(w.mp, name.replace("arc", "a"))(x)
    if not abs(result) < w.mp.mpf(10) ** (w.mp.dps / 2):  # a pole, like tan(pi/2)
        raise ZeroDivisionError
    return result


# --------------------------------------------------------------------------------------------------------------- compare
_STRUCTURES = {"list", "set", "seq", "sets", "reals", "mat", "text", "eqn", "ineq", "named", "rel"}


def _inventory(node):
    """The symbols of an expression and, with a backslash, its functions."""
    found = {node[1]} if node[0] == "sym" else {"\\" + node[1]} if node[0] == "fn" else set()
    found = found.union(*[_inventory(x) for x in node if isinstance(x, tuple) and x])
    return found - {node[1]} if node[0] in ("sum", "prod") else found


def _free(node):
    return {name for name in _inventory(node) if name[0] != "\\"} - {"%", "°", "±"}


def _substitute(node, name, value):
    if node[1:] == (name,) and node[0] in ("sym", "const"):  # i may count the terms of a sum
        return value
    return tuple([_substitute(x, name, value) if isinstance(x, tuple) else x for x in node])


def _scalars(a, b, w):
    """How two scalars are shown to be equal, or ""."""
    if a == b:
        return "same expression"
    if a[0] == b[0] == "num" or "inf" in (a[0], b[0]):
        return ""
    one, two = _inventory(a), _inventory(b)
    difference = ("add", a, ("mul", _MINUS, b))
    env = {"%": Fraction(1, 100), "°": Fraction(1) if "°" in one & two else ("mul", ("const", "pi"), ("num", Fraction(1, 180)))}
    # 62.5% is 0.625 and, where the question asks for percent, 62.5; 90 degrees are pi/2 and may be written 90
    readings = [env, *(env | {mark: Fraction(1)} for mark in ("%", "°") if mark in one ^ two and ("sym", mark) in (a[-1], b[-1]))]
    if "log" in one ^ two:
        readings.append(env | {"log": ("fn", "ln", ("num", Fraction(10)))})
    return next((how for env in readings if (how := _zero(difference, one | two, env, w))), "")


def _zero(node, inventory, env, w):
    """How an expression is shown to vanish, or ""."""
    free = sorted(name for name in inventory if name[0] != "\\" and name not in env)
    if not free:
        return ("rational arithmetic", "difference zero to 50 digits")[w.mp is not None] if _vanishes(node, [env], w) else ""
    stepped, whole = inventory & {r"\floor", r"\ceil", r"\abs"}, inventory & {r"\fact", r"\binom"}
    points = 4 * POINTS if stepped else POINTS  # steps agree here and there by chance
    try:
        if not whole and _vanishes(node, [env | _point(free, k, 40 if stepped else 60) for k in range(points if stepped else 2)], w, True):
            return "equal rational functions"
        exact = not (stepped or whole)
    except (_Inexact, _TooLarge):
        exact = False
        if _vanishes(node, [env | _point(free, k, 12) for k in range(points)], w):
            return f"difference zero to 50 digits at {points} points"
    if not exact and (whole or set(free) <= set("nmkNMK")) and _vanishes(node, [env | _point(free, k, 0) for k in range(40)], w):
        return "difference zero at 40 whole numbers"
    return ""


def _point(names, k, bits):
    """The k-th point, the same in every run: rationals of so many bits and either sign, or for 0 bits whole numbers from -9 to 30."""
    env = {}
    for n, name in enumerate(names):
        random = int.from_bytes(blake2b(f"{name} {k}".encode("ascii", "replace"), digest_size=9).digest(), "big")
        sign = -1 if random >> 71 and name != "log" else 1
        env[name] = Fraction(random % 2**bits + 1, 1009 if bits < 60 else 1) * sign if bits else Fraction((k * (7 * n + 1) + n) % 40 - 9)
    return env


def _vanishes(node, points, w, exact=False):
    """Is the expression zero at each of these points where it is defined, and defined at three or at all?"""
    defined = digits = 0
    for env in points:
        try:
            w.mp = None
            try:
                zero = _value(node, env, w) == 0
            except _Inexact:
                if exact:
                    raise
                if not digits:
                    w.numeric(30)
                    if abs(w.real(_value(node, env, w))) > w.mp.mpf(10) ** int(w.height - 20):
                        return False
                    digits = 60 + 2 * int(w.height)
                w.numeric(digits)
                zero = abs(w.real(_value(node, env, w))) < w.mp.mpf(10) ** int(w.height + 10 - digits)
        except ZeroDivisionError:
            continue
        if not zero:
            return False
        defined += 1
    return defined >= min(3, len(points))


def _proportional(d1, d2, w, positive=False):
    """Are two expressions equal up to a constant factor? It is found at one point and then checked as any other equality."""
    free = _free(d1)
    if not free or free != _free(d2):
        return ""
    env = {"%": Fraction(1, 100)} | _point(sorted(free), 0, 60)
    w.mp = None
    try:
        factors = [_value(d1, env, w) / _value(d2, env, w)]
    except (_Inexact, _TooLarge):
        factors = [Fraction(1), Fraction(-1)]
    for factor in factors:
        if (factor > 0 or (factor and not positive)) and (how := _scalars(d1, _mul(("num", factor), d2), w)):
            return f"equal up to the factor {str(factor)[:20]}: {how}"
    return ""


def _name(node):
    r"""The name an equation gives to its value: x, x_1, AB, f(x), (x, y), \text{speed}; or None."""
    parts = node[1:] if node[0] == "mul" else node[2] if node[0] == "seq" and node[1] == "()" else (node,)
    if all(p[0] in ("sym", "text") or p in (("const", "e"), ("const", "i")) for p in parts) and not {p[1] for p in parts} & {"%", "°", "±"}:
        return ("," if node[0] == "seq" else "").join(p[1] for p in parts)
    return None


def _relation(operators, sides, w):
    """-> ("named", name, value, difference or None), ("eqn", difference), ("ineq", difference, operator), a list of those, or a value."""
    name, scalar = _name(sides[0]), not any(side[0] in _STRUCTURES for side in sides)
    if set(operators) == {"="}:
        if name is None and _name(sides[-1]) is not None:
            sides = sides[::-1]
            name = _name(sides[0])
        rest = sides[1:] if name is not None else sides
        if name is None and scalar and any(map(_free, sides)):
            if len(sides) > 2:
                raise _Refused("a chain of equations")
            return ("eqn", ("add", sides[0], _mul(_MINUS, sides[1])))
        rest = [_resolve(side, w) for side in rest]
        if not all(_same(rest[0], other, w) for other in rest[1:]):
            raise _Refused("a contradiction")
        return rest[0] if name is None else ("named", name, rest[0], ("add", sides[0], _mul(_MINUS, sides[1])) if scalar else None)
    if operators in (("in",), ("!=",)) and name is not None:
        value = sides[1] if operators == ("in",) else ("sets", ("-",), (("reals",), ("set", (sides[1],))))
        return ("named", name, _resolve(value, w), None)
    if set(operators) <= {">", ">="}:
        operators, sides = tuple(op.replace(">", "<") for op in reversed(operators)), sides[::-1]
    if not set(operators) <= {"<", "<="} or not scalar:
        raise _Refused("a relation not understood")
    middle = [n for n, side in enumerate(sides) if _free(side)]
    if len(middle) == 1 and _name(sides[middle[0]]) is not None and (len(sides) == 2 or (len(sides) == 3 and middle == [1])):
        n = middle[0]
        low, opening = (sides[n - 1], "[" if operators[n - 1] == "<=" else "(") if n else (("inf", -1), "(")
        high, closing = (sides[n + 1], "]" if operators[n] == "<=" else ")") if n + 1 < len(sides) else (("inf", 1), ")")
        return ("named", _name(sides[n]), ("seq", opening + closing, (low, high)), None)
    parts = [("ineq", ("add", high, _mul(_MINUS, low)), op) for low, op, high in zip(sides, operators, sides[1:], strict=False)]
    return ("list", tuple(parts)) if len(parts) > 1 else parts[0]


def _resolve(node, w):
    """The shape to compare: relations worked out, the name of a list factored out, plus-or-minus written as two values."""
    kind = node[0]
    if kind == "rel":
        return _relation(node[1], node[2], w)
    if kind == "list":
        items = [_resolve(item, w) for item in node[1]]
        names = {item[1] for item in items if item[0] == "named"}
        if len(names) != 1 or items[0][0] != "named":
            return ("list", _flat(items))
        values = [item[2] if item[0] == "named" else item for item in items]  # x = 1, x = 2  and  x = 1, 2  and  x < 1 or x > 2
        joined = node[2] & {r"\or", r"\and"}
        if len(joined) == 1 and all(map(_is_set, values)):
            return ("named", *names, ("sets", ("|" if r"\or" in joined else "&",) * (len(values) - 1), tuple(values)), None)
        return ("named", *names, ("list", _flat(values)), None)
    if kind == "set":
        distinct = []
        for item in _flat([_resolve(item, w) for item in node[1]]):
            if not any(_same(item, other, w) for other in distinct):
                distinct.append(item)
        return ("set", tuple(distinct))
    if kind == "sets":
        return ("sets", node[1], tuple(_resolve(side, w) for side in node[2]))
    if kind == "seq" and sum("±" in _inventory(item) for item in node[2]) > 1:
        raise _Refused("two independent signs")
    if "±" in _inventory(node):
        return ("list", tuple(_substitute(node, "±", sign) for sign in (_ONE, _MINUS)))
    return node


def _flat(items):
    return tuple(x for item in items for x in (item[1] if item[0] == "list" else (item,)))


def _is_set(node):
    return node[0] in ("sets", "reals", "set") or (node[0] == "seq" and len(node[2]) == 2)


def _same(a, b, w):
    """How two resolved nodes are shown to be equal, or ""."""
    w.spend(6)
    if a[0] == b[0] == "named":
        names = a[1] == b[1] or b[1] in a[1].split("_")[:1] or a[1] in b[1].split("_")[:1]  # m_{max} is m
        how = names and _same(a[2], b[2], w)
        return f"same name, {how}" if how else _proportional(a[3], b[3], w) if a[3] and b[3] else ""
    for one, other in ((a, b), (b, a)):
        if one[0] == "named" and other[0] == "eqn":
            return _proportional(one[3], other[1], w) if one[3] else ""
        if one[0] == "named":  # x = 5 against 5
            return "" if one[3] and one[1] in _free(one[2]) else _same(one[2], other, w)
        if other[0] == "seq" and other[1] == "()" and one[0] == "mat" and {len(row) for row in one[1]} == {1}:  # a vector as a tuple
            return _each([row[0] for row in one[1]], other[2], w, True)
        if other[0] == "seq" and other[1] == "()" and one[0] == "list" and {item[0] for item in one[1]} == {"named"}:
            names = [item[1] for item in one[1]]  # x = 2, y = 3 against (2, 3)
            return _each([item[2] for item in one[1]], other[2], w, True) if names == sorted(set(names)) else ""
    kinds = {a[0], b[0]}
    if kinds in ({"eqn"}, {"ineq"}):
        return _proportional(a[1], b[1], w, positive=kinds == {"ineq"}) if a[2:] == b[2:] else ""
    if kinds <= {"list", "set"}:
        return _each(a[1], b[1], w, False)
    if kinds == {"seq"} and a[1] == b[1]:
        return _each(a[2], b[2], w, True)
    if kinds & {"sets", "reals"} and _is_set(a) and _is_set(b):
        return _point_sets(a, b, w)
    if kinds == {"mat"} and len(a[1]) == len(b[1]):
        return _each([x for row in a[1] for x in row], [x for row in b[1] for x in row], w, True)
    if kinds == {"text"}:
        return "same words" if a[1].lower().replace(" ", "") == b[1].lower().replace(" ", "") else ""
    if kinds & _STRUCTURES:
        return ""
    if "ratio" in kinds:  # 2:4 is 1:2 and 1/2
        xs, ys = (n[1] if n[0] == "ratio" else (n, _ONE) for n in (a, b))
        return _each([_mul(x, ys[0]) for x in xs], [_mul(y, xs[0]) for y in ys], w, True)
    return _scalars(a, b, w)


def _each(xs, ys, w, ordered):
    """How two sequences are shown to be equal item by item, in order or in any order, or ""."""
    left, hows = list(ys), []
    for x in xs if len(xs) == len(ys) else ():
        for n in range(1 if ordered else len(left)):
            if how := _same(x, left[n], w):
                break
        else:
            return ""
        del left[n]
        hows.append(how)
    return f"in {'' if ordered else 'any '}order: {', '.join(dict.fromkeys(hows))}" if len(xs) == len(ys) else ""


def _point_sets(a, b, w):
    """Unions, intersections and differences of intervals and finite sets of reals, as sets of cells of the line.

    The k distinct end points cut it into 2k + 1 cells: an open gap, a point, a gap, ... A set is the cells it holds.
    """
    if a[0] == b[0] == "sets" and a[1] == b[1] and set(a[1]) == {"|"} and (how := _each(a[2], b[2], w, False)):
        return how
    values = {}
    for end in _ends(a) | _ends(b):
        w.numeric(40)
        values[end] = w.real(_value(end, {"%": Fraction(1, 100), "°": Fraction(1)}, w))
        if w.mp.im(values[end]):
            raise _Refused("an end that is not real")
    rank, last = {}, None
    for end in sorted(values, key=lambda end: values[end].real):
        rank[end] = 1 if last is None else rank[last] + (0 if _scalars(end, last, w) else 2)
        last = end
    top = 2 + max(rank.values(), default=-1)
    return "the same cells of the real line" if _cells(a, rank, top) == _cells(b, rank, top) else ""


def _ends(node):
    """The finite end points and members of a set."""
    if node[0] == "sets":
        return set().union(*map(_ends, node[2]))
    return {x for x in (node[1] if node[0] == "set" else node[2] if node[0] == "seq" else ()) if x[0] != "inf"}


def _cells(node, rank, top):
    if node[0] == "reals":
        return set(range(top))
    if node[0] == "set":
        return {rank[x] for x in node[1]}
    if node[0] == "sets":
        cells = _cells(node[2][0], rank, top)
        for operator, side in zip(node[1], node[2][1:], strict=True):
            other = _cells(side, rank, top)
            cells = cells | other if operator == "|" else cells & other if operator == "&" else cells - other
        return cells
    if not _is_set(node):
        raise _Refused("not a set of reals")
    low, high = (-1 if x == ("inf", -1) else top if x == ("inf", 1) else rank[x] for x in node[2])
    if low > high or (low == -1 and node[1][0] == "[") or (high == top and node[1][1] == "]"):
        raise _Refused("not an interval")
    return set(range(low + (node[1][0] == "("), high + (node[1][1] == "]")))


# --------------------------------------------------------------------------------------------------------------- verdict
def _compare(answer, gold):
    """-> (how the two are shown to be equal, or ""; notes on the way: the forms compared and, if refused, why)."""
    notes, w = [], _Work()
    if answer.strip() == gold.strip():
        return "identical" if answer.strip() else "", notes
    try:
        a, g = _normalise(answer), _normalise(gold)
        notes.append(f"normalised  {a}   |   {g}")
        if not all(re.search(r"\w|\\\{", _key(text)) for text in (a, g)):
            raise _Refused("nothing is shown")
        (words, wordy), (gold_words, gold_wordy) = _words(a), _words(g)
        if _key(a) == _key(g) or (words == gold_words and (wordy or gold_wordy)):
            return "same text", notes
        if not (a.isascii() and g.isascii()):
            raise _Refused("a character not understood")
        if all(re.fullmatch(r"[A-Za-z]*[A-Z][A-Za-z]+|[A-Za-z]{4,}", _key(text)) for text in (a, g)):
            raise _Refused("two words")  # else ABDC would be the product ABCD
        for this, other in ((_key(a), _key(g)), (_key(g), _key(a))):  # (C) 18 against (C)
            if (choice := _CHOICE.fullmatch(this)) and other.strip("()") == choice[1]:
                return "same choice", notes
        (a, unit), (g, gold_unit) = _literals(a), _literals(g)
        notes.append(f"parsed      {a}   |   {g}" + (f"   units {unit}   |   {gold_unit}" if unit or gold_unit else ""))
        if unit and gold_unit and unit != gold_unit:
            raise _Refused("different units")
        for x, y in ((x, y) for x in _readings(a, g) for y in _readings(g, a)):
            w.spend(3 * (len(x) + len(y)))
            if how := _same(_resolve(_Parser(x).answer(), w), _resolve(_Parser(y).answer(), w), w):
                return how, notes
    except (_Refused, ZeroDivisionError) as refusal:
        notes.append(f"refused     {'undefined' if isinstance(refusal, ZeroDivisionError) else refusal}")
    return "", notes


def is_equivalent(answer, gold):
    """Does `answer` mean what `gold` means? Symmetric; bounded in time and memory; never raises."""
    try:
        return bool(_compare(answer, gold)[0])
    except Exception:  # a net for the training run: no text is known to reach it, and the tests call _compare without it
        return False


def score(response, gold):
    """1.0 if the final answer of `response` is `gold`, else 0.0; never raises."""
    try:
        answer = extract_answer(response)
    except Exception:  # as above: not text, for one
        return 0.0
    return float(answer is not None and is_equivalent(answer, gold))


# ---------------------------------------------------------------------------------------------------------- command line
def _explain(response, gold):
    answer, step = _extract(response)
    print(f"extracted   {answer}   ({step})")
    how, notes = _compare(answer, gold) if answer is not None else ("", [])
    print(*notes, f"compared    {how or 'not shown to be equal'}", f"verdict     {float(bool(how))}", sep="\n")


def _read_pairs(path):
    """-> the pairs of a JSONL file. ValueError: file, line, what is wrong."""
    pairs = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                pair = json.loads(line)
                good = isinstance(pair["gold"], str) and isinstance(pair["response"], str) and isinstance(pair["expected"], bool)
            except (ValueError, KeyError, TypeError, RecursionError):
                good = False
            if not good:
                wanted = '{"gold": text, "response": text, "expected": true or false}'
                raise ValueError(f"{path}:{number}: wanted {wanted}, found {line.strip()[:60]!r}")
            pairs.append(pair)
    if not pairs:
        raise ValueError(f"{path}: no pairs in it")
    return pairs


def _grade(pairs):
    """Prints agreement by kind, false accepts and false rejects apart, and times."""
    kinds, totals, times = {}, {"undisputed": [0, 0, 0], "debatable": [0, 0, 0]}, []  # pairs, false accepts, false rejects
    for pair in pairs:
        start = time.perf_counter()
        accepted = score(pair["response"], pair["gold"]) == 1.0
        times.append(1000 * (time.perf_counter() - start))
        kind = str(pair.get("kind", "no kind"))
        for counts in (kinds.setdefault(kind, [0, 0, 0]), totals["debatable" if kind.endswith("-debatable") else "undisputed"]):
            counts[0] += 1
            counts[1] += accepted and not pair["expected"]
            counts[2] += pair["expected"] and not accepted
    width = max(map(len, ["undisputed", *kinds]))
    print(f"{'kind':{width}}  pairs  agree  false accepts  false rejects")
    for kind, (n, accepts, rejects) in [*sorted(kinds.items()), *totals.items()]:
        print(f"{kind:{width}}  {n:5}  {n - accepts - rejects:5}  {accepts:13}  {rejects:13}")
    print(f"time per pair: median {statistics.median(times):.2f} ms, longest {max(times):.2f} ms")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Grade one response, or a file of graded pairs.")
    parser.add_argument("--gold", help="the right answer")
    parser.add_argument("--response", help="the whole response to grade, explained step by step")
    parser.add_argument("--data", metavar="FILE", help='JSONL file of {"gold", "response", "expected", "kind"}')
    options = parser.parse_args(arguments)
    if (options.data is None) == (options.gold is None) or (options.gold is None) != (options.response is None):
        parser.error("wanted --gold and --response, or --data")
    try:
        if options.data is None:
            _explain(options.response, options.gold)
        else:
            _grade(_read_pairs(options.data))
    except (OSError, ValueError) as error:
        print(f"rewards.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a response may hold what a terminal cannot show
    sys.exit(main())
