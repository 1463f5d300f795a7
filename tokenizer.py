"""Text to token ids and back: a Hugging Face tokenizer.json (byte-level BPE) run by tiktoken; chat templates.

    text -> added tokens cut out -> NFC -> pieces (one split inside another) -> UTF-8 bytes -> BPE, each piece by itself -> ids

The ids are those of the `tokenizers` library, exactly; a tokenizer of which that is not certain is refused with one line that says why.
Read from a folder: tokenizer.json and, where present, tokenizer_config.json, chat_template.jinja, generation_config.json, config.json.
`truncation` and `padding` in tokenizer.json are not applied.

    pytest tests/test_tokenizer.py
"""

import datetime
import itertools
import json
import pathlib
import unicodedata

import jinja2.sandbox
import regex
import tiktoken

# Byte-level files spell bytes with printable characters: 188 stand for themselves, the other 68 bytes are U+0100, U+0101, ... in order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE = {chr(b): b for b in _PRINTABLE} | {chr(0x100 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINTABLE)}


def token_bytes(token: str) -> bytes | None:
    """The bytes that a token of the vocabulary spells; None if it is not written in the byte alphabet.

    >>> token_bytes("Ġcafé"), token_bytes("Ã©").decode(), token_bytes("two words")
    (b' caf\\xe9', 'é', None)
    """
    return bytes(_BYTE[c] for c in token) if all(c in _BYTE for c in token) else None


def merge_ranks(spelled: dict[str, bytes], merges: list, fail) -> dict[bytes, int]:
    """Merges, strings "a b" or pairs, -> tiktoken ranks (a byte its value, a token 256 + a position in the list) that merge alike.

    The file's rule: join the adjacent *pair* that stands first in the list. tiktoken's: join the pair whose *bytes together* rank lowest.
    Whatever surrounds a token's bytes, until a merge crosses their ends they go through the states they go through alone, and at most one
    of those has two parts. So only that pair can make the token, and its position is the rank to give it. If those two parts are no merge,
    or there are never just two, the token is never made and gets no rank. `spelled` holds the tokens' bytes; `fail(reason)` raises.

    >>> ranks = merge_ranks({t: t.encode() for t in ("a", "b", "ab", "bb", "abb")}, ["a b", "b b", "a bb"], print)
    >>> ranks[b"ab"], ranks[b"bb"], b"abb" in ranks      # alone, "abb" becomes "ab", "b": "a" and "bb" never meet
    (256, 257, False)
    """
    position = {}
    for i, merge in enumerate(merges):
        pair = tuple(merge.split(" ") if isinstance(merge, str) else merge)
        if len(pair) != 2 or any(token not in spelled for token in (*pair, "".join(pair))):
            fail(f"merge {i}, {merge!r}, is not of two tokens in the byte alphabet that make a third")
        position[pair] = i
    ranks, never = {bytes([b]): b for b in range(256)}, len(merges)
    for token in {left + right for left, right in position}:
        parts = list(token)
        found = [position.get(pair, never) for pair in itertools.pairwise(parts)]
        while len(parts) > 2 and (low := min(found)) < never:
            i = found.index(low)
            parts[i] += parts.pop(i + 1)
            del found[i]
            for j in range(max(i - 1, 0), min(i + 1, len(found))):
                found[j] = position.get((parts[j], parts[j + 1]), never)
        if tuple(parts) in position:
            ranks[spelled[token]] = 256 + position[tuple(parts)]
    return ranks


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel splits by, with use_regex
# The syntax that Oniguruma (the library's engine) and `regex` read alike. Not among it: ^ $ \w \b \h, flags, captures, nested classes, &&,
# {n}+, most properties; letters without case only in the English 's 't 're 've 'm 'll 'd.
_ESCAPE = (
    r"(?:\\[pP]\{(?:[LMNPSZC][a-z]?|Han|Hiragana|Katakana|Hangul|Latin|Greek|Cyrillic|Arabic|Hebrew|Thai|Devanagari)\}"
    r"|\\[sSdDrntf]|\\[^\w\s])"
)
_ALIKE = regex.compile(
    rf"(?:{_ESCAPE}|\[\^?(?:{_ESCAPE}|(?!&&)[^\[\]\\])+\]|\(\?(?:[:=!>]|<[=!])|\(\?i:['sdmtrevl|\[\]]+\)"
    r"|\{\d+(?:,\d*)?\}(?!\+)|[)|?*+.]|[^\\()\[\]{}^$|?*+.])*+"
)
# The library splits by Unicode 16. Of the characters that were not assigned then, those that `regex` takes for something are parked in
# plane 5, empty in any version, while a text is split. (One change is left: U+0295 was \p{Lo} and is \p{Ll} now.) The thirteen digits
# of Unicode 17 are such too, except that Digits knows them: they go to plane 6.
_UNASSIGNED = tiktoken.Encoding("unassigned", pat_str=r"\p{Cn}", mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
_NEW_DIGITS = {*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)}
_PARKED = regex.compile(rf"[\P{{Cn}}\U00050000-\U0006FFFF{''.join(map(chr, sorted(_NEW_DIGITS)))}]")
_DIGIT = r"[\p{N}\U00060000-\U0006FFFF]"


