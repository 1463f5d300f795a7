"""lib/metrics.py: the numbers of a step against numbers worked out by hand, and every warning."""

from types import SimpleNamespace

import pytest
import torch
from conftest import near

from lib import metrics
from lib.batch import make_batch
from rollout import Rollout
from vimpo import grpo_advantages

F64 = torch.float64
PROBLEMS = [{"id": f"p{i}", "answer": str(i)} for i in range(2)]


class Bytes:
    """A stand-in for a tokenizer: one character an id."""

    def decode(self, ids):
        return "".join(chr(ord("a") + i) for i in ids)

    def pieces(self, ids):
        return [chr(ord("a") + i) for i in ids]


def small_batch(rewards=(1.0, 0.0, 0.5, 0.5), noisy=None):
    """Two groups of two responses, of 1, 3, 2 and 2 tokens; the second was cut."""
    rollouts = []
    for i, length in enumerate((1, 3, 2, 2)):
        rollouts.append(Rollout([7, i // 2], [*range(length)], [-1.0] * length, i != 1))
    noisy = rewards if noisy is None else noisy
    batch = make_batch(rollouts, PROBLEMS, list(noisy), list(rewards), 2, "cpu", F64)
    mask = batch.mask.to(F64)
    batch.logps, batch.entropy, batch.kl = -1.5 * mask, 0.25 * mask, 0.125 * mask
    return batch


def test_the_numbers_of_a_step_are_means_over_responses_and_over_tokens():
    """A mean of means, in which a short response weighs as much as a long one; clean rewards taken
    for those that are trained on."""
    batch = small_batch(noisy=(0.0, 1.0, 0.5, 0.5))
    batch.baseline = torch.full((4,), 0.5, dtype=F64)
    batch.td = 0.1 * batch.mask  # each curve rises by 0.1 a token
    batch.actor_coef, batch.tells = 3e-4, 0.3
    found = metrics.batch_metrics(batch, 2, beta=0.01)
    # R - V_0 is -0.5, 0.5, 0, 0 and the curves end 0.1, 0.3, 0.2, 0.2 above V_0
    residual = (0.6 + 0.2 + 0.2 + 0.2) / 4
    wanted = {
        "reward": 0.5,
        "reward_clean": 0.5,
        "accuracy": 0.25,
        "truncated": 0.25,
        "uniform_groups": 0.5,
        "entropy": 0.25,
        "sampler_gap": 0.5,
        "kl": 0.125,
        "response_tokens": 2.0,
        "actor_coef": 3e-4,
        "actor_share": 3e-4 / (0.01 * residual * 2.0),
        "td_size": 0.1,
        "td_noise": 0.01 * 0.5,
        "tells": 0.3,
    }
    assert found == pytest.approx(wanted)


def test_what_there_is_no_number_for_is_null():
    """A KL of 0 where no reference was asked; an infinite share where nothing is left to learn."""
    batch = small_batch()
    batch.kl = None
    found = metrics.batch_metrics(batch, 2, beta=0.01)
    assert found["kl"] is None and found["actor_share"] is None
    batch.baseline, batch.actor_coef = batch.rewards, 1.0
    batch.td = torch.zeros_like(batch.logps)
    assert metrics.batch_metrics(batch, 2, beta=0.01)["actor_share"] is None


def test_the_group_to_log_is_the_first_with_right_and_wrong_ones():
    """Rollouts of groups in which every response has the same reward: nothing to see there."""
    assert metrics.mixed_group([1, 1, 0, 0, 1, 0, 0, 1], 2) == 2
    assert metrics.mixed_group([1, 1, 0, 0], 2) == 0 and metrics.mixed_group([0, 1], 2) == 0


def test_logged_rollouts_are_right_and_wrong_ones_with_the_credit_of_each_token():
    """Four right responses and no wrong one; credit of another response, or of the padding."""
    rewards = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    rollouts = [Rollout([7], [i] * (i + 1), [-1.0] * (i + 1), i > 0) for i in range(6)]
    batch = make_batch(rollouts, PROBLEMS[:1], rewards, rewards, 6, "cpu", F64)
    batch.baseline = torch.full((6,), 0.5, dtype=F64)
    batch.advantages = torch.arange(36, dtype=F64).view(6, 6) / 3
    values = torch.arange(42, dtype=F64).view(6, 7) / 7
    rows = list(metrics.rollout_rows(9, batch, values, Bytes(), 6))
    assert [row["response"] for row in rows] == ["dddd", "eeeee", "a", "bb"]
    for row, i in zip(rows, (3, 4, 0, 1), strict=True):
        assert row["step"] == 9 and row["id"] == "p0" and row["prompt"] == "h"
        assert row["tokens"] == [chr(ord("a") + i)] * (i + 1)
        assert row["reward"] == rewards[i] and row["baseline"] == 0.5
        near(torch.tensor(row["values"], dtype=F64), values[i, : i + 2], 1e-6)
        near(torch.tensor(row["advantages"], dtype=F64), batch.advantages[i, : i + 1], 1e-5)
        assert row["finished"] == (i > 0)
    plain = next(metrics.rollout_rows(9, batch, None, Bytes(), 6))
    assert plain["values"] is None and plain["advantages"]
    assert plain["td"] is plain["log_ratio"] is plain["kl"] is plain["entropy"] is None


def test_logged_rollouts_hold_what_the_report_colours_tokens_by():
    """A log-ratio of the sampler and not of the reference; GRPO's credit by another std than
    training's; NaN, which is no JSON."""
    batch = small_batch(rewards=(1.0, 0.0, 0.25, 0.75))
    batch.ref_logps, batch.td = batch.logps - 0.5, 3.0 * batch.mask
    batch.advantages = torch.full_like(batch.logps, torch.nan)
    row = metrics.rollout_row(4, batch, 1, None, Bytes(), 2)
    assert row["log_ratio"] == [0.5] * 3 and row["kl"] == [0.125] * 3 and row["td"] == [3.0] * 3
    assert row["entropy"] == [0.25] * 3 and row["advantages"] == [None] * 3
    assert row["response_ids"] == [0, 1, 2] and row["prompt_ids"] == [7, 0] and row["sample"] == 1
    mask = batch.mask.double()
    for i in range(4):
        wanted = grpo_advantages(batch.rewards, batch.group, mask)[i, 0]
        found = metrics.rollout_row(4, batch, i, None, Bytes(), 2)["grpo"]
        assert found == pytest.approx(float(wanted), abs=1e-12)


def test_the_line_of_a_step_leaves_out_what_was_not_measured():
    """ "kl None" in every line of a GRPO run, or a crash in formatting it."""
    seconds = {"seconds_rollout": 1.0, "seconds_score": 2.0, "seconds_update": 0.5}
    row = {"step": 3, "reward": 0.5, "kl": 0.01, "entropy": 0.2, "response_tokens": 12.3}
    row |= {"sampler_gap": 1e-7, "tokens_per_second": 99.6} | seconds
    line = metrics.step_line(row, 10, 1.25)
    assert line == (
        "step 3/10  reward 0.500  kl 0.0100  entropy 0.200  tokens 12  gap 1.0e-07  "
        "100 tokens/s  3.5 s  1.2 min"
    )
    assert "kl" not in metrics.step_line(row | {"kl": None}, 10, 1.25)


# --------------------------------------------------------------------------------------------------
# Warnings


def test_numbers_that_went_bad_are_traced_to_their_responses(capsys):
    """A run that stops with "not finite" and lets the user search a thousand responses."""
    batch = small_batch()
    batch.ref_logps = torch.zeros_like(batch.logps)
    batch.kl[3, 0] = torch.inf
    batch.logps[1, 2] = torch.nan
    metrics.warn_not_finite(4, (float("nan"), 0.0), 1.0, batch, 2)
    said = capsys.readouterr().err
    assert "step 4: value loss nan, actor loss 0.0, gradient norm 1.0: this update is " in said
    assert "not finite: p0 sample 1, p1 sample 1\n" in said
    batch = small_batch()
    metrics.warn_not_finite(4, (0.0, 0.0), float("inf"), batch, 2)
    assert "not finite: no response alone, but the gradient\n" in capsys.readouterr().err


def row(step, **changed):
    """A step in which all is well."""
    good = {"reward": 0.5, "reward_clean": 0.5, "uniform_groups": 0.2, "truncated": 0.1}
    good |= {"sampler_gap": 1e-3, "actor_share": 0.025, "response_tokens": 24.0}
    return good | changed | {"step": step}


def warned(rows, capsys, words):
    """The steps after which the words were said."""
    steps = []
    for n in range(1, len(rows) + 1):
        metrics.warn_if_stuck(rows[:n], 48)
        if words in capsys.readouterr().err:
            steps.append(n)
    return steps


STUCK = [
    ({"uniform_groups": 1}, "every group has one reward (mean 0.50)", [1, 21]),
    ({"truncated": 1}, "every response was cut at 48 tokens", [1, 21]),
    ({"reward_clean": 0}, "the reward has been 0 for every response", [5, 25]),
    ({"reward_clean": 1}, "the reward has been 1 for every response", [5, 25]),
    ({"actor_share": 0.7}, "the actor pulls 0.70 times as hard on a token", [1, 21]),
]


@pytest.mark.parametrize(("changed", "words", "steps"), STUCK)
def test_a_run_that_cannot_learn_says_so_at_once_and_then_now_and_then(
    capsys, changed, words, steps
):
    """Hours of nothing in silence; or a warning at every step, which nobody reads any more."""
    rows = [row(step, **changed) for step in range(1, 31)]
    assert warned(rows, capsys, words) == steps
    assert warned([row(step) for step in range(1, 31)], capsys, "WARNING") == []
    if steps[0] == 1:  # after a good step it is said anew
        assert warned([rows[0], row(2), *rows[2:4]], capsys, words) == [1, 3]


def test_sampler_and_trainer_that_drift_apart_are_noticed(capsys):
    """Log-probs of weights that the sampler no longer has: learning gets worse, slowly."""
    drifting = [row(step, sampler_gap=0.005 * step) for step in range(1, 12)]
    assert warned(drifting, capsys, "sampler and trainer drift apart") == [10]
    level = [row(step, sampler_gap=0.1) for step in range(1, 12)]
    assert warned(level, capsys, "drift apart") == []
    tiny = [row(step, sampler_gap=1e-6 * step**3) for step in range(1, 12)]
    assert warned(tiny, capsys, "drift apart") == []
    unknown = [row(step, sampler_gap=None, actor_share=None) for step in range(1, 12)]
    assert warned(unknown, capsys, "WARNING") == []


def test_only_the_first_process_warns(capsys, monkeypatch):
    """The same warning eight times."""
    monkeypatch.setenv("RANK", "1")
    metrics.warn_if_stuck([row(1, truncated=1)], SimpleNamespace())
    assert capsys.readouterr().err == ""
