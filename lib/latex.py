r"""LaTeX of an answer -> expression tree. The text of a model is read, never evaluated as code.

    normalise   one spelling: Unicode to LaTeX; sizes, spaces and phantoms dropped
    literals    words and numbers in the form the parser knows; a unit at the end is split off
    parse       tokens -> nested tuples, by the recursive-descent parser below

An expression is a nested tuple, its kind first:

    scalars     ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i")  ("inf", 1 | -1)
                ("add", x, ...)  ("mul", x, ...)  ("pow", x, y)  ("fn", name, x, ...)
                the symbols % ° ± and "log" get their values in lib/equivalence.py
    structures  ("list", items, separators)  ("ratio", items, ...)  ("rel", sides, operators)
                ("sets", sides, operators)  ("set", items)  ("seq", items, brackets)
                ("mat", items, columns)  ("text", words)

Every step is linear in the length of the text, and the caps below hold before anything is
computed. What is not understood is a ValueError, what is too large an OverflowError.

>>> parse(literals(normalise(r"2 \cdot x"))[0])
('mul', ('num', Fraction(2, 1)), ('sym', 'x'))
"""

import math
import re
import unicodedata
from fractions import Fraction

MAX_CHARS = 1200  # of an answer (the longest gold answer in MATH and OlympiadBench has 198)
MAX_DEPTH = 24  # nested brackets, arguments and exponents
MAX_SUM = 60_000  # characters it would take to print the sums of an answer term by term


def want(condition, otherwise, error=ValueError):
    """Raise `error` unless `condition` holds. Neither error leaves lib/equivalence.py."""
    if not condition:
        raise error(otherwise)


# ------------------------------------------------------------------------------------- normalise
# ruff: noqa: SIM905  (tables of words read better as text)
def table(text):
    """"a b c,d e" -> {a: a, b: a, c: a, d: d, e: d}: each word of a group leads to the first."""
    pairs = {}
    for group in text.split(","):
        words = group.split()
        pairs |= dict.fromkeys(words, words[0])
    return pairs


GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau"
    " upsilon phi chi psi omega Gamma Delta Theta Lambda Sigma Phi Omega Psi"
).split()
NAMES = [*GREEK, *"varepsilon varphi vartheta ell max min".split()]
LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΣΦΩ"
UNICODE = {c: f"\\{name} " for c, name in zip(LETTERS, GREEK, strict=False)}
SIGNS = table(
    r"\pm ±,\mp ∓,\le ≤ ⩽,\ge ≥ ⩾,\ne ≠,\infty ∞,\sqrt √,\sqrt[3] ∛,\cup ∪,\cap ∩,\setminus ∖,"
    r"\in ∈,\emptyset ∅,\lfloor ⌊,\rfloor ⌋,\lceil ⌈,\rceil ⌉,\langle ⟨,\rangle ⟩,\approx ≈,"
    r"\degree ° º,\mathbb{R} ℝ,\text{cents} ¢,\text{euros} €,- − ‐ ‑,* × · ⋅ ∙,/ ÷ ∕ ⁄"
)
for sign, command in SIGNS.items():
    UNICODE[sign] = command + " " * command[-1].isalpha()
# Signs that show nothing are dropped, so that 18<zero-width space>7 is read as 187.
UNICODE |= dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\xad", "")
UNICODE |= dict.fromkeys("\u2009\u202f", r"\,")
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
MINUS = re.compile(r"(?<![\w)}\] ]) ?–")  # an en dash before an operand; after one it is a range

