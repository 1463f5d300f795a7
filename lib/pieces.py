"""How a text is normalised and cut into pieces before BPE, as the `tokenizers` library does it.

    text -> nfc -> Split, Digits and ByteLevel, each cuts the pieces of the one before it -> pieces

The library reads the regular expressions of tokenizer.json with another engine (Oniguruma) and by
another version of Unicode than Python's modules. So a pattern must be of the syntax that both read
alike, and characters that are too new for the library are hidden while a text is cut. (What is left
is U+0295, a letter without case that has become a small one.)

    pytest tests/test_tokenizer.py
"""

import unicodedata

import regex
import tiktoken

from lib.checkpoint import check

# ---- Unicode: the library normalises by version 9 and splits by version 16 -----------------------


def finder(pattern):
    """tiktoken has one task here: its patterns can tell how old a character is."""
    ranks = {bytes([b]): b for b in range(256)}
    return tiktoken.Encoding(pattern, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


_AFTER_9, _AFTER_16 = finder(r"\P{age=9.0}"), finder(r"\P{age=16.0}")
# Only the part called Digits knows the digits of Unicode 17 too.
_NO_DIGITS = finder(r"[\P{age=16.0}--[\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}]]")


def hide(text, newer):
    """-> the text with newer characters replaced, and the table for str.translate that undoes it.

    Characters of plane 5 stand in for them: no version of Unicode has any there.
    """
    if text.isascii():
        return text, {}
    found = sorted(set(newer.decode(newer.encode_ordinary(text))))
    hidden = {ord(char): 0x50000 + i for i, char in enumerate(found)}
    return text.translate(hidden), {there: char for char, there in hidden.items()}


def nfc(text):
    """Unicode normal form C as the library has it: newer characters stay as they are."""
    text, hidden = hide(text, _AFTER_9)
    return unicodedata.normalize("NFC", text).translate(hidden)


# ---- The pre-tokenizer of tokenizer.json ---------------------------------------------------------


def flatten(node, inside):
    """A part as a list of nodes; a Sequence holds others under the key `inside`."""
    if node and node["type"] == "Sequence":
        return [leaf for child in node[inside] for leaf in flatten(child, inside)]
    return [node] if node else []


def kinds(nodes):
    """The types of some nodes, for messages."""
    return " + ".join(node["type"] for node in nodes)


# The syntax that Oniguruma and `regex` read alike. Not among it: ^ $ \w \b \h, flags, captures,
# classes in classes, &&, {n}+, most properties.
_ESCAPE = r"\\[pP]\{(?:[LMNPSZC][a-z]?|Han|Hiragana|Katakana|Hangul)\}|\\[sSdDrntf]|\\[^\w\s]"
_ALIKE = rf"""(?x)(?:
    {_ESCAPE}
  | \[ \^? (?: {_ESCAPE} | (?!&&) [^\[\]\\] )+ \]  # a class
  | \(\? (?: [:=!>] | <[=!] )                      # a group that captures nothing, or looks around
  | \(\?i: ['sdmtrevl|\[\]]+ \)                    # 's 't 're 've 'm 'll 'd in either case
  | \{{ \d+ (?:,\d*)? \}} (?!\+)
  | [)|?*+.]
  | [^\\()\[\]{{}}^$|?*+.]                         # a character that means itself
)*+"""
# What ByteLevel splits by, unless use_regex is false: the pattern of GPT-2.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def splitter(pattern, kept=slice(None), newer=_AFTER_16):
    """A pattern -> a function text -> pieces: `kept` of gap, match, gap, ..., match, gap."""
    alike = regex.fullmatch(_ALIKE, pattern)
    check(alike, f"split pattern {pattern!r} has syntax that engines read differently")
    split = regex.compile(f"({pattern})").split

    def pieces(text):
        text, hidden = hide(text, newer)
        found = [piece for piece in split(text)[kept] if piece]
        return [piece.translate(hidden) for piece in found] if hidden else found

    return pieces


def pre_tokenizer(node):
    """-> functions text -> pieces, each for the pieces of the one before it."""
    nodes, stages = flatten(node, "pretokenizers"), []
    *first, last = [n["type"] for n in nodes] or [None]
    right = last == "ByteLevel" and set(first) <= {"Split", "Digits"}
    wanted = "any number of Split and Digits, then ByteLevel"
    check(right, f"pre-tokenizer {kinds(nodes) or None} is not {wanted}")
    for n in nodes[:-1]:
        if n["type"] == "Digits":
            pattern = r"\p{N}" if n["individual_digits"] else r"\p{N}+"
            stages.append(splitter(pattern, newer=_NO_DIGITS))
            continue
        behavior, [(form, pattern)] = n["behavior"], n["pattern"].items()
        check(behavior in ("Isolated", "Removed"), f"split behavior {behavior} is not supported")
        # Removed takes the matches away, or with `invert` what lies between them.
        kept = slice(None) if behavior == "Isolated" else slice(int(n["invert"]), None, 2)
        if form == "String":
            pattern = regex.escape(pattern, literal_spaces=True)
        stages.append(splitter(pattern, kept))
    if nodes[-1]["add_prefix_space"]:
        stages.append(lambda text: [text if text.startswith(" ") else " " + text])
    if nodes[-1].get("use_regex", True):
        stages.append(splitter(_GPT2))
    return stages
