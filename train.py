"""Train a language model on problems with checkable answers, by VIMPO or another objective.

    python train.py                                          # the demo: minutes on a laptop
    python train.py --model DIR --data math.jsonl            # DIR: a Hugging Face checkpoint folder
    python train.py --model DIR --data math.jsonl --resume   # go on where it was cut off
    torchrun --nproc-per-node 8 train.py --model DIR --data math.jsonl

A step, `take_step` below, top to bottom:

    1 rollout   S samples of each of P prompts, by the policy as it is               rollout.py
    2 verify    R = 1 if the answer is right, else 0                                 rewards.py
    3 score     log pi, log pi_ref and exact KL of every sampled token               lib/logprobs.py
    4 credit    an advantage for every token, over the whole batch                   vimpo.py
    5 update    L = L_V + c_A L_A, gradients summed over micro-batches, AdamW        vimpo.py
    6 log       metrics, some rollouts; now and then an evaluation, a checkpoint

Means, whitening and token counts are over all P x S responses, so that micro-batches and processes
change memory and time, but not the gradient. Flags: lib/settings.py; files: lib/run_folder.py.
"""

import lib  # noqa: F401, I001  before torch: it sets how torch's threads wait

import contextlib
import dataclasses
import math
import signal
import time
from datetime import datetime
from pathlib import Path

import torch

from eval import evaluate
from lib import console, data, distributed, metrics, run_folder, self_check
from lib.batch import flip_rewards, make_batch, micro_batches, response_hidden, score, spread
from lib.checkpoint import read_config, weights_digest
from lib.console import progress, say
from lib.eval_tables import describe
from lib.fast import choose_device, keep_less, on_device, start_moments
from lib.logprobs import token_logps
from lib.settings import MAY_CHANGE, METHOD, SAMPLING, is_due, train_args
from lib.tokenizer import Tokenizer
from lib.trackers import open_trackers
from model import frozen_copy, load_model
from report import refresh_page, watch
from rewards import load_reward
from rollout import generate, generate_together
from vimpo import OBJECTIVES, implied_values


def parse_args(argv):
    return train_args(argv, tuple(OBJECTIVES))


# ---- Setting up: all that can be wrong is looked at here, cheapest first -------------------------


@dataclasses.dataclass
class Run:
    """What the loop works with."""

    args: object
    out: Path  # the run folder
    problems: list
    tests: list  # problems of --eval-data
    tokenizer: Tokenizer
    template: str
    grade: object  # (response, problem) -> reward in [0, 1]
    steps: int  # the last step to take
    step: int  # the last step taken
    saved: int  # the step of the newest checkpoint
    evaluated: int  # the step of the last evaluation
    history: list  # the rows of metrics.jsonl
    model: object = None
    reference: object = None
    optimizer: object = None
    track: object = None  # hands a row of the logs to --tensorboard and --wandb
    phase: str = "loading"
    whole: bool = True  # False while the weights are between two steps

    def prompts(self, problems):
        """Token ids of each problem, under the template."""
        limit = self.args.max_prompt_tokens
        return [data.prompt_ids(p, self.tokenizer, self.template, limit) for p in problems]


def set_up(args, stack):
    """-> Run. Raises ValueError or OSError, one line, if anything is not as it should be."""
    grade = load_reward(args.reward)
    problems = data.load_problems(args.data, need_answer=args.reward == "math")
    tests = data.load_problems(args.eval_data, need_answer=args.reward == "math")
    read_config(args.model)
    device, compute_dtype = choose_device(distributed.local_device(args.device), args.dtype)
    args.dtype = "bf16" if compute_dtype == torch.bfloat16 else "fp32"
    tokenizer = Tokenizer.from_pretrained(args.model)
    template = data.choose_template(args.prompt_template, tokenizer, problems + tests)

    # Process 0 opens the run folder, and tells the others what it found there.
    found = None
    if distributed.rank() == 0:
        name = "demo" if args.demo else run_folder.run_name(args.model)
        args.out = run_folder.open_folder(args.out, name, args.resume, stack)
        digests = {
            "--data": data.problems_digest(problems),
            "--prompt-template": data.template_digest(template, tokenizer),
            "--model (the reference)": weights_digest(args.model),
            "--reward (its file)": run_folder.reward_digest(args.reward),
        }
        found = run_folder.begin(args.out, args.resume, vars(args), digests, MAY_CHANGE)
    distributed.join(device)
    found = distributed.all_gather(found)[0]
    tokenizer.now = datetime.fromisoformat(found["date"])
    steps = int((args.epochs or 1) * len(problems)) // args.prompts_per_step
    if args.steps and not args.epochs:
        steps = args.steps
    run = Run(
        args, Path(found["out"]), problems, tests, tokenizer, template, grade, max(1, steps),
        found["step"], found["step"], found["evaluated"], found["history"],
    )  # fmt: skip
    load_models(run, found, device, compute_dtype)
    run_folder.write_config(found)
    run.track = open_trackers(args, run.out, run.step, stack)
    return run


