"""lib/data.py: from lines of JSONL to prompts and answers, and to the order they come in."""

import json
from pathlib import Path

import pytest

from lib import data

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
CHAT = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1="}]
REPLY = {"role": "assistant", "content": "It is \\boxed{2}."}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load(row, ...): what load_problems makes of a file "d" with these rows or lines."""
    monkeypatch.chdir(tmp_path)

    def load(*rows, **more):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        Path("d").write_text("\n".join(lines) + "\n\n")
        return data.load_problems(["d"], **more)

    return load


def refused(load, *rows, **more):
    """The error that a file of these rows gets."""
    with pytest.raises(ValueError) as error:
        load(*rows, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


class Words:
    """A stand-in for a tokenizer: one id a word."""

    has_chat_template = True
    chat_template = "the template"

    def encode(self, text, add_special=True):
        return ([0] if add_special else []) + [len(w) for w in text.split()]

    def chat(self, messages):
        if messages[0]["role"] == "tool":
            raise ValueError("c.json: chat template: no tools")
        return "".join(f"<{m['role']}> {m['content']} " for m in messages) + "<assistant>"


# --------------------------------------------------------------------------------------------------
# Forms of a problem


def test_every_promised_form_of_a_problem_is_read(load):
    """An export of a common trainer, or GSM8K's own file, that has to be converted by hand."""
    rows = [
        {"problem": "1+1", "answer": "2", "extra": [1]},
        {"question": "1+1", "answer": "One and one.\n#### 1, no:\n#### 2"},
        {"problem": "1+1", "answer": 2},
        {"prompt": "1+1", "answer": "2"},
        {"prompt": [{"role": "user", "content": "1+1"}], "answer": "2"},
        {"prompt": "1+1", "reward_model": {"ground_truth": "2", "style": "rule"}},
        {"problem": "1+1", "solution": "So $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"},
        {"messages": [{"role": "user", "content": "1+1"}], "answer": "2"},
    ]
    problems = load(*rows)
    assert [p["answer"] for p in problems] == ["2"] * 8
    assert [p["bare"] for p in problems] == [True, True, True, False, False, False, True, False]
    chats = [[{"role": "user", "content": "1+1"}], "1+1"]
    assert all(p["ask"] in chats for p in problems)
    assert [type(p["ask"]) for p in problems] == [str] * 4 + [list] + [str] * 2 + [list]
    assert [p["row"] for p in problems] == rows
    assert [p["file"] for p in problems] == ["d"] * 8
    assert [p["id"] for p in problems] == [f"d:{i}" for i in range(1, 9)]


