"""lib/distributed.py, train.py and eval.py in 1, 2 and 3 processes: the same responses, and metrics
that agree to 1e-5."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import eval as evaluation
import train
from lib import distributed
from model import load_model, save_model

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
MODEL = ["--model", str(DEMO / "model")]
PROBLEMS = ["--data", str(DEMO / "train.jsonl")]
FEW = ["--samples-per-prompt", "4", "--max-new-tokens", "30", "--lr", "1e-3"]
FEW += ["--actor-coef", "1e-4", "--tokens-per-microbatch", "150"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Five problems, and a training file in which every problem stands three times."""
    folder = tmp_path_factory.mktemp("few")
    for source, times, name in (("test", 1, "test.jsonl"), ("train", 3, "twins.jsonl")):
        problems = (DEMO / f"{source}.jsonl").read_text().splitlines(keepends=True)[:5]
        (folder / name).write_text("".join(line * times for line in problems))
    return folder


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """The demo model with a head of its own, equal to its embedding."""
    folder = tmp_path_factory.mktemp("untied")
    save_model(load_model(DEMO / "model"), folder)
    weights = load_file(folder / "model.safetensors")
    head = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(weights | head, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def in_processes(n, program, *arguments):
    """What torchrun does, without its seconds: n processes that know their number and where to
    meet -> what the first of them said. The others say nothing."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    meeting = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env = os.environ | meeting | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = []
    for r in range(n):
        numbered = env | {"RANK": str(r), "LOCAL_RANK": str(r)}
        started.append(subprocess.Popen(command, env=numbered, **pipes))
    try:
        ended = [(*p.communicate(timeout=240), p.returncode) for p in started]
    finally:
        for process in started:
            process.kill()  # those that wait for each other for ever
    assert [code for *_, code in ended] == [0] * n, ended
    assert all(out == "" for out, *_ in ended[1:])
    return ended[0][0]


def assert_the_same_run(one, other, evaluations=True):
    """Responses equal, every metric within 1e-5, weights within rounding."""
    a, b = lines(one / "metrics.jsonl"), lines(other / "metrics.jsonl")
    assert [m["step"] for m in a] == [m["step"] for m in b]
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in (key for key in x if "second" not in key):
            wanted = None if x[key] is None else pytest.approx(x[key], abs=1e-5, rel=1e-5)
            assert y[key] == wanted, (x["step"], key)
    keys = ("step", "id", "prompt", "response", "reward", "reward_clean")
    a, b = (lines(run / "rollouts.jsonl") for run in (one, other))
    if not evaluations:  # nor the responses that were watched at them
        a, b = ([r for r in rows if not r.get("watched")] for rows in (a, b))
    assert [[r[key] for key in keys] for r in a] == [[r[key] for key in keys] for r in b]
    if evaluations:
        assert lines(one / "eval.jsonl") == lines(other / "eval.jsonl")
    a, b = (load_file(run / "checkpoint/model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)


# --------------------------------------------------------------------------------------------------
# Numbers and work


def test_work_is_partitioned_whole_and_evenly():
    """An item lost or given twice, a process without work, or a partition that depends on more than
    the sizes."""
    partition, sizes = distributed.partition, [50, 3, 3, 3, 40, 9, 1]
    parts = partition(sizes, 3)
    assert sorted(i for part in parts for i in part) == list(range(7))
    assert all(part == sorted(part) for part in parts)
    assert [sum(sizes[i] for i in part) for part in parts] == [50, 40, 19]
    assert partition([1, 1], 2) == [[0], [1]] and partition([4, 4, 4], 1) == [[0, 1, 2]]
    assert partition([], 2) == [[], []]


def test_alone_every_function_returns_what_it_was_given(make_model):
    """A single process that waits for others, or whose numbers go through another precision."""
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.all_reduce_sum(0.1, 3) == (0.1, 3)
    assert distributed.all_reduce_max(7) == 7 and distributed.all_gather({"a": [1]}) == [{"a": [1]}]
    assert distributed.map_partitioned(lambda i: i * i, 4) == [0, 1, 4, 9]
    model = make_model()
    before = [*model.parameters()]
    distributed.shard(model, torch.device("cpu"))
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


NUMBERS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import lib, torch
from lib import distributed as d
d.join(torch.device("cpu"))
r = d.rank()
found = {
    "sum": d.all_reduce_sum(0.1 * (r + 1), torch.tensor(2.0)),
    "max": d.all_reduce_max(10 - r),
    "gathered": d.all_gather({"rank": r, "text": "\\u00e9" * r, "number": 0.1 + r, "none": None}),
    "mapped": d.map_partitioned(lambda i: (i + 1) / 3, 7),
    "signal": None,
}
if r == 1:
    d.signals.append(15)
found["signal"] = d.stop_signal()
texts = d.all_gather(json.dumps(found))
assert len(set(texts)) == 1, texts
if r == 0:
    print(texts[0], flush=True)
d.leave(0)
"""


def test_three_processes_know_the_same_numbers(tmp_path):
    """A sum in fp32, text cut to the length of another process's, numbers of processes mixed up, a
    signal that reached one process and that the others wait for."""
    (tmp_path / "talk.py").write_text(NUMBERS)
    found = json.loads(in_processes(3, tmp_path / "talk.py", ROOT))
    assert found["sum"] == pytest.approx([0.6, 6.0], rel=1e-14) and found["max"] == 10
    keys = ("rank", "text", "number", "none")
    assert [[row[k] for k in keys] for row in found["gathered"]] == [
        [0, "", 0.1, None], [1, "\u00e9", 1.1, None], [2, "\u00e9\u00e9", 2.1, None],
    ]  # fmt: skip
    assert found["mapped"] == [(i + 1) / 3 for i in range(7)] and found["signal"] == 15


# --------------------------------------------------------------------------------------------------
# Whole runs


def test_torchrun_with_two_processes_gives_the_run_of_one_and_one_goes_on_with_it(tmp_path, few):
    """Gradients averaged instead of added, micro-batches that wait for each other for ever, a
    checkpoint that holds one process's shard."""
    arguments = [*MODEL, *PROBLEMS, "--prompts-per-step", "5", *FEW, "--reward-noise", "0.3"]
    arguments += ["--eval-data", str(few / "test.jsonl"), "--eval-every", "2"]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*start, str(ROOT / "train.py"), *arguments, "--out", str(tmp_path / "two")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--steps", "2"], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2/2") == 1
    assert train.main([*arguments, "--out", str(tmp_path / "one"), "--steps", "4"]) == 0
    assert train.main([*arguments, "--out", str(tmp_path / "two"), "--steps", "4", "--resume"]) == 0
    assert_the_same_run(tmp_path / "one", tmp_path / "two")


