r"""The text of an answer: one spelling for what looks alike, and what its words and numerals say.

    normalise        Unicode to LaTeX; sizes, spaces, colours and phantoms dropped
    printed_alike    are two texts the same as they are printed?
    spell            words get a mark ("meters); bases, mixed numbers, periods worked out
    readings         what the commas of a number may mean
    tokens_of        tokens; words that say mathematics are replaced (and, is, million)

Each step is linear in the length of the text. What is not understood is a ValueError.
"""

import re
import unicodedata
from fractions import Fraction

MAX_CHARS = 1200  # of an answer (the longest gold answer in MATH and OlympiadBench has 198)


def want(condition, otherwise, error=ValueError):
    """Raise `error` unless `condition` holds. It does not leave lib/equivalence.py."""
    if not condition:
        raise error(otherwise)


# ruff: noqa: SIM905  (tables of words read better as text)
def table(text):
    """"a b c,d e" -> {a: a, b: a, c: a, d: d, e: d}: each word of a group leads to the first."""
    pairs = {}
    for group in text.split(","):
        words = group.split()
        pairs |= dict.fromkeys(words, words[0])
    return pairs


# ------------------------------------------------------------------------------------- normalise
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau"
    " upsilon phi chi psi omega Gamma Delta Theta Lambda Sigma Phi Omega Psi"
).split()
GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΣΦΩ"
UNICODE = {c: f"\\{name} " for c, name in zip(GREEK_LETTERS, GREEK, strict=False)}
SIGNS = table(
    r"\pm ±,\mp ∓,\le ≤ ⩽,\ge ≥ ⩾,\ne ≠,\infty ∞,\sqrt √,\sqrt[3] ∛,\cup ∪,\cap ∩,\setminus ∖,"
    r"\in ∈,\emptyset ∅,\lfloor ⌊,\rfloor ⌋,\lceil ⌈,\rceil ⌉,\langle ⟨,\rangle ⟩,\approx ≈,"
    r"\degree ° º,\mathbb{R} ℝ,\mathbb{Z} ℤ,\text{cents} ¢,\text{euros} €,\text{pounds} £,"
    r"\text{yen} ¥,\text{rupees} ₹,\or ∨,\and ∧,\forall ∀,\equiv ≡,- − ‐ ‑,* × · ⋅ ∙,/ ÷ ∕ ⁄"
)
for sign, command in SIGNS.items():
    UNICODE[sign] = command + " " * command[-1].isalpha()
# Signs that show nothing are dropped, so that 18<zero-width space>7 is read as 187.
UNICODE |= dict.fromkeys('\u200b\u200c\u200d\u2060\ufeff\xad"“”„«»■□∎✓✔✅', "")
UNICODE |= dict.fromkeys("\u2009\u202f", r"\,") | dict.fromkeys("’‘", "'")
SAME_COMMAND = table(
    r"\frac dfrac tfrac cfrac sfrac nicefrac,\binom dbinom tbinom,\le leq leqslant,"
    r"\ge geq geqslant,\ne neq,< lt,> gt,* cdot times ast,/ div,: colon,\{ lbrace,\} rbrace,"
    r"| vert lvert rvert mid,\or lor vee,\and land wedge,\setminus backslash smallsetminus,"
    r"\emptyset varnothing,\log_{10} lg,\tan tg,\cot ctg,\arctan arctg,= equiv"
)
NOT_DIGIT = re.compile(r"\D")


def plain(text):
    return unicodedata.normalize("NFKC", text)


def ungrouped(match):
    """10,\\!080 -> 10080. Plain commas stay: they may separate (see `readings`)."""
    marked = "\\" in match[0] or "{" in match[0]
    return NOT_DIGIT.sub("", match[0]) if marked else match[0]


