"""bench.py: contestants compute the same thing, and what is measured is what it is called."""

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import near, randn

import bench
import vimpo
from lib.fast import keep_less
from lib.timing import peak_memory
from model import frozen_copy, load_model, save_model
from rollout import generate

DEMO = Path(bench.__file__).parent / "demo"
CPU = torch.device("cpu")


def test_the_last_line_is_json_with_a_row_for_each_contestant(monkeypatch, capsys):
    """A part that no longer fits train.py's functions; a key renamed; NaN among the figures."""
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    facts = {"matmul_gflops": 50, "parameters": 330288}  # measuring them takes seconds
    monkeypatch.setattr(bench, "card", lambda model: facts)
    files = ["--model", str(DEMO / "model"), "--data", str(DEMO / "test.jsonl")]
    assert bench.main([*files, "--quick", "--only", "sampling", "step"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert set(found) == {"card", "sampling", "step"}
    extra = {"tokens_per_second", "fraction_of_limit"}
    assert set(found["sampling"]) == {"ours", "dense"} | extra
    assert set(found["step"]) == {"ours", "fraction_of_peak"}
    for row in (*(found["sampling"][name] for name in ("ours", "dense")), found["step"]["ours"]):
        assert 0 < row["seconds"] < math.inf
    assert 0 < found["sampling"]["fraction_of_limit"] < 2
    assert found["card"] == facts and found["step"]["fraction_of_peak"] > 0
    assert any("transformers is not installed" in line for line in text)


def test_long_responses_have_many_rows_and_few_columns_are_read_in_vain():
    """A row of max_new_tokens for each sample: 4 rows where 15 would fit on average; every row read
    as far as the longest one. Counts, not times: they are the same on every machine."""
    torch.manual_seed(0)
    prompts = [torch.randint(63, (n,)).tolist() for n in (40, 25, 33, 50)]
    lengths, budget = (500, 300, 1, 2048), 8 * (50 + 2048)
    ours = bench.count_columns(budget, prompts, lengths, one_pass=False)
    dull = bench.count_columns(budget, prompts, lengths, one_pass=True)
    assert ours["tokens"] == dull["tokens"] > 400 * 32
    assert ours["steps"] < dull["steps"] / 2
    assert ours["columns_read_to_useful"] <= 1.4 and dull["columns_read_to_useful"] > 1.8
    assert dull["prefilled"] == 40 + 25 + 33 + 50
    assert ours["prefilled"] < 1.2 * ours["tokens"]


def test_contestants_take_turns_and_the_first_turn_is_not_timed():
    """All turns of one before the other, so that a slow minute of the machine hits one alone; the
    time of a warm-up in the median."""
    turns = []

    def run(name):
        turns.append(name)
        time.sleep(0.2 if len(turns) == 1 else 0)
        return len(turns)

    rows = bench.race({"a": lambda: run("a"), "b": lambda: run("b")}, 2, CPU)
    assert turns == ["a", "b"] * 3
    assert rows["a"]["seconds"] < 0.2
    assert (rows["a"]["result"], rows["b"]["result"]) == (5, 6)


def test_peak_memory_counts_what_was_freed_again():
    """The memory in use at the end, in place of the most in between."""
    peak = peak_memory(CPU)
    block = torch.ones(2**24)  # 64 MiB
    del block
    if peak() is None:
        pytest.skip("this system does not tell")
    assert 60 < peak() < 200


def start(make_model):
    """A model and its reference, as train.py begins."""
    model = keep_less(make_model(torch.float32, std=0.05))
    return model, keep_less(frozen_copy(model))


def sample(model):
    prompts = [[1, 2, 3], [4, 5]]
    return generate(model, prompts, samples_per_prompt=4, max_new_tokens=6, stop_ids=[])


def test_a_step_that_starts_at_the_reference_has_the_loss_of_its_rewards(make_model):
    """Rewards, groups or settings that do not reach the loss. All td are 0 here, so that half of
    the responses miss R - V_0 by 1/2 and half by -1/2: L_V is 1/8, and there is no actor."""
    model, reference = start(make_model)
    before = model.head_weight.detach().clone()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    value, actor = bench.learn(model, reference, sgd, 4, sample(model))
    assert value == pytest.approx(1 / 8) and actor == pytest.approx(0)
    assert not torch.equal(model.head_weight, before)
    assert all(p.grad is None for p in model.parameters())


def test_the_step_of_the_library_moves_the_weights_as_ours_does(make_model, monkeypatch, tmp_path):
    """A contestant that computes something else: prompts seen wrongly through the padding, a loss
    over other tokens, a mean over another count."""
    transformers = pytest.importorskip("transformers")
    model, reference = start(make_model)
    save_model(model, tmp_path)
    load = transformers.AutoModelForCausalLM.from_pretrained
    peer, peer_reference = load(tmp_path), load(tmp_path)
    rollouts = sample(model)
    ids = [[0] * (3 - len(r.prompt_ids)) + r.prompt_ids + r.response_ids for r in rollouts]
    mask = (torch.tensor(ids) > 0) | (torch.arange(9) >= 3)
    monkeypatch.setattr(bench, "SAMPLES", 4)
    sampled = torch.tensor(ids), mask.long(), 8 * 6
    monkeypatch.setattr(bench, "peer_generate", lambda *_: sampled)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    bench.learn(model, reference, torch.optim.SGD(model.parameters(), lr=1e4), 4, rollouts)
    sgd = torch.optim.SGD(peer.parameters(), lr=1e4)
    bench.peer_step(peer, peer_reference, sgd, [r.prompt_ids for r in rollouts], 6)
    theirs = dict(peer.named_parameters())
    for name, p in model.named_parameters():
        moved = p.detach() - before[name]
        assert moved.norm() > 0
        near(theirs[name].detach() - before[name], moved, 1e-3 * float(moved.abs().max()))


def test_chunked_and_dense_log_probs_agree(monkeypatch):
    """Two contestants of which one leaves something out, a gradient say."""
    monkeypatch.setattr("lib.logprobs.CHUNK", 4)
    inputs = randn(11, 5), randn(11, 5, seed=1), randn(7, 5, seed=2), randn(7, 5, seed=3)
    targets = torch.arange(11) % 7
    ours = bench.logps_and_kl(True, *inputs, targets)
    for a, b in zip(ours, bench.logps_and_kl(False, *inputs, targets), strict=True):
        near(a, b, 1e-10)


def test_the_loop_over_time_is_the_recurrence():
    """A loop that decays over the holes of the mask, or counts them."""
    td, mask = randn(5, 40).float(), randn(5, 40, seed=1) > 0
    near(bench.gae_by_loops(td, mask, 0.9), vimpo.gae(td, mask, 0.9), 1e-5)


def test_random_weights_make_a_folder_that_loads(tmp_path):
    """A model for transformers that is not the one that is timed here."""
    sizes = bench.QUICK | bench.SMALL | {"vocab_size": 64, "num_hidden_layers": 1}
    model = bench.random_model(tmp_path, CPU, torch.float32, **sizes)
    save_model(model, tmp_path)
    near(load_model(tmp_path).head_weight, model.head_weight)