EXPORTS = {
    "verl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": CHAT,
            "ability": "math",
            "reward_model": {"ground_truth": "2", "style": "rule"},
            "extra_info": {"answer": "1+1 is 2\n#### 2", "index": 0, "question": "1+1="},
        },
        {"ask": CHAT, "bare": False, "answer": "2"},
    ),
    "TRL, GSM8K's answer beside a prompt": (
        {"prompt": CHAT, "answer": "One and one.\n#### 1,002"},
        {"ask": CHAT, "bare": False, "answer": "1,002"},
    ),
    "fine-tuning, with the reference response last": (
        {"messages": [*CHAT, REPLY], "answer": "2"},
        {"ask": CHAT, "bare": False, "answer": "2"},
    ),
    "several turns": (
        {"messages": [*CHAT, REPLY, CHAT[1], REPLY], "answer": 2.5},
        {"ask": [*CHAT, REPLY, CHAT[1]], "bare": False, "answer": "2.5"},
    ),
    "NuminaMath": (
        {"source": "cn_k12", "problem": "1+1=", "solution": REPLY["content"], "messages": [REPLY]},
        {"ask": "1+1=", "bare": True, "answer": "2"},
    ),
    "MATH-500": (
        {"problem": "1+1=", "solution": "So $\\boxed{3}$", "answer": "2", "unique_id": "test/1"},
        {"ask": "1+1=", "bare": True, "answer": "2"},
    ),
    "joined tables, whose empty columns are null": (
        {"id": None, "problem": None, "prompt": "1+1=", "answer": None, "reward_model": None}
        | {"solution": REPLY["content"]},
        {"ask": "1+1=", "bare": False, "answer": "2"},
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_common_trainers_and_sets_are_read_as_they_are(load, name):
    """A row that is refused, or read wrongly, because of other keys or nulls in it."""
    row, expected = EXPORTS[name]
    assert load(row) == [{"id": "d:1", **expected, "file": "d", "row": row}]


def test_an_id_is_text_and_the_line_where_there_is_none(load):
    """Rollouts that all say "None", or ids of two types in one log."""
    row = {"problem": "1+1=", "answer": "2"}
    ids = [p["id"] for p in load(row | {"id": "a"}, row | {"id": 0}, row | {"id": None}, row)]
    assert ids == ["a", "0", "d:3", "d:4"]


def test_a_reward_function_of_ones_own_needs_no_answer(load):
    """Games without one right answer, refused; or such a line let through to the verifier."""
    truth = {"ground_truth": {"numbers": [1, 1], "target": 2}}
    rows = [
        {"problem": "p"},
        {"problem": "p", "answer": None},
        {"problem": "p", "answer": ["2", "two"]},
        {"problem": "p", "solution": "no box"},
        {"prompt": CHAT, "reward_model": truth},
    ]
    problems = load(*rows, {"problem": "p", "answer": "#### 2"}, need_answer=False)
    assert [p["answer"] for p in problems] == [None] * 5 + ["2"]
    assert [p["row"] for p in problems[:5]] == rows
    for row in rows:
        assert refused(load, row).startswith("d:1: ")
    assert refused(load, {"answer": "2"}, need_answer=False).startswith("d:1: no problem in it")


# --------------------------------------------------------------------------------------------------
# The answer is the last box of the solution


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First $\boxed{1}$, then $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"So \boxed {2}, and not \fbox{ 3 }.", "3"),
        (r"\fbox{2} \boxed{3}", "3"),
        (r"It is $\boxed 5$.", "5"),
        (r"It is \(\boxed -5\) and no more.", "-5"),
        (r"It is \boxed 5.", "5"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"$\boxed{\left\{ 1, 2 \right.}$ {", r"\left\{ 1, 2 \right."),
        (r"\[\boxed{\{1, 2\}}\]", r"\{1, 2\}"),
        ("\\boxed{\n1 +\n1}", "1 +\n1"),
        (r"\setlength{\fboxsep}{3pt} \boxed{7}, not \boxedwidth{8}", "7"),
        (r"\boxed{\boxed{4}}", "4"),
    ],
)
def test_the_answer_of_a_solution_is_its_last_box(load, solution, answer):
    """The first box, which many solutions have in a step; a box cut at its first brace."""
    (problem,) = load({"problem": "p", "solution": solution})
    assert problem["answer"] == answer


@pytest.mark.parametrize(
    "solution",
    [
        "It is 2.",
        "",
        r"\boxedwidth{8}",
        r"\boxed",
        r"\boxed{1}, no, \boxed{2",
        r"$\boxed\text{a b}$",
    ],
)
def test_a_solution_without_a_whole_box_is_refused(load, solution):
    """An answer taken from the middle of a solution that was cut off; an hour of rewards of 0."""
    said = refused(load, {"problem": "p", "answer": "2"}, {"problem": "p", "solution": solution})
    found = 'd:2: no answer in it, only the keys ["problem", "solution"]; '
    wanted = '"answer", "reward_model" with "ground_truth", or "solution" with \\boxed{...}'
    assert said == f"{found}wanted {wanted}"


def test_an_empty_box_is_refused(load):
    """A right answer that nothing equals. Two solutions of MATH's training set have such a box."""
    said = refused(load, {"problem": "p", "solution": r"\boxed{1} \boxed{ }"})
    assert said == 'd:1: the last box of "solution" is empty; wanted the right answer'


# --------------------------------------------------------------------------------------------------
# Lines that are refused (what a whole command line says of wrong files: test_wrong_inputs.py)

