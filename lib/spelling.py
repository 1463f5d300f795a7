r"""The text of an answer: one spelling for what looks alike, and what its words and numerals say.

    normalise        Unicode to LaTeX; sizes, spaces, colours and phantoms dropped
    printed_alike    are two texts the same as they are printed?
    spell            words get a mark ("meters); bases, mixed numbers, periods worked out
    readings         what the commas of a number may mean
    tokens_of        tokens; words that say mathematics are replaced (and, is, million)

Each step is linear in the length of the text. What is not understood is a ValueError.

>>> normalise(r"$\dfrac{1}{2} \times 3²$."), spell(r"\text{540 meters}"), spell("52_8")
('\\frac{1}{2} * 3^{2}', ' 540 "meters ', '(42)')
"""

import re
from fractions import Fraction
from unicodedata import category, decimal, normalize

MAX_CHARS = 1200  # of an answer (the longest gold answer in MATH and OlympiadBench has 198)


def want(condition, otherwise, error=ValueError):
    """Raise `error` unless `condition` holds. It does not leave lib/equivalence.py."""
    if not condition:
        raise error(otherwise)


# ruff: noqa: SIM905  (tables of words read better as text)
def table(text):
    """ "a b c,d e" -> {a: a, b: a, c: a, d: d, e: d}: each word of a group leads to the first."""
    groups = [group.split() for group in text.split(",")]
    return {word: words[0] for words in groups for word in words}


def rules(*pairs):
    """A table for `rewrite`: patterns and what replaces each, in this order."""
    return [(re.compile(pattern), new) for pattern, new in pairs]


def rewrite(text, pairs):
    for pattern, new in pairs:
        text = pattern.sub(new, text)
    return text


# ---- Normalise -----------------------------------------------------------------------------------
GREEK = table("""alpha α,beta β,gamma γ,delta δ,epsilon ε,zeta ζ,eta η,theta θ,iota ι,kappa κ,
    lambda λ,mu μ,nu ν,xi ξ,pi π,rho ρ,sigma σ,tau τ,upsilon υ,phi φ,chi χ,psi ψ,omega ω,Gamma Γ,
    Delta Δ,Theta Θ,Lambda Λ,Sigma Σ,Phi Φ,Omega Ω,Psi Ψ""")
SIGNS = {letter: f"\\{name}" for letter, name in GREEK.items()} | table(r"""\pm ±,\mp ∓,\le ≤ ⩽,
    \ge ≥ ⩾,\ne ≠,\infty ∞,\sqrt √,\sqrt[3] ∛,\cup ∪,\cap ∩,\setminus ∖,\in ∈,\emptyset ∅,\lfloor ⌊,
    \rfloor ⌋,\lceil ⌈,\rceil ⌉,\langle ⟨,\rangle ⟩,\approx ≈,\degree ° º,\mathbb{R} ℝ,\mathbb{Z} ℤ,
    \text{cents} ¢,\text{euros} €,\text{pounds} £,' ’ ‘,\text{yen} ¥,\text{rupees} ₹,\or ∨,\and ∧,
    \forall ∀,\equiv ≡,- − ‐ ‑,* × · ⋅ ∙,/ ÷ ∕ ⁄""")
UNICODE = {sign: command + " " * command[-1].isalpha() for sign, command in SIGNS.items()}
UNICODE |= dict.fromkeys("\u2009\u202f", r"\,")
# Signs that show nothing are dropped, so that 18<zero-width space>7 is read as 187.
UNICODE |= dict.fromkeys('\u200b\u200c\u200d\u2060\ufeff\xad"“”„«»■□∎✓✔✅', "")
SAME_COMMAND = table(r"""\frac dfrac tfrac cfrac sfrac nicefrac,\binom dbinom tbinom,
    \le leq leqslant,> gt,< lt,\ge geq geqslant,\ne neq,* cdot times ast,/ div,: colon,\{ lbrace,
    \} rbrace,\or lor vee,| vert lvert rvert mid,\and land wedge,\setminus backslash smallsetminus,
    \tan tg,\cot ctg,\emptyset varnothing,\log_{10} lg,\arctan arctg,= equiv""")
