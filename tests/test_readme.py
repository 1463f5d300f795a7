"""The README's commands and examples, taken from its text: quick ones are run, the flags of the
others are read by the programs' own parsers."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rewards
import train
import vimpo
from lib import settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ("python vimpo.py", "python rewards.py --gold")


def commands():
    """All commands of the README that start a program of the root, as lists of words."""
    found = []
    for line in re.findall(r"^    (.*)$", README, re.M) + re.findall(r"`([^`\n]+)`", README):
        line = line.rpartition("&& ")[2]
        line = re.sub(r"^torchrun [^.]*?(?=\w+\.py)", "python ", line)
        if line.startswith("python ") and not line.startswith("python -m"):
            found.append(shlex.split(line, comments=True))
    return found


def code(head):
    """The block of Python in the README whose first line begins so."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if b.startswith(head)]
    return block


def test_the_readme_has_commands_for_every_program():
    """A pattern that finds nothing, so that the tests below look at nothing."""
    programs = {words[1] for words in commands()}
    assert {"train.py", "eval.py", "rewards.py", "report.py", "bench.py", "vimpo.py"} <= programs
    assert len(commands()) > 15


def test_every_training_and_evaluation_of_the_readme_has_flags_that_are_accepted():
    """A flag that was renamed, a value that is out of range, a file that is left out."""
    seen = 0
    for _, program, *words in commands():
        words = [word for word in words if not word.startswith(("[", "."))]  # [DIR ...], ...
        words = ["1" if word == "N" else word for word in words]
        if program == "train.py" and "--help" not in words:
            assert train.parse_args(words).algo in vimpo.OBJECTIVES
            seen += 1
        elif program == "eval.py" and words:
            settings.eval_args(words)
            seen += 1
    assert seen > 8


@pytest.mark.parametrize("start", QUICK)
def test_quick_commands_of_the_readme_do_what_they_say(start):
    """A command that the reader types first and that fails."""
    chosen = [words for words in commands() if " ".join(words).startswith(start)]
    assert chosen
    for words in chosen:
        command = [sys.executable, *words[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert "verdict     1.0" in done.stdout or "L_V" in done.stdout


def test_the_rewards_of_the_readme_reward_what_they_say(tmp_path):
    """An example that was never run: the first thing that a user copies."""
    for name in ("exact", "countdown"):
        (tmp_path / f"{name}.py").write_text(code(f"# {name}.py"))
    grade = rewards.load_reward(f"{tmp_path}/exact.py:reward")
    problem = {"id": "1", "file": "f", "row": {"answer": "18"}}
    assert [grade(text, problem) for text in ("It is 18", "It is 17")] == [1.0, 0.0]
    grade = rewards.load_reward(f"{tmp_path}/countdown.py:reward")
    problem["row"] = {"numbers": [3, 5, 7], "target": 26}
    answers = ("3*7+5", "5+3*7", "3+5*7", "3*7", "26", "3*7+5-5")
    texts = [f"So <answer>{answer}</answer>" for answer in answers]
    assert [grade(text, problem) for text in texts] == [1.0, 1.0, 0.1, 0.1, 0.1, 0.1]
    assert grade("I don't know", problem) == 0.0


def test_the_numbers_of_lines_in_the_readme_are_those_of_the_files():
    """A reading order that says how long a file was a year ago."""
    found = dict(re.findall(r"^\| `(\w+)\.py` \| (\d+) \|", README, re.M))
    assert set(found) == {"vimpo", "train", "rollout", "model", "rewards", "eval"}
    for name, lines in found.items():
        assert len((ROOT / f"{name}.py").read_text().splitlines()) == int(lines), name


def test_the_tests_that_the_readme_names_exist():
    """A guard that is promised and was renamed or deleted."""
    named = set(re.findall(r"`(test_\w+)`", README))
    tests = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("tests/test_*.py"))
    assert len(named) > 6
    assert {name for name in named if f"def {name}(" not in tests} == set()