def test_three_processes_whose_shares_are_unequal_give_the_run_of_one(tmp_path, few, untied):
    """Repeated prompts numbered anew in each process, idle groups that leave one process with fewer
    calls, a head of its own that is gathered too late, recomputation that finds its layer taken
    apart."""
    arguments = ["--model", str(untied), "--data", str(few / "twins.jsonl"), *FEW]
    arguments += ["--prompts-per-step", "7", "--steps", "2", "--algo", "grpo"]
    arguments += ["--updates-per-step", "2", "--recompute-activations"]
    assert train.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    in_processes(3, "train.py", *arguments, "--out", tmp_path / "three")
    assert_the_same_run(tmp_path / "one", tmp_path / "three", evaluations=False)


def test_three_processes_score_and_update_with_empty_micro_batches(tmp_path, few):
    """A process that has run out of rows and leaves the others waiting, or crashes on tensors of no
    rows; a second update on scores of old weights; c_A of one process's own responses alone."""
    arguments = [*MODEL, "--data", str(few / "twins.jsonl"), "--steps", "1", "--lr", "1e-3"]
    arguments += ["--samples-per-prompt", "2", "--max-new-tokens", "30", "--updates-per-step", "2"]
    # Four groups of two responses, each alone in its micro-batch: one process has four of them,
    # the others have two, and two more with nothing in them.
    arguments += ["--prompts-per-step", "4", "--tokens-per-microbatch", "1"]
    assert train.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    in_processes(3, "train.py", *arguments, "--out", tmp_path / "three")
    assert_the_same_run(tmp_path / "one", tmp_path / "three", evaluations=False)


def test_two_processes_go_on_with_the_run_of_one(tmp_path, few):
    """Moments of the optimizer that reach the wrong parameters or the wrong process."""
    arguments = [*MODEL, *PROBLEMS, "--prompts-per-step", "3", *FEW, "--updates-per-step", "2"]
    assert train.main([*arguments, "--out", str(tmp_path / "one"), "--steps", "3"]) == 0
    assert train.main([*arguments, "--out", str(tmp_path / "two"), "--steps", "2"]) == 0
    more = ["--out", tmp_path / "two", "--steps", "3", "--resume"]
    said = in_processes(2, "train.py", *arguments, *more)
    assert "--steps was 2 and is 3 now; the run stays the same" in said
    assert_the_same_run(tmp_path / "one", tmp_path / "two", evaluations=False)


def test_eval_in_two_processes_prints_the_table_of_one(tmp_path, few, capsys):
    """Samples of a problem that depend on who draws them."""
    arguments = [*MODEL, "--data", str(few / "test.jsonl"), "--samples", "2"]
    arguments += ["--max-new-tokens", "40", "--out"]
    assert evaluation.main([*arguments, str(tmp_path / "one.json")]) == 0
    printed = capsys.readouterr().out
    assert in_processes(2, "eval.py", *arguments, tmp_path / "two.json") == printed
    tables = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert tables[0]["table"] == tables[1]["table"]


# --------------------------------------------------------------------------------------------------
# What cannot be


IMPOSSIBLE = [
    ("abc", [], "WORLD_SIZE is 'abc'; wanted a whole number above 0"),
    ("0", [], "WORLD_SIZE is '0'; wanted a whole number above 0"),
    ("2", ["--prompts-per-step", "1"], "--prompts-per-step is 1 with 2 processes"),
    ("5", ["--prompts-per-step", "4"], "--prompts-per-step is 4 with 5 processes; wanted one "
     "prompt each or more"),
    ("2", ["--offload"], "--offload with 2 processes; wanted one"),
    ("2", ["--device", "cuda:1"], "--device cuda:1 with 2 processes; wanted auto, cuda or cpu"),
]  # fmt: skip


@pytest.mark.parametrize(("processes", "more", "says"), IMPOSSIBLE)
def test_what_several_processes_cannot_do_is_said_in_one_line(
    tmp_path, monkeypatch, capsys, processes, more, says
):
    """A stack trace from int(), one GPU for all, or processes that wait for each other because one
    of them has nothing to do."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(SystemExit) as stopped:
        train.main([*MODEL, *PROBLEMS, "--out", str(tmp_path / "r"), *more])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and says in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    """Four processes on one GPU, or a rank of the whole cluster taken for a GPU of this host."""
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert distributed.local_device("auto") == distributed.local_device("cuda") == "cuda:1"
    assert distributed.local_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.local_device("auto") == "auto"