def load_models(run, found, device, compute_dtype):
    """The policy in fp32, the frozen reference in the compute dtype, AdamW with its moments."""
    args, checkpoint = run.args, found["checkpoint"]
    # With several processes a layer at a time goes to the GPU, to be cut there.
    load_to = device if distributed.world_size() == 1 else "cpu"

    def load(folder):
        model = load_model(folder, load_to)
        model.compute_dtype = compute_dtype
        return model

    # With --refresh-reference the reference may be an earlier checkpoint of this run.
    model = load(found["reference"] or args.model)
    run.reference = keep_less(frozen_copy(model, "cpu" if args.offload else device))
    if checkpoint:
        model = load(checkpoint)
    run.model = keep_less(model, args.recompute_activations)
    distributed.shard(model, device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors}]
    run.optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.0, fused=True)
    # The moments come now, so that the sampler plans with what is really free.
    with on_device(run.optimizer, device, args.offload):
        start_moments(run.optimizer)
        if checkpoint:
            run_folder.load_optimizer(Path(checkpoint), model, run.optimizer)


# ---- One step ------------------------------------------------------------------------------------


def accumulate_gradients(model, batch, objective, method, args):
    """One pass over the batch: leaves the gradient of L in .grad -> (L_V, L_A), floats."""
    rows = list(range(len(batch.rollouts)))
    if not objective.value:
        # A response whose advantages are all 0 has no gradient. It is left out, but still counted.
        # One at least goes through, so that every .grad is 0 and not None.
        rows = batch.advantages.any(1).nonzero()[:, 0].tolist() or [0]
    used, losses = batch.rows(rows), torch.zeros(2, dtype=torch.float64)
    for numbers in micro_batches(used.rollouts, args.tokens_per_microbatch, used.shared):
        part = used.rows(numbers)
        hidden, targets = batch.forward or response_hidden(model, part.rollouts, part.shared)
        batch.forward = None
        flat = token_logps(hidden, model.head_weight, targets, args.temperature)  # [n]
        if not numbers:  # other processes have more: only take part in their collective calls
            flat.sum().backward()
            continue
        loss, value, actor = objective.loss(spread(part.mask, flat), part, **method)
        loss.backward()
        losses += torch.stack((value.detach(), actor.detach())).cpu()
    return distributed.all_reduce_sum(*losses.tolist())


