r"""What is extracted, the reward functions of --reward, the command line, and the shared data.

pytest tests/test_rewards.py
"""

import doctest
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

import rewards
from lib import equivalence, latex

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# ------------------------------------------------------------------------------------- extraction
RESPONSES = [
    (r"So \boxed{18}.", "18", "a box"),
    (r"So \boxed {18}.", "18", "a space before the brace"),
    ("So \\boxed\n{18}.", "18", "a line break before the brace"),
    (r"So \fbox{18}.", "18", "a framed box"),
    ("\\boxed{\n18\n}", "18", "line breaks inside"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "nested braces"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}", "escaped braces do not nest"),
    (r"\boxed{\left\{1\right.}", r"\left\{1\right.", "a lone escaped brace"),
    (r"\boxed{17} and then \boxed{18}", "18", "the last box counts"),
    (r"\boxed{18} but \boxed{17}", "17", "the last box counts, right or wrong"),
    (r"\boxed{18} and \boxed{}", "18", "an empty box is none"),
    (r"\boxed{18} and \boxed{ }", "18", "a blank box is none"),
    (r"\boxed{18} and \boxed{19", "18", "an unfinished box is none"),
    (r"\boxed{\boxed{18}}", r"\boxed{18}", "a box in a box: the outer one closes last"),
    (r"\boxed{17 \boxed{18}}", r"17 \boxed{18}", "the inner box does not hide what is beside it"),
    (r"\\boxed{18}", None, "a line break and the word boxed"),
    (r"\\\boxed{18}", "18", "a line break and a box"),
    (r"\boxed\{18\} \boxed{17}", "17", "escaped braces make no box"),
    (r"\boxed 18", None, "no brace, no box"),
    (r"<think>\boxed{17}</think> \boxed{18}", "18", "after the thought"),
    (r"<think>\boxed{18}</think> I am not sure.", None, "only in the thought"),
    (r"\boxed{17}</think>\boxed{18}", "18", "the opening tag may stand in the prompt"),
    (r"a</think>\boxed{17}</think>\boxed{18}", "18", "the last closing tag counts"),
    (r"<think>\boxed{18}", None, "an unfinished thought"),
    (r"\boxed{18}<think>hmm", "18", "a thought after the answer"),
    ("16 - 3 - 4 = 9\n#### 18", "18", "GSM8K"),
    ("#### 17\n#### 18\n", "18", "the last line counts"),
    ("####18 dollars\nbye", "18 dollars", "the rest of the line"),
    ("\\boxed{17}\n#### 18", "17", "a box goes first"),
    ("####\n", None, "nothing after the mark"),
    ("The answer is 18.", "18", "a sentence"),
    ("the final answer is: 18", "18", "a colon"),
    ("The answer is 3.5.\nThank you.", "3.5", "a point in a number does not end the sentence"),
    ("The answer is **18**.", "18", "bold"),
    ("The answer is $\\frac{1}{2}$. It is.", "$\\frac{1}{2}$", "the sentence ends at a full stop"),
    ("The answer is 17. No, the answer is 18.", "18", "the last sentence counts"),
    ("The answer is \\boxed{18", "\\boxed{18", "an unfinished box is not repaired"),
    ("<answer> 18 </answer>", "18", "a template of R1's kind"),
    ("<answer>17</answer> <answer>18</answer>", "18", "the last tag counts"),
    (r"<answer>So \boxed{18}.</answer>", "18", "a box in the tag"),
    ("<answer>The answer is 18.</answer>", "18", "a sentence in the tag"),
    (r"\boxed{17} <answer>18</answer>", "18", "the tag is the final format where it is used"),
    (r"\boxed{18} <answer> </answer>", "18", "an empty tag is none"),
    ("<answer>18", None, "a tag that is not closed"),
    ("18</answer>", None, "a tag that is not opened"),
    ("<think><answer>17</answer></think> So.", None, "a tag in the thought"),
    ("It is so.\nAnswer: 18", "18", "DAPO's prompt asks for this line"),
    ("Answer: $\\frac{1}{2}$.", "$\\frac{1}{2}$", "the full stop ends the sentence"),
    ("**Answer:** 18", "18", "bold"),
    ("**Final Answer:** $18$", "$18$", "bold, final"),
    ("### Final answer: 18", "18", "a heading that answers"),
    ("ANSWER: 18", "18", "capitals"),
    ("Answer:\n\\[\n18\n\\]", "18", "on its own line"),
    ("Answer: 17\nAnswer: 18", "18", "the last line counts"),
    ("So the answer: 18", None, "only where it begins a line"),
    ("Answer:", None, "nothing after it"),
    ("Answers: 18", None, "another word"),
    (r"\boxed{18} \boxed{}" + "\nAnswer: 17", "18", "a box goes first"),
    ("#### Step 2", None, "a heading"),
    ("#### **Step 2**", None, "a bold heading"),
    ("#### 2. Solve the equation", None, "a numbered heading"),
    ("#### Step 2\nThe answer is 18.", "18", "a heading does not beat a later answer"),
    ("#### 18\n#### Check", "18", "a heading does not hide the answer"),
    ("#### 17\nThe answer is 18.", "18", "of these marks the last one counts"),
    ("The answer is 17.\n#### 18", "18", "of these marks the last one counts"),
    ("Final Answer: The final answer is $18$. I hope it is correct.", "$18$", "Minerva's prompt"),
    ("The answer is 18, because 9 * 2 = 18.", "18", "the reason is no answer"),
    ("The answer is indeed 18.", "18", "a filler"),
    ("So the answer equals 18.", "18", "another verb"),
    ("The answer is 18 (nine eggs at two dollars each).", "18", "a remark"),
    ("The answer is 18 (or 19).", "18 (or 19)", "a hedge stays, to be refused"),
    ("The answer is not 18.", "not 18", "a denial stays, to be refused"),
    ("The answers are 17 and 18.", None, "another phrase"),
    ("16 - 3 - 4 = 9, 9 * 2 = 18", None, "a number that is only mentioned"),
    ("", None, "nothing"),
]