SCRIPTS = (
    (re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), lambda m: f"^{{{plain(m[0])}}}"),
    (re.compile("[₀₁₂₃₄₅₆₇₈₉]+"), lambda m: f"_{{{plain(m[0])}}}"),
    (re.compile(r"(?<![\w)}\] ]) ?–"), "-"),  # an en dash; after an operand it makes a range
)
SPELLINGS = (  # in this order
    (re.compile(r"\d{1,3}(?:(?:,|\{,\}|\{\\,\}|,?\s*\\!\s*|\\,)\d{3})+(?!\d)"), ungrouped),
    (  # layout becomes a space; group 1, a line break in a matrix, stays
        re.compile(
            r"(\\\\)(?:\s*\[\s*\d+\s*[a-z]{2}\])?|\\[!,;:> ]|\\(?:left|right)(?![a-zA-Z])(?:\s*\.)?"
            r"|\\[bB]igg?[lrm]?(?![a-zA-Z])|\\[()\[\]]|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{])"
            r"|\\(?:hspace|vspace|color|textcolor|colorbox|tag|label)\*?\s*\{[^{}]*\}|(?<!\\)\$"
            r"|(?<=.)~|``|''|\\(?:quad|qquad|displaystyle|textstyle|limits|boxed|fbox|ensuremath"
            r"|boldsymbol|bm|underline|angle|therefore|bf|rm|sf|it|tt|blacksquare|square|Box|qed"
            r"|checkmark|vec|overrightarrow|emph|smash|mathstrut|strut|large|Large|LARGE|huge|Huge"
            r"|small|nonumber|notag|bigstar)(?![a-zA-Z])"
        ),
        lambda m: m[1] or " " * (m[0] != r"\!"),
    ),
    (re.compile(r"\\([a-zA-Z]+)"), lambda m: SAME_COMMAND.get(m[1], m[0])),
    (re.compile(r"([fgh]) ?\^ ?\{ ?- ?1 ?\} ?(?=\()"), r"\1_{-1}"),  # f^{-1}(3) is a name
    (re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\( ?\\circ ?\)|\\circ(?![a-zA-Z]))"), r"\\degree "),
    (re.compile(r"\\overline ?\{ ?([A-Z]{2,9}) ?\}"), r"\1"),  # the segment CD may be written CD
    (re.compile(r"\{ ?([:=<>]) ?\}"), r"\1"),
    (re.compile(r"& ?="), "="),
    (re.compile(r"\\\{ ?(?=\\begin ?\{(?:array|aligned|cases)\})"), ""),
    (re.compile(r"\s+"), " "),
)
SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")  # 10 080


def normalise(text):
    """One spelling for what looks alike.

    >>> normalise(r"$\\dfrac{1}{2} \\times 3²$.")
    '\\\\frac{1}{2} * 3^{2}'
    """
    want(len(text) <= MAX_CHARS, f"longer than {MAX_CHARS} characters")
    for pattern, new in SCRIPTS:
        text = pattern.sub(new, text)
    text = "".join(map(to_ascii, text))
    for pattern, new in SPELLINGS:
        text = pattern.sub(new, text)
    text = text.strip(" ,;:*`").lstrip("= ")
    if text[:1] == text[-1:] and text[:1] in ("'", "_"):
        text = text.strip("'_ ")
    if SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    if text.endswith((".", "\\")) and not text.endswith(".."):
        text = text[:-1].rstrip(" \\")
    return text


def to_ascii(c):
    """ASCII for symbols, digits of any script, vulgar fractions and full-width or bold letters."""
    if c.isascii() or c in UNICODE:
        return UNICODE.get(c, c)
    if unicodedata.decimal(c, None) is not None:
        return str(unicodedata.decimal(c))
    top, slash, bottom = plain(c).partition("\u2044")
    if slash:
        return rf"\frac{{{top}}}{{{bottom}}}"
    if unicodedata.category(c) == "No":  # a circled 1 is not a digit
        return c
    return "".join(UNICODE.get(x, x) for x in top)