NOT_DIGIT = re.compile(r"\D")


def to_ascii(match):
    """ASCII for symbols, digits of any script, vulgar fractions and full-width or bold letters."""
    c = match[0]
    top, slash, bottom = normalize("NFKC", c).partition("\u2044")
    if slash and bottom:
        return rf"\frac{{{top}}}{{{bottom}}}"
    circled = category(c) == "No"  # a circled 1 is not a digit
    plain = c if circled or c in UNICODE else top
    return "".join(UNICODE.get(x, str(decimal(x, x))) for x in plain)


def ungrouped(match):
    """10,\\!080 -> 10080. Plain commas stay: they may separate (see `readings`)."""
    marked = "\\" in match[0] or "{" in match[0]
    return NOT_DIGIT.sub("", match[0]) if marked else match[0]


LAYOUT = (  # becomes a space; group 1, a line break in a matrix, stays
    r"(\\\\)(?:\s*\[\s*\d+\s*[a-z]{2}\])?|\\[!,;:> ]|\\(?:left|right)(?![a-zA-Z])(?:\s*\.)?|``|''"
    r"|\\[bB]igg?[lrm]?(?![a-zA-Z])|\\[()\[\]]|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{])|(?<!\\)\$"
    r"|\\(?:hspace|vspace|color|textcolor|colorbox|tag|label)\*?\s*\{[^{}]*\}|(?<=.)~|\\(?:quad"
    r"|qquad|displaystyle|textstyle|limits|boxed|fbox|ensuremath|boldsymbol|bm|underline|angle"
    r"|therefore|bf|rm|sf|it|tt|blacksquare|square|Box|qed|checkmark|vec|overrightarrow|emph|smash"
    r"|mathstrut|strut|large|Large|LARGE|huge|Huge|small|nonumber|notag|bigstar)(?![a-zA-Z])"
)
SPELLINGS = rules(
    ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{normalize('NFKC', m[0])}}}"),
    ("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{normalize('NFKC', m[0])}}}"),
    (r"(?<![\w)}\] ]) ?–", "-"),  # an en dash; after an operand it makes a range
    (r'[^\0-\x7f]|"', to_ascii),
    (r"\d{1,3}(?:(?:,|\{,\}|\{\\,\}|,?\s*\\!\s*|\\,)\d{3})+(?!\d)", ungrouped),
    (LAYOUT, lambda m: m[1] or " " * (m[0] != r"\!")),
    (r"\\([a-zA-Z]+)", lambda m: SAME_COMMAND.get(m[1], m[0])),
    (r"([fgh]) ?\^ ?\{ ?- ?1 ?\} ?(?=\()", r"\1_{-1}"),  # f^{-1}(3) is a name
    (r"\^ ?(?:\{ ?\\circ ?\}|\( ?\\circ ?\)|\\circ(?![a-zA-Z]))", r"\\degree "),
    (r"\\overline ?\{ ?([A-Z]{2,9}) ?\}|\{ ?([:=<>]) ?\}|& ?(=)", r"\1\2\3"),  # CD is a segment
    (r"\\\{ ?(?=\\begin ?\{(?:array|aligned|cases)\})", ""),
    (r"\s+", " "),
)
SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")  # 10 080


def normalise(text):
    """One spelling for what looks alike."""
    want(len(text) <= MAX_CHARS, f"longer than {MAX_CHARS} characters")
    text = rewrite(text, SPELLINGS).strip(" ,;:*`").lstrip("= ")
    if text[:1] == text[-1:] and text[:1] in ("'", "_"):
        text = text.strip("'_ ")
    if SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    closed = text.endswith((".", "\\")) and not text.endswith("..")
    return text[:-1].rstrip(" \\") if closed else text


