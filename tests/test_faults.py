"""Runs that are killed, signalled, damaged or go wrong: the short form of fault_drill.py, which see."""

import json
import shutil
import signal

import fault_drill as drill
import pytest
import torch

import rollout
import several
import train


def lines(path):
    def never(name):
        pytest.fail(f"{path}: {name} is no JSON")

    return [json.loads(line, parse_constant=never) for line in path.read_text(encoding="utf-8").splitlines()]


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


def go_on(out, few):
    """--resume to the end, or from the start if there is nothing yet, in this process."""
    assert train.main([*drill.settings(out, few), *(["--resume"] if (out / "config.json").exists() else [])]) == 0


def refused(arguments, capsys):
    """The one line, with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    return said


@pytest.mark.parametrize(("phase", "nth", "delay"), [("sampling", 1, 0.0), ("saving", 1, 0.05), ("saving", 2, 0.25), ("update", 3, 0.01)])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path, few, whole, phase, nth, delay):
    """A checkpoint that is half written, a log with a torn or a double line, an evaluation that is left out."""
    code, *_ = drill.strike(drill.settings(tmp_path / "r", few), phase, nth, delay)
    assert code == -signal.SIGKILL
    go_on(tmp_path / "r", few)
    assert drill.differences(whole, tmp_path / "r") == []


@pytest.mark.parametrize(("number", "phase"), [(signal.SIGINT, "update"), (signal.SIGTERM, "evaluation")])
def test_a_signal_saves_what_is_finished_and_says_how_to_go_on(tmp_path, few, whole, number, phase):
    """Work that is lost, a stack trace, or an exit code that a scheduler misreads; an evaluation that is left out on resume."""
    code, _, said, complaint = drill.strike(drill.settings(tmp_path / "r", few), phase, 3, 0.0, number)
    assert code == 128 + number and "Traceback" not in complaint
    assert f"--out {tmp_path / 'r'} --resume goes on" in said
    steps = len(lines(tmp_path / "r/metrics.jsonl"))
    assert steps and train.read_checkpoint(tmp_path / "r/checkpoint")["step"] == steps
    go_on(tmp_path / "r", few)
    assert drill.differences(whole, tmp_path / "r") == []


@pytest.mark.parametrize("how", ["cut short", "bit flipped", "deleted"])
def test_damage_to_any_file_of_a_checkpoint_is_named_and_the_one_before_offered(tmp_path, few, whole, capsys, how):
    """A flipped bit of a weight, or of trainer.json itself, that training goes on with."""
    out = tmp_path / "r"
    for file in sorted(f.name for f in (whole / "checkpoint").iterdir()):
        shutil.copytree(whole, out)
        drill.damage(out / "checkpoint" / file, how)
        said = refused([*drill.settings(out, few), "--resume"], capsys)
        assert f"{out}/checkpoint/{file} is {'missing' if how == 'deleted' else 'damaged'}" in said
        assert f"{out}/checkpoint-4 (step 4) is whole: remove {out}/checkpoint, and --resume" in said
        shutil.rmtree(out / "checkpoint")
        assert train.newest_checkpoint(out) == out / "checkpoint-4"
        drill.damage(out / "checkpoint-4" / file, how)
        assert "no older checkpoint" in refused([*drill.settings(out, few), "--resume"], capsys)
        shutil.rmtree(out)


def test_a_run_goes_on_from_the_older_checkpoint_and_keeps_as_many_as_asked(tmp_path, few, whole):
    """An older checkpoint that can't be gone on from, or checkpoints that pile up."""
    shutil.copytree(whole, tmp_path / "r")
    shutil.rmtree(tmp_path / "r/checkpoint")
    go_on(tmp_path / "r", few)
    assert drill.differences(whole, tmp_path / "r") == []
    for steps, keep, kept in (("6", "3", ["checkpoint", "checkpoint-4", "checkpoint-5"]), ("7", "1", ["checkpoint"])):
        assert train.main([*drill.settings(tmp_path / "r", few), "--resume", "--steps", steps, "--keep", keep, "--save-every", "0"]) == 0
        assert sorted(f.name for f in (tmp_path / "r").glob("checkpoint*")) == kept


@pytest.mark.parametrize(("room", "named"), [(2300, "metrics.jsonl"), (100_000, "checkpoint.new/model.safetensors"),
                                             (1_400_000, "checkpoint.new/optimizer.safetensors")])
def test_a_full_disk_costs_one_line_and_no_checkpoint(tmp_path, few, whole, room, named):
    """The old checkpoint given up for half of a new one, or a stack trace of a library that names no file."""
    out = tmp_path / "r"
    shutil.copytree(whole, out)
    full = drill.limited([*drill.settings(out, few, steps=6), "--resume"], room)
    last = full.stderr.splitlines()[-1]  # before it there may be a warning about rewards
    assert full.returncode == 2 and f"{out}/{named}: can't be written (" in last and "the checkpoint of step 5 stays" in last
    assert "Traceback" not in full.stderr
    assert sorted(f.name for f in out.glob("checkpoint*")) == ["checkpoint", "checkpoint-4"]
    assert train.newest_checkpoint(out) == out / "checkpoint"


