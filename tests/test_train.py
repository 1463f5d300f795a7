"""train.py, eval.py and data.py: from JSONL lines to a checkpoint folder, on the shipped demo model."""

import json
import random
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import data
import eval as evaluation
import train
import vimpo
from model import frozen_copy, load_model
from rollout import Rollout

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
FAST = ["--prompts-per-step", "4", "--samples-per-prompt", "4", "--max-new-tokens", "40", "--lr", "1e-3"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def quiet(*_):
    pass


def run(out, *more):
    """train.py in this process, on the demo's model and problems."""
    assert train.main(["--model", str(DEMO / "model"), "--data", str(DEMO / "train.jsonl"), "--out", str(out), *FAST, *more]) == 0


# ---------------------------------------------------------------------------------------------------------------------------------
# The run folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole small run of four steps, with evaluation on a handful of problems."""
    folder = tmp_path_factory.mktemp("run")
    few = folder / "few.jsonl"
    few.write_text("".join((DEMO / "test.jsonl").read_text().splitlines(keepends=True)[:6]))
    run(folder / "out", "--steps", "4", "--eval-data", str(few), "--eval-every", "2", "--actor-coef", "1e-4")
    return folder / "out"


def test_metrics_have_one_line_a_step_with_every_promised_key(finished):
    """A metric that is missing, or NaN, is found by whoever plots it months later."""
    keys = ["step", "reward", "reward_clean", "accuracy", "value_loss", "actor_loss", "kl", "entropy", "response_tokens", "truncated",
            "uniform_groups", "grad_norm", "lr", "sampler_gap", "seconds_rollout", "seconds_score", "seconds_update", "tokens_per_second",
            "actor_share", "skipped"]
    metrics = lines(finished / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    for m in metrics:
        assert sorted(m) == sorted(keys)
        assert all(v is None or v == v for v in m.values())
    assert [m["lr"] for m in metrics] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])  # ten steps of warm-up


def test_at_the_first_step_policy_and_reference_agree_to_the_last_bit(finished):
    """Two arithmetics for policy and reference: whitening would turn their rounding noise into unit advantages."""
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
    assert all(sorted(r) == ["accuracy", "file", "n", "response_tokens", "step", "truncated"] and r["n"] == 6 for r in rows)


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
    moved = [(a - b).abs().max().item() for a, b in zip(saved.parameters(), start.parameters(), strict=True)]
    assert min(moved) > 0 and max(moved) < 0.02
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= {
        f.name for f in (finished / "checkpoint").iterdir()}
    assert not list(finished.glob("checkpoint.*"))


