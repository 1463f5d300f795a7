"""Token ids against the `tokenizers` library, decoding, refusals, chat templates.

Where the library is not installed, ids are compared with those it gave once (frozen.json). Every
form of tokenizer.json that the supported models use is built here from one small list of merges,
tests/tokenizer_forms/merges.txt.

    pytest tests/test_tokenizer.py
    python tests/test_tokenizer.py      # with `tokenizers` installed: writes frozen.json anew
"""

import datetime
import doctest
import itertools
import json
import random
import sys
import time
import unicodedata
from pathlib import Path

import pytest
import tiktoken

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lib import tokenizer  # noqa: E402
from lib.tokenizer import Tokenizer  # noqa: E402

FORMS = HERE / "tokenizer_forms"
SHARED = HERE.parent.parent / "shared"
QWEN3 = SHARED / "models" / "qwen3-tokenizer"
needs_qwen3 = pytest.mark.skipif(not QWEN3.exists(), reason=f"no {QWEN3.name} in ../shared/models")

BYTES = {b: c for c, b in tokenizer._BYTE.items()}
MERGES = [pair.split(" ") for pair in (FORMS / "merges.txt").read_text("utf-8").splitlines()]
ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
LLAMA3 = ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
O200K = "|".join(
    [
        f"{BEFORE}{UPPER}*{LOWER}+{ENGLISH}?",
        f"{BEFORE}{UPPER}+{LOWER}*{ENGLISH}?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ\u30a0-ヿ]+",
    PUNCTUATION + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def split(pattern, behavior="Isolated", invert=False, form="Regex"):
    return {"type": "Split", "pattern": {form: pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False, add_prefix_space=False):
    node = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True}
    return node | {"use_regex": use_regex}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def sequence(*nodes):
    return {"type": "Sequence", "pretokenizers": list(nodes)}


def added(id_, content, special=True, normalized=False, **flags):
    token = {"id": id_, "content": content, "normalized": normalized, "special": special}
    return token | {"single_word": False, "lstrip": False, "rstrip": False} | flags


def template(before, after):
    """{content: id} of the tokens before a text, and behind it."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokens = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*before, *after)]
    parts = [*tokens[: len(before)], text, *tokens[len(before) :]]
    special = {}
    for name, id_ in (before | after).items():
        special[name] = {"id": name, "ids": [id_], "tokens": [name]}
    pair = [*parts, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": parts, "pair": pair, "special_tokens": special}


def make_spec(pre, normalizer=None, post=None, tokens=(), merges=MERGES, vocab=None, **model):
    """A whole tokenizer.json; if no vocabulary is given, it is the bytes and what the merges make.

    merges: pairs, which may also be strings "a b". tokens: added ones, or their contents."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    vocab = vocab or list(dict.fromkeys([*map(BYTES.get, range(256)), *map("".join, pairs)]))
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(vocab)},
        "merges": list(merges),
    } | model
    named = [t if isinstance(t, dict) else added(len(vocab) + i, t) for i, t in enumerate(tokens)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": named,
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": post,
        "decoder": byte_level(True, True),
        "model": model,
    }


def strings(merges):
    """The older form of a list of merges."""
    return [" ".join(pair) for pair in merges]


