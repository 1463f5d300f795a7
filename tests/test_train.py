"""train.py, from JSONL lines to a checkpoint folder, on the shipped demo model: what a run writes,
every objective, rewards of one's own, and the switches for memory and speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import eval as evaluation
import train
from lib import fast, settings
from model import load_model

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
MODEL = ["--model", str(DEMO / "model")]
FAST = ["--prompts-per-step", "4", "--samples-per-prompt", "4", "--max-new-tokens", "40"]
FAST += ["--lr", "1e-3"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run(out, *more, data=DEMO / "train.jsonl"):
    """train.py in this process, on the demo's model -> the rows of metrics.jsonl."""
    arguments = [*MODEL, "--data", str(data), "--out", str(out), *FAST, *more]
    assert train.main(arguments) == 0
    return lines(out / "metrics.jsonl")


def weights(out):
    return load_file(out / "checkpoint/model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --------------------------------------------------------------------------------------------------
# What a run writes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole small run of four steps, with evaluation on a handful of problems."""
    folder = tmp_path_factory.mktemp("run")
    few = folder / "few.jsonl"
    few.write_text("".join((DEMO / "test.jsonl").read_text().splitlines(keepends=True)[:6]))
    evaluations = ["--eval-data", str(few), "--eval-every", "2"]
    run(folder / "out", "--steps", "4", *evaluations, "--actor-coef", "1e-4")
    return folder / "out"


KEYS = (
    *("step", "reward", "reward_clean", "accuracy", "value_loss", "actor_loss", "kl", "entropy"),
    *("response_tokens", "truncated", "uniform_groups", "grad_norm", "lr", "sampler_gap"),
    *("seconds_rollout", "seconds_score", "seconds_update", "tokens_per_second"),
    *("actor_share", "actor_coef", "skipped", "td_size", "td_noise", "tells"),
)


def test_metrics_have_one_line_a_step_with_every_promised_key(finished):
    """A metric that is missing, or NaN, is found by whoever plots it months later."""
    metrics = lines(finished / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    for m in metrics:
        assert sorted(m) == sorted(KEYS)
        assert all(v is None or v == v for v in m.values())
    # ten steps of warm-up
    assert [m["lr"] for m in metrics] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])


def test_at_the_first_step_policy_and_reference_agree_to_the_last_bit(finished):
    """Two arithmetics for policy and reference: whitening would turn their rounding noise into unit
    advantages."""
    first, *later = lines(finished / "metrics.jsonl")
    assert first["kl"] == 0 and first["actor_loss"] == 0
    assert all(m["kl"] > 1e-6 for m in later)
    assert first["sampler_gap"] < 1e-5
    for r in lines(finished / "rollouts.jsonl"):
        if r["step"] == 1:
            assert set(r["values"]) == {r["baseline"]} and set(r["advantages"]) == {0.0}


def test_evaluation_comes_before_training_then_as_asked_and_last(finished):
    """No baseline to compare with, or a last evaluation of weights that are not those saved."""
    rows = lines(finished / "eval.jsonl")
    assert [r["step"] for r in rows] == [0, 2, 4]
    keys = ["accuracy", "file", "n", "response_tokens", "step", "truncated"]
    assert all(sorted(r) == keys and r["n"] == 6 for r in rows)


def test_logged_rollouts_show_each_token_with_its_value(finished):
    """Values shifted against their tokens, or text that is not the response."""
    for r in lines(finished / "rollouts.jsonl"):
        assert "".join(r["tokens"]) == r["response"]
        assert len(r["values"]) == len(r["tokens"]) + 1 == len(r["advantages"]) + 1
        assert r["reward"] in (0.0, 1.0) and r["values"][0] == pytest.approx(r["baseline"])
        assert r["finished"] == r["response"].endswith("<|im_end|>")


