"""Runs that are killed, signalled, damaged or go wrong: the short form of fault_drill.py."""

import json
import os
import shutil
import signal

import fault_drill as drill
import pytest
import torch

import train
from lib import distributed, run_folder


def lines(path):
    def never(name):
        pytest.fail(f"{path}: {name} is no JSON")

    text = path.read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=never) for line in text.splitlines()]


def saved_step(out):
    return run_folder.read_checkpoint(out / "checkpoint")["step"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return drill.few_problems(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, few):
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train.main(drill.settings(out, few)) == 0
    assert sorted(f.name for f in out.glob("checkpoint*")) == ["checkpoint", "checkpoint-4"]
    return out


@pytest.fixture
def signals(monkeypatch):
    """The list of signals that have come in, empty."""
    came = []
    monkeypatch.setattr(distributed, "signals", came)
    return came


def go_on(out, few):
    """--resume to the end, or from the start if there is nothing yet, in this process."""
    resume = ["--resume"] if (out / "config.json").exists() else []
    assert train.main([*drill.settings(out, few), *resume]) == 0


def refused(arguments, capsys, code=2):
    """The one line, with this exit code."""
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == code and said.count("\n") == 1
    return said


# --------------------------------------------------------------------------------------------------
# Killed and signalled


KILLS = [("sampling", 1, 0.0), ("saving", 1, 0.05), ("saving", 2, 0.25), ("update", 3, 0.01)]


@pytest.mark.parametrize(("phase", "nth", "delay"), KILLS)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path, few, whole, phase, nth, delay):
    """A checkpoint half written, a log with a torn or a double line, an evaluation left out."""
    code, *_ = drill.strike(drill.settings(tmp_path / "r", few), phase, nth, delay)
    assert code == -signal.SIGKILL
    go_on(tmp_path / "r", few)
    assert drill.differences(whole, tmp_path / "r") == []


SIGNALS = [(signal.SIGINT, "update"), (signal.SIGTERM, "evaluation")]


@pytest.mark.parametrize(("number", "phase"), SIGNALS)
def test_a_signal_saves_what_is_finished_and_says_how_to_go_on(tmp_path, few, whole, number, phase):
    """Work that is lost, a stack trace, or an exit code that a scheduler misreads; an evaluation
    that is left out on resume."""
    arguments = drill.settings(tmp_path / "r", few)
    code, _, said, complaint = drill.strike(arguments, phase, 3, 0.0, number)
    assert code == 128 + number and "Traceback" not in complaint
    assert f"{number.name}: stopping after this step, which will be saved" in complaint
    assert f"--out {tmp_path / 'r'} --resume goes on" in said
    steps = len(lines(tmp_path / "r/metrics.jsonl"))
    assert steps == (3 if phase == "update" else 4) and saved_step(tmp_path / "r") == steps
    go_on(tmp_path / "r", few)
    assert drill.differences(whole, tmp_path / "r") == []


MOMENTS = [("generate_together", 2), ("score", 2), ("accumulate_gradients", 3)]
MOMENTS += [("accumulate_gradients", 4)]  # the second update of step 2