# ------------------------------------------------------------------------------------------ words
FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth ln log exp floor ceil"
FUNCTIONS = set(FUNCTIONS.split())
NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
VALUES = {word: n for n, word in enumerate(NUMERALS)}
VALUES |= {word: 10 * n for n, word in enumerate(TENS, 2)}
# What a word says in mathematics. A word that scales is a factor: 18 dozen is not 18.
MEANINGS = table(
    r"\and and,\or or,= is are was equals,+ plus,- minus negative,* times,/ over,: to,\% percent,"
    r"\degree degree degrees deg,^2 squared,^3 cubed,\infty infinity,\pi pi,\sqrt sqrt,*10 tens,"
    r"*12 dozen dozens,*100 hundred hundreds,*1000 thousand thousands,*10^5 lakh lakhs,"
    r"*10^6 million millions,*10^7 crore crores,*10^9 billion billions,*10^{12} trillion trillions,"
    r"*(1/2) half halves,*(1/3) third thirds,*(1/4) fourth fourths,*(1/5) fifth fifths,"
    r"*(1/6) sixths,*(1/8) eighths,*(1/10) tenth tenths,*(1/100) hundredth hundredths"
)
MEANINGS |= {name: f"\\{name}" for name in [*FUNCTIONS, "gcd", "lcm", "max"]}
MEANINGS |= {word: str(n) for word, n in VALUES.items()}
# A word that negates, doubts, compares or scales is no part of an answer, wherever it stands.
REFUSED = set(
    "not no non nor never none neither cannot cant isnt arent wasnt dont doesnt wont hardly far"
    " without except excepting exclude excludes excluding exclusive false wrong incorrect invalid"
    " impossible untrue mistake error extraneous contradiction fails fail unless maybe perhaps"
    " possibly probably presumably likely unlikely about approximately approx around roughly circa"
    " almost nearly least most below above than if when either any unknown unsure uncertain could"
    " might may would should must but however instead rather off so guess other others else another"
    " for where with quarter quarters double doubles triple twice thrice fold score scores gross"
    " quadrillion quintillion billionths millionths thousandth thousandths lac mil mio mrd bn mn tn"
    " kilo mega giga milli micro nano ppm bps basis recurring repeating factorial k"
    " nicht kein keine oder pas ou sin menos mille millones millionen tausend"
    " не нет или около почти тысяч тысячи тыс миллион миллиона миллионов млн млрд".split()
)
SCALING = set("万萬亿億兆千百十廿半倍不非没無无否或约約未错錯误誤만억천백조")  # in a noun
UNITS = table(  # two of these must agree, one may be left out; of other nouns none counts
    "cm centimeter centimeters centimetre centimetres см 厘米,mm millimeter millimeters мм 毫米,"
    "m meter meters metre metres м 米,km kilometer kilometers kilometre kilometres км 千米 公里,"
    "in inch inches,ft foot feet,yd yard yards,mi mile miles,acre acres,hectare hectares ha,"
    "usd dollar dollars 美元,cent cents,eur euro euros 欧元,yen jpy 日元,yuan rmb cny 元,"
    "inr rupee rupees rs,peso pesos,lb lbs pound pounds gbp,oz ounce ounces,ton tons tonne tonnes,"
    "g gm gram grams г 克,mg milligram milligrams,kg kilogram kilograms кг 千克 公斤,"
    "s sec second seconds 秒,ms millisecond milliseconds,min mins minute minutes 分钟,"
    "h hr hrs hour hours 小时 ч,day days 天,week weeks,month months,year years yr yrs,"
    "rad radian radians,l liter liters litre litres л 升,ml milliliter milliliters,gal gallon"
    " gallons,qt quart quarts,pt pint pints,cup cups,am,pm,mi/h mph,km/h kph kmh kmph,n newton"
    " newtons,j joule joules,w watt watts,v volt volts,hz hertz,kelvin,°F f fahrenheit,"
    "°C c celsius,^2 square sq 平方,^3 cubic cu 立方,/ per"
)
CURRENCIES = {"usd", "eur", "yen", "yuan", "inr", "peso", "lb"}
GLUED = set(UNITS) - {"am", "pm", "in", "ha", "pt", "sq", "cu", "rs"}  # 4am may be 4 a m
LATIN = set("abcdefghijklmnopqrstuvwxyz")


def unit_of(noun):
    """Parts of a known unit, [] for any other noun; one that scales or denies is refused."""
    if noun in UNITS:
        return UNITS[noun].replace("/", " / ").split()
    want(noun not in LATIN and not set(noun) & SCALING, f"{noun!r} is no unit")
    return []


