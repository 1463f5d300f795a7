"""Token ids against the `tokenizers` library (where it is installed, else against ids it gave once), refusals, decoding, chat templates.

Every form of tokenizer.json that the supported models use is built here from one small list of merges (tests/tokenizer_forms/merges.txt).

    pytest tests/test_tokenizer.py
    python tests/test_tokenizer.py        # with `tokenizers` installed: writes tests/tokenizer_forms/frozen.json anew
"""

import doctest
import json
import random
import sys
import unicodedata
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import tokenizer  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

SHARED = HERE.parent.parent / "shared"
QWEN3 = SHARED / "models" / "qwen3-tokenizer"
needs_qwen3 = pytest.mark.skipif(not QWEN3.exists(), reason="no ../shared/models/qwen3-tokenizer")

BYTES = {b: c for c, b in tokenizer._BYTE.items()}
MERGES = [line.split(" ") for line in (HERE / "tokenizer_forms" / "merges.txt").read_text(encoding="utf-8").splitlines()]
ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
LLAMA3 = ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + ENGLISH + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}"
         r"\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + ENGLISH + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ\u30a0-ヿ]+", (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+")]


def split(pattern, behavior="Isolated", invert=False, form="Regex"):
    return {"type": "Split", "pattern": {form: pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def sequence(*nodes):
    return {"type": "Sequence", "pretokenizers": list(nodes)}


def added(id_, content, special=True, normalized=False, **flags):
    off = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": id_, "content": content, **off, "normalized": normalized, "special": special} | flags


def template(before, after):
    parts = [{"SpecialToken": {"id": name, "type_id": 0}} for name in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
    parts += [{"SpecialToken": {"id": name, "type_id": 0}} for name in after]
    ids = before | after
    return {"type": "TemplateProcessing", "single": parts, "pair": [*parts, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in ids.items()}}


def make_spec(pre, normalizer=None, post=None, tokens=(), merges=MERGES, vocab=None, strings=False, **model):
    """A whole tokenizer.json; the vocabulary is the bytes, then what the merges make, if not given."""
    vocab = vocab or list(dict.fromkeys([*(BYTES[b] for b in range(256)), *("".join(pair) for pair in merges)]))
    merges = [" ".join(pair) for pair in merges] if strings else [list(pair) for pair in merges]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {token: i for i, token in enumerate(vocab)},
             "merges": merges} | model
    named = [token if isinstance(token, dict) else added(len(vocab) + i, token) for i, token in enumerate(tokens)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": named, "normalizer": normalizer, "pre_tokenizer": pre,
            "post_processor": post, "decoder": byte_level(True, True), "model": model}


def forms() -> dict[str, dict]:
    """The tokenizer.json of each form, by name."""
    size, nfc = 256 + len(MERGES), {"type": "NFC"}
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = [a + b for a, b in MERGES]
    # As in SmolLM2: the special tokens come first and bytes are missing, some of which text can hold (U+0004, U+0014; planes 4 to 11).
    few = [*chat, *(BYTES[b] for b in range(256) if b not in {0x04, 0x14, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 256)}), *made]
    # As in Llama 3: every way to cut a token in two is a merge, some of them before their parts are made, and some tokens are only ever
    # whole pieces.
    whole = ["".join(BYTES[b] for b in text.encode()) for text in (" nghiệp", ":=:=", ":=:=:", "=:=:=", " mnop", "nop")]
    tokens = list(dict.fromkeys([*(BYTES[b] for b in range(256)), *made[:60], *whole, *made[60:]]))
    cuts = [(t[:k], t[k:]) for t in tokens for k in range(1, len(t)) if t[:k] in tokens and t[k:] in tokens]
    pre = sequence(split(LLAMA3), byte_level())
    ends = template({"<s>": size + 2}, {"</s>": size + 1})
    return {
        "gpt2": make_spec(byte_level(True), tokens=["<|endoftext|>"], strings=True),
        "gpt2, a token no merge makes": make_spec(byte_level(True), vocab=[*tokens[:256], *made, whole[0]]),
        "smollm2": make_spec(sequence(digits(True), byte_level(True)), None, None, [added(i, t) for i, t in enumerate(chat)], vocab=few),
        "qwen2": make_spec(sequence(split(QWEN), byte_level()), nfc, byte_level(),
                           [*chat, added(size + 3, "<think>", False), added(size + 4, "</think>", False), added(size + 5, "<|im_", False),
                            added(size + 6, "Å.", False, True)], vocab=[*sorted(BYTES.values()), *made[::-1]]),
        "llama3": make_spec(pre, None, {"type": "Sequence", "processors": [byte_level(), template({"<|begin_of_text|>": len(tokens)}, {})]},
                            ["<|begin_of_text|>", "<|eot_id|>"], cuts, tokens, True, ignore_merges=True),
        "o200k": make_spec(sequence(split(O200K), byte_level()), tokens=["<|endoftext|>"]),
        "deepseek": make_spec(sequence(*map(split, DEEPSEEK), byte_level()), {"type": "Sequence", "normalizers": []}),
        "odd": make_spec(sequence(split(" and ", form="String"), sequence(digits(False)), split(r"\p{L}+|\s*", "Isolated"),
                                  split(r"[_-]+", "Removed"), byte_level(True, True)), {"type": "Sequence", "normalizers": [nfc]}, ends,
                         ["</s>", "<s>"], [*MERGES, ["1", "2"]]),
        "matches": make_spec(sequence(digits(False), split(r"\p{L}+|\p{N}{1,2}|[^\s\p{L}\p{N}]{2,}", "Removed", True), byte_level()),
                             merges=[*MERGES, ["1", "2"]]),
    }


TRICKY = [
    "", " ", "x",
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
    "\U00011DE0\U00011DE1 9 \U00016FF5 \U000323B0\U0003FFFF\U0010FFFF\ufdd0 \U00050000\U00060001\u3040ひ\u3098\u088f",
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
            (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


def random_text(r: random.Random, tokens=()) -> str:
    """Words, digits, white space, marks, emoji, unassigned characters and added tokens, whole and cut, in any mixture."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pools = [
        letters, "0123456789", " \t\n\r", "\u00a0\u3000\u2009\u200b\u2028\x85\x0b\x0c\x1c\x1d", "'\"!?.,;:-_()[]{}<>|/\\@#$%^&*+=~`",
        "éèñçßøåÆŒſKİıǅΣσςﬀŉ", "е́йёЖДЯ", "中文漢字日本語カタカナ한국어", "👍🏽👨\u200d👩🇩🇪☺️", "²¹½①Ⅳⅷ٠३๓𝟏", "\x00\x01\x04\x13\x14\x7f",
        "\u0301\u0300\u0323\u0327\u0345\u1ab0\u1abf\u1ac1\u1dc0\u1df6\u093c\u094d\u3099\u1100\u1161\u11a8\u07fd\u08d3\u09fe",
        "𝔸ℵ𐍈\U000323B0\U00011DE0\U00016FF5\U00040000\U000b0000\U000e0001\U0010ffff\ue000\ufdd0", "שׁמرحباไहिन्दी",
    ]
    scraps = ["'s", "'ſ", "'T", "'RE", "'vE", "'LL", " 'd", "\r\n", "\n \n", "  \n", "don't", " and ", "the", "ing", ":=:=", "\u212b", "Å.",
              "\U00011935\U00011930", *tokens]
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
            out.append(r.choice(["", " "]) + "".join(r.choice(letters) for _ in range(r.randint(1, 8))))
    return "".join(out)


def assert_same(mine, library, texts):
    for text in texts:
        for special in (True, False):
            assert mine.encode(text, add_special=special) == library.encode(text, add_special_tokens=special).ids, repr(text)


# ---- ids


@pytest.mark.parametrize("form", forms())
def test_ids_of_every_form_are_those_the_library_gave(form, folders):
    """Any slip in the splits (a lookahead across pieces, a gap lost), the merges, the added tokens, NFC or the template of a real form."""
    mine = Tokenizer.from_pretrained(folders[form])
    frozen = json.loads((HERE / "tokenizer_forms" / "frozen.json").read_text(encoding="utf-8"))
    assert [mine.encode(text) for text in TRICKY] == frozen[form]


@pytest.mark.parametrize("form", forms())
def test_ids_of_every_form_are_the_librarys_on_random_text(form, folders):
    """The same slips where nobody thought to look, and frozen ids that are not the library's."""
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(folders[form] / "tokenizer.json"))
    tokens = [token.content for token in library.get_added_tokens_decoder().values()]
    r = random.Random(form)
    assert_same(Tokenizer.from_pretrained(folders[form]), library, [*TRICKY, *(random_text(r, tokens) for _ in range(1000))])


@needs_qwen3
def test_ids_of_qwen3_are_the_librarys():
    """The real file: 151,643 tokens, NFC, 26 added tokens."""
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(QWEN3 / "tokenizer.json"))
    r, texts = random.Random(0), list(TRICKY)
    texts += [random_text(r, ["<|im_start|>", "<|im_end|>", "<think>", "</tool_call>"]) for _ in range(2000)]
    for file in sorted((SHARED / "data").glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:: 40]]
        texts += [row[key] for row in rows for key in ("problem", "solution", "response") if row.get(key)]
    assert_same(Tokenizer.from_pretrained(QWEN3), library, texts)


def test_merge_ranks_merge_as_the_files_rule_does():
    """Ranks taken from ids or from the first merge that makes a token; tokens that never come about but got a rank; ties."""
    import tiktoken

    r, never = random.Random(0), 0
    for _ in range(300):
        tokens, merges = {"a", "b", "c"}, []
        for _ in range(r.randint(1, 12)):
            pair = (r.choice(sorted(tokens)), r.choice(sorted(tokens)))
            tokens.add("".join(pair))
            merges.append(pair)
        if r.random() < 0.5:  # every cut of every token
            merges = [(t[:k], t[k:]) for t in sorted(tokens, key=len) for k in range(1, len(t)) if t[:k] in tokens and t[k:] in tokens]
        r.shuffle(merges)
        ranks = tokenizer.merge_ranks({t: t.encode() for t in tokens}, merges, pytest.fail)
        never += len({a + b for a, b in merges}) + 256 - len(ranks)
        spelling = {rank: data.decode("latin-1") for data, rank in ranks.items()}
        encoding = tiktoken.Encoding("random", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
        order = {pair: i for i, pair in enumerate(merges)}
        for _ in range(20):
            text = "".join(r.choice("abc") for _ in range(r.randint(1, 12)))
            parts = list(text)
            while (pairs := [(order[pair], i) for i in range(len(parts) - 1) if (pair := (parts[i], parts[i + 1])) in order]):
                i = min(pairs)[1]  # the pair listed first; of its places the leftmost
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            assert [spelling[rank] for rank in encoding.encode_ordinary(text)] == parts, (text, merges)
    assert never > 100  # the hard cases did come up


def test_nfc_leaves_what_the_library_leaves(folders):
    """Marks that Unicode added after version 9 reordered or composed, or old ones not."""
    marks = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    texts = [text for mark in marks for text in (f"a\u0323{mark}\u0301", f"A{mark}\u0323{mark}")]
    assert tokenizer.nfc("A\u030a\u0323 \u1100\u1161") == "\u1ea0\u030a \uac00" and tokenizer.nfc("\u1ac1\u0323") == "\u1ac1\u0323"
    library = pytest.importorskip("tokenizers").normalizers.NFC()
    assert [text for text in texts if tokenizer.nfc(text) != library.normalize_str(text)] == []


def test_the_template_of_the_post_processor_is_added_once_and_can_be_left_out(folders):
    """A second BOS in front of a rendered chat template, or none in front of plain text."""
    llama3, odd = Tokenizer.from_pretrained(folders["llama3"]), Tokenizer.from_pretrained(folders["odd"])
    bos, (end, start) = llama3.encode("<|begin_of_text|>", add_special=False), odd.encode("</s><s>", add_special=False)
    assert llama3.encode("a") == bos + llama3.encode("a", add_special=False) and len(bos) == 1 and llama3.encode("") == bos
    assert odd.encode("a") == [start, *odd.encode("a", add_special=False), end]
    assert llama3.encode("a") == llama3.encode("a")  # the list put in front is not the list handed out
    llama3.encode("a").append(7)
    assert llama3.encode("") == bos


def test_a_token_of_tokenizer_config_alone_is_added(make):
    """A <think> that only tokenizer_config.json lists, read as five ordinary tokens where transformers reads one."""
    size = 257 + len(MERGES)
    extra = {str(size + i): added(0, content) for i, content in enumerate(["<think>", "</think>"])}
    known = {str(size - 1): added(0, "<|endoftext|>")}
    mine = Tokenizer.from_pretrained(make(tokenizer_config={"added_tokens_decoder": extra | known}))
    assert mine.encode("<think></think><|endoftext|>") == [size, size + 1, size - 1] and mine.vocab_size == size + 2
    assert mine.decode([size, 0], skip_special=True) == "\x00"


def test_a_lone_surrogate_is_a_clear_error(folders):
    """A half emoji of a JSON file encoded as something else, or a traceback from deep inside."""
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83D at character 2 of the text"):
        Tokenizer.from_pretrained(folders["gpt2"]).encode("ab\ud83d")


# ---- and back


@pytest.mark.parametrize("form", ["gpt2", "qwen2", "llama3", "o200k"])
def test_decoding_gives_the_text_back(form, folders):
    """A byte mapped wrongly; a split that drops characters."""
    mine = Tokenizer.from_pretrained(folders[form])
    for text in TRICKY:
        assert mine.decode(mine.encode(text, add_special=False)) == (tokenizer.nfc(text) if form == "qwen2" else text)


def test_decoding_replaces_broken_bytes_and_unknown_ids(folders):
    """A response cut inside a character, or an id of the padding rows of a model's vocabulary, that stops a run when it is verified."""
    mine = Tokenizer.from_pretrained(folders["gpt2"])
    assert mine.decode([0xF0, 0x9F, 0x41, 0xFF]) == "\ufffdA\ufffd"
    end = mine.vocab_size - 1
    assert mine.decode([0x41, end]) == "A<|endoftext|>" and mine.decode([0x41, end], skip_special=True) == "A"
    assert mine.decode([0x41, mine.vocab_size, 0x42]) == "A\ufffdB"


@pytest.mark.parametrize("form", ["smollm2", "qwen2"])
def test_decoding_of_random_ids_is_the_librarys(form, folders):
    """Another way to replace broken UTF-8, or special tokens skipped differently."""
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(folders[form] / "tokenizer.json"))
    mine, r = Tokenizer.from_pretrained(folders[form]), random.Random(0)
    known = [id_ for id_ in range(mine.vocab_size - 1) if mine.decode([id_])]  # the last one, "Å.", the library decodes as other bytes
    for _ in range(500):
        ids = [r.choice(known) for _ in range(r.randint(0, 12))]
        for skip in (False, True):
            assert mine.decode(ids, skip_special=skip) == library.decode(ids, skip_special_tokens=skip)


# ---- refusals


@pytest.mark.parametrize(("change", "reason"), [
    (lambda s: s["model"].update(type="Unigram"), "Unigram"),
    (lambda s: s["model"].update(type="WordPiece"), "WordPiece"),
    (lambda s: s["model"].update(merges=[]), "0 merges"),
    (lambda s: s["model"].update(byte_fallback=True), "byte_fallback"),
    (lambda s: s["model"].update(dropout=0.1), "dropout"),
    (lambda s: s["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    (lambda s: (s["model"]["vocab"].pop(BYTES[7]), s["model"].update(unk_token="!")), "byte 0x07"),
    (lambda s: s["model"]["merges"].insert(3, "q zz"), "merge 3, 'q zz'"),
    (lambda s: s["model"]["merges"].insert(5, "▁ a"), "merge 5"),
    (lambda s: s.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}), "normalizer Lowercase"),
    (lambda s: s.update(pre_tokenizer=None), "pre-tokenizer None"),
    (lambda s: s.update(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}), "pre-tokenizer Metaspace"),
    (lambda s: s.update(pre_tokenizer=sequence(byte_level(True), digits(True))), "pre-tokenizer ByteLevel + Digits"),
    (lambda s: s.update(pre_tokenizer=sequence(split("a", "MergedWithNext"), byte_level())), "MergedWithNext"),
    (lambda s: s.update(pre_tokenizer=sequence(split(r"^\s+$"), byte_level())), "split pattern"),
    (lambda s: s.update(pre_tokenizer=sequence(split(r"\w+"), byte_level())), "split pattern"),
    (lambda s: s.update(pre_tokenizer=sequence(split(r"[\p{L}&&[^\p{Han}]]+"), byte_level())), "split pattern"),
    (lambda s: s.update(pre_tokenizer=sequence(split(r"\p{N}{1,3}+"), byte_level())), "split pattern"),
    (lambda s: s.update(pre_tokenizer=sequence(split(r"(?:a"), byte_level())), "split pattern"),
    (lambda s: s.update(post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}), "BertProcessing"),
    (lambda s: s.update(post_processor=template({"<s>": 1}, {}) | {"single": []}), "template"),
    (lambda s: s.update(decoder={"type": "Metaspace"}), "decoder Metaspace"),
    (lambda s: s["added_tokens"][0].update(id=9), "has id 9"),
    (lambda s: s["added_tokens"][0].update(lstrip=True), "lstrip"),
    (lambda s: s.pop("model"), "not the form of a tokenizer"),
    (lambda s: s["pre_tokenizer"].pop("type"), "not the form of a tokenizer"),
])
def test_what_can_not_be_exact_is_refused_in_one_line(change, reason, make):
    """A tokenizer read as nearly the right one: ids that are wrong now and then, silently."""
    spec = forms()["gpt2"]
    change(spec)
    with pytest.raises(ValueError) as error:
        Tokenizer.from_pretrained(make(spec))
    assert reason in str(error.value) and "tokenizer.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("files", "reason"), [
    ({"config": {"eos_token_id": "</s>"}}, "config.json: eos_token_id"),
    ({"generation_config": "{"}, "generation_config.json: not valid JSON"),
    ({"tokenizer_config": "[]"}, "tokenizer_config.json: wanted a JSON object, found list"),
    ({"tokenizer_config": {"eos_token": "<|nowhere|>"}}, "tokenizer_config.json: eos_token '<|nowhere|>' is not in the vocabulary"),
])
def test_bad_files_beside_it_are_named(files, reason, make):
    """A stop id that is silently dropped, so that no response ever ends."""
    with pytest.raises(ValueError) as error:
        Tokenizer.from_pretrained(make(**files))
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_tokenizer_json_is_refused(tmp_path):
    """A traceback where the user has to be told that a SentencePiece file is not enough."""
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_pretrained(tmp_path)