SAME_COMMAND = table(
    r"\frac dfrac tfrac cfrac,\binom dbinom tbinom,\le leq leqslant,\ge geq geqslant,\ne neq,"
    r"< lt,> gt,* cdot times ast,/ div,: colon,\{ lbrace,\} rbrace,| vert lvert rvert mid,"
    r"\or lor,\and land,\setminus backslash smallsetminus,\emptyset varnothing,\log_{10} lg"
)
THOUSANDS = re.compile(r"\d{1,3}(?:(?:,|\{,\}|,?\s*\\!\s*|\\,)\d{3})+(?!\d)")  # 10,\!080  10{,}080
LAYOUT = re.compile(  # becomes a space; group 1, a line break in a matrix, stays
    r"(\\\\)(?:\s*\[\s*\d+\s*[a-z]{2}\])?|\\[!,;:> ]|\\(?:left|right)(?![a-zA-Z])(?:\s*\.)?"
    r"|\\[bB]igg?[lrm]?(?![a-zA-Z])|\\[()\[\]]"
    r"|\\(?:quad|qquad|displaystyle|textstyle|limits|boxed|fbox|ensuremath|boldsymbol|bm|underline"
    r"|angle|therefore|bf|rm|sf)(?![a-zA-Z])|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{])"
    r"|\\(?:hspace|vspace|color|textcolor)\*?\s*\{[^{}]*\}|(?<!\\)\$|(?<=.)~"
)
COMMAND = re.compile(r"\\([a-zA-Z]+)")
DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\(\s*\\circ\s*\)|\\circ(?![a-zA-Z]))")
SPACES = re.compile(r"\s+")
SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")  # 10 080
TEXT = re.compile(r"\\(text[a-z]*|[hm]box|math(?:rm|bf|it|sf)|operatorname)\*?\s*\{([^{}]*)\}")


def normalise(text):
    """One spelling for what looks alike.

    >>> normalise(r"$\\dfrac{1}{2} \\times 3²$.")
    '\\\\frac{1}{2} * 3^{2}'
    """
    want(len(text) <= MAX_CHARS, f"longer than {MAX_CHARS} characters")
    text = RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = LOWERED.sub(lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = MINUS.sub("-", text)
    text = "".join(map(to_ascii, text))
    text = THOUSANDS.sub(ungroup, text)
    text = LAYOUT.sub(lambda m: m[1] or " " * (m[0] != r"\!"), text)
    text = COMMAND.sub(lambda m: SAME_COMMAND.get(m[1], m[0]), text)
    text = DEGREE.sub(r"\\degree ", text)
    text = SPACES.sub(" ", text).strip(' ,;:*`"')
    if SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    if text.endswith((".", "\\")) and not text.endswith(".."):
        text = text[:-1].rstrip(" \\")
    return text


def to_ascii(c):
    """ASCII for symbols, digits of any script, vulgar fractions and full-width or bold letters.

    Other characters stay, to be refused: a circled 1 is not a digit.
    """
    if c.isascii() or c in UNICODE:
        return UNICODE.get(c, c)
    plain = unicodedata.normalize("NFKC", c)
    if "\u2044" in plain:
        top, bottom = plain.split("\u2044")
        return rf"\frac{{{top}}}{{{bottom}}}"
    if unicodedata.decimal(c, None) is not None:
        return str(unicodedata.decimal(c))
    return c if unicodedata.category(c) == "No" else plain


NOT_DIGIT = re.compile(r"\D")


def ungroup(match):
    """10,\\!080 -> 10080. Plain commas stay: they may separate (see `readings`)."""
    marked = "\\" in match[0] or "{" in match[0]
    return NOT_DIGIT.sub("", match[0]) if marked else match[0]


# -------------------------------------------------------------------------------------- literals
FUNCTIONS = set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth ln log exp".split()
)
COUNTING = {"fact": math.factorial, "binom": math.comb, "gcd": math.gcd, "lcm": math.lcm}
COUNTING |= {"max": max, "min": min}
NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen twenty"
)
PHRASES = {word: str(n) for n, word in enumerate(NUMERALS.split())}
PHRASES |= {"all real numbers": r"\mathbb{R}", "infinity": r"\infty"}
PHRASES |= {"and": r"\and", "or": r"\or"}
UNITS = table(  # two of these must agree; any other noun ("ways", "apples") is ignored
    "cm centimeter centimeters centimetre centimetres,mm millimeter millimeters,"
    "m meter meters metre metres,km kilometer kilometers,in inch inches,ft foot feet,yd yard yards,"
    "mi mile miles,usd dollar dollars,cent cents,euro euros,lb lbs pound pounds,g gm gram grams,"
    "kg kilogram kilograms,s sec second seconds,min mins minute minutes,h hr hrs hour hours,"
    "day days,week weeks,month months,yr year years,rad radian radians,"
    "l liter liters litre litres,ml milliliter milliliters,gal gallon gallons,am,pm,"
    "degree degrees deg,percent,^2 square sq,^3 cubic,/ per"
)
NO_UNITS = set(PHRASES) | set(
    "or and not no nor but to than least most between about around approximately approx roughly"
    " almost nearly less more up under if is are was mod root base half halves third thirds"
    " quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths thousandth"
    " thousandths hundred hundreds thousand thousands million millions billion billions trillion"
    " dozen squared cubed factorial over by times plus minus negative positive pi point equals"
    " equal except without with where when for any all either neither wrong false incorrect maybe"
    " possibly only modulo remainder i e x y z n k".split()
)
ATOM = re.compile(
    r"\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|" + TEXT.pattern + r"|\\[A-Za-z]+"
    r"|( ?)([A-Za-z]{2,})"
)
PLAIN = re.compile(  # \text{13}, \text{(C)}, \text{A, B}, \text{A5}
    r"[\d\s.,()+*/-]*|\(?[A-Z]\)?(?: ?, ?[A-Z])*|[A-Z]*\d+[A-Z]*"
)
BASE_BRACKETS = re.compile(r"\(([0-9A-Z]{1,99})\) ?_")  # (52)_8 is 52_8
SET_BUILDER = re.compile(r"^\\\{ ?[A-Za-z] ?[|:](.*)\\\}$")  # {x | x > 3} is x > 3
COMMA_AND = re.compile(r", *(\\and|\\or)(?![a-z])")
TIME_OF_DAY = re.compile(r"(?:^|[,;])[^:,;]*(?:: ?[0-5]\d(?![\d.])[^:,;]*)+(?:$|[,;])")
DOLLAR = re.compile(r"(?:^|(?<=[-,=( ]))\\\$ ?(?=[\d.\\])|(?<=\d) ?\\\$$")
# Each space of the pattern is matched in one way: three optional ones side by side took years.
UNIT = re.compile(r"\\text\{[^{}]*\}(?: ?\^ ?(?:\d|\{ ?-?\d ?\}))?(?: ?/)? ?")
VALUE_END = re.compile(r"[\w})!]$")
OPERATOR_END = re.compile(r"\\(?:and|or|in)$")
TEXT_MARKS = re.compile(r"\\text|[{} ]+")
UNIT_TOKEN = re.compile(r"[a-z]+|\^ ?-?\d|\S")
UNIT_WORDS = re.compile(r"(?:[a-z\s/'()-]|\^ ?-?\d)*")
NUMBER = re.compile(  # the order matters: 0.1\overline{6}; 52_8; 1 4/5 and 1\frac{4}{5}
    r"(?<!\d)(\d{0,99})\.(\d{0,99}) ?\\overline ?\{ ?(\d{1,99}) ?\}"
    r"|(?<![\w.\\}])(?=[A-Z]{0,99}\d)([0-9A-Z]{1,99})(?:\.(\d{1,99}))? ?_"
    r" ?(?:\{ ?(\d\d?) ?\}|(\d\d?))"
    r"|(?<![\d.^_}A-Za-z])(\d{1,99}) ?(?:\\frac ?(?:\{ ?(\d{1,99}) ?\}|(\d))"
    r" ?(?:\{ ?(\d{1,99}) ?\}|(\d))|(?<= )(\d{1,99})/(\d{1,99})(?!\d))"
)