# ------------------------------------------------------------------------------------------ spell
TEXT = re.compile(
    r"\\(text[a-z]*|[hm]box|math(?:rm|bf|it|sf|tt)|operatorname)\*?\s*\{([^{}]*)\}"
)
WORD = re.compile(r"\"?[^\W\d_]+(?:[.'][^\W\d_]+)*[.']?")
NOT_LETTER = re.compile(r"[\".']")
DIGITS = re.compile(r"(?=[A-Z]{0,9}\d)[\dA-Z]+(?:\.[\dA-Z]+)?")  # \text{13}, \text{A5}
BARE = re.compile(r'\\(?:begin|end) ?\{[^{}]*\}|\\[A-Za-z]+|"[^\W\d_]+|[^\W\d_]{2,}\.?')
HYPHENATED = re.compile(rf"\b({'|'.join(TENS)})-({'|'.join(NUMERALS[1:10])})\b", re.I)
PHRASES = (
    (re.compile(r"\ball real numbers\b", re.I), r"\\mathbb{R}"),
    (re.compile(r"\b(?:is )?equal to\b", re.I), "is"),
    (re.compile(r"\bper cent\b", re.I), "percent"),
    (re.compile(r"\bUS ?(?=\\\$)"), ""),
)
NUMERAL_FORMS = (
    (re.compile(r"\\(?:text[a-z]*|[hm]box|math(?:rm|bf|it|sf|tt|op|ord))(?![a-zA-Z])\*?"), ""),
    (re.compile(r"\s+"), " "),
    # 84 degrees F are no angle
    (re.compile(r'(?:\\|")degrees? ?"?(F|C|fahrenheit|celsius)(?![a-z])', re.I), r' "\1'),
    # {x | x > 3} is x > 3
    (re.compile(r"^ ?\\\{ ?\w ?(?:\\in ?\\mathbb ?(?:R|\{ ?R ?\}) ?)?[|:](.*)\\\} ?$"), r"\1"),
    (re.compile(r' ?\(? ?(?:"in ?)?"base (\d\d?) ?\)? ?$'), r"_{\1}"),
    (re.compile(r"\(([0-9A-Z]{1,99}(?:\.\d{1,99})?)\) ?_"), r"\1_"),  # (52)_8 is 52_8
    (re.compile(r"_ ?\{ ?\((\d\d?)\) ?\}"), r"_{\1}"),  # 52_{(8)} too
)
NUMBER = re.compile(  # the order matters: 0.1\overline{6}; 52_8; 1 4/5 and 1\frac{4}{5}
    r"(?<!\d)(?P<head>\d{0,99})\.(?P<places>\d{0,99}) ?\\(?:overline|bar|dot) ?"
    r"(?:\{ ?(?P<period>\d{1,99}) ?\}|(?P<first>\d))"
    r"(?:(?P<middle>\d{0,99}) ?\\dot ?(?:\{ ?(?P<last>\d) ?\}|(?P<final>\d)))?"
    r"|(?<![\w.\\}])(?=[A-Z]{0,99}\d)(?P<digits>[0-9A-Z]{1,99})(?:\.(?P<point>\d{1,99}))? ?_"
    r" ?(?:\{ ?(?P<base>\d\d?) ?\}|(?P<short>\d\d?))"
    r"|(?<![\d.^_}A-Za-z])(?P<whole>\d{1,99}) ?(?:\\frac ?(?:\{ ?(?P<top>\d{1,99}) ?\}|(?P<t>\d))"
    r" ?(?:\{ ?(?P<bottom>\d{1,99}) ?\}|(?P<b>\d))|(?<= )(?P<up>\d{1,99})/(?P<down>\d{1,99})(?!\d))"
)


def spell(text):
    r"""Normalised text with marked words and plain numbers.

    >>> spell(r"\text{540 meters}"), spell("52_8"), spell("xy")
    (' 540 "meters ', '(42)', 'xy')
    """
    text = HYPHENATED.sub(lambda m: f"{VALUES[m[1].lower()] + VALUES[m[2].lower()]}", text)
    for pattern, new in PHRASES:
        text = pattern.sub(new, text)
    text = BARE.sub(mark_bare, TEXT.sub(mark_text, TEXT.sub(mark_text, text)))
    for pattern, new in NUMERAL_FORMS:
        text = pattern.sub(new, text)
    return NUMBER.sub(number, text.removesuffix(" . "))


