"""lib/run_folder.py, and train.py where it meets it: which folder a run gets, what is refused on
--resume, and runs that go on as if they had never stopped."""

import contextlib
import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import train
from lib import run_folder

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
MODEL = ["--model", str(DEMO / "model")]
PROBLEMS = ["--data", str(DEMO / "train.jsonl")]
FAST = ["--prompts-per-step", "4", "--samples-per-prompt", "4", "--max-new-tokens", "40"]
FAST += ["--lr", "1e-3"]
LEAST = ["--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "2"]
LEAST += ["--max-new-tokens", "4"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run(out, *more):
    """train.py in this process, on the demo's model and problems."""
    assert train.main([*MODEL, *PROBLEMS, "--out", str(out), *FAST, *more]) == 0


def refused(capsys, *arguments):
    """The one line on stderr, with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train.main([str(word) for word in arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    return said


def assert_the_same_bits(one, other):
    """Weights, moments and metrics (times apart) of two runs."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = (load_file(folder / "checkpoint" / name) for folder in (one, other))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    timeless = []
    for folder in (one, other):
        rows = lines(folder / "metrics.jsonl")
        timeless.append([{k: v for k, v in m.items() if "second" not in k} for m in rows])
    assert timeless[0] == timeless[1]


# --------------------------------------------------------------------------------------------------
# Which folder


def test_without_out_a_run_makes_the_next_new_folder_and_says_so(tmp_path, monkeypatch, capsys):
    """`train.py --model M --data D`, the first command that anybody tries, that ends with "--out is
    missing"; a second run in the folder of the first; a user who can't find what was written."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO / "model", "Tiny-7B")
    arguments = ["--model", "Tiny-7B", *PROBLEMS, *LEAST]
    for i in (1, 2):
        assert train.main(arguments) == 0
        said = capsys.readouterr().out
        assert f"-> runs/Tiny-7B-{i}\n" in said.split("step 1/1")[0]
        assert len(lines(f"runs/Tiny-7B-{i}/metrics.jsonl")) == 1


def test_resume_without_out_goes_on_with_the_newest_run_of_that_name(tmp_path, monkeypatch, capsys):
    """Run 9 taken for newer than run 10, because 9 is more than 1; a run of another model whose
    name begins alike; an empty folder taken for a run."""
    monkeypatch.chdir(tmp_path)
    assert train.main([*MODEL, *PROBLEMS, *LEAST]) == 0
    shutil.copytree("runs/model-1", "runs/model-9")
    shutil.copytree("runs/model-1", "runs/model-10")
    shutil.copytree("runs/model-1", "runs/model-large-11")
    Path("runs/model-12").mkdir()
    assert train.main([*MODEL, *PROBLEMS, *LEAST, "--steps", "2", "--resume"]) == 0
    assert "steps 2 to 2 of" in capsys.readouterr().out
    counts = {f.name: len(lines(f / "metrics.jsonl")) for f in Path("runs").glob("*1*")
              if (f / "metrics.jsonl").exists()}  # fmt: skip
    assert counts == {"model-1": 1, "model-10": 2, "model-large-11": 1}
    assert len(lines("runs/model-9/metrics.jsonl")) == 1


def test_nothing_to_resume_is_one_line_and_makes_no_folder(tmp_path, monkeypatch, capsys):
    """A new run that begins where an old one was to go on."""
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *MODEL, *PROBLEMS, *LEAST, "--resume")
    assert "--resume: no run in runs/model-1, runs/model-2, ...; wanted --out" in said
    said = refused(capsys, *MODEL, *PROBLEMS, *LEAST, "--resume", "--out", "r")
    assert "--resume: r holds no run; leave --resume out to start one" in said
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_run_is_that_of_its_model_or_of_the_run_that_made_it(tmp_path, monkeypatch):
    """Twenty runs named checkpoint-1 to checkpoint-20, or a run without a name."""
    monkeypatch.chdir(tmp_path)
    names = {
        "models/Qwen3-0.6B": "Qwen3-0.6B",
        "models/Qwen3-0.6B/": "Qwen3-0.6B",
        "runs/one/checkpoint": "one",
        "runs/one/checkpoint-50": "one",
        ".": tmp_path.name,
        "/": "run",
    }
    assert {model: run_folder.run_name(model) for model in names} == names


def test_a_run_that_never_began_leaves_its_folder_to_the_next_try(tmp_path, monkeypatch, capsys):
    """Weights cut short, mended, and then: "holds another run"; or a number spent on every typo."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO / "model", "m")
    weights = Path("m/model.safetensors").read_bytes()
    arguments = ["--model", "m", *PROBLEMS, *LEAST]
    for out in ([], ["--out", "here"]):
        Path("m/model.safetensors").write_bytes(weights[:500_000])
        assert "cut short" in refused(capsys, *arguments, *out)
        Path("m/model.safetensors").write_bytes(weights)
        assert train.main([*arguments, *out]) == 0
    assert sorted(f.name for f in Path("runs").iterdir()) == ["m-1"]


# --------------------------------------------------------------------------------------------------
# Whose folder


HOLD = """
import contextlib, sys, time
sys.path.insert(0, sys.argv[1])
from lib import run_folder
with contextlib.ExitStack() as stack:
    print(run_folder.open_folder(sys.argv[2], "x", False, stack), flush=True)
    time.sleep(600)
"""


def test_a_folder_in_use_is_refused_until_its_process_dies(tmp_path, capsys):
    """Two runs that write one metrics.jsonl; or a lock that outlives a run which was killed."""
    out = tmp_path / "r"
    command = [sys.executable, "-c", HOLD, str(ROOT), str(out)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == str(out)
        said = refused(capsys, *MODEL, *PROBLEMS, *LEAST, "--out", out)
        assert f"--out {out}: another run is using it; wanted a folder of its own" in said
        assert list(out.iterdir()) == []
    finally:
        holder.kill()
        holder.wait()
    assert train.main([*MODEL, *PROBLEMS, *LEAST, "--out", str(out)]) == 0


def start_together(folder, *more):
    """Two train.py at the same moment -> (exit code, stdout, stderr) of each."""
    command = [sys.executable, str(ROOT / "train.py"), *MODEL, *PROBLEMS, *LEAST, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, cwd=folder, env=env, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    return [(process.returncode, *texts) for process, texts in zip(both, said, strict=True)]


def test_two_runs_started_at_once_get_different_folders(tmp_path):
    """Both find runs/model-1 free, and both write there."""
    for code, _, complaint in start_together(tmp_path):
        assert code == 0, complaint
    folders = sorted((tmp_path / "runs").iterdir())
    assert [f.name for f in folders] == ["model-1", "model-2"]
    for folder in folders:
        assert [m["step"] for m in lines(folder / "metrics.jsonl")] == [1]


def test_of_two_runs_started_at_once_with_one_out_the_second_is_refused(tmp_path):
    """Both find no run there, and both write there."""
    ended = sorted(start_together(tmp_path, "--out", "r"))
    assert [code for code, *_ in ended] == [0, 2]
    complaint = ended[1][2]
    in_use, taken = "--out r: another run is using it", "--out r: holds another run"
    assert complaint.count("\n") == 1 and (in_use in complaint or taken in complaint)
    assert [m["step"] for m in lines(tmp_path / "r/metrics.jsonl")] == [1]


def test_a_run_without_out_leaves_older_runs_to_others(tmp_path, monkeypatch):
    """A run that, looking for a free number, keeps every folder locked that it has looked at."""
    monkeypatch.chdir(tmp_path)
    Path("runs/x-1").mkdir(parents=True)
    Path("runs/x-1/config.json").write_text("{}")
    with contextlib.ExitStack() as one, contextlib.ExitStack() as other:
        assert run_folder.open_folder(None, "x", False, one) == "runs/x-2"
        assert run_folder.open_folder("runs/x-1", "x", True, other) == "runs/x-1"
        assert run_folder.open_folder(None, "x", False, other) == "runs/x-3"


def test_a_disk_without_locks_is_good_enough(tmp_path, monkeypatch):
    """ "Bad file descriptor" in a home folder on NFS, which can't lock folders."""

    def no_locks(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with contextlib.ExitStack() as stack:
        assert run_folder.open_folder(tmp_path / "r", "x", False, stack) == str(tmp_path / "r")


# --------------------------------------------------------------------------------------------------
# Going on


@pytest.mark.parametrize("algo", ["vimpo", "grpo"])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, algo):
    """Optimizer moments, step count, data order or noise that start anew after --resume."""
    more = ["--algo", algo, "--reward-noise", "0.3", "--actor-coef", "1e-4", "--save-every", "2"]
    run(tmp_path / "whole", "--steps", "4", *more)
    run(tmp_path / "cut", "--steps", "3", *more)  # saved at 2 and 3
    run(tmp_path / "cut", "--steps", "4", *more, "--resume")
    assert_the_same_bits(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_died_while_saving_goes_on_from_the_checkpoint_before(tmp_path):
    """The only good checkpoint deleted before the next is whole."""
    run(tmp_path / "r", "--steps", "2")
    (tmp_path / "r/checkpoint").rename(tmp_path / "r/checkpoint-2")  # between the two renames
    (tmp_path / "r/checkpoint.new").mkdir()
    run(tmp_path / "r", "--steps", "3", "--resume")
    assert [m["step"] for m in lines(tmp_path / "r/metrics.jsonl")] == [1, 2, 3]


def test_lines_written_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    """Steps that stand twice in metrics.jsonl."""
    file = tmp_path / "m.jsonl"
    kept = '{"step": 1, "x": "\u2028"}\n{"step": 2}\n'
    file.write_text(kept + '{"step": 3}\n{"ste', encoding="utf-8")  # the last one was cut off
    assert [row["step"] for row in run_folder.keep_lines_up_to(file, 2)] == [1, 2]
    assert file.read_text(encoding="utf-8") == kept


def test_a_line_of_a_log_is_json_whatever_the_numbers(tmp_path):
    """NaN, which no other program reads; text that is cut at a line separator of Unicode."""
    row = {"a": float("nan"), "b": float("-inf"), "c": "\u2028\u00e9", "d": None, "e": 0.1}
    run_folder.append_jsonl(tmp_path / "m.jsonl", row)
    text = (tmp_path / "m.jsonl").read_text(encoding="utf-8")
    assert json.loads(text) == row | {"a": None, "b": None} and text.count("\n") == 1
    assert "NaN" not in text and "Infinity" not in text


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    """A config.json that is empty after a power cut."""
    file = tmp_path / "config.json"
    run_folder.write_whole(file, "old")

    def dies(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "_sync", dies)
    with pytest.raises(OSError, match=r"config\.json: can't be written \(No space left"):
        run_folder.write_whole(file, "new")
    assert file.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["config.json"]


# --------------------------------------------------------------------------------------------------
# What would make it another run


def test_settings_that_make_it_another_run_are_refused_on_resume(tmp_path, capsys):
    """A resumed run that is half one experiment and half another."""
    run(tmp_path / "r", "--steps", "1")
    with pytest.raises(SystemExit):
        run(tmp_path / "r", "--steps", "2", "--resume", "--beta", "0.1")
    assert "--beta was 0.0005" in capsys.readouterr().err


def test_all_settings_that_matter_are_listed_at_once_and_others_may_change(tmp_path, capsys):
    """Refusals one by one, each after a start of its own; another run's data under the same
    name."""
    out = tmp_path / "r"
    problems = tmp_path / "p.jsonl"
    problems.write_bytes((DEMO / "test.jsonl").read_bytes())
    arguments = [*MODEL, "--data", str(problems), *LEAST, "--out", str(out)]
    assert train.main(arguments) == 0
    arguments.append("--resume")
    said = refused(capsys, *arguments, "--beta", "0.1", "--seed", "7", "--keep", "9")
    assert "--beta was 0.0005 and is 0.1 now; --seed was 0 and is 7 now" in said
    assert "--keep" not in said
    text = problems.read_text()
    problems.write_text(text.replace('"id": "test-0"', '"level": 3, "id": "test-0"'))
    said = refused(capsys, *arguments, "--seed", "7")
    assert "--data has changed since the run began; --seed was 0 and is 7 now" in said
    problems.write_text(text)
    config = (out / "config.json").read_text()
    for damaged in ("{", "[]", "{}", '{"settings": 1, "digests": {}, "date": ""}'):
        (out / "config.json").write_text(damaged)
        assert "config.json is damaged; wanted the settings" in refused(capsys, *arguments)
    (out / "config.json").write_text(config)
    assert train.main([*arguments, "--keep", "9"]) == 0
    assert "--keep was 2 and is 9 now; the run stays the same" in capsys.readouterr().out


def change_template(folder):
    (folder / "t.txt").write_text("Say: {problem}")


def change_chat_template(folder):
    config = json.loads((folder / "m/tokenizer_config.json").read_text())
    config["chat_template"] += " "
    (folder / "m/tokenizer_config.json").write_text(json.dumps(config))


def change_reference(folder):
    weights = load_file(folder / "m/model.safetensors")
    weights["model.norm.weight"][5] += 0.01
    save_file(weights, folder / "m/model.safetensors")


CHANGES = [
    (change_template, ["--prompt-template", "t.txt"], "--prompt-template has changed"),
    (change_chat_template, [], "--prompt-template has changed"),
    (change_reference, [], "--model (the reference) has changed"),
]


@pytest.mark.parametrize(("change", "more", "says"), CHANGES)
def test_a_file_that_a_step_depends_on_must_not_have_changed(
    tmp_path, monkeypatch, capsys, change, more, says
):
    """The second half of a run with other prompts, another reference or another reward, under
    settings that read the same."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO / "model", "m")
    config = json.loads(Path("m/tokenizer_config.json").read_text())
    template = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    Path("m/tokenizer_config.json").write_text(json.dumps(config | template))
    Path("t.txt").write_text("{problem}")
    Path("r.py").write_text("def half(response, problem):\n    return 0.5\n")
    arguments = ["--model", "m", *PROBLEMS, *LEAST, "--out", "r", *more]
    assert train.main(arguments) == 0
    assert train.main([*arguments, "--resume"]) == 0
    change(tmp_path)
    said = refused(capsys, *arguments, "--resume")
    assert f"--resume: {says} since the run began; wanted the settings of r/config.json" in said


def test_a_chat_template_that_prints_the_date_prints_that_of_the_first_day(tmp_path, monkeypatch):
    """Other prompts, and so another run, because it went on after midnight."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO / "model", "m")
    template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
    config = json.loads(Path("m/tokenizer_config.json").read_text())
    Path("m/tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    arguments = ["--model", "m", *PROBLEMS, *FAST]

    def on_day(day):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2031, 5, day, 23, 59)

        return Clock

    with monkeypatch.context() as patch:
        patch.setattr("datetime.datetime", on_day(1))
        assert train.main([*arguments, "--steps", "2", "--out", "whole"]) == 0
        assert train.main([*arguments, "--steps", "1", "--out", "cut"]) == 0
        patch.setattr("datetime.datetime", on_day(2))
        assert train.main([*arguments, "--steps", "2", "--out", "cut", "--resume"]) == 0
        patch.setattr("datetime.datetime", on_day(3))
        assert train.main([*arguments, "--steps", "2", "--out", "cut", "--resume"]) == 0
    assert json.loads(Path("cut/config.json").read_text())["date"].startswith("2031-05-01")
    prompts = [row["prompt"] for row in lines("cut/rollouts.jsonl")]
    assert prompts and all(prompt.startswith("2031-05-01 ") for prompt in prompts)
    assert_the_same_bits(Path("whole"), Path("cut"))
