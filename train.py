"""Train a language model on problems with checkable answers, by VIMPO or GRPO. One process, one loop, top to bottom.

    python train.py                                                                  # the demo: minutes on a laptop
    python train.py --model DIR --data math.jsonl --out runs/one                     # DIR: a Hugging Face checkpoint folder
    python train.py --model DIR --data math.jsonl --out runs/one --resume            # go on where it was cut off

A step:

    rollout   S samples of each of P prompts, by the policy as it is                                              rollout.py
    verify    R = 1 if the answer is right, else 0                                                                rewards.py
    score     log pi, log pi_ref and exact KL at every sampled token, no gradient                                 vimpo.score_tokens
    credit    advantages over the whole batch                                                                     vimpo.gae, vimpo.whiten
    update    L = L_V + c_A L_A, gradients summed over micro-batches, clip, AdamW                                 vimpo.value_loss, ppo_loss

The batch of a step is the P x S responses: means, whitening and token counts are over all of it, so micro-batches change memory and time
but not the gradient. --updates-per-step U makes U passes over that batch, an optimizer step each.

What to watch, in RUN/metrics.jsonl, one line a step: `reward` up; `kl` (nats a token, from the reference) growing slowly; `sampler_gap` (mean
|trainer - sampler log-prob|) small and level; `truncated` and `uniform_groups` (shares of responses cut off, and of groups with one reward)
below 1; `actor_share`, the actor's pull on a token relative to the value loss's, c_A / (beta mean|residual| T), near the authors' 0.025.
Short answers need a smaller --actor-coef: at 20 tokens the default 5e-3 gives a share above 1, which destroys a small policy.
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch loads: threads that wait for each other soon go to sleep. Spinning on, as they
# do by default, made a step of the demo five times as slow on two cores beside one other busy program.

import torch
from safetensors.torch import load_file, save_file

import data
import model as transformer
import vimpo
from data import die, progress, ranged
from eval import evaluate
from rewards import score
from rollout import generate
from tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent
DEMO = {"model": str(HERE / "demo/model"), "data": [str(HERE / "demo/train.jsonl")], "eval_data": [str(HERE / "demo/test.jsonl")],
        "steps": 60, "prompts_per_step": 64, "samples_per_prompt": 8, "max_new_tokens": 48, "lr": 5e-4, "warmup": 5, "weight_decay": 0.0,
        "actor_coef": 1e-4, "eval_every": 20, "eval_top_p": 1.0}
RESUMABLE = {"steps", "epochs", "eval_data", "eval_every", "save_every", "slots", "tokens_per_microbatch", "recompute_activations", "resume",
             "out", "device"}  # settings that may change when a run goes on


# ---------------------------------------------------------------------------------------------------------------------------------
# Settings


def parse_args(argv):
    """The flags -> a namespace; the demo's settings stand in for the defaults where neither --model nor --data is given."""
    parser = data.Parser(prog="train.py", description="Train a checkpoint folder on JSONL problems. Without --model and --data: the demo.")
    g = parser.add_argument_group("what and where")
    g.add_argument("--model", metavar="DIR", help="checkpoint folder to start from; also the reference")
    g.add_argument("--data", nargs="+", metavar="FILE", help="JSONL files of problems")
    g.add_argument("--out", metavar="RUN", help="folder for metrics, rollouts and checkpoint")
    g.add_argument("--resume", action="store_true", help="go on from RUN/checkpoint")
    g.add_argument("--eval-data", nargs="+", default=[], metavar="FILE", help="JSONL files to evaluate on, before, during and after")
    g.add_argument("--eval-every", type=ranged(int, 0), default=50, metavar="N", help="steps; 0: first and last only (default %(default)s)")
    g.add_argument("--eval-temperature", type=ranged(float, 0), default=1.0, help="0 is greedy (default %(default)s)")
    g.add_argument("--eval-top-p", type=ranged(float, above=0, most=1), default=0.7, help="(default %(default)s)")
    g.add_argument("--save-every", type=ranged(int, 0), default=50, metavar="N", help="steps; 0: at the end only (default %(default)s)")
    g = parser.add_argument_group("how much")
    length = g.add_mutually_exclusive_group()
    length.add_argument("--steps", type=ranged(int, 1), metavar="N", help="steps (instead of --epochs)")
    length.add_argument("--epochs", type=ranged(float, above=0), metavar="N", help="passes over the problems (default 1)")
    g.add_argument("--prompts-per-step", type=ranged(int, 1), default=96, metavar="P", help="(default %(default)s)")
    g.add_argument("--samples-per-prompt", type=ranged(int, 1), default=8, metavar="S",
                   help="the group; P x S responses a step (default %(default)s)")
    g.add_argument("--updates-per-step", type=ranged(int, 1), default=1, metavar="U", help="passes over a step's batch (default %(default)s)")
    g = parser.add_argument_group("sampling")
    g.add_argument("--max-prompt-tokens", type=ranged(int, 1), default=2048, metavar="N", help="cut on the left (default %(default)s)")
    g.add_argument("--max-new-tokens", type=ranged(int, 1), default=4096, metavar="N", help="response limit (default %(default)s)")
    g.add_argument("--temperature", type=ranged(float, above=0), default=1.0, help="also of all log-probs (default %(default)s)")
    g.add_argument("--top-p", type=ranged(float, above=0, most=1), default=1.0, help="(default %(default)s)")
    g.add_argument("--top-k", type=ranged(int, 0), default=0, help="0: off (default %(default)s)")
    g.add_argument("--prompt-template", metavar="FILE|chat|plain", help="chat where the tokenizer has a template (default), plain: the text as it "
                   "is, or a file with {problem} in it")
    g = parser.add_argument_group("method")
    g.add_argument("--algo", choices=["vimpo", "grpo"], default="vimpo", help="(default %(default)s)")
    g.add_argument("--beta", type=ranged(float, above=0), default=5e-4, help="KL strength: the scale of the token terms (default %(default)s)")
    g.add_argument("--actor-coef", type=ranged(float, 0), default=5e-3, help="c_A; lower it for short responses (default %(default)s)")
    g.add_argument("--gae-lambda", type=ranged(float, 0, 1), default=1.0, help="(default %(default)s)")
    g.add_argument("--kl", choices=["exact", "topk", "k2", "k3"], default="exact", help="estimator of KL(pi || pi_ref) (default %(default)s)")
    g.add_argument("--value-loss", choices=["squared", "huber"], default="squared", help="(default %(default)s)")
    g.add_argument("--clip-low", type=ranged(float, 0, below=1), default=0.2, help="(default %(default)s)")
    g.add_argument("--clip-high", type=ranged(float, 0), default=0.28, help="(default %(default)s)")
    g.add_argument("--dual-clip", type=ranged(float, above=1), default=10.0, help="(default %(default)s)")
    g.add_argument("--reward-noise", type=ranged(float, 0, 1), default=0.0, help="share of groups whose rewards are flipped (default %(default)s)")
    g = parser.add_argument_group("optimizer")
    g.add_argument("--lr", type=ranged(float, above=0), default=1e-6, help="(default %(default)s)")
    g.add_argument("--warmup", type=ranged(int, 0), default=10, metavar="N", help="steps of linear warm-up (default %(default)s)")
    g.add_argument("--weight-decay", type=ranged(float, 0), default=0.1, help="on matrices (default %(default)s)")
    g.add_argument("--grad-clip", type=ranged(float, above=0), default=1.0, help="largest gradient norm (default %(default)s)")
    g.add_argument("--seed", type=int, default=0, help="of data order, sampling and noise (default %(default)s)")
    g = parser.add_argument_group("machine")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default %(default)s)")
    g.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto", help="of the arithmetic; masters are fp32 (auto: bf16 on cuda)")
    g.add_argument("--tokens-per-microbatch", type=ranged(int, 1), default=8192, metavar="N", help="padded; sets memory (default %(default)s)")
    g.add_argument("--recompute-activations", action="store_true", help="less memory in the update, for computing most of a layer twice")
    g.add_argument("--slots", type=ranged(int, 1), metavar="N", help="rows sampled together (default: as memory allows)")
    args = parser.parse_args(argv)
    demo = args.model is None and args.data is None
    if demo:
        parser.set_defaults(**DEMO)
        args = parser.parse_args(argv)
        args.out = args.out or next(f"runs/demo-{i}" for i in range(1, 10**6) if not Path(f"runs/demo-{i}").exists())
    for flag in ("model", "data", "out"):
        if getattr(args, flag) is None:
            parser.error(f"--{flag} is missing; wanted --model, --data and --out together, or neither model nor data for the demo")
    if args.samples_per_prompt < 2:
        parser.error(f"--samples-per-prompt is 1; wanted 2 or more: {args.algo} compares the samples of a prompt, and one has no baseline")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        parser.error(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}; wanted one process: training in several is not built yet")
    args.demo = demo
    return args