# ---- stop ids, chat templates


def test_stop_ids_come_from_all_three_places(make):
    """A chat model that runs on past <|im_end|> because only config.json was asked."""
    spec, end = make_spec(byte_level(True), tokens=["<|endoftext|>", "<|im_end|>"]), 256 + len(MERGES)
    files = {"generation_config": {"eos_token_id": [5, 3]}, "config": {"eos_token_id": 7}}
    files |= {"tokenizer_config": {"eos_token": added(0, "<|im_end|>")}}
    assert Tokenizer.from_pretrained(make(spec, **files)).eos_ids == [3, 5, 7, end + 1]
    files = {"generation_config": {"eos_token_id": None}, "config": {}, "tokenizer_config": {"eos_token": "<|endoftext|>"}}
    assert Tokenizer.from_pretrained(make(spec, **files)).eos_ids == [end]


def test_chat_renders_as_transformers_does(make):
    """White space around blocks, the variables, break, tojson with HTML escapes, a date, content taken for a template."""
    source = (
        "{%- for m in messages %}\n    {% if loop.first %}\n{{ bos_token }}{% endif %}\n"
        "<{{ m['role'] }}>{{ m.content | tojson }}{{ eos_token }}\n{% if m.role == 'stop' %}{% break %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<go>{% endif %}{{ strftime_now('%%') }}{{ pad_token }}{{ extra }}{% if tools is none %}.{% endif %}"
    )
    names = {"bos_token": added(0, "<s>"), "eos_token": "<|endoftext|>", "pad_token": None}
    mine = Tokenizer.from_pretrained(make(tokenizer_config=names | {"chat_template": source}))
    talk = [{"role": "user", "content": "é < {{ bos_token }} &"}, {"role": "stop", "content": "x"}, {"role": "user", "content": "y"}]
    assert mine.chat(talk, extra="!") == '<s><user>"é < {{ bos_token }} &"<|endoftext|>\n<stop>"x"<|endoftext|>\n<go>%!.'
    assert mine.chat(talk[:1], add_generation_prompt=False) == '<s><user>"é < {{ bos_token }} &"<|endoftext|>\n%.'


