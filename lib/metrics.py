"""What a step reports: the numbers of metrics.jsonl, the rows of rollouts.jsonl, and warnings.

batch_metrics     means over the whole batch, in all processes
rollout_rows      some responses, with the credit of each token; rollout_row is one of them
warn_if_stuck     says loudly when the numbers mean that nothing can be learned
"""

import math
import statistics

from lib.console import warn
from lib.distributed import all_gather, all_reduce_sum


def batch_metrics(batch, samples, beta):
    """The means of a step's batch, after scoring and credit; the same in all processes.

    actor_share is c_A / (beta mean|R - V_0 - sum td| N/B), the actor's pull on a token relative to
    the value loss's; None where there is no value loss, or nothing left to learn from. td_noise is
    what rounding adds to a td, beta times sampler_gap; td_size, the mean |td|, grows beyond it.
    tells is the correlation within groups of V_T - V_0 with the reward, None without a value.
    """
    B, N = batch.responses, batch.tokens
    groups = batch.rewards.view(-1, samples)  # [groups, S]
    uniform = groups.amax(1) == groups.amin(1)
    gap = (batch.logps - batch.sampler_logps).abs()
    sums = {
        "reward": batch.rewards.sum(),
        "reward_clean": batch.clean_rewards.sum(),
        "accuracy": (batch.clean_rewards >= 1).sum(),
        "truncated": sum(not r.finished for r in batch.rollouts),
        "uniform_groups": uniform.sum() * samples,
        "entropy": batch.entropy.sum(),
        "sampler_gap": gap.sum(),
        "kl": 0.0 if batch.kl is None else batch.kl.sum(),
        "residual": 0.0,
        "td_size": 0.0 if batch.td is None else batch.td.abs().sum(),
    }
    if batch.td is not None:
        sums["residual"] = (batch.td.sum(1) - (batch.rewards - batch.baseline)).abs().sum()
    totals = all_reduce_sum(*sums.values())
    means = {name: float(total) / B for name, total in zip(sums, totals, strict=True)}
    for name in ("entropy", "sampler_gap", "kl", "td_size"):  # these are a mean over tokens
        means[name] *= B / N
    residual = means.pop("residual")
    share = batch.actor_coef / (beta * residual * N / B) if residual > 0 else None
    if batch.kl is None:
        means["kl"] = None
    means["td_noise"] = beta * means["sampler_gap"]
    if batch.td is None:
        means["td_size"] = means["td_noise"] = None
    means |= {"response_tokens": N / B, "actor_share": share}
    return means | {"actor_coef": batch.actor_coef, "tells": batch.tells}


def mixed_group(rewards, samples):
    """The group to log: the first with right and wrong responses, else the first."""
    for start in range(0, len(rewards), samples):
        group = rewards[start : start + samples]
        if min(group) < max(group):
            return start // samples
    return 0


def rollout_rows(step, batch, values, tokenizer, samples):
    """Up to four responses of a mixed group, right ones and wrong ones, each token with its credit.

    values: the implied values [B, T+1], or None.
    """
    rewards = batch.rewards.tolist()
    first = mixed_group(rewards, samples) * samples
    group = range(first, first + samples)
    best = max(rewards[i] for i in group)
    shown = [i for i in group if rewards[i] == best][:2]
    shown += [i for i in group if rewards[i] < best][:2]
    for i in shown:
        yield rollout_row(step, batch, i, values, tokenizer, samples)


def rollout_row(step, batch, i, values, tokenizer, samples):
    """Response i of the batch: a line of rollouts.jsonl. Lists have one number a token.

    Numbers that were not measured are null: without a reference there is no log-ratio.
    """
    r, problem = batch.rollouts[i], batch.problems[i]
    T, reward = len(r.response_ids), float(batch.rewards[i])
    group = batch.rewards[i - i % samples :][:samples].double()
    std = float(group.std()) if samples > 1 else 0.0
    log_ratio = None if batch.ref_logps is None else batch.logps - batch.ref_logps
    curve = None if values is None else _numbers(values[i, : T + 1], 6)
    tokens = {"td": batch.td, "log_ratio": log_ratio, "kl": batch.kl, "entropy": batch.entropy}
    return (
        {
            "step": step,
            "id": problem["id"],
            "sample": i % samples,
            "answer": problem["answer"],
            "prompt": tokenizer.decode(r.prompt_ids),
            "prompt_ids": r.prompt_ids,
            "tokens": tokenizer.pieces(r.response_ids),
            "response_ids": r.response_ids,
            "response": tokenizer.decode(r.response_ids),
            "finished": r.finished,
            "reward": reward,
            "reward_clean": float(batch.clean_rewards[i]),
            "baseline": None if batch.baseline is None else float(batch.baseline[i]),
            "grpo": (reward - float(group.mean())) / (std + 1e-6),  # what GRPO gives to each token
            "values": curve,
            "advantages": _numbers(batch.advantages[i, :T], 5),
        }
        | {name: None if x is None else _numbers(x[i, :T], 8) for name, x in tokens.items()}
    )


def _numbers(x, digits):
    """A row of a tensor -> rounded floats, null where it is not finite: JSON has no NaN."""
    return [round(v, digits) if math.isfinite(v) else None for v in x.tolist()]