def mark_text(match):
    r"""\text{540 m} -> ' 540  "m '; based digits and a letter in a font stay as they are."""
    macro, content = match[1], match[2].strip()
    letter = len(content) == 1 and macro.startswith("math")
    if DIGITS.fullmatch(content) or (letter and content.lower() not in UNITS):
        return content
    return f" {WORD.sub(mark, content)} "


def mark(match):
    return ' "' + NOT_LETTER.sub("", match[0]) + " "


def mark_bare(match):
    r"""A run of letters outside \text is a word if it is a long or known one, else a product."""
    word = match[0].rstrip(".")
    before = match.string[: match.start()][-1:]
    low = word.lower()
    if word[0] in '\\"':
        return match[0]
    known = low in MEANINGS or UNITS.get(low) in CURRENCIES
    known |= low in REFUSED and len(low) > 2
    known |= (before == " " and low in UNITS) or (before.isdigit() and low in GLUED)
    points = len(word) == 4 and word.isupper()
    if known or (len(word) > 3 and not points) or not word.isascii():
        return f' "{word} '
    return match[0]


def number(match):
    r"""0.1\overline{6} -> (0.1+6/90); 52_8 -> (42); 1 4/5 -> (1+4/5)."""
    part = match.groupdict(default="")
    if period := part["period"] or part["first"]:
        period += part["middle"] + part["last"] + part["final"]
        nines = "9" * len(period) + "0" * len(part["places"])
        return f"({part['head'] or 0}.{part['places']}+{period}/{nines})"
    if part["digits"]:
        base, point = int(part["base"] or part["short"]), part["point"]
        want(base > 1, "a base")
        return f"({Fraction(int(part['digits'] + point, base), base ** len(point))})"
    top = int(part["top"] or part["t"] or part["up"])
    bottom = int(part["bottom"] or part["b"] or part["down"])
    want(top < bottom, "an improper fraction after a whole number")
    return f"({part['whole']}+{top}/{bottom})"


# ------------------------------------------------------------------------------- printed alike
SPACES = re.compile(r" +")
LOOSE_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # a space between digits stays
SHOWN = re.compile(r"\w|\\\{")
LETTER_OR_COMMAND = re.compile(r"[A-Za-z\\]")
LETTERS = re.compile(r"[A-Za-z ]*")
LONG_WORD = re.compile(r"[A-Za-z]{4}")
ONE_WORD = re.compile(r"[A-Z]{2,3}|[A-Za-z]{4,}")
CHOICE = re.compile(  # (C) 18, C. 18, option C, C (18)
    r"(?:(?i:option|choice|answer) ?)?(?:\(([A-J])\)|([A-J])(?:[).:] | ?(?=\()|$))(.*)"
)
ANOTHER = re.compile(r"\([A-Ja-j]\)|\b(?:or|and)\b")


def printed_alike(a, g):
    """How two normalised texts are shown to be equal as they are printed, or ""."""
    texts = [TEXT.sub(r"\2", TEXT.sub(r"\2", text)).strip() for text in (a, g)]
    texts = [text.removesuffix(".") for text in texts]
    keys = [LOOSE_SPACE.sub("", SPACES.sub(" ", text)) for text in texts]
    want(all(SHOWN.search(key) for key in keys), "nothing is shown")
    # in an answer in words capitals do not matter
    in_words = len(keys[0]) > 1 and (is_wordy(a) or is_wordy(g))
    key, other = (text.lower() if in_words else text for text in keys)
    if key == other:
        return "same text"
    want(not all(ONE_WORD.fullmatch(text) for text in texts), "two words")  # not a product ABCD
    for text, letter in (texts, texts[::-1]):  # (C) 18 against (C)
        choice = CHOICE.match(text)
        if choice and letter.strip("() ") in choice.groups()[:2]:
            doubts = REFUSED & {word.lower() for word in WORD.findall(choice[3])}
            return "" if doubts or ANOTHER.search(choice[3]) else "same choice"
    return ""


def is_wordy(text):
    """Is it all \\text{}, or are there only letters and among them a word?"""
    letters = LETTERS.fullmatch(text) and LONG_WORD.search(text)
    return bool(letters) or not LETTER_OR_COMMAND.search(TEXT.sub("", text))