TEXT = "wanted text, or a list of messages with role and content, both text"
ANSWER = '"answer", "reward_model" with "ground_truth", or "solution" with \\boxed{...}'


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"prompt": [*CHAT, REPLY], "answer": "2"},
            '"prompt" ends with a message of the assistant; '
            "wanted messages that the assistant is to answer",
        ),
        (
            {"messages": [REPLY], "answer": "2"},
            '"messages" is [{"role": "assistant", "content": "It is \\\\boxed{2}."}]; ' + TEXT,
        ),
        ({"messages": "1+1=", "reward_model": "2"}, "no answer in it, only the keys ["),
        (
            {"messages": [*CHAT, REPLY]},
            'no answer in it, only the keys ["messages"]; wanted ' + ANSWER,
        ),
        (
            {"conversations": CHAT, "answer": "2"},
            'no problem in it, only the keys ["conversations", "answer"]; '
            'wanted "problem", "question", "prompt" or "messages"',
        ),
        (
            {"prompt": "p", "reward_model": {"ground_truth": ["2"]}},
            '"reward_model.ground_truth" is ["2"]; wanted text or a number',
        ),
        (
            {"prompt": "p", "answer": None, "solution": "2"},
            '"answer" is null; wanted text or a number',
        ),
        ({"problem": "p", "answer": True}, '"answer" is true; wanted text or a number'),
        ({"problem": "p", "answer": float("nan")}, '"answer" is NaN; wanted text or a number'),
        ({"problem": "p", "answer": -float("inf")}, '"answer" is -Infinity; wanted text or a'),
        ({"problem": "p", "answer": "2\ud83d"}, "holds \\ud83d, half of a character; wanted whole"),
    ],
)
def test_a_line_that_can_not_be_used_is_named(load, row, says):
    """A message that names no line or key; a reference response that the model is shown."""
    said = refused(load, {"problem": "p", "answer": "2"}, row)
    assert said.startswith(f"d:2: {says}")


def test_half_a_character_in_a_key_of_no_use_is_no_reason_to_refuse(load):
    """A file of a million good problems refused for a scraped comment beside one of them."""
    assert load({"problem": "p", "answer": "2", "comment": "\ud83d"})[0]["answer"] == "2"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_over_several_lines_are_named_for_what_they_are(tmp_path, end):
    """JSON written by a JSON library, called invalid JSON."""
    for text, name in (("[\n{}]", "array"), ('{\n"problem": 1}', "object")):
        (tmp_path / "d").write_bytes(text.replace("\n", end).encode())
        with pytest.raises(ValueError, match=f"d:1: found a JSON {name} over several lines; "):
            data.load_problems([tmp_path / "d"])


# --------------------------------------------------------------------------------------------------
# Real files


