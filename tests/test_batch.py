"""lib/batch.py: a step's batch and its micro-batches; and the gradient that train.py takes of it.

pytest tests/test_batch.py
"""

import random
import types

import pytest
import torch
from conftest import near

import lib.batch
import train
import vimpo
from lib.batch import make_batch, micro_batches, response_hidden, score, spread, worth_sharing
from model import frozen_copy
from rollout import Rollout

F64 = torch.float64
METHOD = {
    "beta": 0.05,
    "gae_lambda": 0.9,
    "actor_share": 0.025,
    "actor_coef": 0.1,
    "value_kind": "squared",
    "huber_delta": 1.0,
    "clip": (0.2, 0.28, 10.0),
}


def random_rollouts(lengths=(1, 3, 9, 20, 2, 5), samples=4, seed=0):
    """Groups of `samples` responses to prompts of these lengths, all ids and log-probs random."""
    rnd, rollouts = random.Random(seed), []
    for length in lengths:
        prompt = [rnd.randrange(60) for _ in range(length)]
        for _ in range(samples):
            response = [rnd.randrange(60) for _ in range(rnd.randint(1, 9))]
            rollouts.append(Rollout(prompt, response, [-rnd.random() for _ in response], True))
    return rollouts


def whole_batch(rollouts, rewards, samples, shared=False, order=None):
    """make_batch, its responses in another order if one is given."""
    problems = [{"id": i} for i in range(len(rollouts) // samples)]
    batch = make_batch(rollouts, problems, rewards, rewards, samples, "cpu", F64)
    batch.shared = shared
    return batch if order is None else batch.rows(order)


@pytest.fixture(scope="module")
def models(make_model):
    """A policy that has moved a little away from its reference, and that reference; in fp64."""
    model = make_model(F64)
    reference = frozen_copy(model)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=noise, dtype=p.dtype) * 0.02)
    return model, reference


# --------------------------------------------------------------------------------------------------
# The batch