# ---- Words ---------------------------------------------------------------------------------------
FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth ln log exp floor ceil"
FUNCTIONS = set(FUNCTIONS.split())
NUMERALS = table("""0 zero,1 one,2 two,3 three,4 four,5 five,6 six,7 seven,8 eight,9 nine,10 ten,
    11 eleven,12 twelve,13 thirteen,14 fourteen,15 fifteen,16 sixteen,17 seventeen,18 eighteen,
    19 nineteen,20 twenty,30 thirty,40 forty,50 fifty,60 sixty,70 seventy,80 eighty,90 ninety""")
# What a word says in mathematics. A word that scales is a factor: 18 dozen is not 18.
MEANINGS = (
    {name: f"\\{name}" for name in [*FUNCTIONS, "gcd", "lcm", "max"]}
    | NUMERALS
    | table(r"""
    \and and,\or or,= is are was equals,+ plus,- minus negative,* times,/ over,: to,\% percent,
    \degree degree degrees deg,^2 squared,^3 cubed,\infty infinity,\pi pi,\sqrt sqrt,*10 tens,
    *12 dozen dozens,*100 hundred hundreds,*1000 thousand thousands,*10^5 lakh lakhs,
    *10^6 million millions,*10^7 crore crores,*10^9 billion billions,*10^{12} trillion trillions,
    *(1/2) half halves,*(1/3) third thirds,*(1/4) fourth fourths,*(1/5) fifth fifths,*(1/6) sixths,
    *(1/8) eighths,*(1/10) tenth tenths,*(1/100) hundredth hundredths""")
)
# A word that negates, doubts, compares or scales is no part of an answer, wherever it stands.
REFUSED = set(
    """not no non nor never none neither cannot cant isnt arent wasnt dont doesnt wont
    hardly far without except excepting exclude excludes excluding exclusive false wrong incorrect
    invalid impossible untrue mistake error extraneous contradiction fails fail unless maybe perhaps
    possibly probably presumably likely unlikely about approximately approx around roughly circa
    almost nearly least most below above than if when either any unknown unsure uncertain could
    might may would should must but however instead rather off so guess other others else another
    for where with quarter quarters double doubles triple twice thrice fold score scores gross
    quadrillion quintillion billionths millionths thousandth thousandths lac mil mio mrd bn mn tn
    kilo mega giga milli micro nano ppm bps basis recurring repeating factorial k nicht kein keine
    oder pas ou sin menos mille millones millionen tausend не нет или около почти тысяч тысячи тыс
    миллион миллиона миллионов млн млрд""".split()
)
SCALING = set("万萬亿億兆千百十廿半倍不非没無无否或约約未错錯误誤만억천백조")  # in a noun
# two of these must agree, one may be left out; of other nouns none counts
UNITS = table("""cm centimeter centimeters centimetre centimetres см 厘米,
    mm millimeter millimeters мм 毫米,m meter meters metre metres м 米,
    km kilometer kilometers kilometre kilometres км 千米 公里,in inch inches,ft foot feet,
    yd yard yards,mi mile miles,acre acres,hectare hectares ha,usd $ dollar dollars 美元,
    cent cents,eur euro euros 欧元,yen jpy 日元,yuan rmb cny 元,inr rupee rupees rs,peso pesos,
    lb lbs pound pounds gbp,oz ounce ounces,ton tons tonne tonnes,g gm gram grams г 克,
    mg milligram milligrams,kg kilogram kilograms кг 千克 公斤,am,pm,s sec second seconds 秒,
    ms millisecond milliseconds,min mins minute minutes 分钟,h hr hrs hour hours 小时 ч,
    day days 天,week weeks,month months,year years yr yrs,kelvin,rad radian radians,
    l liter liters litre litres л 升,ml milliliter milliliters,cup cups,gal gallon gallons,
    qt quart quarts,pt pint pints,mi/h mph,km/h kph kmh kmph,n newton newtons,j joule joules,
    w watt watts,v volt volts,hz hertz,°F f fahrenheit,°C c celsius,^2 square sq 平方,
    ^3 cubic cu 立方,/ per""")