@pytest.mark.parametrize(("response", "answer", "why"), RESPONSES)
def test_extraction(response, answer, why):
    """The wrong one of several answers is graded, or text that is no answer is graded."""
    assert rewards.extract_answer(response) == answer, why


def test_an_unfinished_box_scores_nothing():
    """A response cut off inside its box is rewarded for what it might have become."""
    assert rewards.score(r"The answer is \boxed{18", "18") == 0.0
    assert rewards.score(r"The answer is \boxed{18}", "18") == 1.0


def test_score_never_raises_whatever_it_is_given():
    """A reward function that raises ends the training run."""
    pairs = [(None, "18"), ("18", None), (18, 18), (b"\\boxed{18}", "18"), (["18"], {})]
    pairs += [("\\boxed{18}", 18), ("\\boxed{1}", ""), ("\\boxed{18}", ["18"])]
    for response, gold in pairs:
        assert rewards.score(response, gold) == 0.0


def test_importing_loads_neither_sympy_nor_torch():
    """A heavy import at first use would make the first verdict of every process take a second."""
    code = r"import sys, rewards; rewards.score(r'\boxed{\sqrt{8}}', r'2\sqrt{2}'); "
    code += "print(sorted({'sympy', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_source_evaluates_no_text():
    """Model output reaches eval, exec, a pickle or a shell."""
    bad = ("eval(", "exec(", "pickle", "subprocess", "sympify", "parse_expr", "os.system")
    for module in (rewards, equivalence, latex):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert not [word for word in bad if word in source]