def literals(text):
    """Words and numbers of normalised text in the form the parser knows.

    -> (text, known unit or None)
    """
    text = BASE_BRACKETS.sub(r"\1_", ATOM.sub(word, text))
    text = SET_BUILDER.sub(r"\1", text)
    text = COMMA_AND.sub(r"\1", text)
    want(not TIME_OF_DAY.search(text), "a time of day, equal only to itself")
    unit = None
    if r"\$" in text:
        text, unit = DOLLAR.sub("", text), "usd"
    value, tail = split_tail(text)
    if tail and VALUE_END.search(value) and not OPERATOR_END.search(value):
        mark, named = unit_of(tail)
        text, unit = value + mark, unit or named
    if r"\degree" in text:
        unit = unit or "degree"
    return NUMBER.sub(number, text), unit


def split_tail(text):
    r"""'5 \text{cm}^2' -> ('5', '\text{cm}^2'): the run of texts that the answer ends with."""
    start = len(text)
    for unit in reversed(list(UNIT.finditer(text))):
        if unit.end() != start:
            break
        start = unit.start()
    return text[:start].rstrip(), text[start:]


def unit_of(tail):
    r"""'\text{square cm}' -> ('', '^2cm'): what stays in the text, and the unit if it is known."""
    words = TEXT_MARKS.sub(" ", tail.lower().replace(".", ""))
    found = UNIT_TOKEN.findall(words)
    is_unit = UNIT_WORDS.fullmatch(words) and not set(found) & NO_UNITS
    want(is_unit, f"{words.strip()!r} is no unit")
    known = sorted(UNITS.get(word, word).replace(" ", "") for word in found)
    mark = {"degree": r"\degree", "percent": r"\%"}.get(" ".join(known), "")
    if all(word[0] == "^" or word in UNITS.values() for word in known):
        return mark, "".join(known)
    return mark, None