def forms() -> dict[str, dict]:
    """The tokenizer.json of each form, by name."""
    size, nfc = 256 + len(MERGES), {"type": "NFC"}
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    all_bytes, made = [BYTES[b] for b in range(256)], [a + b for a, b in MERGES]
    # As in SmolLM2: the special tokens come first and bytes are missing, some of which text can
    # hold (U+0004, U+0014; planes 4 to 11).
    lacking = {0x04, 0x14, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 256)}
    few = [*chat, *(BYTES[b] for b in range(256) if b not in lacking), *made]
    # As in Llama 3: every way to cut a token in two is a merge, some of them before their parts are
    # made, and some tokens are only ever whole pieces.
    texts = (" nghiệp", ":=:=", ":=:=:", "=:=:=", " mnop", "nop")
    whole = ["".join(BYTES[b] for b in text.encode()) for text in texts]
    tokens = list(dict.fromkeys([*all_bytes, *made[:60], *whole, *made[60:]]))
    cuts = [(t[:k], t[k:]) for t in tokens for k in range(1, len(t))]
    cuts = [(a, b) for a, b in cuts if a in tokens and b in tokens]
    begin = template({"<|begin_of_text|>": len(tokens)}, {})
    qwen_tokens = [
        *chat,
        added(size + 3, "<think>", False),
        added(size + 4, "</think>", False),
        added(size + 5, "<|im_", False),
        added(size + 6, "Å.", False, True),
    ]
    odd = sequence(
        split(" and ", form="String"),
        sequence(digits(False)),
        split(r"\p{L}+|\s*", "Isolated"),
        split(r"[_-]+", "Removed"),
        byte_level(True, True),
    )
    matches = split(r"\p{L}+|\p{N}{1,2}|[^\s\p{L}\p{N}]{2,}", "Removed", True)
    return {
        "gpt2": make_spec(byte_level(True), tokens=["<|endoftext|>"], merges=strings(MERGES)),
        "gpt2, a token no merge makes": make_spec(
            byte_level(True), vocab=[*all_bytes, *made, whole[0]]
        ),
        "smollm2": make_spec(
            sequence(digits(True), byte_level(True)),
            tokens=[added(i, t) for i, t in enumerate(chat)],
            vocab=few,
        ),
        "qwen2": make_spec(
            sequence(split(QWEN), byte_level()),
            nfc,
            byte_level(),
            qwen_tokens,
            vocab=[*sorted(BYTES.values()), *made[::-1]],
        ),
        "llama3": make_spec(
            sequence(split(LLAMA3), byte_level()),
            None,
            {"type": "Sequence", "processors": [byte_level(), begin]},
            ["<|begin_of_text|>", "<|eot_id|>"],
            strings(cuts),
            tokens,
            ignore_merges=True,
        ),
        "o200k": make_spec(sequence(split(O200K), byte_level()), tokens=["<|endoftext|>"]),
        "deepseek": make_spec(
            sequence(*map(split, DEEPSEEK), byte_level()), {"type": "Sequence", "normalizers": []}
        ),
        "odd": make_spec(
            odd,
            {"type": "Sequence", "normalizers": [nfc]},
            template({"<s>": size + 2}, {"</s>": size + 1}),
            ["</s>", "<s>"],
            [*MERGES, ["1", "2"]],
        ),
        "matches": make_spec(
            sequence(digits(False), matches, byte_level()), merges=[*MERGES, ["1", "2"]]
        ),
    }