CURRENCIES = {"usd", "eur", "yen", "yuan", "inr", "peso", "lb"}
GLUED = set(UNITS) - {"am", "pm", "in", "ha", "pt", "sq", "cu", "rs"}  # 4am may be 4 a m


# ---- Spell ---------------------------------------------------------------------------------------
TEXT = r"\\(text[a-z]*|[hm]box|math(?:rm|bf|it|sf|tt)|operatorname)\*?\s*\{([^{}]*)\}"
UNWRAP = rules((TEXT, r"\2"), (TEXT, r"\2"))  # \text{\textbf{...}}
WORD = re.compile(r"\"?[^\W\d_]+(?:[.'][^\W\d_]+)*[.']?")
NOT_LETTER = re.compile(r"[\".']")
DIGITS = re.compile(r"(?=[A-Z]{0,9}\d)[\dA-Z]+(?:\.[\dA-Z]+)?")  # \text{13}, \text{A5}


def mark_text(match):
    r"""\text{540 m} -> ' 540  "m '; based digits and a letter in a font stay as they are."""
    macro, content = match[1], match[2].strip()
    letter = len(content) == 1 and macro.startswith("math")
    if DIGITS.fullmatch(content) or (letter and content.lower() not in UNITS):
        return content
    words = WORD.sub(lambda word: ' "' + NOT_LETTER.sub("", word[0]) + " ", content)
    return f" {words} "


def mark_bare(match):
    r"""A run of letters outside \text is a word if it is a long or known one, else a product."""
    word = match[0].rstrip(".")
    if word[0] in '\\"':
        return match[0]
    low, before = word.lower(), match.string[: match.start()][-1:]
    known = low in MEANINGS or UNITS.get(low) in CURRENCIES or (low in REFUSED and len(low) > 2)
    known |= (before == " " and low in UNITS) or (before.isdigit() and low in GLUED)
    points = len(word) == 4 and word.isupper()
    known |= (len(word) > 3 and not points) or not word.isascii()
    return f' "{word} ' if known else match[0]


def mixed(match):
    r"""1 4/5, 1\frac{4}{5} -> (1+4/5)."""
    whole, top, bottom = filter(None, match.groups())
    want(int(top) < int(bottom), "an improper fraction after a whole number")
    return f"({whole}+{top}/{bottom})"


def repeating(match):
    r"""0.1\overline{6} -> (0.1+6/90), 0.\dot{1}4285\dot{7} too."""
    head, places, *digits = match.groups(default="")
    period = "".join(digits)
    return f"({head or 0}.{places}+{period}/{'9' * len(period)}{'0' * len(places)})"


def based(match):
    """52_8 -> (42)."""
    digits, point, *base = match.groups(default="")
    base = int("".join(base))
    want(base > 1, "a base")
    return f"({Fraction(int(digits + point, base), base ** len(point))})"


