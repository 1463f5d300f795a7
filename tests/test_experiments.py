"""experiments/: statistics against known values, tasks that are well formed, jobs that resume."""

import json
import random
import sys

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "experiments"))

import compare
import credit
import grades
import intervals
import launch
import smollm2
import tasks
import write_tables

import train
from lib.tokenizer import Tokenizer
from rewards import score

# --------------------------------------------------------------------------------------------------
# Statistics


def test_iqm_drops_a_quarter_at_each_end():
    """Would catch: an IQM that is the mean, or that drops the wrong number of values."""
    assert intervals.iqm([9, 1, 2, 3, -50]) == 2
    assert intervals.iqm([0, 0, 1, 2, 3, 4, 90, 90]) == 2.5


def test_student_interval_of_one_to_five():
    """Would catch: the wrong degrees of freedom. 2.776 * 1.5811 / sqrt(5) = 1.963."""
    center, half = intervals.student([1, 2, 3, 4, 5])
    assert (center, round(half, 3)) == (3, 1.963)


def test_paired_difference_takes_the_seeds_of_both():
    """Would catch: a difference of means over different seeds."""
    center, half, n = intervals.paired({0: 0.5, 1: 0.9, 7: 0.0}, {0: 0.4, 1: 0.8, 2: 0.9})
    assert center == pytest.approx(0.1) and half == pytest.approx(0, abs=1e-9) and n == 2


def test_bootstrap_redraws_within_each_stratum():
    """Would catch: seeds of one task drawn in place of another's, which widens the interval."""
    low, high = intervals.stratified_bootstrap([[0.0] * 5, [1.0] * 5], lambda x: sum(x) / len(x))
    assert (low, high) == (0.5, 0.5)
    rng = random.Random(1)
    values = [rng.gauss(0, 1) for _ in range(400)]
    low, high = intervals.stratified_bootstrap([values], lambda x: sum(x) / len(x))
    assert high - low == pytest.approx(2 * 1.96 / 400**0.5, rel=0.15)


def test_correlation_and_area_under_curve():
    """Would catch: a sign, ties that count whole, a crash on a constant."""
    x = torch.tensor([1.0, 2.0, 4.0])
    assert credit.correlation(x, -3 * x + 1) == pytest.approx(-1)
    assert credit.correlation(x, torch.ones(3)) is None
    right = torch.tensor([True, False, True, False])
    assert credit.area_under_curve(torch.tensor([4.0, 3.0, 2.0, 1.0]), right) == 0.75
    assert credit.area_under_curve(torch.zeros(4), right) == 0.5


def test_variance_within_is_free_of_measurement_noise():
    """Would catch: noise of the continuations counted as variance within a response."""
    torch.manual_seed(0)
    rows = torch.arange(500).repeat_interleave(20)
    truth = torch.randn(500)[rows] + 2 * torch.randn(len(rows))  # 1 between rows, 4 within
    noisy = [truth + 3 * torch.randn(len(rows)) for _ in range(2)]
    within, whole = credit.variance_within(*[x.double() for x in noisy], rows)
    assert within == pytest.approx(4 * 19 / 20, rel=0.1) and whole == pytest.approx(5, rel=0.1)


# --------------------------------------------------------------------------------------------------
# Tasks


def test_path_star_asks_for_one_arm_of_different_nodes():
    """Would catch: a node that stands twice, so that a later step is not forced."""
    for seed in range(20):
        arms, asked = star = tasks.draw_star(random.Random(seed))
        nodes = "".join(arms)
        assert len(set(nodes)) == len(nodes) == tasks.ARMS * tasks.LENGTH
        problem = tasks.star_problem(star)
        assert problem.endswith(f":{arms[asked][-1]}") and tasks.star_response(star) in problem


def test_careless_teacher_of_path_star_is_right_as_often_as_it_says():
    """Would catch: a warm start at which reward is certain or absent."""
    rng, star = random.Random(0), tasks.draw_star(random.Random(0))
    found = [tasks.star_response(star, rng, care=0.4) for _ in range(4000)]
    assert found.count(tasks.star_response(star)) / 4000 == pytest.approx(0.4, abs=0.03)
    assert set(found) == set(star[0])


def test_solutions_of_sums_are_right_by_the_verifier():
    """Would catch: a solution that is not the one the model was taught, or that is wrong."""
    rows = launch.read_jsonl(ROOT / "demo" / "test.jsonl")[:50]
    for row in rows:
        assert score(tasks.demo_solution(row["problem"]), row["answer"]) == 1
    draw, problem, response = tasks.teachers("filler", 6)
    tokenizer = Tokenizer.from_pretrained(ROOT / "demo" / "model")
    for seed in range(20):
        x = draw(random.Random(seed))
        assert score(response(x), str(eval_sum(problem(x)))) == 1
        assert 70 <= len(tokenizer.encode(response(x))) <= 200


def eval_sum(problem):
    first, *rest = problem.rstrip("=").replace("-", "+-").split("+")
    return int(first) + sum(map(int, rest))