TRICKY = [
    "",
    " ",
    "x",
    "Hello, world! It's what they've said: I'LL DON'T you'Re  'S 'ſ.",
    "a  b   c\n\n  d\t\te \r\n\r\n f \n",
    "   \n \u3000\u2009 x\x85\x1c\x0b",
    "3.14159 1234567 x12y345z ²³¹ ½ Ⅳ ٠١٢३४ 𝟏𝟐",
    "\\frac{1}{2} + \\boxed{42}$$ $x^2$ #### 42",
    "naïve café ÅÅA\u030a a\u0323\u0301 e\u0301\u0323 \u1ac1\u0323 ſ\u0307\u0323 Å. A\u030a.",
    "中文漢字とカタカナ、한국어 조합 \u1100\u1161\u11a8 हिन्दी ไทย ʕ•ᴥ•ʔ",
    "👍🏽👨\u200d👩\u200d👧\u200d👦🇩🇪❤️",
    "<|im_start|>user\nhi<|im_end|><think>\n</think><|im_x<|im_end|",
    "<s>a</s> <|begin_of_text|>b<|eot_id|><|endoftext|>",
    "a\x04b!\x04!! th\x14e \U00040000 \U0007abcd.",
    "\U00011de0\U00011de1 9 \U00016ff5 \U000323b0\U0003ffff\U0010ffff\ufdd0 "
    "\U00050000\U00060001\u3040ひ\u3098\u088f",
    "rock and roll_and-jazz__12and34 and and",
    " nghiệp nghiệp :=:=:=:=:=:= mnop nop mnopnop",
    "the" * 40 + " " * 130,
    "\U00011935\U00011930 \U00011938 \u0344 \u2126 \u212b ﬁ",
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """{form: folder with that tokenizer.json}"""
    made = {}
    for name, spec in forms().items():
        made[name] = tmp_path_factory.mktemp(name)
        (made[name] / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return made


@pytest.fixture
def make(tmp_path):
    """make(spec, **other files' contents) -> the folder they are in."""

    def write(spec=None, **files):
        for name, content in ({"tokenizer": spec or forms()["gpt2"]} | files).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def random_text(r: random.Random, tokens=()) -> str:
    """Words, digits, white space, marks, emoji, unassigned characters and added tokens, whole and
    cut, in any mixture."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pools = [
        letters,
        "0123456789",
        " \t\n\r",
        "\u00a0\u3000\u2009\u200b\u2028\x85\x0b\x0c\x1c\x1d",
        "'\"!?.,;:-_()[]{}<>|/\\@#$%^&*+=~`",
        "éèñçßøåÆŒſKİıǅΣσςﬀŉ",
        "е́йёЖДЯ",
        "中文漢字日本語カタカナ한국어",
        "👍🏽👨\u200d👩🇩🇪☺️",
        "²¹½①Ⅳⅷ٠३๓𝟏",
        "\x00\x01\x04\x13\x14\x7f",
        "\u0301\u0300\u0323\u0327\u0345\u1ab0\u1abf\u1ac1\u1dc0\u1df6\u093c\u094d\u3099"
        "\u1100\u1161\u11a8\u07fd\u08d3\u09fe",
        "𝔸ℵ𐍈\U000323b0\U00011de0\U00016ff5\U00040000\U000b0000\U000e0001\U0010ffff\ue000\ufdd0",
        "שׁמرحباไहिन्दी",
    ]
    scraps = ["'s", "'ſ", "'T", "'RE", "'vE", "'LL", " 'd", "\r\n", "\n \n", "  \n", "don't"]
    scraps += [" and ", "the", "ing", ":=:=", "\u212b", "Å.", "\U00011935\U00011930", *tokens]
    out = []
    for _ in range(r.randint(0, 25)):
        kind = r.random()
        if kind < 0.4:
            pool = r.choice(pools)
            out.append("".join(r.choice(pool) for _ in range(r.randint(1, 6))))
        elif kind < 0.6:
            scrap = r.choice(scraps)
            out.append(scrap if r.random() < 0.8 else scrap[: len(scrap) // 2])
        elif kind < 0.7:
            out.append(r.choice(" \n\t7") * r.randint(1, 20))
        elif kind < 0.8:
            out.append(chr(r.choice([r.randrange(0x80, 0xD800), r.randrange(0xE000, 0x110000)])))
        else:
            word = "".join(r.choice(letters) for _ in range(r.randint(1, 8)))
            out.append(r.choice(["", " "]) + word)
    return "".join(out)


def assert_same(mine, library, texts):
    for text in texts:
        for special in (True, False):
            theirs = library.encode(text, add_special_tokens=special).ids
            assert mine.encode(text, add_special=special) == theirs, repr(text)


def the_library(folder):
    library = pytest.importorskip("tokenizers")
    return library.Tokenizer.from_file(str(folder / "tokenizer.json"))


# --------------------------------------------------------------------------------------------------
# Ids


@pytest.mark.parametrize("form", forms())
def test_ids_of_every_form_are_those_the_library_gave(form, folders):
    """Any slip in the splits (a lookahead across pieces, a gap lost), the merges, the added tokens,
    NFC or the template of a real form."""
    mine = Tokenizer.from_pretrained(folders[form])
    frozen = json.loads((FORMS / "frozen.json").read_text(encoding="utf-8"))
    assert [mine.encode(text) for text in TRICKY] == frozen[form]


@pytest.mark.parametrize("form", forms())
def test_ids_of_every_form_are_the_librarys_on_random_text(form, folders):
    """The same slips where nobody thought to look, and frozen ids that are not the library's."""
    library, r = the_library(folders[form]), random.Random(form)
    tokens = [token.content for token in library.get_added_tokens_decoder().values()]
    texts = [random_text(r, tokens) for _ in range(1000)]
    assert_same(Tokenizer.from_pretrained(folders[form]), library, [*TRICKY, *texts])


@needs_qwen3
def test_ids_of_qwen3_are_the_librarys():
    """The real file: 151,643 tokens, NFC, 26 added tokens."""
    library, r, texts = the_library(QWEN3), random.Random(0), list(TRICKY)
    tokens = ["<|im_start|>", "<|im_end|>", "<think>", "</tool_call>"]
    texts += [random_text(r, tokens) for _ in range(2000)]
    for file in sorted((SHARED / "data").glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[::40]]
        keys = ("problem", "solution", "response")
        texts += [row[key] for row in rows for key in keys if row.get(key)]
    assert_same(Tokenizer.from_pretrained(QWEN3), library, texts)


def merge_one_by_one(chars, places):
    """The rule itself: join the pair listed first; of its places the leftmost; begin again."""
    parts = list(chars)
    while True:
        found = [(places[p], i) for i, p in enumerate(itertools.pairwise(parts)) if p in places]
        if not found:
            return parts
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_merge_ranks_merge_as_the_files_rule_does():
    """Ranks taken from ids or from the first merge that makes a token; tokens that never come
    about but got a rank; ties."""
    r, never = random.Random(0), 0
    for _ in range(300):
        tokens, merges = {"a", "b", "c"}, []
        for _ in range(r.randint(1, 12)):
            pair = (r.choice(sorted(tokens)), r.choice(sorted(tokens)))
            tokens.add("".join(pair))
            merges.append(pair)
        if r.random() < 0.5:  # every cut of every token
            cuts = [(t[:k], t[k:]) for t in sorted(tokens, key=len) for k in range(1, len(t))]
            merges = [(a, b) for a, b in cuts if a in tokens and b in tokens]
        r.shuffle(merges)
        places = {pair: i for i, pair in enumerate(merges)}
        ranks = tokenizer.merge_ranks(merges, dict.fromkeys(tokens))
        never += len({a + b for a, b in merges}) + 256 - len(ranks)
        spelling = {rank: data.decode("latin-1") for data, rank in ranks.items()}
        bpe = tiktoken.Encoding(
            "random", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={}
        )
        for _ in range(20):
            text = "".join(r.choice("abc") for _ in range(r.randint(1, 12)))
            found = [spelling[rank] for rank in bpe.encode_ordinary(text)]
            assert found == merge_one_by_one(text, places), (text, merges)
    assert never > 100  # the hard cases did come up


def test_a_long_piece_takes_no_longer_than_its_length(folders):
    """Seconds, then minutes, for a text without a space: a scan over all pairs for every merge."""
    mine = Tokenizer.from_pretrained(folders["qwen2"])
    for piece in ("the" * 30_000, "=" * 90_000, " " * 90_000, "ab" * 45_000):
        start = time.process_time()
        assert mine.decode(mine.encode(piece)) == piece
        assert time.process_time() - start < 10


def test_nfc_leaves_what_the_library_leaves(folders):
    """Marks that Unicode added after version 9 reordered or composed, or old ones not."""
    marks = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    texts = [f"a\u0323{mark}\u0301" for mark in marks] + [f"A{m}\u0323{m}" for m in marks]
    assert tokenizer.nfc("A\u030a\u0323 \u1100\u1161") == "\u1ea0\u030a \uac00"
    assert tokenizer.nfc("\u1ac1\u0323") == "\u1ac1\u0323"
    library = pytest.importorskip("tokenizers").normalizers.NFC()
    assert [text for text in texts if tokenizer.nfc(text) != library.normalize_str(text)] == []


def test_the_template_of_the_post_processor_is_added_once_and_can_be_left_out(folders):
    """A second BOS in front of a rendered chat template, or none in front of plain text."""
    llama3, odd = (Tokenizer.from_pretrained(folders[form]) for form in ("llama3", "odd"))
    bos = llama3.encode("<|begin_of_text|>", add_special=False)
    end, start = odd.encode("</s><s>", add_special=False)
    assert llama3.encode("a") == bos + llama3.encode("a", add_special=False) and len(bos) == 1
    assert odd.encode("a") == [start, *odd.encode("a", add_special=False), end]
    llama3.encode("a").append(7)  # the list put in front is not the list handed out
    assert llama3.encode("") == bos


def test_a_token_of_tokenizer_config_alone_is_added(make):
    """A <think> that only tokenizer_config.json lists, read as five ordinary tokens where
    transformers reads one."""
    size = 257 + len(MERGES)
    extra = {str(size + i): added(0, content) for i, content in enumerate(["<think>", "</think>"])}
    known = {str(size - 1): added(0, "<|endoftext|>")}
    files = {"tokenizer_config": {"added_tokens_decoder": extra | known}}
    mine = Tokenizer.from_pretrained(make(**files))
    assert mine.encode("<think></think><|endoftext|>") == [size, size + 1, size - 1]
    assert mine.vocab_size == size + 2
    assert mine.decode([size, 0], skip_special=True) == "\x00"


def test_a_lone_surrogate_is_a_clear_error(folders):
    """A half emoji of a JSON file encoded as something else."""
    with pytest.raises(ValueError, match=r"'\\ud83d' in position 2: surrogates not allowed"):
        Tokenizer.from_pretrained(folders["gpt2"]).encode("ab\ud83d")


# --------------------------------------------------------------------------------------------------
# And back


@pytest.mark.parametrize("form", ["gpt2", "qwen2", "llama3", "o200k"])
def test_decoding_gives_the_text_back(form, folders):
    """A byte mapped wrongly; a split that drops characters."""
    mine = Tokenizer.from_pretrained(folders[form])
    for text in TRICKY:
        back = mine.decode(mine.encode(text, add_special=False))
        assert back == (tokenizer.nfc(text) if form == "qwen2" else text)


def test_decoding_replaces_broken_bytes_and_unknown_ids(folders):
    """A response cut inside a character, or an id of the padding rows of a model's vocabulary, that
    stops a run when it is verified."""
    mine = Tokenizer.from_pretrained(folders["gpt2"])
    assert mine.decode([0xF0, 0x9F, 0x41, 0xFF]) == "\ufffdA\ufffd"
    end = mine.vocab_size - 1
    assert mine.decode([0x41, end]) == "A<|endoftext|>"
    assert mine.decode([0x41, end], skip_special=True) == "A"
    assert mine.decode([0x41, mine.vocab_size, 0x42]) == "A\ufffdB"


def test_pieces_keep_characters_of_several_tokens(folders):
    """U+FFFD in the report where a character lies in several tokens; a cut one that is lost."""
    mine, r = Tokenizer.from_pretrained(folders["gpt2"]), random.Random(0)
    euro = [*"a\u20acb".encode()]
    assert mine.pieces(euro) == ["a", "", "", "\u20ac", "b"]
    assert mine.pieces(euro[:3]) == ["a", "", "\ufffd"] and mine.pieces([]) == []
    for _ in range(200):
        ids = [r.choice([*range(256), 0xE2, 0x82, 0xAC, 0xF0]) for _ in range(12)]
        assert "".join(mine.pieces(ids)) == mine.decode(ids)


@pytest.mark.parametrize("form", ["smollm2", "qwen2"])
def test_decoding_of_random_ids_is_the_librarys(form, folders):
    """Another way to replace broken UTF-8, or special tokens skipped differently."""
    library, r = the_library(folders[form]), random.Random(0)
    mine = Tokenizer.from_pretrained(folders[form])
    # Not the last one, "Å.", which the library decodes as other bytes.
    known = [id_ for id_ in range(mine.vocab_size - 1) if mine.decode([id_])]
    for _ in range(500):
        ids = [r.choice(known) for _ in range(r.randint(0, 12))]
        for skip in (False, True):
            theirs = library.decode(ids, skip_special_tokens=skip)
            assert mine.decode(ids, skip_special=skip) == theirs


# --------------------------------------------------------------------------------------------------
# Refusals


def set_model(**changes):
    return lambda spec: spec["model"].update(changes)


def set_pre(*nodes):
    """Put nodes in the place of the pre-tokenizer, with ByteLevel behind them."""
    return lambda spec: spec.update(pre_tokenizer=sequence(*nodes, byte_level()))


def a_byte_less(spec):
    spec["model"]["vocab"].pop(BYTES[7])
    spec["model"].update(unk_token="!")


LOWER_CASE = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
# As in Llama 2: SentencePiece's BPE, which falls back to bytes.
LLAMA2 = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}
BERT = {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}
REFUSED = [
    (set_model(type="Unigram"), "Unigram"),
    (set_model(type="WordPiece"), "WordPiece"),
    (set_model(merges=[]), "0 merges"),
    (set_model(byte_fallback=True), "byte_fallback"),
    (set_model(dropout=0.1), "dropout"),
    (set_model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    (a_byte_less, "unk_token '!'"),
    (lambda s: s["model"]["merges"].insert(3, "q zz"), "merge 3, 'q zz'"),
    (lambda s: s["model"]["merges"].insert(5, "▁ a"), "merge 5"),
    (lambda s: s["model"]["merges"].insert(2, "a b c"), "merge 2"),
    (lambda s: s.update(normalizer=LOWER_CASE), "normalizer NFC + Lowercase"),
    (lambda s: s.update(normalizer=LLAMA2, pre_tokenizer=None), "normalizer Prepend"),
    (lambda s: s.update(pre_tokenizer=None), "pre-tokenizer None"),
    (lambda s: s.update(pre_tokenizer={"type": "Metaspace"}), "pre-tokenizer Metaspace"),
    (set_pre(byte_level(True), digits(True)), "pre-tokenizer ByteLevel + Digits + ByteLevel"),
    (lambda s: s.update(pre_tokenizer=sequence(byte_level(), digits(True))), "ByteLevel + Digits"),
    (set_pre(split("a", "MergedWithNext")), "MergedWithNext"),
    (set_pre(split(r"^\s+$")), "split pattern"),
    (set_pre(split(r"\w+")), "split pattern"),
    (set_pre(split(r"(\p{L})+")), "split pattern"),
    (set_pre(split(r"[\p{L}&&[^\p{Han}]]+")), "split pattern"),
    (set_pre(split(r"\p{N}{1,3}+")), "split pattern"),
    (set_pre(split(r"(?:a")), "not the form of a tokenizer: error('missing )"),
    (lambda s: s.update(post_processor=BERT), "BertProcessing"),
    (lambda s: s.update(post_processor=template({"<s>": 1}, {}) | {"single": []}), "template"),
    (lambda s: s.update(decoder={"type": "Metaspace"}), "decoder Metaspace"),
    (lambda s: s["added_tokens"][0].update(id=9), "has id 9"),
    (lambda s: s["added_tokens"][0].update(lstrip=True), "lstrip"),
    (lambda s: s.pop("model"), "not the form of a tokenizer"),
    (lambda s: s["pre_tokenizer"].pop("type"), "not the form of a tokenizer"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_what_can_not_be_exact_is_refused_in_one_line(change, reason, make):
    """A tokenizer read as nearly the right one: ids that are wrong now and then, silently."""
    spec = forms()["gpt2"]
    change(spec)
    with pytest.raises(ValueError) as error:
        Tokenizer.from_pretrained(make(spec))
    message = str(error.value)
    assert reason in message and "tokenizer.json" in message and "\n" not in message


NOWHERE = "eos_token '<|nowhere|>' is not in the vocabulary"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config": {"eos_token_id": "</s>"}}, "config.json: eos_token_id"),
        ({"generation_config": {"eos_token_id": [1, -1]}}, "generation_config.json: eos_token_id"),
        ({"generation_config": "{"}, "generation_config.json: not valid JSON"),
        ({"tokenizer_config": "[]"}, "tokenizer_config.json: found a JSON list, wanted an object"),
        ({"tokenizer_config": {"eos_token": "<|nowhere|>"}}, f"tokenizer_config.json: {NOWHERE}"),
        ({"config": {"vocab_size": 200}}, "but vocab_size 200 in config.json"),
        ({"tokenizer_config": {"chat_template": [7]}}, "not the form of a tokenizer"),
    ],
)
def test_bad_files_beside_it_are_named(files, reason, make):
    """A stop id that is silently dropped, so that no response ever ends."""
    with pytest.raises(ValueError) as error:
        Tokenizer.from_pretrained(make(**files))
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_tokenizer_json_is_refused(tmp_path):
    """A traceback where the user has to be told that a SentencePiece file is not enough."""
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_pretrained(tmp_path)


# --------------------------------------------------------------------------------------------------
# Stop ids, chat templates


def test_stop_ids_come_from_all_three_places(make):
    """A chat model that runs on past <|im_end|> because only config.json was asked."""
    spec = make_spec(byte_level(True), tokens=["<|endoftext|>", "<|im_end|>"])
    end = 256 + len(MERGES)
    files = {"generation_config": {"eos_token_id": [5, 3]}, "config": {"eos_token_id": 7}}
    files |= {"tokenizer_config": {"eos_token": added(0, "<|im_end|>")}}
    assert Tokenizer.from_pretrained(make(spec, **files)).eos_ids == [3, 5, 7, end + 1]
    files = {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 0}}
    files |= {"tokenizer_config": {"eos_token": "<|endoftext|>"}}
    assert Tokenizer.from_pretrained(make(spec, **files)).eos_ids == [0, end]


def test_chat_renders_as_transformers_does(make):
    """White space around blocks, the variables, break, tojson with HTML escapes, a date, content
    taken for a template."""
    source = (
        "{%- for m in messages %}\n    {% if loop.first %}\n{{ bos_token }}{% endif %}\n"
        "<{{ m['role'] }}>{{ m.content | tojson }}{{ eos_token }}\n"
        "{% if m.role == 'stop' %}{% break %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<go>{% endif %}{{ strftime_now('%%') }}"
        "{{ pad_token }}{{ extra }}{% if tools is none %}.{% endif %}"
    )
    names = {"bos_token": added(0, "<s>"), "eos_token": "<|endoftext|>", "pad_token": None}
    folder = make(tokenizer_config=names | {"chat_template": source})
    mine, user = Tokenizer.from_pretrained(folder), "é < {{ bos_token }} &"
    talk = [("user", user), ("stop", "x"), ("user", "y")]
    talk = [{"role": role, "content": content} for role, content in talk]
    first = f'<s><user>"{user}"<|endoftext|>\n'
    assert mine.chat(talk, extra="!") == first + '<stop>"x"<|endoftext|>\n<go>%!.'
    assert mine.chat(talk[:1], add_generation_prompt=False) == first + "%."


def test_tojson_of_a_chat_template_takes_what_transformers_does(make):
    """Tools printed in one line where the model was trained on several."""
    source = "{{ messages | tojson(indent=1) }}{{ messages | tojson(ensure_ascii=True) }}"
    mine = Tokenizer.from_pretrained(make(tokenizer_config={"chat_template": source}))
    assert mine.chat(["é<"]) == '[\n "é<"\n]["\\u00e9<"]'


def test_all_prompts_of_a_tokenizer_carry_one_date(make):
    """A run that crosses midnight, or goes on a week later, with other prompts than it began with;
    the default is the moment of loading."""
    source = "{{ strftime_now('%d %b %Y %H:%M') }}"
    folder = make(tokenizer_config={"chat_template": source})
    mine = Tokenizer.from_pretrained(folder, now=datetime.datetime(2024, 2, 29, 23, 59))
    assert mine.chat([]) == "29 Feb 2024 23:59" and mine.chat_template == source
    before = datetime.datetime.now().replace(second=0, microsecond=0)
    loaded = Tokenizer.from_pretrained(folder)
    printed = datetime.datetime.strptime(loaded.chat([]), "%d %b %Y %H:%M")
    assert before <= printed <= datetime.datetime.now()


def test_chat_template_jinja_wins_and_a_list_gives_its_default(make):
    """An old template of tokenizer_config.json used although the model moved on to a file of its
    own."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    folder = make(tokenizer_config={"chat_template": named})
    mine = Tokenizer.from_pretrained(folder)
    assert mine.chat([]) == mine.chat_template == "D"
    (folder / "chat_template.jinja").write_text("J{{ eos_token }}", encoding="utf-8")
    mine = Tokenizer.from_pretrained(folder)
    assert mine.chat([]) == "J" and mine.has_chat_template
    assert mine.chat_template == "J{{ eos_token }}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (7, "chat_template is 7 and not text"),
        (None, "tokenizer_config.json: no chat_template"),
        ("{{ raise_exception('roles must\n alternate') }}", "roles must alternate"),
        ("{% if %}", "chat template"),
        ("{{ messages[0].content + 1 }}", "chat template"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_that_fails_is_one_line(source, reason, make):
    """A template that reaches into Python or changes the messages, or whose complaint ends in a
    traceback."""
    mine = Tokenizer.from_pretrained(make(tokenizer_config={"chat_template": source}))
    assert mine.has_chat_template == (source is not None)
    with pytest.raises(ValueError) as error:
        mine.chat([{"role": "user", "content": "x"}])
    assert reason in str(error.value) and "\n" not in str(error.value)


TALKS = [
    [{"role": "user", "content": "What is 2+2?"}],
    [
        {"role": "system", "content": "Be <brief> & 'kind'."},
        {"role": "user", "content": "Hi\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "é 中文?"},
    ],
]


@needs_qwen3
def test_chat_of_qwen3():
    """The one real template at hand, against its rendering written down."""
    mine = Tokenizer.from_pretrained(QWEN3)
    asked = "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert mine.chat(TALKS[0]) == asked
    assert mine.chat(TALKS[0], enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert mine.eos_ids == [151645] and mine.vocab_size == 151669
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(QWEN3)
    for talk in TALKS:
        for prompt in (True, False):
            text, options = mine.chat(talk, prompt), {"add_generation_prompt": prompt}
            assert text == theirs.apply_chat_template(talk, tokenize=False, **options)
            ids = theirs.apply_chat_template(talk, return_dict=False, **options)
            assert mine.encode(text, add_special=False) == ids


def test_the_examples_in_the_docstrings_hold():
    """A worked example that no longer works."""
    result = doctest.testmod(tokenizer)
    assert result.attempted == 3 and result.failed == 0


if __name__ == "__main__":
    import tokenizers

    library = {}
    for form, spec in forms().items():
        library[form] = tokenizers.Tokenizer.from_str(json.dumps(spec))
    frozen = {form: [t.encode(text).ids for text in TRICKY] for form, t in library.items()}
    text = json.dumps(frozen, separators=(",", ":")) + "\n"
    (FORMS / "frozen.json").write_text(text, encoding="utf-8")