def test_a_folder_that_cannot_be_written_is_found_before_the_model_loads(tmp_path, few, monkeypatch, capsys):
    """Minutes of loading, then a stack trace."""
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("model.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    said = refused(drill.settings(tmp_path / "r", few), capsys)
    assert f"--out {tmp_path / 'r'}: Read-only file system; wanted a folder that can be made and written to" in said


def test_all_settings_that_matter_are_listed_at_once_and_others_may_change(tmp_path, few, whole, capsys):
    """Refusals one by one, each after a start of its own; another run's data under the same name."""
    shutil.copytree(whole, tmp_path / "r")
    arguments = [*drill.settings(tmp_path / "r", few), "--resume"]
    said = refused([*arguments, "--beta", "0.1", "--seed", "7", "--keep", "9"], capsys)
    assert "--beta was 0.0005 and is 0.1 now; --seed was 0 and is 7 now" in said and "--keep" not in said
    config = json.loads((tmp_path / "r/config.json").read_text())
    (tmp_path / "r/config.json").write_text(json.dumps(config | {"problems": "others"}))
    assert "--data holds other problems now" in refused(arguments, capsys)
    (tmp_path / "r/config.json").write_text("{")
    assert "config.json is damaged" in refused(arguments, capsys)
    (tmp_path / "r/config.json").write_text(json.dumps(config))
    assert train.main([*arguments, "--keep", "9"]) == 0
    assert "--keep was 2 and is 9 now; the run stays the same" in capsys.readouterr().out


def test_numbers_gone_bad_skip_the_update_name_the_response_and_stop_after_three(tmp_path, few, monkeypatch, capsys):
    """Weights of NaN saved over the last good ones, or a run that skips for ever; a log that is no JSON."""
    score_batch, bad_steps = train.score_batch, {2}

    def spoiled(*arguments):
        scores = score_batch(*arguments)
        spoiled.step += 1
        if spoiled.step in bad_steps:
            scores["logps"][6, 0] = torch.nan  # group 1, sample 2
        return scores

    monkeypatch.setattr(train, "score_batch", spoiled)
    spoiled.step = 0
    assert train.main(drill.settings(tmp_path / "one", few, 3)) == 0
    metrics = lines(tmp_path / "one/metrics.jsonl")
    assert [m["skipped"] for m in metrics] == [0, 1, 0] and metrics[1]["actor_loss"] is None and metrics[2]["actor_loss"] is not None
    said = capsys.readouterr().err
    problems = train.data.load_problems([drill.ROOT / "demo/train.jsonl"])
    chosen = problems[train.data.problem_order(len(problems), 0, 4, 4)[1]]["id"]
    assert said.count("this update is skipped") == 1 and "step 2: value loss" in said and f"not finite: {chosen} sample 2\n" in said
    assert all(p.isfinite().all() for p in drill.load_file(tmp_path / "one/checkpoint/model.safetensors").values())

    bad_steps.update((3, 4, 5))
    spoiled.step = 0
    with pytest.raises(SystemExit) as stopped:
        train.main([*drill.settings(tmp_path / "three", few), "--save-every", "1"])
    assert "steps 2 to 4 were not finite; stopped, and the checkpoint of step 3 stays" in str(stopped.value.code)
    assert train.read_checkpoint(tmp_path / "three/checkpoint")["step"] == 3


@pytest.mark.parametrize(("owner", "name", "words"), [(several, "generate", "in sampling: lower --slots"),
                                                      (train, "score_batch", "in scoring: lower --tokens-per-microbatch"),
                                                      (train, "accumulate_gradients", "in the update: lower --tokens-per-microbatch or give --rec")])
def test_out_of_gpu_memory_names_the_phase_and_the_flag(tmp_path, few, monkeypatch, capsys, owner, name, words):
    """A stack trace of thirty lines that says how many MiB could not be had."""
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(train, "run_eval", lambda *_: 0.0)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(SystemExit) as stopped:
        train.main(drill.settings(tmp_path / "r", few))
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and words in line and "--resume goes on" in line and "Tried to allocate 20.00 GiB" in line


def test_a_signal_leaves_sampling_scoring_and_the_first_update_but_not_a_second(tmp_path, few, monkeypatch):
    """A step that is half done in the weights that are saved, or hours of sampling that can't be stopped."""
    arguments = [*drill.settings(tmp_path / "r", few), "--updates-per-step", "2", "--eval-every", "0"]
    accumulate, calls = train.accumulate_gradients, []

    def signalled(*args):
        calls.append(len(calls))
        if len(calls) == 4:  # the second update of step 2
            several.signals.append(signal.SIGTERM)
        return accumulate(*args)

    monkeypatch.setattr(train, "accumulate_gradients", signalled)
    monkeypatch.setattr(several, "signals", [])
    assert train.main(arguments) == 143
    assert len(lines(tmp_path / "r/metrics.jsonl")) == 2 and train.read_checkpoint(tmp_path / "r/checkpoint")["step"] == 2
    monkeypatch.setattr(several, "signals", [signal.SIGINT])
    with pytest.raises(several.Interrupted):
        several.watch("x")(1, 2)
    several.watch("x", leave=False)(1, 2)
    with pytest.raises(several.Interrupted), several.leave_together():
        rollout.generate(train.transformer.load_model(drill.ROOT / "demo/model"), [[1]], max_new_tokens=4, stop_ids=[],
                         on_progress=several.watch("x"))
