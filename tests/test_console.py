"""lib/console.py: what a person at the command line gets to see, and which process says it."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import console
from lib.console import number

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    ("--steps", number(int, 1), None, "steps (default: 1)"),
    ("--prompts-per-step", number(int, 1), 96, "P"),
    ("--top-k", number(int, 0), 0, "0: all"),
    ("--weight-decay", number(float, 0), 0.0, "half of it is 50%"),
    ("--lr", number(float, above=0), 1e-6, "learning rate"),
    ("--kl", ("exact", "k3"), "exact", "estimator"),
    ("--data", [str], None, "files"),
    ("--eval-data", [str], [], "more files"),
    ("--resume", bool, False, "go on"),
]


@pytest.fixture
def parser():
    made = console.make_parser("train.py", "Trains.")
    console.add_flags(made, "settings", FLAGS)
    return made


class Clock:
    """A stand-in for time.monotonic that a test moves by hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


# --------------------------------------------------------------------------------------------------
# Errors, warnings, and who says them


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("d:2: no answer in it", "eval.py: d:2: no answer in it"),
        (ValueError("two\n  lines\n"), "eval.py: two lines"),
        (FileNotFoundError(2, "No such file", "d.jsonl"), "eval.py: d.jsonl: No such file"),
        (OSError("disk on fire"), "eval.py: disk on fire"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_an_exit_code(capsys, message, line):
    """Several lines of a library's message, "[Errno 2]", or an error that ends with code 0."""
    for code, more in ((2, {}), (1, {"code": 1})):
        with pytest.raises(SystemExit) as stopped:
            console.die("eval.py", message, **more)
        assert stopped.value.code == code
        assert capsys.readouterr() == ("", line + "\n")


def test_of_several_processes_the_first_speaks(capsys, monkeypatch):
    """The same error or the same progress once for every GPU; errors of other processes lost."""
    clock, slept = Clock(monkeypatch), []
    monkeypatch.setattr(time, "sleep", slept.append)
    for rank, words in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        show = console.progress("sampling")
        clock.now += 11
        console.say("said")
        console.warn("warned")
        show(1, 2)
        out, err = capsys.readouterr()
        assert out.count("said") == err.count("warned") == err.count("sampling") == words
        with pytest.raises(SystemExit):
            console.die("train.py", "wrong")
        assert capsys.readouterr().err == "train.py: wrong\n"
    assert slept == [5]  # process 1 alone waits, for process 0 to end them both


def test_a_warning_stands_out(capsys, monkeypatch):
    """A warning that drowns in the lines of progress around it."""
    monkeypatch.delenv("RANK", raising=False)
    console.warn("nothing to learn")
    assert capsys.readouterr() == ("", "\n!!! WARNING: nothing to learn\n\n")


def test_short_is_one_line_of_json_cut_to_length():
    """A response of 4,000 tokens, or one with line breaks, in the middle of a log."""
    assert console.short("1\n2") == '"1\\n2"'
    assert console.short(["é", None]) == '["é", null]'
    for size in (67, 68, 69, 10_000):
        text = console.short("x" * size)
        assert len(text) == min(size + 2, 70)
        assert text.endswith("..." if size > 68 else '"')
    assert console.short("x" * 99, most=10) == '"xxxxxx...'


# --------------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--lr 0", "argument --lr: found '0', wanted a number above 0"),
        ("--gamma 1", "unrecognized arguments: --gamma 1"),
        ("--top_k 5", "unrecognized arguments: --top_k 5: flags have dashes, no underscores"),
        ("--data", "argument --data: expected at least one argument"),
    ],
)
def test_a_wrong_flag_costs_one_line(parser, capsys, typed, line):
    """A screen of usage above the one line that says what is wrong."""
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(typed.split())
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"train.py: {line} (see train.py --help)\n")


def test_help_says_every_default(parser):
    """A default of 0 that is taken for none; a % in the help, on which argparse dies."""
    settings = parser.format_help().partition("settings:\n")[2]
    texts = [" ".join(part.split()) for part in settings.split("\n  --")]
    expected = [
        "--steps N steps (default: 1)",
        "prompts-per-step N P (default: 96)",
        "top-k N 0: all (default: 0)",
        "weight-decay X half of it is 50% (default: 0.0)",
        "lr X learning rate (default: 1e-06)",
        "kl {exact,k3} estimator (default: exact)",
        "data DATA [DATA ...] files",
        "eval-data DATA [DATA ...] more files",
        "resume go on",
    ]
    assert texts == expected