# ------------------------------------------------------------------------------- reward functions
PROBLEM = {"id": "p7", "answer": "18", "file": "train.jsonl"}
PROBLEM["row"] = {"id": "p7", "answer": "18", "numbers": [1, 2]}
USER_FILE = """\
import helper

def exact(response, problem):
    return response.strip() == problem["answer"]

def share(response, problem):
    return helper.half() * len(problem["numbers"]) / 2

def broken(response, problem):
    return problem["no such key"]

def deep(response, problem):
    return helper.fail()

def two(response, problem):
    return 2

def nan(response, problem):
    return float("nan")

def nothing(response, problem):
    pass

class Grader:
    def __call__(self, response, problem):
        return 1

grader = Grader()
number = 3
"""


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    (tmp_path / "helper.py").write_text("def half():\n    return 0.5\n\ndef fail():\n    1 / 0\n")
    yield path
    sys.modules.pop("helper", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def test_reward_math_is_score():
    """The default reward is not the verifier."""
    grade = rewards.load_reward("math")
    assert grade(r"\boxed{18}", PROBLEM) == 1.0 and grade(r"\boxed{17}", PROBLEM) == 0.0


def test_a_reward_of_ones_own_gets_the_response_and_the_whole_row(user_file):
    """Other keys of the JSONL row do not reach the function, or its result is not a float."""
    exact = rewards.load_reward(f"{user_file}:exact")
    assert exact(" 18 ", PROBLEM) == 1.0 and exact("17", PROBLEM) == 0.0
    assert type(exact("18", PROBLEM)) is float
    assert rewards.load_reward(f"{user_file}:share")("", PROBLEM) == 0.5
    assert rewards.load_reward(f"{user_file}:grader")("", PROBLEM) == 1.0
    assert not [name for name in sys.modules if name.startswith("mine")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["mine.py:10", "KeyError", "no such key"]),
        ("deep", ["mine.py:13", "ZeroDivisionError"]),
        ("two", ["mine.py", "returned 2", "from 0 to 1"]),
        ("nan", ["mine.py", "returned nan", "from 0 to 1"]),
        ("nothing", ["mine.py", "returned None", "from 0 to 1"]),
    ],
)
def test_a_fault_of_ones_own_reward_is_one_line_that_says_where(user_file, name, words):
    """A bug in a reward function ends a run with a stack trace of the trainer, or trains on NaN."""
    spec = f"{user_file}:{name}"
    with pytest.raises(ValueError) as raised:
        rewards.load_reward(spec)("x\ny", PROBLEM)
    message = str(raised.value)
    assert "\n" not in message
    for word in [f"--reward {spec}", "p7", "train.jsonl", *words]:
        assert word in message