def test_chat_template_jinja_wins_and_a_list_gives_its_default(make):
    """An old template of tokenizer_config.json used although the model moved on to a file of its own."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    folder = make(tokenizer_config={"chat_template": named})
    assert Tokenizer.from_pretrained(folder).chat([]) == "D"
    (folder / "chat_template.jinja").write_text("J{{ eos_token }}", encoding="utf-8")
    mine = Tokenizer.from_pretrained(folder)
    assert mine.chat([]) == "J" and mine.has_chat_template


@pytest.mark.parametrize(("source", "reason"), [
    (None, "tokenizer_config.json: no chat_template"),
    ("{{ raise_exception('roles must\n alternate') }}", "roles must alternate"),
    ("{% if %}", "chat template"),
    ("{{ messages[0].content + 1 }}", "chat template"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
])
def test_a_template_that_fails_is_one_line(source, reason, make):
    """A template that reaches into Python or changes the messages, or whose complaint ends in a traceback."""
    mine = Tokenizer.from_pretrained(make(tokenizer_config={"chat_template": source}))
    assert mine.has_chat_template == (source is not None)
    with pytest.raises(ValueError) as error:
        mine.chat([{"role": "user", "content": "x"}])
    assert reason in str(error.value) and "\n" not in str(error.value)


TALKS = [
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "system", "content": "Be <brief> & 'kind'."}, {"role": "user", "content": "Hi\n"},
     {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}, {"role": "user", "content": "é 中文?"}],
]


@needs_qwen3
def test_chat_of_qwen3():
    """The one real template at hand, against its rendering written down."""
    mine = Tokenizer.from_pretrained(QWEN3)
    assert mine.chat(TALKS[0]) == "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert mine.chat(TALKS[0], enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert mine.eos_ids == [151645] and mine.vocab_size == 151669
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(QWEN3)
    for talk in TALKS:
        for prompt in (True, False):
            text = mine.chat(talk, add_generation_prompt=prompt)
            assert text == theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
            assert mine.encode(text, add_special=False) == theirs.apply_chat_template(talk, add_generation_prompt=prompt, return_dict=False)


def test_the_examples_in_the_docstrings_hold():
    """A worked example that no longer works."""
    result = doctest.testmod(tokenizer)
    assert result.attempted == 4 and result.failed == 0


if __name__ == "__main__":
    import tokenizers

    library = {form: tokenizers.Tokenizer.from_str(json.dumps(spec)) for form, spec in forms().items()}
    frozen = {form: [t.encode(text).ids for text in TRICKY] for form, t in library.items()}
    (HERE / "tokenizer_forms" / "frozen.json").write_text(json.dumps(frozen, separators=(",", ":")) + "\n", encoding="utf-8")