@pytest.mark.parametrize(("name", "call"), MOMENTS)
def test_a_signal_in_any_phase_lets_the_step_under_way_finish(
    tmp_path, few, monkeypatch, signals, name, call
):
    """A step that is half done in the weights that are saved, or a second update of it left out."""
    original, calls = getattr(train, name), []

    def signalled(*args, **kwargs):
        calls.append(len(calls))
        if len(calls) == call:
            signals.append(signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(train, name, signalled)
    updates = ["--updates-per-step", "2"] if name == "accumulate_gradients" else []
    arguments = [*drill.settings(tmp_path / "r", few), "--eval-every", "0", *updates]
    assert train.main(arguments) == 143
    assert [m["step"] for m in lines(tmp_path / "r/metrics.jsonl")] == [1, 2]
    assert saved_step(tmp_path / "r") == 2
    assert len(calls) == (4 if updates else 2)


def test_a_signal_does_not_wait_for_an_evaluation(tmp_path, few, whole, monkeypatch, signals):
    """An hour of evaluation after Ctrl-C; a scheduler that gives half a minute, and then kills a
    run that was about to evaluate before it saved."""
    evaluations, evaluate, take_step = [], train.evaluate, train.take_step

    def evaluating(*args, **kwargs):
        evaluations.append(len(evaluations))
        if len(evaluations) == 3:  # of step 4
            assert saved_step(tmp_path / "r") == 4
            signals.append(signal.SIGTERM)
        return evaluate(*args, **kwargs)

    def stepping(run, step):
        if step == 2:
            signals.append(signal.SIGINT)
        return take_step(run, step)

    monkeypatch.setattr(train, "evaluate", evaluating)
    monkeypatch.setattr(train, "take_step", stepping)
    arguments = drill.settings(tmp_path / "r", few)
    signals.append(signal.SIGINT)  # while loading
    assert train.main(arguments) == 130 and evaluations == []
    arguments.append("--resume")
    signals.clear()
    assert train.main(arguments) == 130 and len(evaluations) == 1
    assert saved_step(tmp_path / "r") == 2
    signals.clear()
    assert train.main(arguments) == 143 and len(evaluations) == 3
    signals.clear()
    assert train.main(arguments) == 0
    assert drill.differences(whole, tmp_path / "r") == []


def test_a_second_ctrl_c_ends_the_process_at_once(monkeypatch, signals, capsys):
    """A user who cannot get out of an hour of sampling; or a scheduler's second SIGTERM, of which
    it sends several, that ends the run before it is saved."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for number in (signal.SIGTERM, signal.SIGTERM):
        distributed.on_signal(number, None)
    assert ended == [] and distributed.stop_signal() == signal.SIGTERM
    distributed.on_signal(signal.SIGINT, None)
    assert ended == [130]
    assert "Ctrl-C again stops at once" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Damaged checkpoints, full disks


@pytest.mark.parametrize("how", ["cut short", "bit flipped", "deleted"])
def test_damage_to_any_file_of_a_checkpoint_is_named_and_the_one_before_offered(
    tmp_path, few, whole, capsys, how
):
    """A flipped bit of a weight, or of trainer.json itself, that training goes on with."""
    out = tmp_path / "r"
    resume = [*drill.settings(out, few), "--resume"]
    for file in sorted(f.name for f in (whole / "checkpoint").iterdir()):
        shutil.copytree(whole, out)
        drill.damage(out / "checkpoint" / file, how)
        said = refused(resume, capsys)
        assert f"{out}/checkpoint/{file} is {'missing' if how == 'deleted' else 'damaged'}" in said
        offered = f"remove {out}/checkpoint, and --resume"
        assert f"{out}/checkpoint-4 (step 4) is whole: {offered}" in said
        shutil.rmtree(out / "checkpoint")
        assert run_folder.newest_checkpoint(out) == (out / "checkpoint-4", 4)
        drill.damage(out / "checkpoint-4" / file, how)
        assert "no older checkpoint" in refused(resume, capsys)
        shutil.rmtree(out)


def test_a_run_goes_on_from_the_older_checkpoint_and_keeps_as_many_as_asked(tmp_path, few, whole):
    """An older checkpoint that can't be gone on from, or checkpoints that pile up."""
    shutil.copytree(whole, tmp_path / "r")
    shutil.rmtree(tmp_path / "r/checkpoint")
    go_on(tmp_path / "r", few)
    assert drill.differences(whole, tmp_path / "r") == []
    more = [*drill.settings(tmp_path / "r", few), "--resume", "--save-every", "0"]
    left = {"3": ["checkpoint", "checkpoint-4", "checkpoint-5"], "1": ["checkpoint"]}
    for steps, (keep, kept) in zip(("6", "7"), left.items(), strict=True):
        assert train.main([*more, "--steps", steps, "--keep", keep]) == 0
        assert sorted(f.name for f in (tmp_path / "r").glob("checkpoint*")) == kept


ROOM = {
    2300: "metrics.jsonl",
    700_000: "checkpoint.new/model.safetensors",
    1_400_000: "checkpoint.new/optimizer.safetensors",
}


@pytest.mark.parametrize(("room", "named"), ROOM.items())
def test_a_full_disk_costs_one_line_and_no_checkpoint(tmp_path, few, whole, room, named):
    """The old checkpoint given up for half of a new one, or a stack trace that names no file."""
    out = tmp_path / "r"
    shutil.copytree(whole, out)
    full = drill.limited([*drill.settings(out, few, steps=6), "--resume"], room)
    last = full.stderr.splitlines()[-1]  # before it there may be a warning about rewards
    assert full.returncode == 2 and f"{out}/{named}: can't be written (" in last
    assert "the checkpoint of step 5 stays" in last
    assert "Traceback" not in full.stderr
    assert sorted(f.name for f in out.glob("checkpoint*")) == ["checkpoint", "checkpoint-4"]
    assert run_folder.newest_checkpoint(out) == (out / "checkpoint", 5)


def test_a_folder_that_cannot_be_written_is_found_before_the_model_loads(
    tmp_path, few, monkeypatch, capsys
):
    """Minutes of loading, then a stack trace."""

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr(train, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    said = refused(drill.settings(tmp_path / "r", few), capsys)
    wanted = "wanted a folder that can be made and written to"
    assert f"--out {tmp_path / 'r'}: Read-only file system; {wanted}" in said


# --------------------------------------------------------------------------------------------------
# Numbers gone bad, memory that runs out


def test_numbers_gone_bad_skip_the_update_name_the_response_and_stop_after_three(
    tmp_path, few, monkeypatch, capsys
):
    """Weights of NaN saved over the last good ones, or a run that skips for ever; a log that is no
    JSON."""
    score, bad_steps, step = train.score, {2}, [0]

    def spoiled(*arguments, **settings):
        scores = score(*arguments, **settings)
        step[0] += 1
        if step[0] in bad_steps:
            scores[0][6, 0] = torch.nan  # the log-probs of group 1, sample 2
        return scores

    monkeypatch.setattr(train, "score", spoiled)
    assert train.main(drill.settings(tmp_path / "one", few, 3)) == 0
    metrics = lines(tmp_path / "one/metrics.jsonl")
    assert [m["skipped"] for m in metrics] == [0, 1, 0]
    assert metrics[1]["actor_loss"] is None and metrics[2]["actor_loss"] is not None
    said = capsys.readouterr().err
    problems = train.data.load_problems([drill.ROOT / "demo/train.jsonl"])
    chosen = problems[train.data.problem_order(len(problems), 0, 4, 4)[1]]["id"]
    assert said.count("this update is skipped") == 1 and "step 2: value loss" in said
    assert f"not finite: {chosen} sample 2\n" in said
    weights = drill.load_file(tmp_path / "one/checkpoint/model.safetensors")
    assert all(p.isfinite().all() for p in weights.values())

    bad_steps.update((3, 4, 5))
    step[0] = 0
    with pytest.raises(SystemExit) as stopped:
        train.main([*drill.settings(tmp_path / "three", few), "--save-every", "1"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1
    assert "steps 2 to 4 were not finite; stopped, and the checkpoint of step 3 stays" in said
    assert saved_step(tmp_path / "three") == 3


def run_out_of_memory(monkeypatch, owner, name, call):
    """The call of this number asks for more than there is."""
    original, calls = getattr(owner, name), []

    def full(*args, **kwargs):
        calls.append(len(calls))
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, full)


# name in train.py, what the line says of it, the call that fails, the step saved thereafter
OUT_OF_MEMORY = [
    ("load_model", "in loading: take a smaller model, or give --offload", 1, 0),
    ("generate_together", "in sampling: lower --slots or --max-new-tokens", 1, 0),
    ("generate_together", "in sampling: lower --slots or --max-new-tokens", 4, 3),
    ("score", "in scoring: lower --tokens-per-microbatch", 4, 3),
    ("accumulate_gradients", "in the update: lower --tokens-per-microbatch or give --rec", 4, 3),
    ("evaluate", "in the evaluation: lower --slots or --max-new-tokens", 1, 0),
    ("evaluate", "in the evaluation: lower --slots or --max-new-tokens", 3, 4),
]


@pytest.mark.parametrize(("name", "words", "call", "step"), OUT_OF_MEMORY)
def test_out_of_gpu_memory_names_phase_and_flag_and_saves_what_is_finished(
    tmp_path, few, whole, monkeypatch, capsys, name, words, call, step
):
    """A stack trace of thirty lines; an exit code that says the user typed something wrong; steps
    lost that were done; --resume promised where there is nothing to go on from."""
    with monkeypatch.context() as patch:
        run_out_of_memory(patch, train, name, call)
        with pytest.raises(SystemExit) as stopped:
            train.main(drill.settings(tmp_path / "r", few))
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1
    assert f"train.py: out of GPU memory {words}" in line and "Tried to allocate 20.00 GiB" in line
    assert (tmp_path / "r/checkpoint").exists() == bool(step)
    promised = f"the checkpoint of step {step} stays, and --resume goes on from it" in line
    assert promised == bool(step) and ("--resume" in line) == bool(step)
    if step:
        assert saved_step(tmp_path / "r") == step
        go_on(tmp_path / "r", few)
        assert drill.differences(whole, tmp_path / "r") == []


@pytest.mark.parametrize("moment", ["the second update", "the optimizer's step"])
@pytest.mark.parametrize("save_every", ["0", "1"])
def test_out_of_gpu_memory_between_two_states_of_the_weights_saves_nothing(
    tmp_path, few, monkeypatch, capsys, moment, save_every
):
    """Weights with half of a step in them, saved as if they were whole."""
    arguments = [*drill.settings(tmp_path / "r", few), "--updates-per-step", "2"]
    arguments += ["--save-every", save_every]
    with monkeypatch.context() as patch:
        if moment == "the second update":
            run_out_of_memory(patch, train, "accumulate_gradients", 4)
        else:
            run_out_of_memory(patch, torch.optim.AdamW, "step", 3)
        with pytest.raises(SystemExit) as stopped:
            train.main(arguments)
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1 and "out of GPU memory in the update" in line
    if save_every == "0":
        assert not (tmp_path / "r/checkpoint").exists() and "--resume" not in line
    else:
        assert saved_step(tmp_path / "r") == 1 and "the checkpoint of step 1 stays" in line