def test_a_batch_holds_each_response_with_its_problem_reward_and_log_probs():
    """A column shifted, a reward of the neighbour, padding counted as a token."""
    rollouts = random_rollouts()
    rewards, clean = [i / 24 for i in range(24)], [1 - i / 24 for i in range(24)]
    problems = [{"id": g} for g in range(6)]
    batch = make_batch(rollouts, problems, rewards, clean, 4, "cpu", F64)
    assert batch.rollouts == rollouts and [p["id"] for p in batch.problems] == batch.group.tolist()
    assert batch.group.tolist() == [i // 4 for i in range(24)]
    assert batch.rewards.tolist() == rewards and batch.clean_rewards.tolist() == clean
    assert batch.rewards.dtype == batch.sampler_logps.dtype == F64
    assert batch.mask.shape == (24, max(len(r.response_ids) for r in rollouts))
    for row, r in enumerate(rollouts):
        assert batch.mask[row].tolist() == [t < len(r.logps) for t in range(batch.mask.size(1))]
        assert batch.sampler_logps[row, batch.mask[row]].tolist() == r.logps
        assert not batch.sampler_logps[row, ~batch.mask[row]].any()
    assert batch.responses == 24 and batch.tokens == batch.mask.sum()
    assert batch.response_share == batch.token_share == 1


def test_rows_of_a_batch_keep_what_is_said_of_the_whole():
    """A part that takes itself for the whole: its mean would weigh too much."""
    batch = whole_batch(random_rollouts(), [1.0] * 24, 4)
    batch.actor_coef, batch.advantages = 0.3, torch.arange(24.0)[:, None]
    part = batch.rows([5, 2])
    assert part.rollouts == [batch.rollouts[5], batch.rollouts[2]]
    assert part.problems == [{"id": 1}, {"id": 0}] and part.group.tolist() == [1, 0]
    assert part.advantages.tolist() == [[5.0], [2.0]]
    assert (part.responses, part.tokens, part.actor_coef) == (24, batch.tokens, 0.3)
    assert part.kl is None and part.response_share == 2 / 24
    tokens = sum(len(batch.rollouts[i].response_ids) for i in (5, 2))
    assert part.token_share == tokens / batch.tokens
    shares = [batch.rows([i]).token_share for i in range(24)]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("logged", range(6))
def test_processes_share_out_whole_groups_and_lose_none(monkeypatch, logged):
    """A group torn apart (no baseline), one computed twice, or the logged one where nobody logs."""
    rollouts, problems = random_rollouts(), [{"id": g} for g in range(6)]
    rewards, parts = [i / 24 for i in range(24)], []
    monkeypatch.setattr(lib.batch, "world_size", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(lib.batch, "rank", lambda number=number: number)
        parts.append(make_batch(rollouts, problems, rewards, rewards, 4, "cpu", F64, logged))
    assert logged in parts[0].group
    groups = [g for part in parts for g in part.group.tolist()]
    assert sorted(groups) == [i // 4 for i in range(24)]
    assert sum(part.response_share for part in parts) == pytest.approx(1)
    assert sum(part.token_share for part in parts) == pytest.approx(1)
    for part in parts:
        assert [round(24 * r) // 4 for r in part.rewards.tolist()] == part.group.tolist()
        assert part.tokens == sum(len(r.response_ids) for r in rollouts)


# --------------------------------------------------------------------------------------------------
# Micro-batches


def test_micro_batches_hold_every_row_once_within_the_budget():
    """A row lost, or a micro-batch whose padding breaks the memory budget."""
    rnd, rollouts = random.Random(0), []
    for _ in range(100):
        prompt = [rnd.randrange(3)] * rnd.choice([5, 30])
        rollouts.append(Rollout(prompt, [1] * rnd.randint(1, 50), [], True))
    for shared in (False, True):
        parts = micro_batches(rollouts, 200, shared)
        assert sorted(i for part in parts for i in part) == list(range(100))
        for part in parts:
            mine = [rollouts[i] for i in part]
            size = len(mine) * max(len(r.prompt_ids) + len(r.response_ids) for r in mine)
            if shared:
                distinct = {tuple(r.prompt_ids) for r in mine}
                size = len(mine) * max(len(r.response_ids) for r in mine)
                size += len(distinct) * max(map(len, distinct))
            assert size <= 200 or len(part) == 1
        assert len(parts) < 40  # not one row each: the budget is used


def test_the_longest_micro_batch_comes_first():
    """Memory that peaks in the last micro-batch of a step, after minutes of work."""
    rollouts = random_rollouts()
    for shared in (False, True):
        widths = [
            max(len(rollouts[i].prompt_ids) + len(rollouts[i].response_ids) for i in part)
            for part in micro_batches(rollouts, 40, shared)
        ]
        assert widths == sorted(widths, reverse=True)


def test_all_processes_get_as_many_micro_batches_as_the_one_with_most(monkeypatch):
    """A process that has made its last collective call while the others wait for one more, for
    ever."""
    monkeypatch.setattr(lib.batch, "all_reduce_max", lambda n: n + 2)
    parts = micro_batches(random_rollouts(), 10**9, False)
    assert sorted(parts[0]) == list(range(24)) and parts[1:] == [[], []]


def test_sharing_pays_where_prompts_are_long_and_repeated():
    """A mask that costs more than what it saves, or prompts computed eight times."""
    assert worth_sharing([Rollout([1] * 100, [1] * 20, [], True)] * 8)
    assert not worth_sharing([Rollout([1] * 100, [1] * 2000, [], True)] * 8)
    assert not worth_sharing([Rollout([i] * 100, [1] * 20, [], True) for i in range(8)])


# --------------------------------------------------------------------------------------------------
# Hidden states and scores


@pytest.mark.parametrize("shared", [False, True], ids=["whole", "shared"])
@torch.no_grad()
def test_hidden_states_are_those_before_each_response_token(models, shared):
    """States shifted by one, those of a prompt's tokens among them, another order than the
    targets', a prompt of one token."""
    model, rollouts = models[0], random_rollouts()
    rollouts = random.Random(3).sample(rollouts, 24)  # a prompt's responses need not be neighbours
    hidden, targets = response_hidden(model, rollouts, shared)
    assert targets.tolist() == [t for r in rollouts for t in r.response_ids]
    wanted = []
    for r in rollouts:
        whole = model.hidden(torch.tensor([r.prompt_ids + r.response_ids]))[0]
        wanted.append(whole[len(r.prompt_ids) - 1 : -1])
    near(hidden, torch.cat(wanted), 1e-11)


@pytest.mark.parametrize("shared", [False, True], ids=["whole", "shared"])
def test_no_rollouts_give_no_states_but_take_part(models, shared):
    """A process without work that makes no forward or backward pass, while the others wait."""
    model = models[0]
    model.zero_grad()
    hidden, targets = response_hidden(model, [], shared)
    assert hidden.shape == (0, 32) and targets.shape == (0,) and targets.dtype == torch.long
    vimpo.token_logps(hidden, model.head_weight, targets).sum().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and not g.any() for g in grads)


@pytest.mark.parametrize("shared", [False, True], ids=["whole", "shared"])
@pytest.mark.parametrize("budget", [10**9, 40, 1])
def test_scores_are_the_dense_ones_however_the_batch_is_cut(models, budget, shared):
    """A micro-batch whose numbers land in the rows of another, a temperature left out, a reference
    that is the policy."""
    model, reference = models
    batch = whole_batch(random_rollouts(), [1.0] * 24, 4, shared)
    columns = score(model, reference, batch, budget, 0.8, "exact")
    wanted = [torch.zeros(batch.mask.shape, dtype=F64) for _ in range(4)]
    with torch.no_grad():
        for row, r in enumerate(batch.rollouts):
            tokens, n = torch.tensor([r.prompt_ids + r.response_ids]), len(r.response_ids)
            policy, ref = ((m(tokens)[0, -n - 1 : -1] / 0.8).log_softmax(-1) for m in models)
            chosen = torch.tensor(r.response_ids)[:, None]
            wanted[0][row, :n] = policy.gather(1, chosen)[:, 0]
            wanted[1][row, :n] = ref.gather(1, chosen)[:, 0]
            wanted[2][row, :n] = (policy.exp() * (policy - ref)).sum(1)
            wanted[3][row, :n] = -(policy.exp() * policy).sum(1)
    for got, want in zip(columns, wanted, strict=True):
        near(got, want, 1e-11)
        assert not got.requires_grad
    alone = score(model, None, batch, budget, 0.8, "exact")
    assert alone[1] is None and alone[2] is None
    near(alone[0], columns[0])
    near(alone[3], columns[3])


def test_hidden_states_are_kept_only_where_one_micro_batch_holds_all(models):
    """A graph for each micro-batch, held until the update: all of the memory that they save."""
    model, reference = models
    batch = whole_batch(random_rollouts(), [1.0] * 24, 4)
    score(model, reference, batch, 40, 1.0, "exact", keep_forward=True)
    assert batch.forward is None
    score(model, reference, batch, 10**9, 1.0, "exact", keep_forward=False)
    assert batch.forward is None
    score(model, reference, batch, 10**9, 1.0, "exact", keep_forward=True)
    hidden, targets = batch.forward
    assert hidden.requires_grad and len(hidden) == len(targets) == batch.tokens


def test_spread_puts_values_where_tokens_are():
    """Values in column order, or a mask's padding filled from the next row."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    values = torch.tensor([1.0, 2.0, 3.0], dtype=F64, requires_grad=True)
    table = spread(mask, values)
    near(table.detach(), torch.tensor([[1.0, 2, 0], [3, 0, 0]], dtype=F64))
    (table * torch.tensor([[1.0, 10, 100], [1000, 1, 1]])).sum().backward()
    assert values.grad.tolist() == [1, 10, 1000]


# --------------------------------------------------------------------------------------------------
# The gradient of a step, as train.py takes it


@pytest.fixture(scope="module")
def step_gradient(models):
    """step_gradient(order, budget, shared, algo, keep) -> (gradient, losses) of the same 24
    responses, however they are cut."""
    model, reference = models
    rollouts, rnd = random_rollouts(), random.Random(1)
    rewards = [float(rnd.random() < 0.5) for _ in rollouts]

    def gradient(order=range(24), budget=10**9, shared=False, algo="vimpo", keep=False):
        objective = vimpo.OBJECTIVES[algo]
        args = types.SimpleNamespace(tokens_per_microbatch=budget, temperature=0.9)
        batch = whole_batch(rollouts, rewards, 4, shared, list(order))
        scores = score(model, reference, batch, budget, 0.9, "exact", keep)
        batch.logps, batch.ref_logps, batch.kl, batch.entropy = scores
        assert (batch.forward is not None) == (keep and budget == 10**9)
        objective.credit(batch, **METHOD)
        model.zero_grad()
        losses = train.accumulate_gradients(model, batch, objective, METHOD, args)
        return torch.cat([p.grad.flatten() for p in model.parameters()]), losses

    return gradient


@pytest.mark.parametrize("algo", vimpo.OBJECTIVES)
@pytest.mark.parametrize(
    ("budget", "shared"), [(10**9, True), (40, False), (40, True), (1, False), (1, True)]
)
def test_the_gradient_does_not_depend_on_micro_batches_order_or_sharing(
    step_gradient, algo, budget, shared
):
    """Means per micro-batch, whitening per micro-batch, a prompt's gradient counted once instead of
    once per response."""
    whole, losses = step_gradient(algo=algo)
    order = random.Random(budget).sample(range(24), 24)
    part, part_losses = step_gradient(order, budget, shared, algo)
    assert whole.norm() > 0 and (part - whole).norm() < 1e-12 * whole.norm()
    assert part_losses == pytest.approx(losses, abs=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_a_forward_pass_kept_from_scoring_gives_the_same_gradient_to_the_last_bit(
    step_gradient, shared
):
    """Hidden states of other rows, or of weights that have moved since."""
    wanted, losses = step_gradient(shared=shared)
    kept, kept_losses = step_gradient(shared=shared, keep=True)
    assert torch.equal(kept, wanted) and kept_losses == losses
    # Several micro-batches: nothing is kept.
    several, _ = step_gradient(budget=40, shared=shared, keep=True)
    assert torch.allclose(several, wanted, rtol=1e-9)


def test_grpo_leaves_out_groups_with_one_reward_and_loses_nothing(make_model, monkeypatch):
    """Groups skipped together with their tokens' share of the mean, or an optimizer that stands
    still because there is no gradient at all."""
    model, objective = make_model(F64), vimpo.OBJECTIVES["grpo"]
    args = types.SimpleNamespace(tokens_per_microbatch=10, temperature=1.0)
    rollouts = [Rollout([1, 2], [3 + i] * (1 + i), [-1.0] * (1 + i), True) for i in range(6)]
    used = []

    def counting(model, part, shared):
        used.extend(part)
        return response_hidden(model, part, shared)

    monkeypatch.setattr(train, "response_hidden", counting)

    def gradient(rewards):
        used.clear()
        batch = whole_batch(rollouts, rewards, 2)
        batch.logps = batch.sampler_logps  # made up: the policy has moved since
        objective.credit(batch, **METHOD)
        model.zero_grad()
        train.accumulate_gradients(model, batch, objective, METHOD, args)
        return torch.cat([p.grad.flatten() for p in model.parameters()]), batch

    skipped, batch = gradient([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert len(used) == 4
    model.zero_grad()
    hidden, targets = response_hidden(model, rollouts, False)
    logps = spread(batch.mask, vimpo.token_logps(hidden, model.head_weight, targets))
    vimpo.ppo_loss(logps, batch.logps, batch.advantages, batch.mask).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert whole.norm() > 0 and (skipped - whole).norm() < 1e-12 * whole.norm()
    nothing, _ = gradient([1.0] * 6)
    assert nothing.abs().max() == 0


def test_the_gradient_is_that_of_the_dense_formula(make_model):
    """A loss that is consistent with itself, however it is cut, and wrong: the value loss written
    out with full logits and autograd."""
    rollouts = [
        Rollout([5, 6, 7], [8, 9, 10, 11], [-1.0] * 4, True),
        Rollout([5, 6, 7], [1, 2], [-1.0] * 2, True),
    ]
    model, reference = make_model(F64), frozen_copy(make_model(F64, seed=3))
    objective, method = vimpo.OBJECTIVES["vimpo"], METHOD | {"beta": 0.1, "actor_coef": 0.0}
    args = types.SimpleNamespace(tokens_per_microbatch=64, temperature=0.8)
    batch = whole_batch(rollouts, [1.0, 0.0], 2)
    scores = score(model, reference, batch, 64, 0.8, "exact")
    batch.logps, batch.ref_logps, batch.kl, batch.entropy = scores
    objective.credit(batch, **method)
    train.accumulate_gradients(model, batch, objective, method, args)
    loss = 0
    for r, reward in zip(rollouts, (1.0, 0.0), strict=True):
        tokens = torch.tensor([r.prompt_ids + r.response_ids])
        log_p, log_ref = (
            (m.head(m.hidden(tokens)) / 0.8).log_softmax(-1)[0, 2:-1] for m in (model, reference)
        )
        chosen = torch.tensor(r.response_ids)[:, None]
        kl = (log_p.exp() * (log_p - log_ref)).sum(-1).detach()
        rho = 0.1 * (log_p.gather(1, chosen) - log_ref.gather(1, chosen))[:, 0]
        loss = loss + 0.5 * ((rho - 0.1 * kl).sum() - (reward - 0.5)) ** 2 / 2
    grads = torch.autograd.grad(loss, list(model.parameters()))
    for p, g in zip(model.parameters(), grads, strict=True):
        assert torch.allclose(p.grad, g, rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------------------------------------
# Padding on a GPU


def test_few_lengths_occur_on_a_gpu_and_cost_an_eighth_at_most():
    """A new shape for each micro-batch; or micro-batches of short responses eight times as wide as
    was planned."""
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    widths = [lib.batch.padded_length(n, cuda) for n in range(1, 5000)]
    assert len(set(widths)) < 110
    for n, width in enumerate(widths, 1):
        assert n <= width <= max(n + 7, n * 1.125) and width % 8 == 0
        assert n <= 512 or width % 64 == 0
        assert lib.batch.padded_length(n, cpu) == n


@pytest.mark.parametrize("shared", [False, True], ids=["whole", "shared"])
def test_more_padding_changes_no_state_and_no_gradient(models, monkeypatch, shared):
    """Padding that is seen, predicted from, or taken for the end of a prompt."""
    model, rollouts, results = models[0], random_rollouts(), []
    for more in (0, 5):
        monkeypatch.setattr(lib.batch, "padded_length", lambda n, device, more=more: n + more)
        model.zero_grad()
        hidden, targets = response_hidden(model, rollouts, shared)
        hidden.square().sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((hidden.detach(), targets, *grads))
    for a, b in zip(*results, strict=True):
        near(b, a, 1e-9)