GROUP = r"(?:\{ ?(\d{1,99}) ?\}|(\d))"
WORDS = rules(
    # twenty-one
    (r"(?i)\b(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)-(one|two|three|four|five|six"
     r"|seven|eight|nine)\b", lambda m: NUMERALS[m[1].lower()][0] + NUMERALS[m[2].lower()]),
    (r"(?i)\ball real numbers\b", r"\\mathbb{R}"),
    (r"(?i)\b(?:is )?equal to\b", "is"),
    (r"(?i)\bper cent\b", "percent"),
    (r"\bUS ?(?=\\\$)", ""),
    (TEXT, mark_text),
    (TEXT, mark_text),
    (r'\\(?:begin|end) ?\{[^{}]*\}|\\[A-Za-z]+|"[^\W\d_]+|[^\W\d_]{2,}\.?', mark_bare),
    (r"\\(?:text[a-z]*|[hm]box|math(?:rm|bf|it|sf|tt|op|ord))(?![a-zA-Z])\*?", ""),
    (r"\s+", " "),
    (r'(?i)(?:\\|")degrees? ?"?(F|C|fahrenheit|celsius)(?![a-z])', r' "\1'),  # no angle
    # {x | x > 3} is x > 3
    (r"^ ?\\\{ ?\w ?(?:\\in ?\\mathbb ?(?:R|\{ ?R ?\}) ?)?[|:](.*)\\\} ?$", r"\1"),
    (r' ?\(? ?(?:"in ?)?"base (\d\d?) ?\)? ?$', r"_{\1}"),
    (r"\(([0-9A-Z]{1,99}(?:\.\d{1,99})?)\) ?_", r"\1_"),  # (52)_8 is 52_8
    (r"_ ?\{ ?\((\d\d?)\) ?\}", r"_{\1}"),  # 52_{(8)} too
    (r" \. $", ""),
    (r"(?<![\d.^_}A-Za-z])(\d{1,99}) ?(?:\\frac ?" + GROUP + " ?" + GROUP
     + r"|(?<= )(\d{1,99})/(\d{1,99})(?!\d))", mixed),
    (r"(?<!\d)(\d{0,99})\.(\d{0,99}) ?\\(?:overline|bar|dot) ?" + GROUP
     + r"(?:(\d{0,99}) ?\\dot ?(?:\{ ?(\d) ?\}|(\d)))?", repeating),
    (r"(?<![\w.\\}])(?=[A-Z]{0,99}\d)([0-9A-Z]{1,99})(?:\.(\d{1,99}))? ?_ ?(?:\{ ?(\d\d?) ?\}"
     r"|(\d\d?))", based),
    (r'"(?:an?|[Tt]he)(?![^\W\d_])', ""),
)  # fmt: skip


def spell(text):
    """Normalised text with marked words and plain numbers."""
    return rewrite(text, WORDS)


# ---- Printed alike -------------------------------------------------------------------------------
SPACES = re.compile(r" +")
LOOSE_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # a space between digits stays
SHOWN = re.compile(r"\w|\\\{")
LETTER_OR_COMMAND = re.compile(r"[A-Za-z\\]")
ONE_WORD = re.compile(r"[A-Z]{2,3}|[A-Za-z]{4,}")
CHOICE = re.compile(  # (C) 18, C. 18, option C, C (18)
    r"(?:(?i:option|choice|answer) ?)?(?:\(([A-J])\)|([A-J])(?:[).:] | ?(?=\()|$))(.*)"
)
ANOTHER = re.compile(r"\([A-Ja-j]\)|\b(?:or|and)\b")


def printed_alike(a, g):
    """How two normalised texts are shown to be equal as they are printed, or ""."""
    texts = [rewrite(text, UNWRAP).strip().removesuffix(".") for text in (a, g)]
    keys = [LOOSE_SPACE.sub("", SPACES.sub(" ", text)) for text in texts]
    want(all(map(SHOWN.search, keys)), "nothing is shown")
    # in an answer in words capitals do not matter
    if len(keys[0]) > 1 and (is_wordy(a) or is_wordy(g)):
        keys = [key.lower() for key in keys]
    if keys[0] == keys[1]:
        return "same text"
    want(not all(map(ONE_WORD.fullmatch, texts)), "two words")  # not a product ABCD
    for text, letter in (texts, texts[::-1]):  # (C) 18 against (C)
        choice = CHOICE.match(text)
        if choice and letter.strip("() ") in choice.groups()[:2]:
            doubts = REFUSED & {word.lower() for word in WORD.findall(choice[3])}
            return "" if doubts or ANOTHER.search(choice[3]) else "same choice"
    return ""


def is_wordy(text):
    r"""Is it all \text{}, or are there only letters and among them a word?"""
    words = text.split()
    letters = text.isascii() and "".join(words).isalpha() and max(map(len, words)) > 3
    return letters or not LETTER_OR_COMMAND.search(UNWRAP[0][0].sub("", text))