def test_first_wrong_token_is_where_the_solution_is_left():
    """Would catch: an early stop, or one more token after the end, taken for right."""
    assert tasks.first_wrong([1, 2, 3], [1, 2, 3]) is None
    assert tasks.first_wrong([1, 9, 3], [1, 2, 3]) == 1
    assert tasks.first_wrong([1, 2], [1, 2, 3]) == 1  # cut off: nothing is wrong before the end
    assert tasks.first_wrong([1, 2, 4, 4], [1, 2, 3]) == 2


def test_half_the_signal_is_what_flips_leave_on_average():
    """Would catch: a control that changes more than the expectation of R - V_0."""
    row, p = {"answer": "4"}, 0.25
    right, wrong = grades.half(r"\boxed{4}", row), grades.half(r"\boxed{5}", row)
    assert right == (1 - p) * 1 + p * 0 and wrong == (1 - p) * 0 + p * 1
    assert grades.exact_half("4", row) == right and grades.exact_half("44", row) == wrong


# --------------------------------------------------------------------------------------------------
# Jobs


def test_train_takes_the_flags_of_every_job():
    """Would catch: a flag that train.py does not know, or a value that it refuses."""
    for task in compare.TASKS:
        for method in compare.RELATIVE:
            for condition in compare.CONDITIONS:
                flags = compare.flags_of(task, method, condition, seed=3, lr=5e-4)
                args = train.parse_args(launch.to_arguments(flags))
                assert args.seed == 3 and args.lr == 5e-4 and args.log_kl
                assert args.reward_noise == (0.25 if condition in ("group", "response") else 0)
    for flags in smollm2.METHODS.values():
        train.parse_args(launch.to_arguments(smollm2.FLAGS | flags))


def test_every_method_has_a_learning_rate_that_was_searched():
    """Would catch: a method without an entry, or one that is compared at an untuned rate."""
    assert set(compare.RELATIVE) == {*compare.METHODS, *compare.SWEEP}
    rows = [{"task": "sums", "method": "grpo", "lr": lr, "mean": x}
            for lr, x in ((1e-3, 0.7), (5e-4, 0.6), (1e-3, 0.3), (5e-4, 0.6))]  # fmt: skip
    assert compare.best_rate(rows, "sums", "grpo") == 5e-4
    with pytest.raises(ValueError, match="wanted --tune first"):
        compare.best_rate(rows, "star", "grpo")


def test_a_results_file_resumes_where_it_was_cut_off(tmp_path):
    """Would catch: a job that is done twice, or one that is lost with a line that was cut off."""
    jobs = [{"task": "sums", "seed": seed, "flags": {"lr": 1}} for seed in range(4)]
    file, ran = tmp_path / "rows.jsonl", []
    done = json.dumps({"task": "sums", "seed": 2, "flags": {"lr": 1}, "final": 0.5})
    file.write_text(done + "\n" + done[:20] + "\n")

    def run(job):
        ran.append(job["seed"])
        if job["seed"] == 1:
            raise RuntimeError("it fails")
        return job | {"final": 0.25}

    launch.run_all(jobs, file, run=run)
    assert ran == [0, 1, 3]
    assert sorted(row["seed"] for row in launch.read_jsonl(file)) == [0, 2, 3]


def test_halved_rewards_are_read_back_as_accuracies(tmp_path):
    """Would catch: a control at half the signal that looks as if it never rose above 0.75."""
    (tmp_path / "eval.jsonl").write_text(
        "".join(json.dumps({"step": s, "accuracy": x}) + "\n" for s, x in ((0, 0.5), (10, 0.75)))
    )
    metrics = {"reward_clean": 0.25, "kl": 0.1, "actor_share": None, "grad_norm": 1.0}
    line = json.dumps(metrics | {"response_tokens": 9.0}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(5 * line)
    row = launch.summarise(tmp_path, half=True)
    assert row["accuracy"] == [0.5, 1.0] and row["train_accuracy"] == [0.0] * 5
    assert not row["collapsed"] and row["mean"] == 1.0


def test_tables_replace_what_stands_between_its_marks():
    """Would catch: a table that is added again at each refresh, or text that is eaten."""
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    once = write_tables.fill(text, {"one": "| new |", "three": "x"})
    assert once == "a\n<!-- one -->\n| new |\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    assert write_tables.fill(once, {"one": "| new |"}) == once
    with pytest.raises(ValueError, match="has no end"):
        write_tables.fill("<!-- one -->", {"one": "x"})


def test_credit_of_an_untrained_policy_is_nothing(monkeypatch):
    """Would catch: log-probs of policy and reference that are taken at different tokens."""
    monkeypatch.setattr(credit, "CONTINUATIONS", 4)
    model = ROOT / "demo" / "model"
    found = credit.measure(model, model, "sums", 0.2, seed=0, prompts=2, samples=4, judged=1)
    assert found["kl"] == 0 and found["curve_move"] == 0
    assert found["correlation"]["td"] is None
    assert found["auc"]["move"] in ([0.5] * 5, [None] * 5)