def word(match):
    r"""One \text{}, bare word or command.

    Separators, functions and numbers lose their wrapping, other words get one.
    """
    macro, content, space, bare = match.groups()
    if macro is None and bare is None:
        return match[0]
    name = (content if bare is None else bare).strip(" ,.")
    low = name.lower()
    if low in PHRASES:
        return f" {PHRASES[low]} "
    if name in FUNCTIONS or name in ("pi", "sqrt", "gcd", "lcm", "max", "min"):
        return f" \\{name} "
    if macro:
        letter = len(name) == 1 and macro.startswith("math")
        plain = letter or PLAIN.fullmatch(name)
    else:  # AB and xyz are products
        points = len(name) == 4 and name.isupper()
        plain = points or (len(name) < 4 and not (space and low in UNITS))
    return (space or "") + name if plain else rf"{space or ''}\text{{{name}}}"


def number(match):
    r"""0.1\overline{6} -> (0.1+6/90); 52_8 -> (42); 1 4/5 -> (1+4/5)."""
    head, places, period, digits, fraction, *rest = match.groups(default="")
    if period:
        nines = "9" * len(period) + "0" * len(places)
        return f"({head or 0}.{places}+{period}/{nines})"
    if digits:
        base = int(rest[0] or rest[1])
        return f"({Fraction(int(digits + fraction, base), base ** len(fraction))})"
    whole, top, bottom = (int(part) for part in rest[2:] if part)
    want(top < bottom, "an improper fraction after a whole number")
    return f"({whole}+{top}/{bottom})"


GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
BRACKET = re.compile(r"\\[{}]|[()\[\]]")
LISTED = re.compile(r", |;|=|\\(?:and|or|\{)")


def readings(text, other):
    """What the commas of a text may mean: one or two texts.

    A comma before three digits outside brackets groups thousands. Where the other answer is
    clearly a list it may also separate.
    """
    grouped = ungroup_commas(text)
    listed = grouped != text and ",0" not in text and LISTED.search(other)
    if listed and ungroup_commas(other) == other:
        return [grouped, text]
    return [grouped]


def ungroup_commas(text):
    """1,234 -> 1234, but not inside brackets."""
    closed = {m.end(): m[0][-1] in ")]}" for m in BRACKET.finditer(text)}
    inside, closing = [False] * (len(text) + 1), False
    for at in range(len(text), -1, -1):  # from the right: is the next bracket a closing one?
        inside[at] = closing
        closing = closed.get(at, closing)
    return GROUPED.sub(lambda m: m[0] if inside[m.end()] else m[0].replace(",", ""), text)