def pre_tokenizer(node: dict | None, fail) -> list:
    """A pre-tokenizer of tokenizer.json -> functions text -> pieces; each takes the pieces of the one before as its whole texts."""
    nodes, stages = [node] if node else [], []
    while any(n["type"] == "Sequence" for n in nodes):
        nodes = [child for n in nodes for child in (n["pretokenizers"] if n["type"] == "Sequence" else [n])]
    kinds = [n["type"] for n in nodes]
    if kinds[-1:] != ["ByteLevel"] or set(kinds[:-1]) - {"Split", "Digits"}:
        fail(f"pre-tokenizer {' + '.join(kinds) or None} is not any number of Split and Digits, then ByteLevel")

    def split(pattern, removed=False, invert=False):
        try:
            divide = regex.compile(f"({pattern})").split  # gap, match, gap, match, ..., gap
        except regex.error as error:
            fail(f"split pattern {pattern!r}: {error}")
        step = slice(int(invert), None, 2) if removed else slice(None)
        stages.append(lambda text: [piece for piece in divide(text)[step] if piece])

    for n in nodes:
        if n["type"] == "Digits":
            split(_DIGIT if n["individual_digits"] else _DIGIT + "+")
        elif n["type"] == "Split":
            [(form, pattern)] = n["pattern"].items()
            if form == "Regex" and not _ALIKE.fullmatch(pattern):
                fail(f"split pattern {pattern!r} has syntax that regular expression engines read differently")
            if n["behavior"] not in ("Isolated", "Removed"):
                fail(f"split behavior {n['behavior']} is not Isolated or Removed")
            split(pattern if form == "Regex" else regex.escape(pattern), n["behavior"] == "Removed", n["invert"])
        else:
            if n["add_prefix_space"]:
                stages.append(lambda text: [text if text.startswith(" ") else " " + text])
            if n.get("use_regex", True):
                split(_GPT2)
    return stages


# Combining marks, and two letters that compose, newer than Unicode 9: the library's NFC leaves them where they are.
_NFC_NEW = """7FD 898-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1ACE 1DF6-1DFA A82C 10D24-10D27 10EAB-10EAC 10EFD-10EFF 10F46-10F50
 10F82-10F85 11070 1133B 1145E 11839-1183A 11930 11935 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45 11D97 11F41-11F42
 16FF0-16FF1 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF"""
_NFC_NEW = regex.compile("([" + "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in _NFC_NEW.split()) + "])")


def nfc(text: str) -> str:
    """Unicode normal form C as the library has it.

    >>> nfc("e\\u0301") == "é"
    True
    """
    return text if text.isascii() else "".join(unicodedata.normalize("NFC", part) for part in _NFC_NEW.split(text))


def post_processor(node: dict | None, fail) -> tuple[list[int], list[int]]:
    """A post-processor of tokenizer.json -> the ids it puts before and after a text."""
    nodes = node["processors"] if node and node["type"] == "Sequence" else [node] if node else []
    nodes = [n for n in nodes if n["type"] != "ByteLevel"]  # which moves offsets, not ids
    if not nodes:
        return [], []
    if [n["type"] for n in nodes] != ["TemplateProcessing"]:
        fail(f"post-processor {' + '.join(n['type'] for n in nodes)} is not one TemplateProcessing")
    ids = [None if "Sequence" in p else nodes[0]["special_tokens"][p["SpecialToken"]["id"]]["ids"] for p in nodes[0]["single"]]
    if ids.count(None) != 1:
        fail("the post-processor's template does not hold the text once")
    at = ids.index(None)
    return [*itertools.chain(*ids[:at])], [*itertools.chain(*ids[at + 1 :])]