# --------------------------------------------------------------------------------------- readings
# thousands, or a bracket with what is in it, where commas separate
GROUPED = re.compile(
    r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)|[(\[][^()\[\]]*[)\]]|\\\{[^{}]*\\\}"
)
LISTED = re.compile(r', |;|=|"(?:and|or) |\\(?:and|or|\{)')
LABEL = re.compile(r'^ ?\( ?"?[A-J] ?\) (?=.)')


def readings(text, other):
    """What a spelled text may mean: one or two texts.

    A comma before three digits groups thousands. Where the other text is a list, in another order,
    it may separate: 58 and 500 is not 58,500. A choice's letter before a value may be left out.
    """
    grouped = ungroup(text)
    reordered = "=" in other or NOT_DIGIT.sub("", text) != NOT_DIGIT.sub("", other)
    listed = LISTED.search(other) and ungroup(other) == other and reordered
    if grouped != text and ",0" not in text and listed:
        return [grouped, text]
    value = LABEL.sub("", grouped)
    return [grouped, value] if value != grouped else [grouped]


def ungroup(text):
    def joined(match):
        return match[0].replace(",", "") if match[0][0].isdigit() else match[0]

    return GROUPED.sub(joined, text)


# ----------------------------------------------------------------------------------------- tokens
LEXER = re.compile(
    r"((?:\d+\.\d*|\.\d+|\b1)[eE][+-]?\d+|\d+(?:e\d+|E[+-]?\d+)|\d+(?:\.\d*)?|\.\d+|!=(?!=)"
    r'|"[^\W\d_]+|\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|\\\\|\\[a-zA-Z]+|\\.|\S)'
)
ARTICLES = {'"a', '"an', '"the', '"The'}
CONDITIONS = {'"for', '"where', '"with', r"\forall"}
PROSE = CONDITIONS | {r"\in", r"\mathbb", *"{}(),"} | {
    '"' + word
    for word in "all any every each some real integer integers positive negative natural whole"
    " number numbers value values of is are a an arbitrary".split()
}  # fmt: skip


def tokens_of(text):
    """Tokens of a spelled text, asides dropped and words replaced by what they say."""
    tokens = drop_aside([token for token in LEXER.findall(text) if token not in ARTICLES])
    words = {token[1:].lower() for token in tokens if token[0] == '"'}
    for word in words:
        want(word not in REFUSED, f"{word!r} is no part of an answer")
    # two lines are not 2: in an answer without digits number words stay words beside a noun
    in_words = words - MEANINGS.keys() - UNITS.keys()
    in_words = in_words and not any(token[0].isdigit() for token in tokens)
    found = []
    for n, token in enumerate(tokens):
        low = token[1:].lower()
        if token[0] != '"' or low not in MEANINGS or (in_words and low in VALUES):
            label = token == ":" and n and is_noun(tokens[n - 1])
            found.append("=" if label else token)  # Area: 5
        elif low != "times" or n < len(tokens) - 1:  # but 3 times
            found += LEXER.findall(MEANINGS[low])
    return found


def is_noun(token):
    return token[0] == '"' and len(token) > 2 and token[1:].lower() not in MEANINGS


def drop_aside(tokens):
    """What adds nothing at the end: for all x; k in Z; (all integers); after a value also (eggs).

    It consists of words of conditions and of single letters, in brackets of nouns too; a number, a
    relation or a refused word in it, and the whole text stays.
    """
    for n in range(1, len(tokens)):
        before, token = tokens[n - 1 : n + 1]
        member = before in ",;(" and tokens[n + 1 : n + 2] == [r"\in"]
        bracket = before == "(" and token[0] == '"' and tokens[max(n - 2, 0)] not in "(,;:"
        if not (member or bracket or token in CONDITIONS):
            continue
        rest = [t for t in tokens[n:] if t not in PROSE]
        if bracket:
            rest = [t for t in rest if not is_noun(t) or t[1:].lower() in REFUSED]
        if all(t.isalpha() and len(t) == 1 for t in rest):
            end = n - (before in ",;(")
            return tokens[: end - (tokens[end - 1] == ",")]
    return tokens