def test_a_wrong_reward_flag_is_one_line(user_file, tmp_path):
    """A misspelt --reward is found after the first rollout, or in a stack trace."""
    (tmp_path / "raises.py").write_text("x = 1\nraise KeyError('a\\nb')\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "syntax.py").write_text("x = 1\nx = = 2\n")
    wrong = {
        "maths": "FILE.py:function",
        f"{user_file}": "FILE.py:function",
        f"{user_file}:": "FILE.py:function",
        f"{tmp_path}/mine.txt:exact": "FILE.py:function",
        f"{tmp_path}/other.py:exact": "no file",
        f"{user_file}:inexact": "inexact is not in it",
        f"{user_file}:number": "number is no function",
        f"{tmp_path}/raises.py:f": "raises.py:2: KeyError",
        f"{tmp_path}/exits.py:f": "exits.py:2: SystemExit",
        f"{tmp_path}/syntax.py:f": "syntax.py:2: SyntaxError",
    }
    for spec, words in wrong.items():
        with pytest.raises(ValueError) as raised:
            rewards.load_reward(spec)
        message = str(raised.value)
        assert message.startswith(f"--reward {spec}: ") and words in message
        assert "\n" not in message


# ----------------------------------------------------------------------------------- command line
def run(*arguments):
    return subprocess.run(
        [sys.executable, "rewards.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_doctests():
    """The examples in the docstrings are what the functions do."""
    assert doctest.testmod(rewards).failed == 0


def test_command_line_explains_each_step(capsys):
    """The explanation leaves out a step, or its verdict is not that of score."""
    assert rewards.main(["--gold", r"\frac{1}{2}", "--response", r"So \boxed{0.5}."]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = ["extracted", "normalised", "spelled", "compared", "verdict"]
    assert [line.split()[0] for line in lines] == steps
    assert "0.5" in lines[0] and "last box" in lines[0]
    assert "rational arithmetic" in lines[3] and lines[4].split()[1] == "1.0"
    assert rewards.main(["--gold", "18", "--response", r"\boxed{9^{9^{9^9}}}"]) == 0
    out = capsys.readouterr().out
    assert "refused" in out and "bits" in out and "0.0" in out
    assert rewards.main(["--gold", "18", "--response", "It is 18"]) == 0
    assert "None" in capsys.readouterr().out


def test_command_line_grades_a_file(tmp_path, capsys):
    """Agreement by kind is counted wrongly: a false accept hides among the rejects."""
    pairs = [("18", "18", True, "a"), ("18", "17", False, "a")]
    pairs += [("18", "18", False, "b"), ("18", "17", True, "b"), ("18", "17", True, "c-debatable")]
    lines = []
    for gold, answer, expected, kind in pairs:
        pair = {"gold": gold, "response": f"\\boxed{{{answer}}}", "expected": expected}
        lines.append(json.dumps(pair | {"kind": kind}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    assert rewards.main(["--data", str(tmp_path / "pairs.jsonl")]) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert table["a"] == ["2", "2", "0", "0"] and table["b"] == ["2", "0", "1", "1"]
    assert table["undisputed"] == ["4", "2", "1", "1"]
    assert table["debatable"] == ["1", "0", "0", "1"]
    assert "median" in table["time"]


NOT_BOOL = '{"gold": "1", "response": "1", "expected": "yes"}\n'


@pytest.mark.parametrize("content", ["", "no json\n", "[]\n", '{"gold": 1}\n', NOT_BOOL, None])
def test_command_line_refuses_a_bad_file_in_one_line(tmp_path, content):
    """A bad file ends in a traceback, or in a table of nothing."""
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    done = run("--data", str(path))
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "bad.jsonl" in done.stderr


FORMS = [(), ("--gold", "1"), ("--response", "1"), ("--data", "x", "--gold", "1")]


@pytest.mark.parametrize("arguments", FORMS)
def test_command_line_wants_one_of_its_two_forms(arguments):
    """Half of a form is silently ignored."""
    with pytest.raises(SystemExit) as stopped:
        rewards.main(list(arguments))
    assert stopped.value.code == 2


# ------------------------------------------------------------------------------------ shared data
def rows(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("no shared data here")
    return [json.loads(line) for line in path.open(encoding="utf-8")]  # texts hold U+2028


def test_graded_pairs():
    """Fewer than 99% of the undisputed pairs or 90% of the debatable ones are right, or one wrong
    answer is rewarded."""
    pairs = rows("grader_pairs.jsonl")
    verdicts = [rewards.score(p["response"], p["gold"]) == 1.0 for p in pairs]
    graded = list(zip(pairs, verdicts, strict=True))
    assert not [(p["gold"], p["response"]) for p, yes in graded if yes and not p["expected"]]
    for debatable, share in ((False, 0.99), (True, 0.9)):
        right = []
        for p, accepted in graded:
            if p["kind"].endswith("-debatable") == debatable:
                right.append(accepted == p["expected"])
        assert sum(right) >= share * len(right)


SETS = ["gsm8k_train", "gsm8k_test", "math_train", "math500", "aime24", "aime25", "amc23"]


@pytest.mark.parametrize("name", [*SETS, "olympiadbench"])
def test_every_gold_accepts_itself_and_every_solution_its_answer(name):
    """An answer in the data can never be won, or its reference solution is graded wrong."""
    problems = rows(name + ".jsonl")
    for p in problems:
        assert rewards.score(f"\\boxed{{{p['answer']}}}", p["answer"]) == 1.0, p["id"]
    solved = [rewards.score(p["solution"], p["answer"]) for p in problems if "solution" in p]
    assert sum(solved) >= 0.998 * len(solved)


def test_different_golds_are_different():
    """Two answers of the data that mean different things are taken for the same. The oracle: their
    floats, where they have one."""
    problems = rows("math500.jsonl") + rows("olympiadbench.jsonl")
    golds = sorted({p["answer"] for p in problems})
    rng, numbers = random.Random(7), {}
    for gold in golds:
        try:
            numbers[gold] = float(gold)
        except ValueError:
            continue
    for _ in range(3000):
        a, b = rng.choice(golds), rng.choice(golds)
        if equivalence.is_equivalent(a, b) and a in numbers and b in numbers:
            assert math.isclose(numbers[a], numbers[b], rel_tol=1e-12), (a, b)