def take_step(run, step):
    """Phases 1 to 5 -> (the row of metrics.jsonl, the batch)."""
    args, model, objective = run.args, run.model, OBJECTIVES[run.args.algo]
    S, device, times = args.samples_per_prompt, model.device, [time.monotonic()]
    method = {name: getattr(args, name) for name in METHOD}
    clip = args.clip_low, args.clip_high, args.dual_clip
    method |= {"value_kind": args.value_loss, "clip": clip}
    scoring = {"budget": args.tokens_per_microbatch, "temperature": args.temperature}
    scoring |= {"kl": args.kl, "kl_top_k": args.kl_top_k}

    # 1. Rollout. Where several processes hold shards, sample with a whole copy of the weights.
    run.phase = "sampling"
    P, n = args.prompts_per_step, len(run.problems)
    problems = [run.problems[i] for i in data.problem_order(n, args.seed, (step - 1) * P, P)]
    policy = model if distributed.world_size() == 1 else keep_less(frozen_copy(model))
    sampling = {name: getattr(args, name) for name in SAMPLING}
    rollouts = generate_together(
        policy, run.prompts(problems), samples_per_prompt=S, stop_ids=run.tokenizer.eos_ids,
        seed=f"{args.seed}:{step}", on_progress=progress(f"step {step}: sampling"), **sampling,
    )  # fmt: skip

    # 2. Verify. From here on the batch is tensors, and each process has its part of the groups.
    def reward(i):
        response = run.tokenizer.decode(rollouts[i].response_ids, skip_special=True)
        return run.grade(response, problems[i // S])

    clean = distributed.map_partitioned(reward, len(rollouts))
    together = S if args.reward_noise_by == "group" else 1
    noise = args.reward_noise, args.correct_noise
    rewards = flip_rewards(clean, together, *noise, args.seed, step)
    dtype = torch.promote_types(model.compute_dtype, torch.float32)
    logged = metrics.mixed_group(rewards, S)
    batch = make_batch(rollouts, problems, rewards, clean, S, device, dtype, logged)
    times.append(time.monotonic())

    # 3. Score. The reference's forward pass is paid for only where it is needed.
    run.phase = "scoring"
    reference = run.reference if objective.reference or args.log_kl else None
    keep_forward = objective.value and policy is model
    with on_device(reference, device, args.offload):
        scores = score(policy, reference, batch, **scoring, keep_forward=keep_forward)
    batch.logps, batch.ref_logps, batch.kl, batch.entropy = scores
    del policy

    # 4. Credit.
    objective.credit(batch, **method)
    row = {"step": step} | metrics.batch_metrics(batch, S, args.beta)
    times.append(time.monotonic())

    # 5. Update.
    run.phase, skipped = "the update", 0
    lr = args.lr * min(1.0, step / max(args.warmup, 1))
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    for update in range(args.updates_per_step):
        if update and objective.reference:
            # The policy has moved, and its KL with it. What was sampled, and its credit, stay.
            with on_device(run.reference, device, args.offload):
                scores = score(model, run.reference, batch, **scoring, keep_forward=keep_forward)
                batch.kl = scores[2]
        losses = accumulate_gradients(model, batch, objective, method, args)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        norm = float(distributed.full_tensor(norm))
        if all(math.isfinite(x) for x in (norm, *losses)):
            run.whole = False
            with on_device(run.optimizer, device, args.offload):
                run.optimizer.step()
        else:
            skipped += 1
            metrics.warn_not_finite(step, losses, norm, batch, S)
        run.optimizer.zero_grad(set_to_none=True)
    run.whole = True
    times.append(time.monotonic())
    row |= {"value_loss": losses[0], "actor_loss": losses[1], "grad_norm": norm, "lr": lr}
    row |= {"skipped": skipped, "tokens_per_second": batch.tokens / (times[1] - times[0])}
    for phase, begin, end in zip(("rollout", "score", "update"), times, times[1:], strict=False):
        row[f"seconds_{phase}"] = end - begin
    return row, batch


# ---- The loop; 6: log, evaluate, save ------------------------------------------------------------


def log_step(run, row, batch, minutes):
    """A line of metrics.jsonl, some of rollouts.jsonl, and one for the reader."""
    run.history.append(row)
    if distributed.rank() == 0:
        run_folder.append_jsonl(run.out / "metrics.jsonl", row)
        run.track(row)
        td, mask = batch.td, batch.mask
        curves = None if td is None else implied_values(td, mask, batch.baseline)
        S = run.args.samples_per_prompt
        for shown in metrics.rollout_rows(row["step"], batch, curves, run.tokenizer, S):
            run_folder.append_jsonl(run.out / "rollouts.jsonl", shown)
    say(metrics.step_line(row, run.steps, minutes))
    metrics.warn_if_stuck(run.history, run.args.max_new_tokens)


def evaluate_if_due(run):
    """On --eval-data: before the first step, every --eval-every steps, and after the last.

    At these steps some problems are answered for report.py as well, with credit: the same ones.
    """
    args, step = run.args, run.step
    due = step in (0, run.steps) or is_due(step, args.eval_every)
    wanted = due and (run.tests or args.watch) and run.evaluated < step
    if not wanted or distributed.stop_signal():
        return
    run.phase = "the evaluation"
    policy = run.model if distributed.world_size() == 1 else frozen_copy(run.model)
    sampling = {"temperature": args.eval_temperature, "top_p": args.eval_top_p}
    sampling |= {"max_new_tokens": args.max_new_tokens, "slots": args.slots}
    table = evaluate(
        policy, run.tokenizer, run.tests, run.prompts(run.tests), grade=run.grade, seed=args.seed,
        on_progress=progress("eval"), **sampling,
    )  # fmt: skip
    watched = watch(run, policy)
    run.evaluated = step
    for line in table or ():  # None in all processes but the first
        say(describe(line))
        keys = ("file", "n", "accuracy", "response_tokens", "truncated")
        kept = {"step": step} | {key: line[key] for key in keys}
        run_folder.append_jsonl(run.out / "eval.jsonl", kept)
        run.track(kept)
    for shown in watched:
        run_folder.append_jsonl(run.out / "rollouts.jsonl", shown)


def save(run):
    """A checkpoint of the weights as they are after run.step."""
    if run.saved < run.step:
        keep, lasts = run.args.keep, run.args.refresh_reference
        run_folder.save_checkpoint(run.out, run.model, run.optimizer, run.step, keep, lasts)
        run.saved = run.step


def loop(run):
    """Step after step -> the exit code."""
    args, started = run.args, time.monotonic()
    while True:
        fresh = run.step and is_due(run.step, args.refresh_reference)
        if run.step == run.steps or fresh or is_due(run.step, args.save_every):
            save(run)
        if fresh:
            device = "cpu" if args.offload else run.model.device
            run.reference = keep_less(frozen_copy(run.model, device))
        evaluate_if_due(run)
        refresh_page(run)
        if stopped := distributed.stop_signal():
            save(run)
            again = f"the same command with --out {run.out} --resume goes on from there"
            say(f"stopped: {run.out} is at step {run.step}; {again}")
            return 128 + stopped
        if run.step >= run.steps:
            return 0
        row, batch = take_step(run, run.step + 1)
        run.step += 1
        log_step(run, row, batch, (time.monotonic() - started) / 60)
        if len(run.history) >= 3 and all(row["skipped"] for row in run.history[-3:]):
            kept = f", and the checkpoint of step {run.saved} stays" if run.saved else ""
            found = f"updates of steps {run.step - 2} to {run.step} were not finite; stopped"
            console.die("train.py", found + kept, code=1)


def give_up(phase, error, run=None):
    """End with one line. In the middle of a run, first save the finished steps if that can be."""
    code, reason = 2, error
    if isinstance(error, torch.OutOfMemoryError):
        code, reason = 1, metrics.out_of_memory(phase, error)
    if run and run.whole and distributed.world_size() == 1:
        with contextlib.suppress(OSError):  # a full disk, which may be what brought us here
            save(run)
    if run and run.saved:
        reason = f"{reason}; the checkpoint of step {run.saved} stays, and --resume goes on from it"
    console.die("train.py", reason, code)


def main(argv=None):
    """Set up, loop, and say how it ended -> the exit code."""
    args, started, run = parse_args(argv), time.monotonic(), None
    with contextlib.ExitStack() as stack:
        try:
            run = set_up(args, stack)
            size = sum(p.numel() for p in run.model.parameters())
            say(metrics.first_lines(args, size, len(run.problems), run.step, run.steps, run.out))
            self_check.check_sampler(run.model, generate, run.prompts(run.problems[:4]))
            code = loop(run)
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            give_up(run.phase if run else "loading", error, run)
    if code == 0:
        minutes = (time.monotonic() - started) / 60
        say(f"{minutes:.1f} minutes; {run.out}/checkpoint loads in transformers")
        say(f"where the credit went: open {run.out}/report.html")
    return code


if __name__ == "__main__":
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, distributed.on_signal)
    distributed.leave(main())
