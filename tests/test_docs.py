"""The examples in the docstrings, and the README's claims that can be checked without running
anything."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "lib").glob("*.py"))]
MODULES = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES]
OTHERS = [*ROOT.glob("demo/*.py"), *ROOT.glob("experiments/*.py"), *ROOT.glob("tests/*.py")]
LESSON = {"vimpo", "train", "rollout", "model", "rewards", "eval"}
# Of torchrun, pytest and ruff, not ours
THEIRS = {"--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"}
THEIRS |= {"--shutdown-timeout", "--help", "--check"}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    """An example that no longer says what the code does."""
    failed, tried = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert failed == 0
    assert tried > 0 or name != "vimpo"


@pytest.mark.parametrize("name", MODULES)
def test_every_file_opens_with_what_it_is(name):
    """A file that leaves the reader to guess."""
    doc = importlib.import_module(name.removesuffix(".__init__")).__doc__ or ""
    assert len(doc.split()) > 30


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.name)
def test_commands_and_tests_open_with_what_they_are(file):
    """A test file of which nobody knows what it holds."""
    assert len((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split()) > 6


@pytest.mark.parametrize("file", [p for p in OTHERS if p.name.startswith("test_")],
                         ids=lambda file: file.name)  # fmt: skip
def test_every_test_says_which_bug_it_would_catch(file):
    """A test that fails, and nobody can tell whether it matters."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    silent = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)
              and node.name.startswith("test_") and not ast.get_docstring(node)]  # fmt: skip
    assert silent == []


@pytest.mark.parametrize("file", [p for p in FILES if p.stem in LESSON or p.parent.name == "lib"],
                         ids=lambda file: file.name)  # fmt: skip
def test_the_lesson_rests_on_lib_and_not_the_other_way_round(file):
    """A part that is to be looked up on its own, and that drags the whole lesson in."""
    found, inside = set(), file.parent.name == "lib"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module)
    root = {p.stem for p in ROOT.glob("*.py")}
    assert not inside or not root & {name.split(".")[0] for name in found}


def test_the_walk_through_prints_a_page_on_which_the_right_curve_rises_and_the_wrong_one_falls():
    """Numbers that no longer fit on a screen, or that show the opposite of what is said."""
    command = [sys.executable, "vimpo.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert 20 < len(lines) < 60 and max(map(len, lines)) < 140
    before, after = [
        [float(x) for x in re.findall(r"[+-]\d\.\d\d", line)] for line in lines if line[:3] == "V_t"
    ]
    assert after[3] > before[3] > 0.5 > before[7] > after[7]
    losses = re.findall(r"L_V +(\d\.\d+) -> (\d\.\d+)", lines[-1])
    assert float(losses[0][1]) < float(losses[0][0])


def test_readme_names_every_file_and_flag_that_exists_and_none_that_does_not():
    """A map that is older than the land."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in FILES:
        assert file.name in readme or file.parent.name == "lib", file.name
    folders = (ROOT, ROOT / "lib", ROOT / "demo", ROOT / "experiments", ROOT / "tests")
    for name in re.findall(r"`([a-z_/]+\.py)`", readme):
        assert any((folder / name).is_file() for folder in folders), name
    sources = [*FILES, *OTHERS]
    code = "".join(file.read_text(encoding="utf-8") for file in sources)
    known = set(re.findall(r'"(--[a-z-]+)"', code)) | THEIRS
    for flag in re.findall(r"(--[a-z][a-z-]+)", readme):
        assert flag in known, flag


def test_pages_of_reference_name_no_file_and_flag_that_does_not_exist():
    """A page that is older than the code."""
    code = "".join(file.read_text(encoding="utf-8") for file in [*FILES, *OTHERS])
    known = set(re.findall(r'"(--[a-z-]+)"', code)) | THEIRS
    for page in ROOT.glob("docs/*.md"):
        text = page.read_text(encoding="utf-8")
        for flag in re.findall(r"(--[a-z][a-z-]+)", text):
            assert flag in known, f"{page.name}: {flag}"
        for name in re.findall(r"`((?:[a-z]+/)?[a-z_]+\.py)`", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