def test_flags_have_the_types_of_their_rows(parser):
    """Numbers left as text, or a default that differs from the one the table says."""
    defaults = vars(parser.parse_args([]))
    assert list(defaults.values()) == [row[2] for row in FLAGS]
    typed = "--steps 3 --lr 1e-3 --kl k3 --data a b --resume --weight-decay 1"
    given = parser.parse_args(typed.split())
    assert (given.steps, given.lr, given.kl) == (3, 1e-3, "k3")
    assert (given.data, given.resume) == (["a", "b"], True)
    assert type(given.weight_decay) is float


@pytest.mark.parametrize(
    ("parse", "good", "bad", "wanted"),
    [
        (number(int), "-3 0 12", "2.5 4k x 1e3", "a whole number"),
        (number(int, 1), "1 7", "0 -1", "a whole number at least 1"),
        (number(float, above=0), "1e-6 3", "0 -1 nan inf 1e-6,", "a number above 0"),
        (number(float, 0, below=1), "0 0.99", "1 -0.1", "a number at least 0 and below 1"),
        (number(float, above=0, most=1), "1 0.1", "0 70", "a number at most 1 and above 0"),
        (number(int, 0), "5", "9" * 400 + " " + "9" * 5000, "a whole number at least 0"),
    ],
)
def test_numbers_keep_their_bounds(parse, good, bad, wanted):
    """A bound that is off by its own value; NaN, which is neither above nor below anything."""
    for text in good.split():
        assert parse(text) == float(text)
    for text in bad.split():
        with pytest.raises(argparse.ArgumentTypeError) as error:
            parse(text)
        assert str(error.value) == f"found {text!r}, wanted {wanted}"


# --------------------------------------------------------------------------------------------------
# Progress


def test_progress_in_a_file_is_a_line_every_ten_seconds(capsys, monkeypatch):
    """A log of a million lines, or a rate over the last call instead of the whole phase."""
    clock = Clock(monkeypatch)
    show = console.progress("step 3: sampling")
    said = []
    for seconds, done in ((5, 40), (12, 100), (19, 150), (23, 200), (23.5, 1000)):
        clock.now = 100 + seconds
        show(done, 1000, tokens=100 * done)
        said.append(capsys.readouterr().err)
    assert said == [
        "",
        "  step 3: sampling 100/1000  833 tokens/s  1:48 to go\n",
        "",
        "  step 3: sampling 200/1000  870 tokens/s  1:32 to go\n",
        "",
    ]


def test_progress_promises_nothing_before_a_twentieth_is_done(capsys, monkeypatch):
    """The shortest samples end first: what is left would look short. And 0 of n has no rate."""
    clock = Clock(monkeypatch)
    show = console.progress("eval")
    for done in (0, 4, 5):
        clock.now += 10
        show(done, 100)
    assert capsys.readouterr().err == "  eval 0/100\n  eval 4/100\n  eval 5/100  9:30 to go\n"


def test_progress_on_a_terminal_rewrites_its_line_and_takes_it_away(capsys, monkeypatch):
    """A line of progress that stays in front of the next line of the log."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = console.progress("eval")
    for seconds, done in ((1, 5), (1.05, 6), (2, 10)):
        clock.now = 100 + seconds
        show(done, 10)
    assert capsys.readouterr().err == "\r\x1b[Keval 5/10  0:01 to go\r\x1b[K"


def test_progress_survives_a_clock_that_stands_still(capsys, monkeypatch):
    """Division by 0 where all is done within one tick of the clock."""
    Clock(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console.progress("eval")(8, 8, tokens=99)
    console.progress("eval")(0, 0, tokens=0)
    assert "eval" not in capsys.readouterr().err


def test_console_needs_no_torch():
    """Seconds of imports before a mistyped flag is answered."""
    program = "import sys, lib.console; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60)
    assert done.returncode == 0
