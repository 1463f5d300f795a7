"""several.py, train.py and eval.py in 1, 2 and 3 processes: the same responses, and metrics that agree to 1e-5."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import eval as evaluation
import several
import train
from model import load_model, save_model

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
FEW = ["--samples-per-prompt", "4", "--max-new-tokens", "30", "--lr", "1e-3", "--actor-coef", "1e-4", "--tokens-per-microbatch", "150"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Five problems, and a training file in which every problem stands three times."""
    folder = tmp_path_factory.mktemp("few")
    test, problems = ((DEMO / name).read_text().splitlines(keepends=True) for name in ("test.jsonl", "train.jsonl"))
    (folder / "test.jsonl").write_text("".join(test[:5]))
    (folder / "twins.jsonl").write_text("".join(line for line in problems[:5] for _ in range(3)))
    return folder


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """The demo model with a head of its own, equal to its embedding."""
    model = load_model(DEMO / "model")
    save_model(model, folder := tmp_path_factory.mktemp("untied"))
    weights = load_file(folder / "model.safetensors")
    train.save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return folder


def in_processes(n, program, *arguments):
    """What torchrun does, without its seconds: n processes that know their number and where to meet."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, str(ROOT / program), *map(str, arguments)], env=env | {"RANK": str(r), "LOCAL_RANK": str(r)},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(n)]
    ended = [(*p.communicate(timeout=240), p.returncode) for p in started]
    assert [code for *_, code in ended] == [0] * n, ended
    assert all(out == "" for out, *_ in ended[1:])  # the first speaks for all
    return ended[0][0]


def assert_the_same_run(one, other, evaluations=True):
    """Responses equal, every metric within 1e-5, weights within rounding."""
    a, b = lines(one / "metrics.jsonl"), lines(other / "metrics.jsonl")
    assert [m["step"] for m in a] == [m["step"] for m in b]
    for x, y in zip(a, b, strict=True):
        for key in (key for key in x if "second" not in key):
            assert y[key] == (x[key] if x[key] is None else pytest.approx(x[key], abs=1e-5, rel=1e-5)), (x["step"], key)
    keys = ("step", "id", "prompt", "response", "reward", "reward_clean")
    a, b = ([[r[key] for key in keys] for r in lines(run / "rollouts.jsonl")] for run in (one, other))
    assert a == b
    if evaluations:
        assert lines(one / "eval.jsonl") == lines(other / "eval.jsonl")
    a, b = (load_file(run / "checkpoint/model.safetensors") for run in (one, other))
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)


def test_work_is_dealt_whole_and_evenly():
    """An item lost or dealt twice, a process without work, or a deal that depends on more than the sizes."""
    sizes = [50, 3, 3, 3, 40, 9, 1]
    hands = several.deal(sizes, 3)
    assert sorted(i for hand in hands for i in hand) == list(range(7)) and all(hand == sorted(hand) for hand in hands)
    assert [sum(sizes[i] for i in hand) for hand in hands] == [50, 40, 19]
    assert several.deal([1, 1], 2) == [[0], [1]] and several.deal([4, 4, 4], 1) == [[0, 1, 2]] and several.deal([], 2) == [[], []]


def test_torchrun_with_two_processes_gives_the_run_of_one_and_one_goes_on_with_it(tmp_path, few):
    """Gradients averaged instead of added, micro-batches that wait for each other for ever, a checkpoint that holds one process's part."""
    arguments = ["--model", str(DEMO / "model"), "--data", str(DEMO / "train.jsonl"), "--prompts-per-step", "5", *FEW, "--reward-noise", "0.3",
                 "--eval-data", str(few / "test.jsonl"), "--eval-every", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ROOT / "train.py"), *arguments]
    done = subprocess.run([*command, "--out", str(tmp_path / "two"), "--steps", "2"], capture_output=True, text=True, timeout=240,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "in 2 processes" in done.stdout and done.stdout.count("step 2/2") == 1
    assert train.main([*arguments, "--out", str(tmp_path / "one"), "--steps", "4"]) == 0
    assert train.main([*arguments, "--out", str(tmp_path / "two"), "--steps", "4", "--resume"]) == 0
    assert_the_same_run(tmp_path / "one", tmp_path / "two")


def test_three_processes_whose_shares_are_unequal_give_the_run_of_one(tmp_path, few, untied):
    """Repeated prompts numbered anew in each process, idle groups that leave one process with fewer calls, a second update on scores of old
    weights, a head of its own that is gathered too late, recomputation that finds its layer taken apart."""
    arguments = ["--model", str(untied), "--data", str(few / "twins.jsonl"), "--prompts-per-step", "7", "--steps", "2", *FEW, "--algo", "grpo",
                 "--updates-per-step", "2", "--recompute-activations"]
    assert train.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    in_processes(3, "train.py", *arguments, "--out", tmp_path / "three")
    assert_the_same_run(tmp_path / "one", tmp_path / "three", evaluations=False)


def test_two_processes_go_on_with_the_run_of_one(tmp_path, few):
    """Moments of the optimizer that are dealt to the wrong parameters or the wrong process."""
    arguments = ["--model", str(DEMO / "model"), "--data", str(DEMO / "train.jsonl"), "--prompts-per-step", "3", *FEW, "--updates-per-step", "2"]
    assert train.main([*arguments, "--out", str(tmp_path / "one"), "--steps", "3"]) == 0
    assert train.main([*arguments, "--out", str(tmp_path / "two"), "--steps", "2"]) == 0
    said = in_processes(2, "train.py", *arguments, "--out", tmp_path / "two", "--steps", "3", "--resume")
    assert "--steps was 2 and is 3 now; the run stays the same" in said
    assert_the_same_run(tmp_path / "one", tmp_path / "two", evaluations=False)


def test_eval_in_two_processes_prints_the_table_of_one(tmp_path, few, capsys):
    """Samples of a problem that depend on who draws them."""
    arguments = ["--model", str(DEMO / "model"), "--data", str(few / "test.jsonl"), "--samples", "2", "--max-new-tokens", "40", "--out"]
    assert evaluation.main([*arguments, str(tmp_path / "one.json")]) == 0
    assert in_processes(2, "eval.py", *arguments, tmp_path / "two.json") == capsys.readouterr().out
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["table"] for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(("flags", "message"), [(["--prompts-per-step", "1"], "--prompts-per-step is 1 with 2 processes"),
                                                (["--device", "cuda:1"], "--device cuda:1 with 2 processes")])
def test_what_cannot_be_shared_is_refused_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    """A process without work that the others wait for, or one GPU for all."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        train.main(["--model", str(DEMO / "model"), "--data", str(DEMO / "train.jsonl"), "--out", str(tmp_path / "r"), *flags])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said and said.count("\n") == 1


@pytest.mark.parametrize(("environment", "more", "says"), [
    ({"WORLD_SIZE": "abc"}, [], "WORLD_SIZE is 'abc'; wanted a whole number above 0"),
    ({"WORLD_SIZE": "0"}, [], "WORLD_SIZE is '0'; wanted a whole number above 0"),
    ({"WORLD_SIZE": "5"}, ["--prompts-per-step", "4"], "--prompts-per-step is 4 with 5 processes; wanted one prompt each or more"),
    ({"WORLD_SIZE": "2"}, ["--offload"], "--offload with 2 processes; wanted one"),
    ({"WORLD_SIZE": "2"}, ["--device", "cuda:1"], "--device cuda:1 with 2 processes; wanted auto, cuda or cpu")])
def test_what_several_processes_cannot_do_is_said_in_one_line(tmp_path, monkeypatch, capsys, environment, more, says):
    """A stack trace from int(), or processes that wait for each other because one of them has nothing to do."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        train.main(["--model", str(ROOT / "demo/model"), "--data", str(ROOT / "demo/train.jsonl"), "--out", str(tmp_path / "r"), *more])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and says in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()