def test_the_checkpoint_gives_the_same_logits_in_transformers(finished):
    """A folder that only we can read."""
    transformers = pytest.importorskip("transformers")
    tokens = torch.randint(0, 260, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(finished / "checkpoint")(tokens).logits
        assert (load_model(finished / "checkpoint")(tokens) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("algo", ["vimpo", "grpo"])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, algo):
    """Optimizer moments, step count, data order or noise that start anew after --resume."""
    more = ["--algo", algo, "--reward-noise", "0.3", "--actor-coef", "1e-4", "--save-every", "2"]
    run(tmp_path / "whole", "--steps", "4", *more)
    run(tmp_path / "cut", "--steps", "3", *more)  # saved at 2 and 3
    run(tmp_path / "cut", "--steps", "4", *more, "--resume")
    a, b = (load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (load_file(tmp_path / name / "checkpoint/optimizer.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    timeless = [[{k: v for k, v in m.items() if "second" not in k} for m in lines(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")]
    assert timeless[0] == timeless[1]


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
    file.write_text('{"step": 1, "x": "\u2028"}\n{"step": 2}\n{"step": 3}\n{"ste', encoding="utf-8")  # and one that was cut off
    assert [row["step"] for row in train.keep_lines_up_to(file, 2)] == [1, 2]
    assert file.read_text(encoding="utf-8") == '{"step": 1, "x": "\u2028"}\n{"step": 2}\n'


def test_label_noise_flips_whole_groups_and_the_clean_reward_stays(tmp_path):
    """Noise that repeats for every seed, flips single responses, or leaks into the accuracy."""
    rewards = [1.0, 0.0] * 4000
    noisy = train.flip_groups(rewards, 4, 0.25, seed=1, step=2)
    flips = [[a != b for a, b in zip(rewards[i : i + 4], noisy[i : i + 4], strict=True)] for i in range(0, 8000, 4)]
    assert all(len(set(f)) == 1 for f in flips)
    assert 0.22 < sum(f[0] for f in flips) / len(flips) < 0.28
    assert noisy == train.flip_groups(rewards, 4, 0.25, seed=1, step=2) != train.flip_groups(rewards, 4, 0.25, seed=1, step=3)
    run(tmp_path / "r", "--steps", "1", "--reward-noise", "1")
    m = lines(tmp_path / "r/metrics.jsonl")[0]
    assert m["reward"] == pytest.approx(1 - m["reward_clean"]) and m["accuracy"] == pytest.approx(m["reward_clean"])


# ---------------------------------------------------------------------------------------------------------------------------------
# The gradient of a step


@pytest.fixture(scope="module")
def step_gradient(make_model):
    """step_gradient(order, budget, share, algo) -> (gradient, losses) of the same 24 responses, however they are cut, in fp64."""
    model = make_model(torch.float64)
    reference = frozen_copy(model)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=noise, dtype=p.dtype) * 0.02)
    rnd = random.Random(0)
    rollouts = []
    for length in (1, 3, 9, 20, 2, 5):
        prompt = [rnd.randrange(60) for _ in range(length)]
        rollouts += [Rollout(prompt, [rnd.randrange(60) for _ in range(rnd.randint(1, 9))], [-1.0] * 99, True) for _ in range(4)]
    rollouts = [r._replace(logps=r.logps[: len(r.response_ids)]) for r in rollouts]
    rewards = [float(rnd.random() < 0.5) for _ in rollouts]

    def gradient(order=range(24), budget=10**9, share=False, algo="vimpo", keep=False):
        args = types.SimpleNamespace(tokens_per_microbatch=budget, temperature=0.9, kl="exact", beta=0.05, algo=algo, gae_lambda=0.9, clip_low=0.2,
                                     clip_high=0.28, dual_clip=10.0, actor_coef=0.1, value_loss="squared")
        batch = train.make_batch([rollouts[i] for i in order], [rewards[i] for i in order], 4, "cpu", torch.float64)
        batch |= {"share": share, "group": torch.tensor([i // 4 for i in order])}
        batch |= train.score_batch(model, reference, batch, args, quiet, keep)
        assert ("forward" in batch) == (keep and budget == 10**9)
        batch |= train.assign_credit(batch, args)
        model.zero_grad()
        losses = train.accumulate_gradients(model, batch, args, quiet)
        return torch.cat([p.grad.flatten() for p in model.parameters()]), losses

    return gradient


@pytest.mark.parametrize("algo", ["vimpo", "grpo"])
@pytest.mark.parametrize(("budget", "share"), [(10**9, True), (40, False), (40, True), (1, False), (1, True)])
def test_the_gradient_does_not_depend_on_micro_batches_order_or_sharing(step_gradient, algo, budget, share):
    """Means per micro-batch, whitening per micro-batch, a prompt's gradient counted once instead of once per response."""
    whole, losses = step_gradient(algo=algo)
    order = random.Random(budget).sample(range(24), 24)
    part, part_losses = step_gradient(order, budget, share, algo)
    assert (part - whole).norm() < 1e-12 * whole.norm()
    assert part_losses == pytest.approx(losses, abs=1e-12)


def test_recomputed_activations_give_the_same_gradient(make_model):
    """A recomputation that records a prompt's keys twice, or is not used at all."""
    kept, made = make_model(torch.float64), make_model(torch.float64)
    made.recompute = True
    rollouts = [Rollout([1, 2, 3, 4], [5, 6, 7], [], True), Rollout([1, 2, 3, 4], [8, 9], [], True)]
    saved = []
    for model in (kept, made):
        weights, sizes = {p.data_ptr() for p in model.parameters()}, {}

        def pack(x, weights=weights, sizes=sizes):
            if x.data_ptr() not in weights:
                sizes[x.data_ptr()] = x  # held, so that no other tensor gets its address
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            hidden, _ = train.response_hidden(model, rollouts, share=True)
        saved.append(sum(x.numel() for x in sizes.values()))
        hidden.square().sum().backward()
    c = kept.config
    assert saved[0] - saved[1] == c.layers * (3 + 2 * 3) * 2 * c.F  # gate and up, of the prompt but for its last token and of both responses
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-12, atol=1e-14) for a, b in zip(kept.parameters(), made.parameters(), strict=True))


@pytest.mark.parametrize("share", [False, True])
def test_a_forward_pass_kept_from_scoring_gives_the_same_gradient_to_the_last_bit(step_gradient, share):
    """Hidden states of other rows, or of weights that have moved since."""
    wanted, losses = step_gradient(share=share)
    kept, kept_losses = step_gradient(share=share, keep=True)
    assert torch.equal(kept, wanted) and kept_losses == losses
    assert torch.allclose(step_gradient(budget=40, share=share, keep=True)[0], wanted, rtol=1e-9)  # several micro-batches: nothing is kept


def test_moving_reference_and_moments_out_of_the_way_changes_nothing(tmp_path):
    """--offload with a moment left behind, or a reference that is not back when a step scores for the second time."""
    for name, more in (("here", []), ("there", ["--offload"])):
        run(tmp_path / name, "--steps", "2", "--updates-per-step", "2", *more)
    here, there = (load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("here", "there"))
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_grpo_leaves_out_groups_with_one_reward_and_loses_nothing(make_model, monkeypatch):
    """Groups skipped together with their tokens' share of the mean, or an optimizer that stands still because there is no gradient at all."""
    model = make_model(torch.float64)
    args = types.SimpleNamespace(tokens_per_microbatch=10, algo="grpo", temperature=1.0, clip_low=0.2, clip_high=0.28, dual_clip=10.0)
    rollouts = [Rollout([1, 2], [3 + i] * (1 + i), [-1.0] * (1 + i), True) for i in range(6)]

    def gradient(rewards):
        batch = train.make_batch(rollouts, rewards, 2, "cpu", torch.float64)
        batch |= {"logps": batch["sampler_logps"], "advantages": vimpo.grpo_advantages(batch["rewards"], batch["group"], batch["mask"])}
        model.zero_grad()
        rows = []
        monkeypatch.setattr(train, "response_hidden", lambda model, part, share: rows.extend(part) or response_hidden(model, part, share))
        train.accumulate_gradients(model, batch, args, quiet, moved=True)  # the sampler's log-probs are made up
        return torch.cat([p.grad.flatten() for p in model.parameters()]), len(rows), batch

    response_hidden = train.response_hidden
    skipped, used, batch = gradient([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert used == 4
    model.zero_grad()
    hidden, targets = response_hidden(model, rollouts, False)
    logps = batch["logps"].masked_scatter(batch["mask"], vimpo.token_logps(hidden, model.head_weight, targets))
    vimpo.ppo_loss(logps, batch["logps"], batch["advantages"], batch["mask"]).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert whole.norm() > 0 and (skipped - whole).norm() < 1e-12 * whole.norm()
    nothing, _, _ = gradient([1.0] * 6)
    assert nothing.abs().max() == 0


def test_the_gradient_is_that_of_the_dense_formula(step_gradient, make_model):
    """A loss that is consistent with itself, however it is cut, and wrong: the value loss written out with full logits and autograd."""
    rollout = Rollout([5, 6, 7], [8, 9, 10, 11], [-1.0] * 4, True)
    other = Rollout([5, 6, 7], [1, 2], [-1.0] * 2, True)
    model, reference = make_model(torch.float64), frozen_copy(make_model(torch.float64, seed=3))
    args = types.SimpleNamespace(tokens_per_microbatch=64, temperature=0.8, kl="exact", beta=0.1, algo="vimpo", gae_lambda=1.0, clip_low=0.2,
                                 clip_high=0.28, dual_clip=10.0, actor_coef=0.0, value_loss="squared")
    batch = train.make_batch([rollout, other], [1.0, 0.0], 2, "cpu", torch.float64)
    batch |= train.score_batch(model, reference, batch, args, quiet)
    batch |= train.assign_credit(batch, args)
    train.accumulate_gradients(model, batch, args, quiet)
    loss = 0
    for r, reward in ((rollout, 1.0), (other, 0.0)):
        tokens = torch.tensor([r.prompt_ids + r.response_ids])
        log_p, log_ref = ((m.head(m.hidden(tokens)) / 0.8).log_softmax(-1)[0, 2:-1] for m in (model, reference))
        chosen = torch.tensor(r.response_ids)[:, None]
        kl = (log_p.exp() * (log_p - log_ref)).sum(-1).detach()
        td = 0.1 * (log_p.gather(1, chosen) - log_ref.gather(1, chosen))[:, 0] - 0.1 * kl
        loss = loss + 0.5 * (td.sum() - (reward - 0.5)) ** 2 / 2
    grads = torch.autograd.grad(loss, list(model.parameters()))
    for p, g in zip(model.parameters(), grads, strict=True):
        assert torch.allclose(p.grad, g, rtol=1e-9, atol=1e-12)


def test_microbatches_hold_every_row_once_within_the_budget():
    """A row lost, or a micro-batch whose padding breaks the memory budget."""
    rnd = random.Random(0)
    rollouts = [Rollout([rnd.randrange(3)] * rnd.choice([5, 30]), [1] * rnd.randint(1, 50), [], True) for _ in range(100)]
    for share in (False, True):
        parts = train.microbatches(rollouts, 200, share)
        assert sorted(i for part in parts for i in part) == list(range(100))
        for part in parts:
            mine = [rollouts[i] for i in part]
            size = len(mine) * max(len(r.prompt_ids) + len(r.response_ids) for r in mine)
            if share:
                distinct = {tuple(r.prompt_ids) for r in mine}
                size = len(mine) * max(len(r.response_ids) for r in mine) + len(distinct) * max(map(len, distinct))
            assert size <= 200 or len(part) == 1
    assert train.worth_sharing([Rollout([1] * 100, [1] * 20, [], True)] * 8)
    assert not train.worth_sharing([Rollout([1] * 100, [1] * 2000, [], True)] * 8)


# ---------------------------------------------------------------------------------------------------------------------------------
# Problems, prompts and their order


def test_every_promised_form_of_a_problem_is_read(tmp_path):
    """An export of a common trainer, or GSM8K's own file, that has to be converted by hand."""
    rows = [{"problem": "1+1", "answer": "2", "extra": [1]}, {"question": "1+1", "answer": "One and one.\n#### 2"}, {"problem": "1+1", "answer": 2},
            {"prompt": "1+1", "answer": "2"}, {"prompt": [{"role": "user", "content": "1+1"}], "answer": "2"},
            {"prompt": "1+1", "reward_model": {"ground_truth": "2", "style": "rule"}}]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    problems = data.load_problems([file])
    assert [p["answer"] for p in problems] == ["2"] * 6
    assert [p["bare"] for p in problems] == [True, True, True, False, False, False]


def test_the_order_is_a_new_shuffle_each_epoch_and_the_same_in_pieces():
    """Problems left out, or an order that depends on how many steps were taken at a time."""
    whole = data.problem_order(10, 3, 0, 40)
    assert all(sorted(whole[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
    assert whole[:10] != whole[10:20]
    assert [p for i in range(0, 35, 7) for p in data.problem_order(10, 3, i, 7)] == whole[:35]


class Words:
    """A stand-in for a tokenizer: one id a word."""

    has_chat_template = True

    def encode(self, text, add_special=True):
        return ([0] if add_special else []) + [len(w) for w in text.split()]

    def chat(self, messages):
        return "".join(f"<{m['role']}> {m['content']} " for m in messages) + "<assistant>"


def test_prompts_follow_the_template(tmp_path):
    """An instruction added to a prompt that is whole, a second BOS, or a prompt cut at its end."""
    bare, whole = {"ask": "a bb", "bare": True}, {"ask": "a bb", "bare": False}
    assert len(data.prompt_ids(bare, Words(), "chat", 99)) == 1 + 2 + len(data.INSTRUCTION.split()) + 1
    assert data.prompt_ids(whole, Words(), "chat", 99) == [6, 1, 2, 11]
    assert data.prompt_ids(whole, Words(), "chat", 2) == [2, 11]
    assert data.prompt_ids(bare, Words(), "plain", 99) == [0, 1, 2]
    (tmp_path / "t.txt").write_text("ask: {problem} end")
    assert data.prompt_ids(bare, Words(), data.choose_template(str(tmp_path / "t.txt"), Words(), []), 99) == [0, 4, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------------------------
# eval.py


def test_eval_prints_a_table_and_writes_every_graded_sample(tmp_path, capsys):
    """A table whose figures are not those of the samples."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join((DEMO / "test.jsonl").read_text().splitlines(keepends=True)[:20]))
    arguments = ["--model", str(DEMO / "model"), "--data", str(few), "--samples", "3", "--top-p", "1", "--max-new-tokens", "60"]
    assert evaluation.main([*arguments, "--out", str(tmp_path / "o.json")]) == 0
    printed = capsys.readouterr().out
    row = json.loads((tmp_path / "o.json").read_text())["table"][0]
    assert row["n"] == 20 and len(row["problems"]) == 20
    scores = [s for p in row["problems"] for s in p["scores"]]
    assert len(scores) == 60 and row["accuracy"] == pytest.approx(sum(scores) / 60) and 0.1 < row["accuracy"] < 0.95
    assert f"{row['accuracy']:.1%}" in printed and "few.jsonl" in printed and "avg@3" in printed


# ---------------------------------------------------------------------------------------------------------------------------------
# What a hurried person types


def test_settings_that_make_it_another_run_are_refused_on_resume(tmp_path, capsys):
    """A resumed run that is half one experiment and half another."""
    run(tmp_path / "r", "--steps", "1")
    with pytest.raises(SystemExit):
        run(tmp_path / "r", "--steps", "2", "--resume", "--beta", "0.1")
    assert "--beta was 0.0005" in capsys.readouterr().err


def test_a_command_line_works_from_another_folder(tmp_path):
    """Imports or demo files looked for in the current folder; a stack trace on the way out."""
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), "--steps", "1", "--prompts-per-step", "2", "--max-new-tokens", "8", "--out", "r"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "accuracy on held-out problems" in done.stdout
    assert len(lines(tmp_path / "r/metrics.jsonl")) == 1


def test_nothing_to_learn_is_said_loudly(tmp_path, capsys):
    """Hours of training on rewards that never vary, in silence."""
    hopeless = tmp_path / "h.jsonl"
    hopeless.write_text("".join(json.dumps({"problem": f"{a}+1=", "answer": "-1"}) + "\n" for a in range(20)))
    assert train.main(["--model", str(DEMO / "model"), "--data", str(hopeless), "--out", str(tmp_path / "r"), "--steps", "5", *FAST[:-2],
                       "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr().err
    for words in ("every group has one reward", "every response was cut", "the reward has been 0"):
        assert said.count(words) == 1