def test_the_checkpoint_is_a_whole_folder_with_the_trained_weights(finished):
    """A checkpoint of the weights at the start, or without its tokenizer."""
    saved, start = load_model(finished / "checkpoint"), load_model(DEMO / "model")
    pairs = zip(saved.parameters(), start.parameters(), strict=True)
    moved = [(a - b).abs().max().item() for a, b in pairs]
    assert min(moved) > 0 and max(moved) < 0.02
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    wanted.add("generation_config.json")
    assert wanted <= {f.name for f in (finished / "checkpoint").iterdir()}
    assert not list(finished.glob("checkpoint.*"))


def test_the_checkpoint_gives_the_same_logits_in_transformers(finished):
    """A folder that only we can read."""
    transformers = pytest.importorskip("transformers")
    tokens = torch.randint(0, 260, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(finished / "checkpoint")
        ours = load_model(finished / "checkpoint")
        assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-5


def test_a_trained_checkpoint_is_a_model_to_start_from_and_to_evaluate(finished, tmp_path, capsys):
    """Files beside the weights that eval.py, or a second run, stumbles over."""
    few = finished.parent / "few.jsonl"
    folder = ["--model", str(finished / "checkpoint"), "--data", str(few)]
    assert evaluation.main([*folder, "--max-new-tokens", "20"]) == 0
    assert "few.jsonl" in capsys.readouterr().out
    assert train.main([*folder, *FAST, "--steps", "1", "--out", str(tmp_path / "r")]) == 0


def test_a_command_line_works_from_another_folder(tmp_path):
    """Imports or demo files looked for in the current folder; a stack trace on the way out."""
    small = ["--steps", "1", "--prompts-per-step", "2", "--max-new-tokens", "8", "--out", "r"]
    command = [sys.executable, str(ROOT / "train.py"), *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("eval  test.jsonl: ") == 2
    assert "r/checkpoint loads in transformers" in done.stdout
    assert len(lines(tmp_path / "r/metrics.jsonl")) == 1


def test_nothing_to_learn_is_said_loudly(tmp_path, capsys):
    """Hours of training on rewards that never vary, in silence."""
    hopeless = tmp_path / "h.jsonl"
    problems = [{"problem": f"{a}+1=", "answer": "-1"} for a in range(20)]
    hopeless.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    run(tmp_path / "r", "--steps", "5", "--max-new-tokens", "2", data=hopeless)
    said = capsys.readouterr().err
    for words in ("every group has one reward", "every response was cut", "the reward has been 0"):
        assert said.count(words) == 1


def test_epochs_count_passes_over_the_problems(tmp_path):
    """A run of an epoch that sees some problems twice and others never."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join((DEMO / "train.jsonl").read_text().splitlines(keepends=True)[:10]))
    assert len(run(tmp_path / "one", data=few)) == 2  # 10 // 4: the default is one epoch
    assert len(run(tmp_path / "two", "--epochs", "2", data=few)) == 5
    assert len(run(tmp_path / "half", "--epochs", "0.1", data=few)) == 1


# --------------------------------------------------------------------------------------------------
# Objectives and rewards


def test_label_noise_flips_whole_groups_and_the_clean_reward_stays(tmp_path):
    """Noise that repeats for every seed, flips single responses, or leaks into the accuracy."""
    rewards = [1.0, 0.0] * 4000
    noisy = train.flip_rewards(rewards, 4, 0.25, False, seed=1, step=2)
    flips = [a != b for a, b in zip(rewards, noisy, strict=True)]
    groups = [flips[i : i + 4] for i in range(0, 8000, 4)]
    assert all(len(set(group)) == 1 for group in groups)
    assert 0.22 < sum(group[0] for group in groups) / len(groups) < 0.28
    assert noisy == train.flip_rewards(rewards, 4, 0.25, False, seed=1, step=2)
    assert noisy != train.flip_rewards(rewards, 4, 0.25, False, seed=1, step=3)
    assert noisy != train.flip_rewards(rewards, 4, 0.25, False, seed=2, step=2)
    [m] = run(tmp_path / "r", "--steps", "1", "--reward-noise", "1")
    assert m["reward"] == pytest.approx(1 - m["reward_clean"])
    assert m["accuracy"] == pytest.approx(m["reward_clean"])


def test_label_noise_by_response_flips_single_responses(tmp_path):
    """A flag that is read and then forgotten: groups are still flipped as a whole."""
    rewards = [1.0] * 8000
    noisy = train.flip_rewards(rewards, 1, 0.25, False, seed=1, step=2)
    groups = [noisy[i : i + 4] for i in range(0, 8000, 4)]
    assert sum(min(group) < max(group) for group in groups) > 1000
    more = ["--steps", "1", "--reward-noise", "0.5", "--reward-noise-by"]
    rows = [run(tmp_path / by, *more, by)[0] for by in ("group", "response")]
    assert rows[0]["reward_clean"] == rows[1]["reward_clean"]
    assert rows[0]["reward"] != rows[1]["reward"]


def test_a_correction_for_known_noise_has_the_clean_reward_as_its_mean(tmp_path):
    """A correction that forgets the share of flips, or that reaches the logged clean reward."""
    rewards = [1.0, 1.0, 1.0, 0.0] * 5000
    corrected = train.flip_rewards(rewards, 1, 0.25, True, seed=1, step=2)
    assert set(corrected) == {-0.5, 1.5}
    for clean in (0.0, 1.0):
        mine = [c for c, reward in zip(corrected, rewards, strict=True) if reward == clean]
        assert sum(mine) / len(mine) == pytest.approx(clean, abs=0.05)
    [m] = run(tmp_path / "r", "--steps", "1", "--reward-noise", "0.25", "--correct-noise")
    assert -0.5 <= m["reward"] <= 1.5 and 0 < m["reward_clean"] < 1


def test_a_reference_that_is_refreshed_becomes_the_policy_and_survives_a_restart(tmp_path):
    """A refresh that comes a step late, or a resumed run that measures its KL from another model;
    here also where the step of the refresh is no longer among the checkpoints that --keep leaves.
    """
    more = ["--refresh-reference", "2", "--save-every", "1", "--keep", "1"]
    whole = run(tmp_path / "whole", "--steps", "6", *more)
    assert [m["kl"] == 0 for m in whole] == [True, False, True, False, True, False]
    for stop in (3, 4, 6):
        again = run(tmp_path / "again", "--steps", str(stop), *more, *["--resume"] * (stop > 3))
    assert [m["kl"] for m in again] == [m["kl"] for m in whole]
    assert equal(weights(tmp_path / "again"), weights(tmp_path / "whole"))
    left = sorted(path.name for path in (tmp_path / "whole").glob("checkpoint*"))
    assert left == ["checkpoint"]  # of step 6; that of step 4 is the reference of nothing now


@pytest.fixture
def reference_passes(monkeypatch):
    """A list that grows with every forward pass of the reference."""
    frozen_copy, passes = train.frozen_copy, []

    def counted(*args):
        copy = frozen_copy(*args)
        hidden = copy.hidden

        def counting(*hidden_args):
            passes.append(hidden_args)
            return hidden(*hidden_args)

        copy.hidden = counting
        return copy

    monkeypatch.setattr(train, "frozen_copy", counted)
    return passes


@pytest.mark.parametrize("algo", train.OBJECTIVES)
def test_every_objective_trains_and_pays_for_a_reference_only_where_it_needs_one(
    tmp_path, reference_passes, algo
):
    """An objective that crashes, or moves nothing; a second forward pass, half of the scoring, for
    numbers that nobody reads."""
    needs = train.OBJECTIVES[algo].reference
    metrics = run(tmp_path / "r", "--steps", "2", "--algo", algo)
    assert bool(reference_passes) == needs
    assert all((m["kl"] is not None) == needs for m in metrics)
    before, after = load_file(DEMO / "model/model.safetensors"), weights(tmp_path / "r")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    shown = lines(tmp_path / "r/rollouts.jsonl")
    assert all((row["values"] is not None) == train.OBJECTIVES[algo].value for row in shown)
    assert all(m["skipped"] == 0 and m["grad_norm"] > 0 for m in metrics)


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "rloo"])
def test_the_distance_from_the_reference_is_logged_where_it_is_asked_for(
    tmp_path, reference_passes, algo
):
    """--log-kl that logs nothing, or that changes the run."""
    more = ["--steps", "2", "--algo", algo]
    metrics = run(tmp_path / "logged", *more, "--log-kl")
    assert reference_passes and metrics[0]["kl"] == 0 and metrics[1]["kl"] > 1e-9
    run(tmp_path / "plain", *more)
    assert equal(weights(tmp_path / "logged"), weights(tmp_path / "plain"))


def test_the_actor_keeps_its_share_whatever_the_responses_are(tmp_path, capsys):
    """c_A as the authors set it for a thousand tokens, which destroys a policy at 25; a share of
    the step before."""
    metrics = run(tmp_path / "r", "--steps", "4", "--reward-noise", "0.2")
    learning = [m for m in metrics if m["actor_share"] is not None]
    assert len(learning) >= 3
    for m in learning:
        assert m["actor_share"] == pytest.approx(0.025, rel=1e-5)
    assert len({m["actor_coef"] for m in learning}) == len(learning)
    assert "the actor pulls" not in capsys.readouterr().err


def test_a_fixed_actor_coefficient_stays_and_is_warned_of_where_it_is_too_large(tmp_path, capsys):
    """--actor-coef that the share overrides; a policy destroyed in silence."""
    metrics = run(tmp_path / "r", "--steps", "2", "--actor-coef", "5e-3")
    assert [m["actor_coef"] for m in metrics] == [5e-3] * 2
    assert metrics[0]["actor_share"] > 0.2
    said = capsys.readouterr().err
    assert said.count("the actor pulls") == 1 and "leave --actor-coef out" in said


REWARD = r'''
"""A reward of one's own: the number in the last box; half of it for any box."""
import re

def last_number(response, problem):
    found = re.findall(r"\\boxed\{(-?\d+)\}", response)
    if not found:
        return 0
    return 1 if int(found[-1]) == problem["goal"]["value"] else 0.5
'''


@pytest.fixture
def own_reward(tmp_path):
    """A reward file, and problems without an answer but with a key that it reads."""
    (tmp_path / "r.py").write_text(REWARD)
    rows = []
    for line in (DEMO / "train.jsonl").read_text().splitlines()[:200]:
        row = json.loads(line)
        row["goal"] = {"value": int(row.pop("answer"))}
        rows.append(json.dumps(row) + "\n")
    (tmp_path / "goals.jsonl").write_text("".join(rows))
    return tmp_path


def test_a_reward_of_ten_lines_in_a_file_trains_and_evaluates(own_reward, capsys):
    """A reward function that gets no row, or only the keys that we know; rewards between 0 and 1
    that are rounded; answers asked for that it does not need."""
    goals, reward = own_reward / "goals.jsonl", ["--reward", f"{own_reward}/r.py:last_number"]
    evaluations = ["--eval-data", str(goals), "--eval-every", "0"]
    metrics = run(own_reward / "r", "--steps", "2", *reward, *evaluations, data=goals)
    shown = lines(own_reward / "r/rollouts.jsonl")
    assert {row["reward"] for row in shown} == {0.5, 1.0}
    assert all(row["answer"] is None for row in shown)
    assert all(0.5 < m["reward"] < 1 and m["accuracy"] < m["reward"] for m in metrics)
    capsys.readouterr()
    table = own_reward / "o.json"
    arguments = [*MODEL, "--data", str(goals), *reward, "--max-new-tokens", "40"]
    assert evaluation.main([*arguments, "--out", str(table)]) == 0
    [row] = json.loads(table.read_text())["table"]
    assert {score for p in row["problems"] for score in p["scores"]} == {0.5, 1.0}
    assert f"{row['accuracy']:.1%}" in capsys.readouterr().out


def test_an_exception_in_a_reward_is_one_line_and_finished_steps_are_saved(own_reward, capsys):
    """An hour of training lost, and a stack trace, for a key that one row of ten thousand lacks."""
    goals = own_reward / "goals.jsonl"
    (own_reward / "r.py").write_text(REWARD + "\nseen = []\n\ndef fails(response, problem):\n"
        "    seen.append(1)\n    return 1 / (len(seen) != 40) * last_number(response, problem)\n"
    )  # fmt: skip
    reward = ["--reward", f"{own_reward}/r.py:fails", "--watch", "0"]
    with pytest.raises(SystemExit) as stopped:
        run(own_reward / "r", "--steps", "5", *reward, data=goals)
    reward = reward[1]
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert f"--reward {reward}: problem train-" in said and f" of {goals}: " in said
    assert f"{own_reward}/r.py:15: ZeroDivisionError: division by zero; " in said
    assert said.endswith("; the checkpoint of step 2 stays, and --resume goes on from it\n")
    assert [m["step"] for m in lines(own_reward / "r/metrics.jsonl")] == [1, 2]
    with pytest.raises(SystemExit):
        arguments = [*MODEL, "--data", str(goals), "--reward", reward, "--max-new-tokens", "9"]
        evaluation.main(arguments)
    said = capsys.readouterr().err
    assert said.startswith("eval.py: --reward ") and said.count("\n") == 1
    # The file is mended: the run goes on, and it is said that the rewards are others from here on.
    mended = (own_reward / "r.py").read_text().replace("(len(seen) != 40)", "1")
    (own_reward / "r.py").write_text(mended)
    run(own_reward / "r", "--steps", "3", "--reward", reward, "--resume", data=goals)
    assert "from here on its new rewards count" in capsys.readouterr().err
    assert [m["step"] for m in lines(own_reward / "r/metrics.jsonl")] == [1, 2, 3]


def test_problems_in_the_form_of_math_and_as_messages_train(tmp_path):
    """MATH's own files, or an export of chats, that must be converted by hand first."""
    problems = [json.loads(line) for line in (DEMO / "train.jsonl").read_text().splitlines()[:40]]
    solution = "Add: \\boxed{{0}}. So it is \\boxed{{{}}}."
    rows = [{"problem": p["problem"], "solution": solution.format(p["answer"])} for p in problems]
    talks = []
    for p in problems:
        ask = [{"role": "user", "content": p["problem"]}]
        talks.append({"messages": ask, "answer": p["answer"]})
    plain, seen = [{"problem": p["problem"], "answer": p["answer"]} for p in problems], []
    for name, form in (("plain", plain), ("math", rows), ("talks", talks)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in form))
        more = ["--steps", "2", "--prompt-template", "plain"]
        seen.append([m["reward"] for m in run(tmp_path / name, *more, data=file)])
    assert seen[0] == seen[1] == seen[2] and 0 < seen[0][0] < 1


# --------------------------------------------------------------------------------------------------
# Memory and speed


def test_moving_reference_and_moments_out_of_the_way_changes_nothing(tmp_path):
    """--offload with a moment left behind, or a reference that is not back when a step scores for
    the second time."""
    for name, more in (("here", []), ("there", ["--offload"])):
        run(tmp_path / name, "--steps", "2", "--updates-per-step", "2", *more)
    assert equal(weights(tmp_path / "here"), weights(tmp_path / "there"))


def test_offloaded_moments_are_out_of_the_way_before_the_first_step(tmp_path, monkeypatch):
    """A first step, or the first after --resume, that runs out of memory because the moments still
    lie on the GPU then."""
    events, move, sample = [], fast._move, train.generate_together

    def moved(thing, device):
        if isinstance(thing, torch.optim.Optimizer):
            events.append((str(device), len(thing.state)))
        move(thing, device)

    def sampled(*args, **kwargs):
        events.append("sampling")
        return sample(*args, **kwargs)

    monkeypatch.setattr(fast, "_move", moved)
    monkeypatch.setattr(train, "generate_together", sampled)
    run(tmp_path / "r", "--steps", "1", "--offload")
    count = len(list(load_model(DEMO / "model").parameters()))
    before = events[: events.index("sampling")]
    assert before and before[-1] == ("cpu", count)
    events.clear()
    run(tmp_path / "r", "--steps", "2", "--offload", "--resume")
    assert events[: events.index("sampling")][-1] == ("cpu", count)


def test_recomputation_and_micro_batches_change_no_number_beyond_rounding(tmp_path):
    """A flag that is meant for memory alone and makes another run of it."""
    plain = run(tmp_path / "plain", "--steps", "2")
    run(tmp_path / "recomputed", "--steps", "2", "--recompute-activations")
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "recomputed"))
    cut = run(tmp_path / "cut", "--steps", "2", "--tokens-per-microbatch", "100")
    for a, b in zip(plain, cut, strict=True):
        assert all(b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-6) for key in ("kl", "reward"))


def test_two_updates_a_step_go_further_than_one(tmp_path):
    """A second update on the gradient of the first, or none at all."""
    moved = []
    for updates in ("1", "2"):
        run(tmp_path / updates, "--steps", "1", "--updates-per-step", updates)
        before, after = load_file(DEMO / "model/model.safetensors"), weights(tmp_path / updates)
        moved.append(sum((after[name] - before[name]).square().sum() for name in before))
    assert moved[1] > 2 * moved[0]


def test_bf16_runs_on_a_cpu_with_fp32_weights(tmp_path):
    """Weights of bf16, which an update of 1e-6 does not move; policy and reference that round
    differently."""
    metrics = run(tmp_path / "r", "--steps", "2", "--dtype", "bf16")
    assert metrics[0]["kl"] == 0 and metrics[1]["kl"] > 0 and metrics[0]["sampler_gap"] < 0.05
    saved = weights(tmp_path / "r")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in saved.values())


@pytest.mark.parametrize("program", [train, evaluation])
def test_a_gpu_by_number_becomes_the_current_one(tmp_path, monkeypatch, capsys, program):
    """--device cuda:1 whose recorded steps run on cuda:0: they compute nothing, and sampling never
    ends."""
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    loads = "train.load_models" if program is train else "eval.load_model"

    def stop(*arguments):
        assert torch.device("cuda:1") in arguments
        raise ValueError("far enough")

    monkeypatch.setattr(loads, stop)
    out = ["--out", str(tmp_path / "r")]
    arguments = [*MODEL, "--data", str(DEMO / "test.jsonl"), "--device", "cuda:1", *out]
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert "far enough" in capsys.readouterr().err
    assert current == [torch.device("cuda:1")]


def test_every_flag_that_matters_is_refused_on_resume_or_known_to_be_harmless():
    """A new flag that is forgotten in the list of what may change, or stands there by mistake."""
    flags = {row[0].removeprefix("--").replace("-", "_") for rows in settings.TRAIN.values()
             for row in rows}  # fmt: skip
    assert flags >= train.MAY_CHANGE - {"demo"}
    assert set(settings.DEMO) | set(train.METHOD) | set(train.SAMPLING) <= flags
    assert not train.MAY_CHANGE & {"seed", "lr", "beta", "algo", "reward", "temperature", "kl"}


def test_the_demo_has_settings_of_its_own_and_flags_go_before_them(monkeypatch):
    """The demo at a learning rate for large models, or a flag that the demo ignores."""
    demo = train.parse_args([])
    assert demo.demo and demo.lr == 5e-4 and demo.steps == 60 and demo.model == str(DEMO / "model")
    assert demo.actor_coef == 1e-4 and train.parse_args(["--actor-share", "0.2"]).actor_coef is None
    mine = train.parse_args(["--steps", "3", "--lr", "1e-4"])
    assert mine.demo and (mine.steps, mine.lr, mine.prompts_per_step) == (3, 1e-4, 64)
    other = train.parse_args(["--model", "m", "--data", "d"])
    assert not other.demo and other.lr == 1e-6 and other.steps is None and other.actor_coef is None