def rows_of(name):
    """The file of a known set, and its rows. (splitlines would cut at U+2028 too, within text.)"""
    file = SHARED / f"{name}.jsonl"
    if not file.exists():
        pytest.skip("the data sets are not here")
    return file, [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("name", ["gsm8k_train", "gsm8k_test", "math_train", "math500", "aime24",
                                  "aime25", "amc23", "olympiadbench"])  # fmt: skip
def test_real_files_are_read_whole(name):
    """A problem that is left out, or an answer that is changed, in the files of known sets."""
    file, rows = rows_of(name)
    problems = data.load_problems([file])
    assert [p["row"] for p in problems] == rows
    assert [p["answer"] for p in problems] == [row["answer"].strip() for row in rows]
    assert all(p["bare"] for p in problems) and len({p["id"] for p in problems}) == len(rows)


def test_maths_own_files_give_the_answers_that_others_took_from_them(tmp_path):
    """A box read wrongly, in one of 12,000 solutions as people write them."""
    _, rows = rows_of("math_train")
    own = [row for row in rows if "\\boxed{}" not in row["solution"]]  # two have lost their answer
    lines = [json.dumps({key: row[key] for key in ("problem", "solution")}) for row in own]
    (tmp_path / "d").write_text("\n".join(lines))
    problems = data.load_problems([tmp_path / "d"])
    found = [(p["answer"], row["answer"].strip()) for p, row in zip(problems, own, strict=True)]
    assert len(found) > 11_900
    assert [pair for pair in found if pair[0] != pair[1]] == [("\\frac{1}{3}", "\\frac13")]


def test_the_demo_is_read():
    """The shipped problems, which the first command trains on."""
    problems = data.load_problems([ROOT / "demo/train.jsonl", ROOT / "demo/test.jsonl"])
    assert {Path(p["file"]).name for p in problems} == {"train.jsonl", "test.jsonl"}
    assert all(p["bare"] and p["answer"] for p in problems)


# --------------------------------------------------------------------------------------------------
# Prompts, their order and digests


def test_prompts_follow_the_template(tmp_path):
    """An instruction added to a prompt that is whole, a second BOS, or a prompt cut at its end."""
    bare, whole = {"ask": "a bb", "bare": True}, {"ask": "a bb", "bare": False}
    instructed = len(data.INSTRUCTION.split())
    assert len(data.prompt_ids(bare, Words(), "chat", 99)) == 1 + 2 + instructed + 1
    assert data.prompt_ids(whole, Words(), "chat", 99) == [6, 1, 2, 11]
    assert data.prompt_ids(whole, Words(), "chat", 2) == [2, 11]
    assert data.prompt_ids(bare, Words(), "plain", 99) == [0, 1, 2]
    (tmp_path / "t.txt").write_text("ask: {problem} end")
    template = data.choose_template(str(tmp_path / "t.txt"), Words(), [])
    assert data.prompt_ids(bare, Words(), template, 99) == [0, 4, 1, 2, 3]


def test_the_reference_response_of_a_conversation_is_not_in_the_prompt(load):
    """A model that is trained to repeat the answer it has just read."""
    with_reply, without = load(
        {"messages": [*CHAT, REPLY, REPLY], "answer": "2"}, {"messages": CHAT, "answer": "2"}
    )
    for template in ("chat", "plain", "read: {problem}"):
        prompts = [data.prompt_ids(p, Words(), template, 99) for p in (with_reply, without)]
        assert prompts[0] == prompts[1]
    assert with_reply["row"]["messages"][-1] == REPLY


def test_the_template_is_tried_on_every_sequence_of_roles(load):
    """A template that refuses some messages, found out after hours."""
    problems = load(
        {"problem": "p", "answer": "2"},
        {"prompt": CHAT, "answer": "2"},
        {"prompt": [{"role": "tool", "content": "p"}], "answer": "2"},
    )
    assert data.choose_template(None, Words(), problems[:2]) == "chat"
    with pytest.raises(ValueError) as error:
        data.choose_template(None, Words(), problems)
    found = "c.json: chat template: no tools (for problem d:3 of d)"
    assert str(error.value) == f"{found}; wanted messages and a template that agree"


def test_the_order_is_a_new_shuffle_each_epoch_and_the_same_in_pieces():
    """Problems left out, or an order that depends on how many steps were taken at a time."""
    whole = data.problem_order(10, 3, 0, 40)
    assert all(sorted(whole[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
    assert whole[:10] != whole[10:20]
    assert [p for i in range(0, 35, 7) for p in data.problem_order(10, 3, i, 7)] == whole[:35]


def test_digests_change_with_what_makes_the_prompts(load, tmp_path, monkeypatch):
    """--resume that goes on with an edited template file, chat template or problem."""
    tokenizer, other, file = Words(), Words(), tmp_path / "t.txt"
    other.chat_template = "the template "
    templates = [("chat", tokenizer), ("chat", other), ("plain", tokenizer)]
    for text in ("{problem}", "{problem}\n"):
        file.write_text(text)
        templates.append((data.choose_template(str(file), tokenizer, []), tokenizer))
    digests = [data.template_digest(*each) for each in templates]
    assert len(set(digests)) == 5 and all(len(digest) == 64 for digest in digests)
    # What a plain prompt is does not depend on the chat template, nor a chat one on the object.
    assert data.template_digest("plain", other) == digests[2]
    assert data.template_digest("chat", Words()) == digests[0]
    monkeypatch.setattr(data, "INSTRUCTION", "Be brief.")
    assert data.template_digest("chat", tokenizer) != digests[0]

    row = {"problem": "p", "answer": "2"}
    rows = [[row, row | {"hint": 1}], [row | {"hint": 1}, row], [row], [row | {"answer": "3"}]]
    assert len({data.problems_digest(load(*some)) for some in rows}) == 4
    assert data.problems_digest(load(row)) == data.problems_digest(load(row))