# ---- Readings, tokens ----------------------------------------------------------------------------
GROUPED = rules(  # thousands; in brackets commas separate
    (r"([(\[][^()\[\]]*[)\]]|\\\{[^{}]*\\\})|(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)",
     lambda m: m[1] or m[0].replace(",", "")),
)  # fmt: skip
LISTED = re.compile(r', |;|=|"(?:and|or) |\\(?:and|or|\{)')
LABEL = re.compile(r'^ ?\( ?"?[A-J] ?\) (?=.)')


def readings(text, other):
    """What a spelled text may mean: one or two texts.

    A comma before three digits groups thousands. Where the other text is a list, in another order,
    it may separate: 58 and 500 is not 58,500. A choice's letter before a value may be left out.
    """
    grouped = rewrite(text, GROUPED)
    reordered = "=" in other or NOT_DIGIT.sub("", text) != NOT_DIGIT.sub("", other)
    listed = LISTED.search(other) and rewrite(other, GROUPED) == other and reordered
    if grouped != text and ",0" not in text and listed:
        return [grouped, text]
    value = LABEL.sub("", grouped)
    return [grouped, value] if value != grouped else [grouped]


LEXER = re.compile(
    r"((?:\d+\.\d*|\.\d+|\b1)[eE][+-]?\d+|\d+(?:e\d+|E[+-]?\d+)|\d+(?:\.\d*)?|\.\d+|!=(?!=)"
    r'|"[^\W\d_]+|\\(?:begin|end) ?\{[^{}]*\}(?: ?\{[lcr|]*\})?|\\\\|\\[a-zA-Z]+|\\.|\S)'
)
CONDITIONS = {'"for', '"where', '"with', r"\forall"}
PROSE = set(
    r"""for where with \forall \in \mathbb { } ( ) , all any every each some real integer
    integers positive negative natural whole number numbers value values of is are arbitrary
    """.split()
)


def tokens_of(text):
    """Tokens of a spelled text, asides dropped and words replaced by what they say."""
    tokens = drop_aside(LEXER.findall(text))
    words = {token[1:].lower() for token in tokens if '"' in token}
    want(not words & REFUSED, f"{words & REFUSED} is no part of an answer")
    # two lines are not 2: in an answer without digits number words stay words beside a noun
    in_words = words - MEANINGS.keys() - UNITS.keys()
    in_words = in_words and not any(token[0].isdigit() for token in tokens)
    found = []
    for n, token in enumerate(tokens):
        low = token[1:].lower()
        if '"' not in token or low not in MEANINGS or (in_words and low in NUMERALS):
            label = token == ":" and n and is_noun(tokens[n - 1])
            found.append("=" if label else token)  # Area: 5
        elif low != "times" or n < len(tokens) - 1:  # but 3 times
            found += LEXER.findall(MEANINGS[low])
    return found


def is_noun(token):
    return '"' in token and len(token) > 2 and token[1:].lower() not in MEANINGS


def drop_aside(tokens):
    """What adds nothing at the end: for all x; k in Z; (all integers); after a value also (eggs).

    It consists of words of conditions and of single letters, in brackets of nouns too; a number, a
    relation or a refused word in it, and the whole text stays.
    """
    for n in range(1, len(tokens)):
        before, token = tokens[n - 1 : n + 1]
        member = before in ",;(" and tokens[n + 1 : n + 2] == [r"\in"]
        bracket = before == "(" and '"' in token and tokens[max(n - 2, 0)] not in "(,;:"
        if not (member or bracket or token in CONDITIONS):
            continue
        rest = [t for t in tokens[n:] if t.strip('"') not in PROSE]
        if bracket:
            rest = [t for t in rest if not is_noun(t) or t[1:].lower() in REFUSED]
        if all(t.isalpha() and len(t) == 1 for t in rest):
            end = n - (before in ",;(")
            return tokens[: end - (tokens[end - 1] == ",")]
    return tokens