def check_run_folder(args):
    """Refuse to overwrite a run, to resume where there is none, and to resume with settings that make it another run."""
    out = Path(args.out)
    config = out / "config.json"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a file is in the way; wanted a new folder")
    if not args.resume:
        if config.exists() or (out / "metrics.jsonl").exists():
            raise ValueError(f"--out {out}: holds another run; wanted a new folder, or --resume to go on with that one")
        return
    if not config.is_file() or not last_checkpoint(out):
        raise ValueError(f"--resume: {out} holds no run with a checkpoint; leave --resume out to start one")
    before = json.loads(config.read_text(encoding="utf-8"))["settings"]
    for key, value in vars(args).items():
        if key not in RESUMABLE and key in before and before[key] != value:
            raise ValueError(f"--resume: --{key.replace('_', '-')} was {before[key]} in {config} and is {value} now; wanted the same settings")


# ---------------------------------------------------------------------------------------------------------------------------------
# A step's batch: rollouts, rewards, and [B, T] tensors over their response tokens


def verify(tokenizer, rollouts, problems, samples):
    """The reward of each response: 1.0 or 0.0, as a list [B]; problems [P], rollouts [P * samples]."""
    return [score(tokenizer.decode(r.response_ids, skip_special=True), problems[i // samples]["answer"]) for i, r in enumerate(rollouts)]


def flip_groups(rewards, samples, share, seed, step):
    """Label noise as in the paper's section on it: every reward of about `share` of the groups becomes 1 - reward; repeatable."""
    def flipped(group):
        digest = hashlib.blake2b(f"noise:{seed}:{step}:{group}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < share * 2**64

    return [1 - r if flipped(i // samples) else r for i, r in enumerate(rewards)]


def make_batch(rollouts, rewards, samples, device, dtype):
    """Rollouts and rewards -> {"rollouts", "rewards" [B], "group" [B], "mask" [B, T], "sampler_logps" [B, T], "share"}."""
    lengths = torch.tensor([len(r.response_ids) for r in rollouts])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]  # [B, T]
    sampler_logps = torch.zeros(mask.shape, dtype=dtype)
    sampler_logps[mask] = torch.tensor([p for r in rollouts for p in r.logps], dtype=dtype)
    return {"rollouts": rollouts, "share": worth_sharing(rollouts), "rewards": torch.tensor(rewards, dtype=dtype, device=device),
            "group": torch.arange(len(rollouts), device=device) // samples, "mask": mask.to(device), "sampler_logps": sampler_logps.to(device)}


def worth_sharing(rollouts):
    """Whether to compute each prompt once for all its responses (SharedPrompts): where that saves a quarter of all tokens or more.

    With long responses there is little to save, and plain causal attention skips the keys of the future. The quarter is a rule of thumb.
    """
    prompts = sum(len(r.prompt_ids) for r in rollouts)
    distinct = sum(map(len, {tuple(r.prompt_ids) for r in rollouts}))
    return prompts - distinct > 0.25 * (prompts + sum(len(r.response_ids) for r in rollouts))


def microbatches(rollouts, budget, share):
    """Rows of the batch in lists whose size in tokens, padding included, stays within `budget` (a row that exceeds it goes alone).

    Like goes with like, so that there is little padding, and the longest go first, so that memory peaks early. When prompts are shared a
    list costs prompts x longest prompt + rows x longest response, and rows of one prompt stay together; else rows x longest whole.
    """
    ids, longest = {}, {}
    prompt = [ids.setdefault(tuple(r.prompt_ids), len(ids)) for r in rollouts]  # number of each row's prompt
    size = [(len(r.prompt_ids), len(r.response_ids)) for r in rollouts]
    for i, p in enumerate(prompt):
        longest[p] = max(longest.get(p, 0), sum(size[i]))
    parts, P, T, both, prompts = [], 0, 0, 0, set()
    for i in sorted(range(len(rollouts)), key=lambda i: (-longest[prompt[i]], prompt[i], -size[i][1]) if share else -sum(size[i])):
        P, T, both, prompts = max(P, size[i][0]), max(T, size[i][1]), max(both, sum(size[i])), prompts | {prompt[i]}
        rows = len(parts[-1]) + 1 if parts else 1
        if parts and (len(prompts) * P + rows * T if share else rows * both) <= budget:
            parts[-1].append(i)
        else:
            parts.append([i])
            (P, T), both, prompts = size[i], sum(size[i]), {prompt[i]}
    return parts


def response_hidden(model, rollouts, share):
    """Hidden states that predict the response tokens, and those tokens: -> [N, D], [N], rollout after rollout.

    A response token is predicted by the state before it, so a row computes its prompt's last token and its response but for the last.
    """
    def pad(rows):
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in rows], batch_first=True).to(model.device)

    prompts = list(dict.fromkeys(tuple(r.prompt_ids) for r in rollouts)) if share else []
    past, lead = None, [r.prompt_ids for r in rollouts]
    if share:
        past, lead = transformer.SharedPrompts(model.device), [r.prompt_ids[-1:] for r in rollouts]
        if max(map(len, prompts)) > 1:
            model.hidden(pad([p[:-1] for p in prompts]), past)
        index = {p: i for i, p in enumerate(prompts)}
        past.share(torch.tensor([len(p) - 1 for p in prompts], device=model.device),
                   torch.tensor([index[tuple(r.prompt_ids)] for r in rollouts], device=model.device))
    hidden = model.hidden(pad([[*first, *r.response_ids[:-1]] for first, r in zip(lead, rollouts, strict=True)]), past)  # [b, L, D]
    at = torch.arange(hidden.size(1))[None]
    begin = torch.tensor([len(first) - 1 for first in lead])[:, None]
    end = begin + torch.tensor([len(r.response_ids) for r in rollouts])[:, None]
    targets = torch.tensor([t for r in rollouts for t in r.response_ids], device=model.device)
    return hidden[((at >= begin) & (at < end)).to(model.device)], targets


@torch.no_grad()
def score_batch(model, reference, batch, args, show):
    """-> {"logps", "ref_logps", "kl", "entropy"}, [B, T] each, 0 outside the mask."""
    scores = {name: torch.zeros_like(batch["sampler_logps"]) for name in ("logps", "ref_logps", "kl", "entropy")}
    done = 0
    for rows in microbatches(batch["rollouts"], args.tokens_per_microbatch, batch["share"]):
        part = [batch["rollouts"][i] for i in rows]
        hidden, targets = response_hidden(model, part, batch["share"])
        ref_hidden, _ = response_hidden(reference, part, batch["share"])
        stats = vimpo.score_tokens(hidden, model.head_weight, ref_hidden, reference.head_weight, targets, args.temperature, args.kl)
        for score_of, stat in zip(scores.values(), stats, strict=True):
            score_of[rows] = score_of[rows].masked_scatter(batch["mask"][rows], stat)
        done += len(rows)
        show(done, len(batch["rollouts"]))
    return scores


def assign_credit(batch, args):
    """-> {"baseline" [B], "td" [B, T], "advantages" [B, T]}: the one place, besides the loss, where VIMPO and GRPO part."""
    td = vimpo.td_terms(batch["logps"], batch["ref_logps"], batch["kl"], batch["mask"], args.beta)
    if args.algo == "vimpo":
        advantages = vimpo.whiten(vimpo.gae(td, batch["mask"], args.gae_lambda), batch["mask"])
    else:
        advantages = vimpo.grpo_advantages(batch["rewards"], batch["group"], batch["mask"])
    return {"baseline": vimpo.group_baseline(batch["rewards"], batch["group"]), "td": td, "advantages": advantages}


def accumulate_gradients(model, batch, args, show):
    """One pass over the batch: leaves the gradient of the whole-batch loss in model's .grad -> (value_loss, actor_loss), floats.

    Each micro-batch's means are rescaled by its share of the responses (L_V) and of the tokens (L_A), so the parts add up to the whole.
    In GRPO a response of a group with one reward has advantage 0 and so no gradient: it is left out, but counted. In VIMPO its target is 0,
    but its gradient is not once the policy has moved: it stays.
    """
    B, N = len(batch["rollouts"]), int(batch["mask"].sum())
    used = list(range(B)) if args.algo == "vimpo" else batch["advantages"].any(1).nonzero()[:, 0].tolist() or [0]  # one: zeros, not None, in .grad
    value_total, actor_total, done = 0.0, 0.0, B - len(used)
    for rows in microbatches([batch["rollouts"][i] for i in used], args.tokens_per_microbatch, batch["share"]):
        rows = [used[row] for row in rows]
        hidden, targets = response_hidden(model, [batch["rollouts"][i] for i in rows], batch["share"])
        mask, old_logps = batch["mask"][rows], batch["logps"][rows]  # [b, T]
        flat = vimpo.token_logps(hidden, model.head_weight, targets, args.temperature)  # [n]
        logps = old_logps.to(flat.dtype).masked_scatter(mask, flat)  # [b, T]
        actor = len(targets) / N * vimpo.ppo_loss(logps, old_logps, batch["advantages"][rows], mask, args.clip_low, args.clip_high, args.dual_clip)
        if args.algo == "vimpo":
            td = vimpo.td_terms(logps, batch["ref_logps"][rows], batch["kl"][rows], mask, args.beta)
            value = len(rows) / B * vimpo.value_loss(td, batch["rewards"][rows], batch["baseline"][rows], mask, args.value_loss)
            loss = value + args.actor_coef * actor
            value_total += value.detach()
        else:
            loss = actor
        loss.backward()
        actor_total += actor.detach()
        done += len(rows)
        show(done, B)
    return float(torch.as_tensor(value_total)), float(actor_total)


# ---------------------------------------------------------------------------------------------------------------------------------
# The run folder


def append_jsonl(path, row):
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(row, ensure_ascii=False) + "\n")


def keep_lines_up_to(path, step):
    """Drop the lines of steps after `step`: they were written after the checkpoint that a resumed run goes on from."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def last_checkpoint(out):
    """RUN/checkpoint, or the one before it if the run died between the two renames of save_checkpoint; None if there is neither."""
    return next((out / name for name in ("checkpoint", "checkpoint.previous") if (out / name / "trainer.json").is_file()), None)


def save_checkpoint(out, model, optimizer, step):
    """Write RUN/checkpoint whole under another name first, then rename: a crash at any moment leaves one good checkpoint."""
    new, old, final = out / "checkpoint.new", out / "checkpoint.previous", out / "checkpoint"
    shutil.rmtree(new, ignore_errors=True)
    transformer.save_model(model, new)
    state = {f"{key}.{name}": optimizer.state[p][key] for name, p in model.named_parameters() for key in ("exp_avg", "exp_avg_sq", "step")
             if p in optimizer.state}
    save_file(state, new / "optimizer.safetensors")
    (new / "trainer.json").write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def load_optimizer(path, model, optimizer):
    state = load_file(path / "optimizer.safetensors", device=str(model.device))
    for name, p in model.named_parameters():
        if f"step.{name}" in state:
            optimizer.state[p] = {key: state[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")}


def log_rollouts(path, step, batch, problems, tokenizer, samples):
    """Write up to four responses with the credit of each token: right and wrong ones of the first group that has both, else of the first."""
    rewards, values = batch["rewards"], vimpo.implied_values(batch["td"], batch["mask"], batch["baseline"])  # [B], [B, T+1]
    groups = [range(i, i + samples) for i in range(0, len(rewards), samples)]
    group = next((g for g in groups if rewards[g[0] : g[-1] + 1].min() < rewards[g[0] : g[-1] + 1].max()), groups[0])
    best = rewards[group[0] : group[-1] + 1].max()
    for i in [i for i in group if rewards[i] == best][:2] + [i for i in group if rewards[i] < best][:2]:
        r, problem, T = batch["rollouts"][i], problems[i // samples], len(batch["rollouts"][i].response_ids)
        append_jsonl(path, {
            "step": step, "id": problem["id"], "answer": problem["answer"], "prompt": tokenizer.decode(r.prompt_ids),
            "tokens": [tokenizer.decode([t]) for t in r.response_ids], "response": tokenizer.decode(r.response_ids), "finished": r.finished,
            "reward": float(rewards[i]), "reward_clean": batch["rewards_clean"][i], "baseline": float(batch["baseline"][i]),
            "values": [round(x, 6) for x in values[i, : T + 1].tolist()], "advantages": [round(x, 5) for x in batch["advantages"][i, :T].tolist()]})


def warn(message):
    print(f"\n!!! WARNING: {message}\n", file=sys.stderr, flush=True)


def warn_if_stuck(history, args):
    """Say loudly, the first time and every 20th step after it, when what was measured means that nothing can be learned."""
    now = history[-1]

    def since(condition):  # steps in a row for which it has held, up to now
        return next((n for n, row in enumerate(reversed(history)) if not condition(row)), len(history))

    def loud(n, first=1):
        return n >= first and (n - first) % 20 == 0

    if loud(since(lambda row: row["uniform_groups"] == 1)):
        warn(f"step {now['step']}: every group has one reward (mean {now['reward']:.2f}), so there is nothing to learn from; problems of medium "
             "difficulty or more --samples-per-prompt help")
    if loud(since(lambda row: row["truncated"] == 1)):
        warn(f"step {now['step']}: every response was cut at {args.max_new_tokens} tokens before its stop token; raise --max-new-tokens, or look "
             "at the prompt template and the stop ids")
    if loud(since(lambda row: row["reward_clean"] == now["reward_clean"] and row["reward_clean"] in (0, 1)), first=5):
        warn(f"the reward has been {now['reward_clean']:.0f} for every response of the last 5 steps or more; look at RUN/rollouts.jsonl: does the "
             "model put its answer where the verifier looks (\\boxed{}, \"#### x\", \"answer is x\")?")
    gaps = [row["sampler_gap"] for row in history]
    if len(gaps) >= 10 and statistics.mean(gaps[-5:]) > max(0.02, 2 * statistics.mean(gaps[:5])) and loud(len(gaps), 10):
        warn(f"step {now['step']}: sampler and trainer drift apart, mean |difference of log-probs| {gaps[-1]:.3f} from {gaps[0]:.3f} at the start")
    if args.algo == "vimpo" and loud(since(lambda row: (row["actor_share"] or 0) > 0.2)):
        warn(f"step {now['step']}: the actor pulls {now['actor_share']:.2f} times as hard on a token as the value loss does; the authors' share is "
             f"0.025. Responses are short ({now['response_tokens']:.0f} tokens): lower --actor-coef to about "
             f"{args.actor_coef * 0.025 / now['actor_share']:.1g}")


# ---------------------------------------------------------------------------------------------------------------------------------
# The loop


def run_step(step, model, reference, optimizer, tokenizer, problems, prompts, args):
    """One step on these problems -> (metrics of metrics.jsonl, batch)."""
    S, start = args.samples_per_prompt, time.monotonic()
    rollouts = generate(model, prompts, samples_per_prompt=S, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                        top_p=args.top_p, top_k=args.top_k, stop_ids=tokenizer.eos_ids, seed=f"{args.seed}:{step}", slots=args.slots,
                        on_progress=progress(f"step {step}: sampling"))
    clean = verify(tokenizer, rollouts, problems, S)
    rewards = flip_groups(clean, S, args.reward_noise, args.seed, step)
    batch = make_batch(rollouts, rewards, S, model.device, torch.promote_types(model.compute_dtype, torch.float32))
    batch["rewards_clean"] = clean
    t_rollout = time.monotonic()

    batch |= score_batch(model, reference, batch, args, progress(f"step {step}: scoring"))
    batch |= assign_credit(batch, args)
    t_score = time.monotonic()

    lr = args.lr * min(1.0, step / max(args.warmup, 1))
    for group in optimizer.param_groups:
        group["lr"] = lr
    for update in range(args.updates_per_step):
        current = batch
        if update and args.algo == "vimpo":  # the policy has moved, and its KL with it; what was sampled, and its credit, stay
            current = batch | {"kl": score_batch(model, reference, batch, args, progress(f"step {step}: scoring again"))["kl"]}
        losses = accumulate_gradients(model, current, args, progress(f"step {step}: update"))
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        if not torch.isfinite(grad_norm):
            sys.exit(f"train.py: step {step}: the norm of the gradient is {float(grad_norm)}; stopped before this update, the last checkpoint stays")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    t_update = time.monotonic()

    mask, rewards = batch["mask"], batch["rewards"]
    N, groups = int(mask.sum()), rewards.view(-1, S)
    residual = (batch["td"].sum(1) - (rewards - batch["baseline"])).abs().mean().item()
    share = args.actor_coef / (args.beta * residual * N / len(rollouts)) if args.algo == "vimpo" and residual > 0 else None
    return {
        "step": step, "reward": rewards.mean().item(), "reward_clean": statistics.mean(clean), "accuracy": sum(r >= 1 for r in clean) / len(clean),
        "value_loss": losses[0], "actor_loss": losses[1], "kl": batch["kl"].sum().item() / N, "entropy": batch["entropy"].sum().item() / N,
        "response_tokens": N / len(rollouts), "truncated": sum(not r.finished for r in rollouts) / len(rollouts),
        "uniform_groups": (groups.max(1).values == groups.min(1).values).float().mean().item(), "grad_norm": grad_norm.item(), "lr": lr,
        "sampler_gap": (batch["logps"] - batch["sampler_logps"]).abs().sum().item() / N,
        "seconds_rollout": t_rollout - start, "seconds_score": t_score - t_rollout, "seconds_update": t_update - t_score,
        "tokens_per_second": N / (t_rollout - start), "actor_share": share,
    }, batch


def run_eval(step, model, tokenizer, problems, prompts, args):
    """Evaluate, write RUN/eval.jsonl, print -> accuracy over all files."""
    table = evaluate(model, tokenizer, problems, prompts, temperature=args.eval_temperature, top_p=args.eval_top_p,
                     max_new_tokens=args.max_new_tokens, seed=args.seed, slots=args.slots, on_progress=progress("eval"))
    for row in table:
        append_jsonl(Path(args.out) / "eval.jsonl",
                     {"step": step} | {key: row[key] for key in ("file", "n", "accuracy", "response_tokens", "truncated")})
        print(f"eval  {Path(row['file']).name}: {row['accuracy']:.1%} of {row['n']} right, {row['response_tokens']:.1f} tokens, "
              f"{row['truncated']:.1%} cut", flush=True)
    shown, ask = table[0]["problems"][0], problems[0]["ask"] if isinstance(problems[0]["ask"], str) else problems[0]["ask"][-1]["content"]
    print(f"      {data.short(ask)} -> {data.short(shown['responses'][0])} {'right' if shown['scores'][0] else 'wrong'}", flush=True)
    return sum(row["accuracy"] * row["n"] for row in table) / sum(row["n"] for row in table)


def set_up(args):
    """Everything that can be wrong is looked at here, cheapest first -> what the loop needs. Raises ValueError in one line."""
    check_run_folder(args)
    problems, tests = data.load_problems(args.data), data.load_problems(args.eval_data)

    transformer.read_config(args.model)
    device, compute_dtype = transformer.choose_device(args.device, args.dtype)
    tokenizer = Tokenizer.from_pretrained(args.model)
    template = data.choose_template(args.prompt_template, tokenizer, problems)
    if template == "plain" and any(not isinstance(p["ask"], str) for p in problems):
        warn("the problems are chat messages, but this tokenizer has no chat template: their texts are joined as they are")
    Path(args.out).mkdir(parents=True, exist_ok=True)

    model = transformer.load_model(args.model, device=device)
    if tokenizer.vocab_size > model.config.V:
        raise ValueError(f"{args.model}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model a vocabulary of {model.config.V}")
    model.compute_dtype = compute_dtype
    reference = transformer.frozen_copy(model)
    saved = last_checkpoint(Path(args.out)) if args.resume else None
    if saved:
        model = transformer.load_model(saved, device=device)
        model.compute_dtype = compute_dtype
    model.recompute = args.recompute_activations
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=args.lr, fused=True)
    step = 0
    if saved:
        load_optimizer(saved, model, optimizer)
        step = json.loads((saved / "trainer.json").read_text(encoding="utf-8"))["step"]
        for name in ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl"):
            keep_lines_up_to(Path(args.out) / name, step)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device), "compute_dtype": str(compute_dtype)}
    (Path(args.out) / "config.json").write_text(json.dumps({"settings": vars(args), "versions": versions}, indent=1) + "\n", encoding="utf-8")
    return model, reference, optimizer, tokenizer, template, problems, tests, step


def main(argv=None):
    """Set up, then step after step: train, log, evaluate, save."""
    args = parse_args(argv)
    try:
        model, reference, optimizer, tokenizer, template, problems, tests, done = set_up(args)
    except (ValueError, OSError) as e:
        die("train.py", e)
    P, out = args.prompts_per_step, Path(args.out)
    steps = args.steps or max(1, int((args.epochs or 1) * len(problems)) // P)
    test_prompts = [data.prompt_ids(p, tokenizer, template, args.max_prompt_tokens) for p in tests]
    size = sum(p.numel() for p in model.parameters()) / 1e6
    if args.demo:
        print("The demo: a tiny model that knows how to add and subtract, but slips, learns to take care. Watch `reward`. About three minutes.")
    print(f"{args.algo}: {args.model} ({size:.1f}M parameters, {model.compute_dtype} on {model.device}), {len(problems)} problems, "
          f"steps {done + 1} to {steps} of {P} prompts x {args.samples_per_prompt} samples -> {out}", flush=True)
    if done >= steps:
        print(f"{out} is at step {done} already: nothing to do (more --steps or --epochs go on)")
    history, started = [], time.monotonic()
    first = last = run_eval(0, model, tokenizer, tests, test_prompts, args) if tests and not done else None
    for step in range(done + 1, steps + 1):
        chosen = [problems[i] for i in data.problem_order(len(problems), args.seed, (step - 1) * P, P)]
        prompts = [data.prompt_ids(p, tokenizer, template, args.max_prompt_tokens) for p in chosen]
        metrics, batch = run_step(step, model, reference, optimizer, tokenizer, chosen, prompts, args)
        append_jsonl(out / "metrics.jsonl", metrics)
        log_rollouts(out / "rollouts.jsonl", step, batch, chosen, tokenizer, args.samples_per_prompt)
        seconds = sum(metrics[f"seconds_{phase}"] for phase in ("rollout", "score", "update"))
        print(f"step {step}/{steps}  reward {metrics['reward']:.3f}  kl {metrics['kl']:.4f}  entropy {metrics['entropy']:.3f}  "
              f"tokens {metrics['response_tokens']:.0f}  gap {metrics['sampler_gap']:.1e}  {metrics['tokens_per_second']:.0f} tokens/s  "
              f"{seconds:.1f} s  {(time.monotonic() - started) / 60:.1f} min", flush=True)
        history.append(metrics)
        warn_if_stuck(history, args)
        if tests and (step == steps or (args.eval_every and step % args.eval_every == 0)):
            last = run_eval(step, model, tokenizer, tests, test_prompts, args)
        if step == steps or (args.save_every and step % args.save_every == 0):
            save_checkpoint(out, model, optimizer, step)
    if last is not None:
        start = f"{first:.1%} -> " if first is not None else ""
        minutes = (time.monotonic() - started) / 60
        print(f"accuracy on held-out problems: {start}{last:.1%} in {minutes:.1f} minutes; {out}/checkpoint loads in transformers")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    sys.exit(main())
