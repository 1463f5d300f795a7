"""Text to token ids and back: byte-level BPE as tokenizer.json describes it, and chat templates.

    text -> stretches between added tokens -> NFC -> pieces -> UTF-8 bytes -> merges -> ids

Added tokens such as <|im_end|> are cut out first. What lies between them is normalised and cut into
pieces (words, numbers, white space) by the file's regular expressions: lib/pieces.py. tiktoken
does the byte-pair encoding (BPE) of each piece alone: from single bytes, neighbours are joined by
the file's list of merges until no two of them are in that list.

The ids are exactly those of the `tokenizers` library. A file of which that is not certain is
refused with one line that says why; so are SentencePiece tokenizers, such as Llama 2's.
`truncation` and `padding` in tokenizer.json are not applied.

    tokenizer = Tokenizer.from_pretrained("path/to/checkpoint")
    prompt = tokenizer.chat([{"role": "user", "content": "1+1="}])
    ids = tokenizer.encode(prompt, add_special=False)        # the template has written the BOS

    pytest tests/test_tokenizer.py
"""

import codecs
import datetime
import functools
import itertools
import json
from pathlib import Path

import jinja2.sandbox
import regex
import tiktoken

from lib.checkpoint import check, read_json
from lib.pieces import flatten, kinds, nfc, pre_tokenizer

# Files spell every byte as one printable character. 188 bytes are spelled as themselves, the other
# 68 as U+0100, U+0101, ... in their order: a space is "Ġ".
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
_SPELLING = {b: chr(b) for b in _PRINTABLE} | {b: chr(0x100 + i) for i, b in enumerate(_OTHERS)}
_BYTE = {char: b for b, char in _SPELLING.items()}


def token_bytes(token):
    """The bytes that a token stands for; what is not written in that alphabet stands for itself."""
    spelled = all(char in _BYTE for char in token)
    return bytes(_BYTE[char] for char in token) if spelled else token.encode()


def merge_ranks(merges, vocab):
    """The list of merges, "a b" or ["a", "b"] each -> {bytes of a token: rank} for tiktoken.

    The file's rule: of all neighbours, join the pair that stands first in the list. tiktoken's:
    join the neighbours whose bytes together have the lowest rank. So a token's rank must say where
    the pair stands that makes it. Inside of a longer text the bytes of a token go through the same
    states as alone, until a merge crosses their ends; and alone they are of two parts once at most,
    just before they are one. That pair's place is the rank. If those two parts are no merge, or the
    bytes stop at more parts, the token is never made, and has no rank.

    >>> tokens = {t: i for i, t in enumerate(["a", "b", "ab", "bb", "abb"])}
    >>> ranks = merge_ranks(["a b", "b b", "a bb"], tokens)
    >>> ranks[b"ab"], ranks[b"bb"], b"abb" in ranks      # alone "abb" becomes "ab" and "b"
    (256, 257, False)
    """
    places = {}
    for i, found in enumerate(merges):
        pair = tuple(found.split(" ") if isinstance(found, str) else found)
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise ValueError(f"merge {i}, {found!r}, is not of two tokens that make a third")
        places[pair] = i
    ranks = {bytes([b]): b for b in range(256)}
    for token in {left + right for left, right in places}:
        parts, never = list(token), len(merges)
        while len(parts) > 2:
            found = [places.get(pair, never) for pair in itertools.pairwise(parts)]
            first = min(found)
            if first == never:
                break
            i = found.index(first)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if tuple(parts) in places:
            ranks[token_bytes(token)] = 256 + places[tuple(parts)]
    return ranks


# --------------------------------------------------------------------------------------------------
# The parts of tokenizer.json. What can't be done exactly is a ValueError with the reason alone;
# `from_pretrained` puts the name of the file in front.


def check_model(spec):
    """ValueError if this is anything but byte-level BPE, with NFC in front of it or without."""
    model, merges = spec["model"], spec["model"].get("merges") or []
    found = f"a {model.get('type')} model with {len(merges)} merges"
    check(model.get("type", "BPE") == "BPE" and merges, f"{found} is not byte-level BPE")
    for key in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        check(not model.get(key), f"{key} {model.get(key)!r} is not byte-level BPE")
    known = _BYTE.keys() <= model["vocab"].keys() or not model.get("unk_token")
    check(known, f"unk_token {model.get('unk_token')!r} stands in for bytes that are no tokens")
    forms = flatten(spec.get("normalizer"), "normalizers")
    check(all(n["type"] == "NFC" for n in forms), f"normalizer {kinds(forms)} is not NFC")
    decoder = flatten(spec.get("decoder"), "decoders")
    check(kinds(decoder) in ("", "ByteLevel"), f"decoder {kinds(decoder)} is not ByteLevel")