# ----------------------------------------------------------------------------------------- parse
LEXER = re.compile(
    r"((?:\d+\.\d*|\.\d+|\b1)[eE][+-]?\d+|\d+(?:e\d+|E[+-]?\d+)|\d+(?:\.\d*)?|\.\d+"
    r"|\\text\{[^{}]*\}|\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|\\\\|\\[a-zA-Z]+|\\.|\S)"
)
CHAINS = [  # separators and operators by precedence, loosest first
    ("list", {",": ",", ";": ",", r"\and": "and", r"\or": "or"}),
    ("ratio", {":": ":"}),
    ("rel", {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in"}),
    ("sets", {r"\cup": set.union, r"\cap": set.intersection, r"\setminus": set.difference}),
]
MARKS = {"%": "%", r"\%": "%", r"\degree": "°"}
ROUNDING = {"||": "abs", r"\lfloor\rfloor": "floor", r"\lceil\rceil": "ceil"}
CLOSING = {"(": ")]", "[": "])", "{": "}", r"\{": [r"\}"], r"\langle": [r"\rangle"]}
CLOSING |= {r"\lfloor": [r"\rfloor"], r"\lceil": [r"\rceil"]}
KNOWN = {name: ("sym", name) for name in NAMES}
KNOWN |= {"pi": ("const", "pi"), "infty": ("inf", 1), "emptyset": ("set", ())}
REALS = ("seq", (("inf", -1), ("inf", 1)), "()")
ONE = ("num", Fraction(1))
MINUS_ONE = ("num", Fraction(-1))
HALF = ("num", Fraction(1, 2))
EULER = ("const", "e")
PLUS_MINUS = ("sym", "±")  # takes its two values everywhere at once
SIGN_TOKENS = {"+": [], "-": [MINUS_ONE], r"\pm": [PLUS_MINUS], r"\mp": [MINUS_ONE, PLUS_MINUS]}
STOPS = {"", *"*/&^_!)]}", r"\\", r"\}", r"\rangle", r"\rfloor", r"\rceil", *SIGN_TOKENS, *MARKS}
STOPS |= {token for _, chain in CHAINS for token in chain}
MATRIX = re.compile(r"begin ?\{(?:[pb]?matrix|smallmatrix|array)\}")
NAME_MARKS = re.compile(r"\\text|[\\{}]")
DIGITS = ".0123456789"


def product(*factors):
    """A product, flattened; signs go into numbers and infinity, numbers into a matrix."""
    flat = []
    for factor in factors:
        flat += factor[1:] if factor[0] == "mul" else [factor]
    if len(flat) == 2 and flat[0] == MINUS_ONE and flat[1][0] in ("num", "inf"):
        return (flat[1][0], -flat[1][1])
    scale = [factor for factor in flat if factor[0] != "mat"]
    matrices = [factor for factor in flat if factor[0] == "mat"]
    if scale and len(matrices) == 1:
        _, items, columns = matrices[0]
        return ("mat", tuple(product(*scale, x) for x in items), columns)
    return ("mul", *flat) if len(flat) > 1 else flat[0]


def minus(a, b):
    return ("add", a, product(MINUS_ONE, b))


def divided(a, b):
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
    return tuple([substitute(x, name, value) if isinstance(x, tuple) else x for x in node])


def parse(text):
    """Text from `literals` -> expression. ValueError, OverflowError: not understood, too large.

    >>> parse("1<x")
    ('rel', (('num', Fraction(1, 1)), ('sym', 'x')), ('<',))
    """
    parser = Parser(text)
    node = parser.chain()
    parser.need("")
    return node


class Parser:
    """Recursive descent over the tokens of one text.

    All nesting passes through atom(), which counts its depth; chains are collected flat.
    """

    def __init__(self, text):
        self.tokens = [*LEXER.findall(text), ""]
        self.at = 0
        self.depth = 0
        self.room = MAX_SUM
        self.bars = False  # does an open | wait for its end?

    @property
    def next(self):
        return self.tokens[self.at]

    def take(self, *wanted):
        """The next token if it is one of `wanted`, else None."""
        token = self.next
        if token not in wanted:
            return None
        self.at += 1
        return token

    def need(self, *wanted):
        wish = " or ".join(wanted) or "the end"
        found = self.next[:20] or "the end"
        want(self.next in wanted, f"{wish} expected, found {found}")
        return self.take(*wanted)

    def chain(self, level=0):
        """x, or (kind, (x, y, ...), operators between them) with looser chains outside."""
        if level == len(CHAINS):
            return self.sum()
        kind, operators = CHAINS[level]
        sides, found = [self.chain(level + 1)], []
        while operator := self.take(*operators):
            found.append(operators[operator])
            sides.append(self.chain(level + 1))
        return (kind, tuple(sides), tuple(found)) if found else sides[0]

    def sum(self):
        terms = []
        while not terms or self.next in SIGN_TOKENS:
            terms.append(product(*self.signs(), self.product()))
        return ("add", *terms) if len(terms) > 1 else terms[0]

    def signs(self):
        """A run of signs, as factors."""
        signs = []
        while sign := self.take(*SIGN_TOKENS):
            signs += SIGN_TOKENS[sign]
        others = [sign for sign in signs if sign != MINUS_ONE]
        return [MINUS_ONE] * (signs.count(MINUS_ONE) % 2) + others

    def product(self):
        factors = [self.power()]
        slashed = False  # was something other than numbers divided by a slash?
        while (operator := self.take("*", "/")) or self.starts():
            before = self.tokens[self.at - 1]
            signs = self.signs() if operator else []
            first = self.next
            factor = self.power()
            if not operator:
                want(not slashed, "a/bc: what is divided by what?")
                apart = factors[-1][0] == "pow" or before in (")", "!")
                want(apart or first[0] not in DIGITS, "two numbers side by side")
            if operator == "/":
                slashed |= not factor[0] == factors[-1][0] == "num"
                factor = ("pow", factor, MINUS_ONE)
            factors += [*signs, factor]
        return product(*factors)

    def starts(self):
        """Does the next token begin a factor?"""
        token = self.next
        return not (token in STOPS or token.startswith(r"\end") or (token == "|" and self.bars))

    def power(self):
        """An atom with its subscripts, exponents, factorials, percent and degree signs."""
        node = self.atom()
        calls = ["("] if node in (("sym", "f"), ("sym", "g")) else []
        seen = 0
        while token := self.take("^", "!", "_", *MARKS, *calls):
            seen += 3 if token == "^" else 1
            want(seen <= 5, "too many marks on one term")  # TeX refuses two exponents in a row
            if token == "(" or (token == "_" and node[0] == "sym"):
                # f(2) is a value and x_1 a name: what follows is part of the name
                self.at -= token == "("
                start = self.at
                self.argument()
                mark = NAME_MARKS.sub("", "".join(self.tokens[start : self.at]))
                node = ("sym", node[1] + token.strip("(") + mark)
            elif token == "^" and node[0] in ("mat", "seq") and self.take("T"):
                node = transposed(node)
            elif token == "^":
                node = ("pow", node, self.argument())
            elif token == "!" and self.next not in ("!", "="):
                node = ("fn", "fact", node)
            else:
                want(token in MARKS, f"{token} not understood")
                node = product(node, ("sym", MARKS[token]))
            calls = []
        return node

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
        elif token[:1].isdigit() or (token[:1] == "." and token[1:2].isdigit()):
            exponent = token.lower().partition("e")[2]
            want(len(exponent) <= 4, "exponent", OverflowError)
            node = ("num", Fraction(token))
        elif token.startswith(r"\text{"):
            words = token[6:-1]
            node = ("text", words.lower().replace(" ", "")) if len(words) > 1 else ("sym", words)
        elif token[:1] == "\\":
            node = self.command(token[1:])
        else:
            want(token.isalpha(), f"{token[:20] or 'the end'} not understood")
            node = ("const" if token in "ei" else "sym", token)
        self.depth -= 1
        return node

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
        commas = len(items) > 1 and set(node[2]) == {","}
        want(commas and pair not in ROUNDING, "brackets not understood")
        return ("seq", items, "()" if pair == r"\langle\rangle" else pair)

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
            return self.matrix()
        if name == "mathbb" and self.argument() == ("sym", "R"):
            return REALS
        want(name in KNOWN, f"\\{name[:20]} not understood")
        return KNOWN[name]

    def root(self):
        exponent = HALF
        if self.take("["):
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

    def matrix(self):
        rows = [[self.sum()]]
        while mark := self.take("&", r"\\"):
            if self.next.startswith(r"\end"):
                break
            if mark != "&":
                rows.append([])
            rows[-1].append(self.sum())
        equal = len({len(row) for row in rows}) == 1
        want(self.next.startswith(r"\end") and equal, "a matrix not understood")
        self.at += 1
        return ("mat", tuple(x for row in rows for x in row), len(rows[0]))

    def function(self, name):
        r"""sin, log ... with base and power.

        Without brackets the argument ends at the next function, bracket, number, sign or operator.
        """
        base = self.argument() if name == "log" and self.take("_") else None
        power = self.argument() if self.take("^") else None
        if power == MINUS_ONE and name in ("sin", "cos", "tan"):
            name, power = "arc" + name, None
        if self.next in ("(", "{"):
            x = self.atom()
        else:
            x = self.power()
            while self.starts() and self.continues():
                x = product(x, self.power())
        node = ("pow", EULER, x) if name == "exp" else ("fn", name, x)
        if name == "log":
            base = ("fn", "ln", base) if base else ("sym", "log")
            node = divided(("fn", "ln", x), base)
        return ("pow", node, power) if power else node

    def continues(self):
        """Does the next factor belong to an argument without brackets?"""
        return self.next[0] not in "([" + DIGITS and self.next[1:] not in FUNCTIONS
