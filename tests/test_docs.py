"""The examples in the docstrings, and the README's claims that can be checked without running anything."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in ROOT.glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    """An example that no longer says what the code does."""
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert tried > 0 or name != "vimpo"


@pytest.mark.parametrize("name", MODULES)
def test_every_file_opens_with_what_it_is(name):
    """A file that leaves the reader to guess."""
    assert len((importlib.import_module(name).__doc__ or "").split()) > 30


def test_readme_names_every_file_and_flag_that_exists_and_none_that_does_not():
    """A map that is older than the land."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in MODULES:
        assert f"{name}.py" in readme
    for name in re.findall(r"`([a-z_]+\.py)`", readme):
        assert (ROOT / name).is_file() or (ROOT / "demo" / name).is_file(), name
    code = "".join((ROOT / f"{m}.py").read_text(encoding="utf-8") for m in MODULES)
    torchrun = {"--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port", "--shutdown-timeout"}
    known = set(re.findall(r'"(--[a-z-]+)"', code)) | torchrun | {"--help"}
    for flag in re.findall(r"(--[a-z][a-z-]+)", readme):
        assert flag in known, flag