def post_processor(node):
    """-> the ids that come before a text, and behind it. (ByteLevel changes no ids here.)"""
    nodes = [n for n in flatten(node, "processors") if n["type"] != "ByteLevel"]
    if not nodes:
        return [], []
    one = kinds(nodes) == "TemplateProcessing"
    check(one, f"post-processor {kinds(nodes)} is not one TemplateProcessing")
    parts, tokens = nodes[0]["single"], nodes[0]["special_tokens"]
    ids = [None if "Sequence" in p else tokens[p["SpecialToken"]["id"]]["ids"] for p in parts]
    check(ids.count(None) == 1, "the post-processor's template does not hold the text once")
    text = ids.index(None)
    return [*itertools.chain(*ids[:text])], [*itertools.chain(*ids[text + 1 :])]


def added_tokens(spec, config):
    """{content: its entry}: those of tokenizer.json, then those of tokenizer_config.json alone."""
    listed = list(spec.get("added_tokens") or [])
    more = {int(id_): token for id_, token in (config.get("added_tokens_decoder") or {}).items()}
    listed += [more[id_] | {"id": id_} for id_ in sorted(more)]
    found, ids = {}, dict(spec["model"]["vocab"])
    for token in listed:
        content, id_ = token["content"], token["id"]
        if not content or content in found:
            continue
        plain = not (token["single_word"] or token["lstrip"] or token["rstrip"])
        check(plain, f"added token {content!r} has single_word, lstrip or rstrip")
        # The library takes the id from the vocabulary, else the next free one.
        theirs = ids.setdefault(content, len(ids))
        check(id_ == theirs, f"added token {content!r} has id {id_}, and {theirs} in the library")
        found[content] = token
    return found