def _read_json(path: pathlib.Path) -> dict:
    """The object in a file; {} if there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        start = path.read_bytes()[:23]
        error = error if start else "the file is empty"
        error = "a Git LFS pointer; git lfs pull fetches the file itself" if start == b"version https://git-lfs" else error
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: wanted a JSON object, found {type(found).__name__}")
    return found


def _raise_exception(message):
    raise jinja2.TemplateError(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):  # jinja's own would escape < > & '
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Tokenizer:
    """The tokenizer of one model folder; make it with `Tokenizer.from_pretrained(path)`.

    vocab_size: largest id + 1, added tokens included. has_chat_template: whether `chat` works. eos_ids: every id that ends a response,
    sorted: eos_token_id of generation_config.json and of config.json, eos_token of tokenizer_config.json.
    """

    @classmethod
    def from_pretrained(cls, path) -> "Tokenizer":
        """Reads a folder. ValueError, one line with file and reason, if it is not a tokenizer whose ids are sure to be the library's."""
        file = pathlib.Path(path) / "tokenizer.json"
        if not file.is_file():
            other = next((name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if file.with_name(name).exists()), None)
            found = f", only {other}, which can't be read; transformers' save_pretrained may write this one" if other else ""
            raise ValueError(f"{file}: no such file{found}; wanted a checkpoint folder with its tokenizer")
        try:
            return cls(file)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{file}: not the form of a tokenizer: {error!r}") from error

    def __init__(self, file: pathlib.Path):
        def fail(reason):
            raise ValueError(f"{file}: {reason}; wanted a tokenizer as that of Qwen2/3, Llama 3 or SmolLM2")

        spec, config = _read_json(file), _read_json(file.with_name("tokenizer_config.json"))
        model, vocab = spec["model"], spec["model"]["vocab"]
        if model.get("type", "BPE") != "BPE" or not model.get("merges"):
            fail(f"a {model.get('type')} model with {len(model.get('merges') or ())} merges is not byte-level BPE")
        for key in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                fail(f"{key} {model[key]!r} is not byte-level BPE")
        normalizer = spec.get("normalizer") or {"type": "Sequence", "normalizers": []}
        forms = {n["type"] for n in normalizer.get("normalizers", [normalizer])}
        if forms - {"NFC"}:
            fail(f"normalizer {' + '.join(sorted(forms))} is not NFC")
        if (decoder := spec.get("decoder")) and decoder["type"] != "ByteLevel":
            fail(f"decoder {decoder['type']} is not ByteLevel")
        self._normalize = nfc if forms else str
        self._stages = pre_tokenizer(spec.get("pre_tokenizer"), fail)
        self._before, self._after = post_processor(spec.get("post_processor"), fail)

        spelled = {token: data for token in vocab if (data := token_bytes(token))}
        ranks = merge_ranks(spelled, model["merges"], fail)
        self._id_of = {data: vocab[token] for token, data in spelled.items()}
        self._ignore_merges = model.get("ignore_merges")
        # The library leaves a byte that the vocabulary lacks out of its piece (SmolLM2: U+0004), and its neighbours may then merge.
        self._missing = bytes(b for b in range(256) if bytes([b]) not in self._id_of)
        if self._missing and model.get("unk_token"):
            fail(f"byte 0x{self._missing[0]:02x} is not in the vocabulary and would become unk_token {model['unk_token']!r}")
        self._bpe = tiktoken.Encoding(str(file), pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
        self._id_of_rank = {rank: self._id_of.get(data) for data, rank in ranks.items()}
        self._cache: dict[str, list[int]] = {}

        # Added tokens: those of tokenizer.json, then those that tokenizer_config.json alone has. The library takes the id of one from the
        # vocabulary, else the next free one, whatever the file says.
        listed = [(token["id"], token) for token in spec.get("added_tokens") or []]
        listed += sorted((int(id_), token) for id_, token in (config.get("added_tokens_decoder") or {}).items())
        self._bytes = {id_: spelled.get(token, token.encode()) for token, id_ in vocab.items()}
        self._special, ids, raw, normalized = set(), dict(vocab), {}, {}
        for id_, token in listed:
            content = token["content"]
            if not content or content in raw or self._normalize(content) in normalized:
                continue
            if token["single_word"] or token["lstrip"] or token["rstrip"]:
                fail(f"added token {content!r} with single_word, lstrip or rstrip is not supported")
            if ids.setdefault(content, len(ids)) != id_:
                fail(f"added token {content!r} has id {id_}, where the library gives it {ids[content]}")
            if token["normalized"]:
                normalized[self._normalize(content)] = id_
            else:
                raw[content] = id_
            self._bytes[id_] = content.encode()
            if token["special"]:
                self._special.add(id_)
        # A match is the longest of the leftmost; tokens that are not normalized go first, over the whole text.
        self._added = [(regex.compile("|".join(map(regex.escape, sorted(t, key=len, reverse=True)))), t) for t in (raw, normalized)]
        self.vocab_size = max(self._bytes) + 1
        size = _read_json(file.with_name("config.json")).get("vocab_size")
        if type(size) is int and size < self.vocab_size:  # ids that the model has no embedding for
            raise ValueError(f"{file}: ids up to {self.vocab_size - 1}, but vocab_size {size} in config.json; wanted the tokenizer of this model")

        names = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]  # each a string or an object
        self._variables = {name: t if isinstance(t, str) else t["content"] for name in names if (t := config.get(name))}
        eos, stops = self._variables.get("eos_token"), set()
        if eos is not None:
            if eos not in ids:
                raise ValueError(f"{file.with_name('tokenizer_config.json')}: eos_token {eos!r} is not in the vocabulary")
            stops.add(ids[eos])
        for other in (file.with_name("generation_config.json"), file.with_name("config.json")):
            found = _read_json(other).get("eos_token_id")
            found = found if isinstance(found, list) else [found] if found is not None else []
            if not all(type(id_) is int and id_ >= 0 for id_ in found):
                raise ValueError(f"{other}: eos_token_id {found!r} is not an id or a list of ids")
            stops.update(found)
        self.eos_ids = sorted(stops)

        self._template_file, self._template = file.with_name("tokenizer_config.json"), config.get("chat_template")
        if isinstance(self._template, list):
            self._template = {entry["name"]: entry["template"] for entry in self._template}.get("default")
        if (jinja := file.with_name("chat_template.jinja")).exists():
            try:
                self._template_file, self._template = jinja, jinja.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{jinja}: {error}; wanted a chat template in UTF-8") from None
        self.has_chat_template = self._template is not None

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids. add_special=False leaves out what the post-processor adds (a BOS), which a rendered chat template has already.

        ValueError if the text holds a lone surrogate, which is no character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start} of the text") from None
        ids = []
        for part, id_ in self._cut(text, *self._added[0]):
            if id_ is not None:
                ids.append(id_)
                continue
            for stretch, inner in self._cut(self._normalize(part), *self._added[1]):
                ids += self._ordinary(stretch) if inner is None else [inner]
        return self._before + ids + self._after if add_special else ids

    @staticmethod
    def _cut(text: str, finder, tokens: dict[str, int]):
        """Yields (text, id) of the added tokens and (text, None) of the stretches between them, in order."""
        end = 0
        for match in finder.finditer(text) if tokens else ():
            if end < match.start():
                yield text[end : match.start()], None
            yield match[0], tokens[match[0]]
            end = match.end()
        if end < len(text):
            yield text[end:], None

    def _ordinary(self, text: str) -> list[int]:
        """The ids of a text without added tokens."""
        parked = {}
        if not text.isascii():
            strange = {ord(c) for c in _PARKED.findall(_UNASSIGNED.decode(_UNASSIGNED.encode_ordinary(text)))}
            parked = {c: (0x60000 if c in _NEW_DIGITS else 0x50000) + i for i, c in enumerate(strange)}
        pieces = [text.translate(parked)] if parked else [text]
        for stage in self._stages:
            pieces = [piece for whole in pieces for piece in stage(whole)]
        if parked:
            back = {there: c for c, there in parked.items()}
            pieces = [piece.translate(back) for piece in pieces]
        if len(self._cache) > 500_000:
            self._cache.clear()
        ids = []
        for piece in pieces:
            found = self._cache.get(piece)
            if found is None:
                found = self._cache[piece] = self._merge(piece.encode())
            ids += found
        return ids

    def _merge(self, piece: bytes) -> list[int]:
        if self._ignore_merges and piece in self._id_of:  # a piece that is a token needs no merges
            return [self._id_of[piece]]
        piece = piece.translate(None, self._missing)
        return [self._id_of_rank[rank] for rank in self._bpe._encode_single_piece(piece)] if piece else []

    def decode(self, ids, skip_special: bool = False) -> str:
        """The text of some ids. Bytes that are not UTF-8, and ids that no token has (a model's vocabulary may be padded), become U+FFFD."""
        found = (self._bytes.get(id_, b"\xff") for id_ in ids if not (skip_special and id_ in self._special))
        return b"".join(found).decode("utf-8", "replace")

    def chat(self, messages: list[dict], add_generation_prompt: bool = True, **variables) -> str:
        """Messages, [{"role": ..., "content": ...}, ...], as the model reads them. More variables for the template: enable_thinking=False.

        ValueError if the folder has no template or the template refuses the messages.
        """
        if not self.has_chat_template:
            raise ValueError(f"{self._template_file}: no chat_template, and no chat_template.jinja beside it")
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        env.filters["tojson"] = _tojson
        env.globals |= {"raise_exception": _raise_exception, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
        variables = self._variables | {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt} | variables
        if not isinstance(self._template, str):
            raise ValueError(f"{self._template_file}: chat_template is {self._template!r:.40} and not text")
        try:
            return env.from_string(self._template).render(messages=messages, **variables)
        except Exception as error:  # a template is a program that came with the model: whatever goes wrong in it is one line
            raise ValueError(f"{self._template_file}: chat template: {' '.join(str(error).split())}") from error