def first_lines(args, size, problems, step, steps, out):
    """What a run says when it begins: `size` parameters, steps after `step` up to `steps`."""
    lines = []
    if args.demo:
        lines.append("The demo: a tiny model that can do sums but makes slips learns to take care.")
    batch = f"{args.prompts_per_step} prompts x {args.samples_per_prompt} samples"
    model = f"{args.model} ({size / 1e6:.1f}M parameters, {args.dtype})"
    what = f"{problems} problems, steps {step + 1} to {steps} of {batch}"
    lines.append(f"{args.algo}: {model}, {what} -> {out}")
    if step >= steps:
        lines.append(f"{out} is at step {step} already; more --steps or --epochs go on")
    return "\n".join(lines)


def step_line(row, steps, minutes):
    """The line of a step that a person reads."""
    kl = "" if row["kl"] is None else f"  kl {row['kl']:.4f}"
    seconds = row["seconds_rollout"] + row["seconds_score"] + row["seconds_update"]
    return (
        f"step {row['step']}/{steps}  reward {row['reward']:.3f}{kl}  "
        f"entropy {row['entropy']:.3f}  tokens {row['response_tokens']:.0f}  "
        f"gap {row['sampler_gap']:.1e}  {row['tokens_per_second']:.0f} tokens/s  "
        f"{seconds:.1f} s  {minutes:.1f} min"
    )


def warn_not_finite(step, losses, grad_norm, batch, samples):
    """An update is skipped: say which numbers went bad, and in which responses it began."""
    numbers = [batch.logps, batch.ref_logps, batch.kl]
    total = sum(x for x in numbers if x is not None)  # [B, T]; NaN and infinity survive a sum
    rows = (~total.isfinite().all(1)).nonzero()[:, 0].tolist()
    mine = [f"{batch.problems[i]['id']} sample {i % samples}" for i in rows]
    names = [name for part in all_gather(mine) for name in part]
    found = ", ".join(names[:8]) or "no response alone, but the gradient"
    if len(names) > 8:
        found += f" and {len(names) - 8} more"
    warn(
        f"step {step}: value loss {losses[0]}, actor loss {losses[1]}, gradient norm {grad_norm}: "
        f"this update is skipped; not finite: {found}"
    )


def _steps_in_a_row(history, condition):
    """For how many steps, up to the last one, the condition has held."""
    for n, row in enumerate(reversed(history)):
        if not condition(row):
            return n
    return len(history)


def _say_now(n, first=1):
    """Say it the first time, and at every 20th step after it."""
    return n >= first and (n - first) % 20 == 0


def warn_if_stuck(history, max_new_tokens):
    """Warn of what the rows of metrics.jsonl so far mean: nothing can be learned like this."""
    now = history[-1]
    step, reward = f"step {now['step']}", now["reward_clean"]
    if _say_now(_steps_in_a_row(history, lambda row: row["uniform_groups"] == 1)):
        warn(
            f"{step}: every group has one reward (mean {now['reward']:.2f}), so there is nothing "
            "to learn from; problems of medium difficulty or more --samples-per-prompt help"
        )
    if _say_now(_steps_in_a_row(history, lambda row: row["truncated"] == 1)):
        warn(
            f"{step}: every response was cut at {max_new_tokens} tokens before its stop token; "
            "raise --max-new-tokens, or look at the prompt template and the stop ids"
        )
    level = _steps_in_a_row(history, lambda row: row["reward_clean"] == reward)
    if reward in (0, 1) and _say_now(level, first=5):
        warn(
            f"the reward has been {reward:.0f} for every response of the last 5 steps or more; "
            "look at RUN/rollouts.jsonl: does the model put its answer where the verifier looks "
            '(\\boxed{}, "#### x", "answer is x")?'
        )
    gaps = [row["sampler_gap"] or 0 for row in history]
    if len(gaps) >= 10 and _say_now(len(gaps), first=10):
        early, late = statistics.mean(gaps[:5]), statistics.mean(gaps[-5:])
        if late > max(0.02, 2 * early):
            warn(
                f"{step}: sampler and trainer drift apart, mean |difference of log-probs| "
                f"{gaps[-1]:.3f} from {gaps[0]:.3f} at the start"
            )
    if _say_now(_steps_in_a_row(history, lambda row: (row["actor_share"] or 0) > 0.2)):
        warn(
            f"{step}: the actor pulls {now['actor_share']:.2f} times as hard on a token as the "
            f"value loss; the authors' share is 0.025. Responses are short "
            f"({now['response_tokens']:.0f} tokens): leave --actor-coef out, --actor-share sets it"
        )


ADVICE = {  # when a phase of train.py runs out of GPU memory
    "loading": "take a smaller model, or give --offload",
    "sampling": "lower --slots or --max-new-tokens",
    "scoring": "lower --tokens-per-microbatch",
    "the update": "lower --tokens-per-microbatch or give --recompute-activations or --offload",
    "the evaluation": "lower --slots or --max-new-tokens",
}


def out_of_memory(phase, error):
    """One line: in which phase, what helps, and what torch says."""
    cause = " ".join(str(error).split())[:200]
    return f"out of GPU memory in {phase}: {ADVICE[phase]} ({cause})"