def cutter(tokens):
    """Cuts a text before and behind these tokens; of two that begin alike the longer counts."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return regex.compile(f"({'|'.join(map(regex.escape, longest_first)) or '(?!)'})").split


# --------------------------------------------------------------------------------------------------


class Tokenizer:
    """The tokenizer of one model folder; make it with `Tokenizer.from_pretrained(path)`.

    vocab_size         largest id + 1, added tokens included
    eos_ids            every id that ends a response, sorted: eos_token of tokenizer_config.json,
                       eos_token_id of generation_config.json and of config.json
    chat_template      its text, or None; has_chat_template says whether there is one
    """

    @classmethod
    def from_pretrained(cls, path, now=None):
        """Read a folder. ValueError, in one line, if the ids are not sure to be the library's.

        now: the datetime that chat templates print, if they do; by default the moment of loading.
        """
        folder, file = Path(path), Path(path) / "tokenizer.json"
        wanted = "wanted a checkpoint folder with its tokenizer"
        if (folder / "tokenizer.model").is_file() and not file.exists():
            found = "only tokenizer.model, which can't be read"
            hint = "transformers' save_pretrained may write this one"
            raise ValueError(f"{file}: no such file, {found}; {hint}; {wanted}")
        check(file.is_file(), f"{file}: no such file; {wanted}")
        spec, config = read_json(file), read_json(folder / "tokenizer_config.json")
        try:
            tokenizer = cls(spec, config)
        except (KeyError, TypeError, AttributeError, IndexError, regex.error) as error:
            raise ValueError(f"{file}: not the form of a tokenizer: {error!r}") from error
        except ValueError as reason:
            wanted = "wanted a tokenizer as that of Qwen2/3, Llama 3 or SmolLM2"
            raise ValueError(f"{file}: {reason}; {wanted}") from None
        tokenizer._check_size(folder)
        tokenizer._read_stop_ids(folder)
        tokenizer._read_chat_template(folder)
        tokenizer.now = now or datetime.datetime.now()
        return tokenizer

    def __init__(self, spec, config):
        check_model(spec)
        model, self._vocab = spec["model"], spec["model"]["vocab"]
        ranks = merge_ranks(model["merges"], self._vocab)
        self._bpe = tiktoken.Encoding(
            "tokenizer.json", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={}
        )
        self._id_of_bytes = {token_bytes(token): id_ for token, id_ in self._vocab.items()}
        self._id_of_rank = {rank: self._id_of_bytes.get(data) for data, rank in ranks.items()}
        self._missing = bytes(b for b in range(256) if bytes([b]) not in self._id_of_bytes)
        self._whole_pieces = model.get("ignore_merges")
        self._normalise = nfc if flatten(spec.get("normalizer"), "normalizers") else str
        self._stages = pre_tokenizer(spec.get("pre_tokenizer"))
        self._before, self._behind = post_processor(spec.get("post_processor"))
        self._ids_of = functools.lru_cache(500_000)(self._encode_piece)

        # Raw tokens are looked for in the text as it is, the others in what is left of it, once it
        # is normalised.
        self._raw, self._normal, self._special = {}, {}, set()
        self._bytes = {id_: token_bytes(token) for token, id_ in self._vocab.items()}
        for content, token in added_tokens(spec, config).items():
            if token["normalized"]:
                self._normal[self._normalise(content)] = token["id"]
            else:
                self._raw[content] = token["id"]
            if token["special"]:
                self._special.add(token["id"])
            self._bytes[token["id"]] = content.encode()
        self._cut_raw, self._cut_normal = cutter(self._raw), cutter(self._normal)
        self.vocab_size = max(self._bytes) + 1

        # The chat template, and tokens that it may name; each is a string or an object.
        template, self._named = config.get("chat_template"), {}
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        self.chat_template = template
        for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
            token = config.get(f"{name}_token")
            if token:
                content = token if isinstance(token, str) else token["content"]
                self._named[f"{name}_token"] = content

    def _check_size(self, folder):
        # A model of a smaller vocabulary has no embedding for the last ids.
        size, last = read_json(folder / "config.json").get("vocab_size"), self.vocab_size - 1
        fits = type(size) is not int or last < size
        found = f"ids up to {last}, but vocab_size {size} in config.json"
        wanted = "wanted the tokenizer of this model"
        check(fits, f"{folder / 'tokenizer.json'}: {found}; {wanted}")

    def _read_stop_ids(self, folder):
        ids, eos = self._vocab | self._raw | self._normal, self._named.get("eos_token")
        file = folder / "tokenizer_config.json"
        check(eos is None or eos in ids, f"{file}: eos_token {eos!r} is not in the vocabulary")
        stops = set() if eos is None else {ids[eos]}
        for file in (folder / "generation_config.json", folder / "config.json"):
            found = read_json(file).get("eos_token_id")
            if found is None:
                continue
            found = found if isinstance(found, list) else [found]
            right = all(type(id_) is int and id_ >= 0 for id_ in found)
            check(right, f"{file}: eos_token_id {found!r} is not an id or a list of ids")
            stops.update(found)
        self.eos_ids = sorted(stops)

    def _read_chat_template(self, folder):
        self._template_file, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        if file.exists():
            try:
                self._template_file, self.chat_template = file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}: {error}; wanted a chat template in UTF-8") from None
        self.has_chat_template = self.chat_template is not None

    def encode(self, text, add_special=True):
        """Token ids of a text. add_special=False leaves out what the post-processor adds (a BOS).

        A rendered chat template has its BOS already. ValueError if the text holds a lone surrogate.
        """
        text.encode()  # half of a character raises UnicodeEncodeError, a ValueError
        ids = []
        for part in self._cut_raw(text):
            if part in self._raw:
                ids.append(self._raw[part])
                continue
            for stretch in self._cut_normal(self._normalise(part)):
                if stretch in self._normal:
                    ids.append(self._normal[stretch])
                else:
                    ids += self._encode_stretch(stretch)
        return self._before + ids + self._behind if add_special else ids

    def _encode_stretch(self, text):
        """The ids of a normalised text without added tokens."""
        pieces = [text]
        for stage in self._stages:
            pieces = [piece for whole in pieces for piece in stage(whole)]
        return [id_ for piece in pieces for id_ in self._ids_of(piece)]

    def _encode_piece(self, piece):
        """BPE of one piece, or with ignore_merges the one token that it is, if it is one."""
        data = piece.encode()
        if self._whole_pieces and data in self._id_of_bytes:
            return [self._id_of_bytes[data]]
        # The library leaves out a byte that the vocabulary lacks (SmolLM2: U+0004), and may then
        # join what lies on both sides of it.
        data = data.translate(None, self._missing)
        ranks = self._bpe._encode_single_piece(data) if data else []
        return [self._id_of_rank[rank] for rank in ranks]

    def decode(self, ids, skip_special=False):
        """The text of some ids. U+FFFD stands for bytes that are not UTF-8 and for unknown ids."""
        kept = [id_ for id_ in ids if not (skip_special and id_ in self._special)]
        return b"".join(self._bytes.get(id_, b"\xff") for id_ in kept).decode("utf-8", "replace")

    def pieces(self, ids):
        """The text of each id; joined, they are decode(ids).

        A character whose bytes are in several tokens stands at the last of them.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(self._bytes.get(id_, b"\xff")) for id_ in ids]
        return [*texts[:-1], texts[-1] + decoder.decode(b"", final=True)] if ids else []

    @functools.cached_property
    def _compiled(self):
        """The chat template as transformers compiles it, in a sandbox that keeps it from Python."""

        def refuse(message):
            raise jinja2.TemplateError(message)

        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # with < > & '
        env.globals |= {"raise_exception": refuse, "strftime_now": lambda f: self.now.strftime(f)}
        return env.from_string(self.chat_template)

    def chat(self, messages, add_generation_prompt=True, **variables):
        """Messages, [{"role": ..., "content": ...}, ...] -> the text that the model reads.

        variables: more of them for the template, as enable_thinking=False. ValueError if there is
        no template, or it refuses the messages.
        """
        file, template = self._template_file, self.chat_template
        missing = "no chat_template, and no chat_template.jinja beside it"
        check(template is not None, f"{file}: {missing}")
        text = isinstance(template, str)
        check(text, f"{file}: chat_template is {template!r:.40} and not text")
        given = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        try:
            return self._compiled.render(messages=messages, **(self._named | given | variables))
        except Exception as error:  # a template is a program: whatever goes wrong in it is one line
            raise ValueError(f"{file}: chat template: {' '.join(str(error).split())}") from error
