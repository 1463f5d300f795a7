"""Train a language model on problems with checkable answers, by VIMPO or GRPO. One loop, top to bottom.

    python train.py                                                                  # the demo: minutes on a laptop
    python train.py --model DIR --data math.jsonl --out runs/one                     # DIR: a Hugging Face checkpoint folder
    python train.py --model DIR --data math.jsonl --out runs/one --resume            # go on where it was cut off
    torchrun --nproc-per-node 8 train.py --model DIR --data math.jsonl --out ...     # the same run on 8 GPUs                several.py

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

A run may die at any moment. Everything that a step depends on follows from the weights, the optimizer's moments, --seed and the number of the
step, so RUN/checkpoint holds just those; it is written whole under another name, with a checksum of every file, and then renamed. --resume
drops the lines of later steps from RUN/*.jsonl and takes those steps again, to the same bits.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch loads: threads that wait for each other soon go to sleep. Spinning on, as they
# do by default, made a step of the demo five times as slow on two cores beside one other busy program.

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import data
import model as transformer
import several
import vimpo
from data import die, ranged
from eval import evaluate
from rewards import score
from rollout import Rollout
from several import memory, say, watch
from tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent
DEMO = {"model": str(HERE / "demo/model"), "data": [str(HERE / "demo/train.jsonl")], "eval_data": [str(HERE / "demo/test.jsonl")],
        "steps": 60, "prompts_per_step": 64, "samples_per_prompt": 8, "max_new_tokens": 48, "lr": 5e-4, "warmup": 5, "weight_decay": 0.0,
        "actor_coef": 1e-4, "eval_every": 20, "eval_top_p": 1.0}
RESUMABLE = {"steps", "epochs", "eval_data", "eval_every", "save_every", "keep", "slots", "tokens_per_microbatch", "recompute_activations", "offload",
             "out", "device", "demo"}  # settings that may change when a run goes on: they don't change what a step computes
RESUME = "; --resume goes on from the last checkpoint"
LOGS = ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl")


# ---------------------------------------------------------------------------------------------------------------------------------
# Settings


def parse_args(argv):
    """The flags -> a namespace; the demo's settings stand in for the defaults where neither --model nor --data is given."""
    parser = data.Parser(prog="train.py", description="Train a checkpoint folder on JSONL problems. Without --model and --data: the demo.")
    g = parser.add_argument_group("what and where")
    g.add_argument("--model", metavar="DIR", help="checkpoint folder to start from; also the reference")
    g.add_argument("--data", nargs="+", metavar="FILE", help="JSONL files of problems")
    g.add_argument("--out", metavar="RUN", help="folder for metrics, rollouts and checkpoint")
    g.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    g.add_argument("--eval-data", nargs="+", default=[], metavar="FILE", help="JSONL files to evaluate on, before, during and after")
    g.add_argument("--eval-every", type=ranged(int, 0), default=50, metavar="N", help="steps; 0: first and last only (default %(default)s)")
    g.add_argument("--eval-temperature", type=ranged(float, 0), default=1.0, help="0 is greedy (default %(default)s)")
    g.add_argument("--eval-top-p", type=ranged(float, above=0, most=1), default=0.7, help="(default %(default)s)")
    g.add_argument("--save-every", type=ranged(int, 0), default=50, metavar="N", help="steps; 0: at the end only (default %(default)s)")
    g.add_argument("--keep", type=ranged(int, 1), default=2, metavar="N", help="checkpoints: RUN/checkpoint, older ones in RUN/checkpoint-STEP "
                   "(default %(default)s)")
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
    g.add_argument("--recompute-activations", action="store_true", help="half the activations, for a sixth more arithmetic in the update")
    g.add_argument("--offload", action="store_true", help="reference and AdamW's moments in host memory except while they are needed (one GPU)")
    g.add_argument("--slots", type=ranged(int, 1), metavar="N", help="rows sampled together (default: as memory allows)")
    args = parser.parse_args(argv)
    demo = args.model is None and args.data is None
    if demo:
        parser.set_defaults(**DEMO)
        args = parser.parse_args(argv)
        args.out = args.out or next(f"runs/demo-{i}" for i in range(1, 10**6) if not Path(f"runs/demo-{i}").exists())
    for flag in ("model", "data", "out"):
        if getattr(args, flag) in (None, ""):
            parser.error(f"--{flag} is missing; wanted --model, --data and --out together, or neither model nor data for the demo")
    if args.samples_per_prompt < 2:
        parser.error(f"--samples-per-prompt is 1; wanted 2 or more: {args.algo} compares the samples of a prompt, and one has no baseline")
    if args.prompts_per_step < several.world():
        parser.error(f"--prompts-per-step is {args.prompts_per_step} with {several.world()} processes; wanted one prompt each or more")
    if args.offload and several.world() > 1:
        parser.error(f"--offload with {several.world()} processes; wanted one: with several each holds a part of the moments anyway")
    args.demo = demo
    return args


def check_run_folder(args, digest):
    """Refuse to overwrite a run, to resume where there is none, and to resume with settings or problems that make it another run."""
    out = Path(args.out)
    config = out / "config.json"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a file is in the way; wanted a new folder")
    if not args.resume:
        if config.exists() or (out / "metrics.jsonl").exists():
            raise ValueError(f"--out {out}: holds another run; wanted a new folder, or --resume to go on with that one")
        return
    if not config.is_file():
        raise ValueError(f"--resume: {out} holds no run; leave --resume out to start one")
    try:
        config_before = json.loads(config.read_text(encoding="utf-8"))
        before, same_problems = config_before["settings"], config_before["problems"] == digest
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--resume: {config} is damaged; wanted the settings that this run began with") from None
    changed = {key: f"--{key.replace('_', '-')} was {before[key]} and is {value} now" for key, value in vars(args).items()
               if key != "resume" and key in before and before[key] != value}
    refused = [text for key, text in changed.items() if key not in RESUMABLE] + ([] if same_problems else ["--data holds other problems now"])
    if refused:
        raise ValueError(f"--resume: {'; '.join(refused)}; wanted the settings of {config}")
    if changed:
        say(f"--resume: {'; '.join(changed.values())}; the run stays the same")


# ---------------------------------------------------------------------------------------------------------------------------------
# A step's batch: rollouts, rewards, and [B, T] tensors over their response tokens


def verify(tokenizer, rollouts, problems, samples):
    """The reward of each response: 1.0 or 0.0, as a list [B]; problems [P], rollouts [P * samples]. Of W processes each grades every W-th."""
    answers = [problems[i // samples]["answer"] for i in range(len(rollouts))]
    mine = [score(tokenizer.decode(rollouts[i].response_ids, skip_special=True), answers[i])
            for i in range(several.rank(), len(rollouts), several.world())]
    graded = several.gather(mine)
    return [graded[i % several.world()][i // several.world()] for i in range(len(rollouts))]


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
        past, lead = transformer.SharedPrompts(model), [r.prompt_ids[-1:] for r in rollouts]
        prompt_hidden = model.hidden(pad([p[:-1] or p for p in prompts]), past)  # or p: unseen, but all processes make the same calls
        index = {p: i for i, p in enumerate(prompts)}
        past.share(torch.tensor([len(p) - 1 for p in prompts], device=model.device),
                   torch.tensor([index[tuple(r.prompt_ids)] for r in rollouts], device=model.device))
    hidden = model.hidden(pad([[*first, *r.response_ids[:-1]] for first, r in zip(lead, rollouts, strict=True)]), past)  # [b, L, D]
    if share and hidden.requires_grad and several.world() > 1:
        hidden = hidden + 0 * prompt_hidden.sum()  # FSDP gathers a layer for its backward pass when a gradient reaches its output: so let it
    at = torch.arange(hidden.size(1))[None]
    begin = torch.tensor([len(first) - 1 for first in lead])[:, None]
    end = begin + torch.tensor([len(r.response_ids) for r in rollouts])[:, None]
    targets = torch.tensor([t for r in rollouts for t in r.response_ids], device=model.device)
    return hidden[((at >= begin) & (at < end)).to(model.device)], targets


def score_batch(model, reference, batch, args, show, keep=False):
    """-> {"logps", "ref_logps", "kl", "entropy"}, [B, T] each, 0 outside the mask.

    keep: if one micro-batch holds all, its forward pass is the one that the update needs: also "forward", what it made, with gradient.
    """
    scores = {name: torch.zeros_like(batch["sampler_logps"]) for name in ("logps", "ref_logps", "kl", "entropy")}
    done, parts, kept = 0, microbatches(batch["rollouts"], args.tokens_per_microbatch, batch["share"]), {}
    for rows in parts:
        part = [batch["rollouts"][i] for i in rows]
        with torch.set_grad_enabled(keep and len(parts) == 1):
            hidden, targets = response_hidden(model, part, batch["share"])
        if hidden.requires_grad:
            kept = {"forward": (hidden, targets)}
        with torch.no_grad():
            ref_hidden, _ = response_hidden(reference, part, batch["share"])
            stats = vimpo.score_tokens(hidden, model.head_weight, ref_hidden, reference.head_weight, targets, args.temperature, args.kl)
            for score_of, stat in zip(scores.values(), stats, strict=True):
                score_of[rows] = score_of[rows].masked_scatter(batch["mask"][rows], stat)
        done += len(rows)
        show(done, len(batch["rollouts"]))
    return scores | kept


def assign_credit(batch, args):
    """-> {"baseline" [B], "td" [B, T], "advantages" [B, T]}: the one place, besides the loss, where VIMPO and GRPO part."""
    td = vimpo.td_terms(batch["logps"], batch["ref_logps"], batch["kl"], batch["mask"], args.beta)
    if args.algo == "vimpo":
        advantages = vimpo.whiten(vimpo.gae(td, batch["mask"], args.gae_lambda), batch["mask"])
    else:
        advantages = vimpo.grpo_advantages(batch["rewards"], batch["group"], batch["mask"])
    return {"baseline": vimpo.group_baseline(batch["rewards"], batch["group"]), "td": td, "advantages": advantages}


def accumulate_gradients(model, batch, args, show, moved=False):
    """One pass over the batch: leaves the gradient of the whole-batch loss in model's .grad -> (value_loss, actor_loss), floats.

    Each micro-batch's means are rescaled by its share of the responses (L_V) and of the tokens (L_A), so the parts add up to the whole.
    In GRPO a response of a group with one reward has advantage 0 and so no gradient: it is left out, but counted. In VIMPO its target is 0,
    but its gradient is not once the policy has moved: it stays. With several processes batch is this one's share, B and N count all.
    moved: the weights have changed since batch["logps"] was computed, so they are not the log-probs of now.
    """
    mine = len(batch["rollouts"])
    B, N = several.total(mine, int(batch["mask"].sum()))
    used = list(range(mine)) if args.algo == "vimpo" else batch["advantages"].any(1).nonzero()[:, 0].tolist() or [0]  # one: zeros, not None, in .grad
    value_total, actor_total, done = 0.0, 0.0, mine - len(used)
    parts = microbatches([batch["rollouts"][i] for i in used], args.tokens_per_microbatch, batch["share"])
    for k in range(several.most(len(parts))):
        if k >= len(parts):  # others have more: forward and backward are collective calls, so go through them with a token that weighs nothing
            hidden, targets = response_hidden(model, [Rollout([0], [0], [0.0], True)], batch["share"])
            (0 * vimpo.token_logps(hidden, model.head_weight, targets)).sum().backward()
            continue
        rows = [used[row] for row in parts[k]]
        hidden, targets = batch.pop("forward", None) or response_hidden(model, [batch["rollouts"][i] for i in rows], batch["share"])
        mask, old_logps = batch["mask"][rows], batch["logps"][rows]  # [b, T]
        flat = vimpo.token_logps(hidden, model.head_weight, targets, args.temperature, None if moved else old_logps[mask])  # [n]
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
        show(done, mine)
    return several.total(float(torch.as_tensor(value_total)), float(actor_total))


# ---------------------------------------------------------------------------------------------------------------------------------
# The run folder


@contextlib.contextmanager
def writing(path):
    """Whatever goes wrong in here is an OSError that names the file: not all libraries do."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        raise OSError(f"{path}: can't be written ({getattr(e, 'strerror', None) or e})") from None


def append_jsonl(path, row):
    row = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}  # NaN is no JSON
    with writing(path), open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(row, ensure_ascii=False) + "\n")


def sync(path):
    """Wait until a file, or a folder's list of names, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.close(number)


def write_whole(path, text):
    """All of the text or, if we are cut off, what was there before."""
    new = path.with_name(path.name + ".new")
    with writing(path):
        try:
            new.write_text(text, encoding="utf-8")
            sync(new)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def keep_lines_up_to(path, step):
    """Drop the lines of steps after `step`, which a resumed run writes again, and a last line that was cut off -> the rows that stay."""
    before, rows = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "", []
    for line in before.split("\n"):  # not splitlines: JSON text may hold U+2028 as it is
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    rows = [row for row in rows if row["step"] <= step]
    after = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if after != before:
        write_whole(path, after)
    return rows


def checkpoints(out):
    """Those in a run folder, newest first: RUN/checkpoint, then RUN/checkpoint-STEP by step."""
    older = [f for f in out.glob("checkpoint-*") if f.name.removeprefix("checkpoint-").isdecimal()]
    return [f for f in [out / "checkpoint"] if f.is_dir()] + sorted(older, key=lambda f: -int(f.name.removeprefix("checkpoint-")))


def trainer_json(state):
    """trainer.json: {"step", "files": {name: [bytes, sha256]}} and, since it must vouch for itself as well, the sha256 of that."""
    return json.dumps(state | {"self": hashlib.sha256(json.dumps(state).encode()).hexdigest()}, indent=1) + "\n"


def file_digest(file):
    with open(file, "rb") as f:
        return [file.stat().st_size, hashlib.file_digest(f, "sha256").hexdigest()]


def read_checkpoint(folder):
    """trainer.json of a checkpoint all of whose files are as they were written. ValueError names the first that is not."""
    try:
        text = (folder / "trainer.json").read_text(encoding="utf-8")
        state = json.loads(text)
        if trainer_json({key: state[key] for key in ("step", "files")}) != text:
            raise ValueError
    except FileNotFoundError:
        raise ValueError(f"{folder / 'trainer.json'} is missing") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / 'trainer.json'} is damaged: not what was written") from None
    for name, (size, digest) in state["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing")
        found = file_digest(folder / name)
        if found != [size, digest]:
            what = f"{found[0]} bytes long, not {size}" if found[0] != size else "its checksum is not that of what was written"
            raise ValueError(f"{folder / name} is damaged: {what}")
    return state


def newest_checkpoint(out):
    """The newest checkpoint of a run folder, None if there is none; ValueError where it is damaged says what to do."""
    found, damage = checkpoints(out), None
    for i, folder in enumerate(found):
        try:
            step = read_checkpoint(folder)["step"]
        except ValueError as e:
            damage = damage or e
            continue
        if damage:
            worse = ", ".join(map(str, found[:i]))
            raise ValueError(f"--resume: {damage}; {folder} (step {step}) is whole: remove {worse}, and --resume goes on from it")
        return folder
    if damage:
        raise ValueError(f"--resume: {damage}; no older checkpoint in {out} is whole: start again with another --out")
    return None


def save_checkpoint(out, model, optimizer, step, keep):
    """Write RUN/checkpoint whole under another name first, then rename: a crash at any moment leaves one good checkpoint.

    All processes call this; process 0 writes what the others help to gather, one parameter at a time.
    """
    new, final, write = out / "checkpoint.new", out / "checkpoint", several.rank() == 0
    try:
        if write:
            shutil.rmtree(new, ignore_errors=True)
        with writing(new / "model.safetensors"):
            transformer.save_model(model, new, write)
        state = {}
        for name, p in model.named_parameters():
            for key in ("exp_avg", "exp_avg_sq", "step") if p in optimizer.state else ():
                tensor = transformer.whole(optimizer.state[p][key])
                if write:
                    state[f"{key}.{name}"] = tensor.cpu()
        if not write:
            return
        with writing(new / "optimizer.safetensors"):
            save_file(state, new / "optimizer.safetensors")
        with writing(new / "trainer.json"):
            files = {f.name: file_digest(f) for f in sorted(new.iterdir())}
            (new / "trainer.json").write_text(trainer_json({"step": step, "files": files}), encoding="utf-8")
            for path in [*new.iterdir(), new, *(out / name for name in LOGS if (out / name).exists())]:
                sync(path)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with writing(final):
        if final.exists():
            older = out / f"checkpoint-{json.loads((final / 'trainer.json').read_text(encoding='utf-8'))['step']}"
            shutil.rmtree(older, ignore_errors=True)
            final.rename(older)
        new.rename(final)
        sync(out)
    for old in checkpoints(out)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def load_optimizer(path, model, optimizer):
    with safe_open(path / "optimizer.safetensors", framework="pt") as f:
        names = set(f.keys())
        for name, p in model.named_parameters():
            if f"step.{name}" in names:
                optimizer.state[p] = {key: several.like(p, f.get_tensor(f"{key}.{name}")) for key in ("exp_avg", "exp_avg_sq", "step")}


def shown_group(rewards, samples):
    """The group whose responses are logged: the first with right and wrong ones, else the first."""
    groups = [rewards[i : i + samples] for i in range(0, len(rewards), samples)]
    return next((g for g, group in enumerate(groups) if min(group) < max(group)), 0)


def log_rollouts(path, step, batch, tokenizer, samples):
    """Write up to four responses with the credit of each token: right and wrong ones of one group."""
    rewards, values = batch["rewards"], vimpo.implied_values(batch["td"], batch["mask"], batch["baseline"])  # [B], [B, T+1]
    first = shown_group(rewards.tolist(), samples) * samples
    group, best = range(first, first + samples), rewards[first : first + samples].max()
    for i in [i for i in group if rewards[i] == best][:2] + [i for i in group if rewards[i] < best][:2]:
        r, problem, T = batch["rollouts"][i], batch["problems"][i // samples], len(batch["rollouts"][i].response_ids)
        append_jsonl(path, {
            "step": step, "id": problem["id"], "answer": problem["answer"], "prompt": tokenizer.decode(r.prompt_ids),
            "tokens": [tokenizer.decode([t]) for t in r.response_ids], "response": tokenizer.decode(r.response_ids), "finished": r.finished,
            "reward": float(rewards[i]), "reward_clean": batch["rewards_clean"][i], "baseline": float(batch["baseline"][i]),
            "values": [round(x, 6) for x in values[i, : T + 1].tolist()], "advantages": [round(x, 5) for x in batch["advantages"][i, :T].tolist()]})


def warn(message):
    if several.rank() == 0:
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
    gaps = [row["sampler_gap"] or 0 for row in history]
    if len(gaps) >= 10 and statistics.mean(gaps[-5:]) > max(0.02, 2 * statistics.mean(gaps[:5])) and loud(len(gaps), 10):
        warn(f"step {now['step']}: sampler and trainer drift apart, mean |difference of log-probs| {gaps[-1]:.3f} from {gaps[0]:.3f} at the start")
    if args.algo == "vimpo" and loud(since(lambda row: (row["actor_share"] or 0) > 0.2)):
        warn(f"step {now['step']}: the actor pulls {now['actor_share']:.2f} times as hard on a token as the value loss does; the authors' share is "
             f"0.025. Responses are short ({now['response_tokens']:.0f} tokens): lower --actor-coef to about "
             f"{args.actor_coef * 0.025 / now['actor_share']:.1g}")


# ---------------------------------------------------------------------------------------------------------------------------------
# The loop


def policy_of(model):
    """What samples and scores: the model itself or, where several processes hold parts of it, a copy gathered once."""
    return model if several.world() == 1 else transformer.frozen_copy(model)


def move_moments(optimizer, device):
    """AdamW's two moments, 8 bytes a parameter, to `device`: they are needed while the weights change, and by then activations are gone."""
    for state in optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = state[key].to(device)


def run_step(step, model, reference, optimizer, tokenizer, problems, prompts, args):
    """One step on these problems -> (metrics of metrics.jsonl, batch). With several processes batch is this one's share, metrics are of all.

    At a signal several.Interrupted leaves it, up to the first change of the weights; after that the step is finished.
    """
    S, start, keep = args.samples_per_prompt, time.monotonic(), args.algo == "vimpo" and several.world() == 1
    policy = policy_of(model)
    with memory("train.py", "sampling", "lower --slots or --max-new-tokens" + RESUME):
        rollouts = several.sample(policy, prompts, samples_per_prompt=S, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                                  top_p=args.top_p, top_k=args.top_k, stop_ids=tokenizer.eos_ids, seed=f"{args.seed}:{step}", slots=args.slots,
                                  on_progress=watch(f"step {step}: sampling"))
    clean = verify(tokenizer, rollouts, problems, S)
    rewards = flip_groups(clean, S, args.reward_noise, args.seed, step)
    dtype = torch.promote_types(model.compute_dtype, torch.float32)
    # Whole groups are dealt to the processes; process 0, which writes, takes the one that is logged.
    sizes = [sum(len(r.prompt_ids) + len(r.response_ids) for r in rollouts[i : i + S]) for i in range(0, len(rollouts), S)]
    hands = several.deal(sizes, several.world())
    mine = sorted(hands, key=lambda hand: shown_group(rewards, S) not in hand)[several.rank()]
    rows = [i for g in mine for i in range(g * S, g * S + S)]
    batch = make_batch([rollouts[i] for i in rows], [rewards[i] for i in rows], S, model.device, dtype)
    batch |= {"rewards_clean": [clean[i] for i in rows], "problems": [problems[g] for g in mine], "share": worth_sharing(rollouts)}
    t_rollout = time.monotonic()

    with memory("train.py", "scoring", "lower --tokens-per-microbatch" + RESUME), several.leave_together():
        if args.offload:
            reference.to(model.device)
        batch |= score_batch(policy, reference, batch, args, watch(f"step {step}: scoring"), keep)
    batch |= assign_credit(batch, args)
    del policy
    if args.offload and args.updates_per_step == 1:  # further updates score again
        reference.to("cpu")
    t_score = time.monotonic()

    lr, skipped, moved = args.lr * min(1.0, step / max(args.warmup, 1)), 0, False
    for group in optimizer.param_groups:
        group["lr"] = lr
    for update in range(args.updates_per_step):
        current = batch
        if update and args.algo == "vimpo":  # the policy has moved, and its KL with it; what was sampled, and its credit, stay
            with memory("train.py", "scoring", "lower --tokens-per-microbatch" + RESUME):
                scores = score_batch(policy_of(model), reference, batch, args, watch(f"step {step}: scoring again", leave=False), keep)
            current = batch | {key: scores[key] for key in ("kl", "forward") if key in scores}
        with memory("train.py", "the update", "lower --tokens-per-microbatch or give --recompute-activations or --offload" + RESUME):
            losses = accumulate_gradients(model, current, args, watch(f"step {step}: update", leave=not moved and several.world() == 1), moved)
            grad_norm = float(transformer.whole(torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)))
            if not moved:
                several.agree()
            if all(map(math.isfinite, (grad_norm, *losses))):
                if args.offload:
                    move_moments(optimizer, model.device)
                optimizer.step()
                if args.offload:
                    move_moments(optimizer, "cpu")
                moved = True
            else:
                skipped += 1
                bad = ~(current["logps"] + current["ref_logps"] + current["kl"]).isfinite().all(1)
                bad = sorted(int(i) for part in several.gather([rows[i] for i in bad.nonzero()[:, 0].tolist()]) for i in part)
                names = ", ".join(f"{problems[i // S]['id']} sample {i % S}" for i in bad[:8]) or "no response alone, but the gradient"
                warn(f"step {step}: value loss {losses[0]}, actor loss {losses[1]}, gradient norm {grad_norm}: this update is skipped; "
                     f"not finite: {names}" + (f" and {len(bad) - 8} more" if bad[8:] else ""))
            optimizer.zero_grad(set_to_none=True)
    if args.offload:
        reference.to("cpu")
    t_update = time.monotonic()

    B, N, all_rewards = len(rollouts), sum(len(r.response_ids) for r in rollouts), torch.tensor(rewards, dtype=dtype)
    groups = all_rewards.view(-1, S)
    kl, entropy, gap, residual = several.total(
        batch["kl"].sum().item(), batch["entropy"].sum().item(), (batch["logps"] - batch["sampler_logps"]).abs().sum().item(),
        (batch["td"].sum(1) - (batch["rewards"] - batch["baseline"])).abs().mean().item() * (len(rows) / B))
    share = args.actor_coef / (args.beta * residual * N / B) if args.algo == "vimpo" and residual > 0 else None
    return {
        "step": step, "reward": all_rewards.mean().item(), "reward_clean": statistics.mean(clean), "accuracy": sum(r >= 1 for r in clean) / B,
        "value_loss": losses[0], "actor_loss": losses[1], "kl": kl / N, "entropy": entropy / N,
        "response_tokens": N / B, "truncated": sum(not r.finished for r in rollouts) / B,
        "uniform_groups": (groups.max(1).values == groups.min(1).values).float().mean().item(), "grad_norm": grad_norm, "lr": lr,
        "sampler_gap": gap / N, "seconds_rollout": t_rollout - start, "seconds_score": t_score - t_rollout, "seconds_update": t_update - t_score,
        "tokens_per_second": N / (t_rollout - start), "actor_share": share, "skipped": skipped,
    }, batch


def run_eval(step, model, tokenizer, problems, prompts, args):
    """Evaluate, write RUN/eval.jsonl, print -> accuracy over all files; None in all processes but 0."""
    with memory("train.py", "the evaluation", "lower --slots or --max-new-tokens" + RESUME):
        table = evaluate(policy_of(model), tokenizer, problems, prompts, temperature=args.eval_temperature, top_p=args.eval_top_p,
                         max_new_tokens=args.max_new_tokens, seed=args.seed, slots=args.slots, on_progress=watch("eval"))
    if table is None:
        return None
    for row in table:
        append_jsonl(Path(args.out) / "eval.jsonl",
                     {"step": step} | {key: row[key] for key in ("file", "n", "accuracy", "response_tokens", "truncated")})
        print(f"eval  {Path(row['file']).name}: {row['accuracy']:.1%} of {row['n']} right, {row['response_tokens']:.1f} tokens, "
              f"{row['truncated']:.1%} cut", flush=True)
    shown, ask = table[0]["problems"][0], problems[0]["ask"] if isinstance(problems[0]["ask"], str) else problems[0]["ask"][-1]["content"]
    print(f"      {data.short(ask)} -> {data.short(shown['responses'][0])} {'right' if shown['scores'][0] else 'wrong'}", flush=True)
    return sum(row["accuracy"] * row["n"] for row in table) / sum(row["n"] for row in table)


def set_up(args):
    """Everything that can be wrong is looked at here, cheapest first -> what the loop needs. Raises ValueError or OSError in one line."""
    problems, tests = data.load_problems(args.data), data.load_problems(args.eval_data)
    digest = hashlib.sha256(json.dumps([[p["ask"], p["answer"]] for p in problems]).encode()).hexdigest()
    transformer.read_config(args.model)
    device, compute_dtype = transformer.choose_device(several.local_device(args.device), args.dtype)
    args.dtype = "bf16" if compute_dtype == torch.bfloat16 else "fp32"
    tokenizer = Tokenizer.from_pretrained(args.model)
    template = data.choose_template(args.prompt_template, tokenizer, problems + tests)
    if template == "plain" and any(not isinstance(p["ask"], str) for p in problems):
        warn("the problems are chat messages, but this tokenizer has no chat template: their texts are joined as they are")
    out, writes = Path(args.out), several.rank() == 0
    if writes:  # the others wait in `join`, and find everything in order then
        check_run_folder(args, digest)
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as e:
            raise ValueError(f"--out {out}: {e.strerror}; wanted a folder that can be made and written to") from None
        newest_checkpoint(out)
    several.join(device)
    saved = next(iter(checkpoints(out)), None)

    load_to = device if several.world() == 1 else "cpu"  # with several, a layer at a time goes to the GPU, to be cut there
    model = transformer.load_model(args.model, device=load_to)
    model.compute_dtype = compute_dtype
    reference = transformer.frozen_copy(model, "cpu" if args.offload else device)
    if saved:
        model = transformer.load_model(saved, device=load_to)
        model.compute_dtype = compute_dtype
    model.recompute = args.recompute_activations
    if several.world() > 1:
        several.shard(model, device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=args.lr, fused=True)
    step, history, evaluated = 0, [], []
    if saved:
        load_optimizer(saved, model, optimizer)
        if args.offload:
            move_moments(optimizer, "cpu")
        step = json.loads((saved / "trainer.json").read_text(encoding="utf-8"))["step"]
    elif args.resume:
        say(f"--resume: {out} holds no checkpoint yet, so from the start")
    if several.most(step) != step:
        raise ValueError(f"--resume: process {several.rank()} finds step {step} in {out}, others a later one; wanted a folder that all hosts share")
    if writes:
        history, evaluated, _ = (keep_lines_up_to(out / name, step if saved else -1) for name in LOGS)
        versions = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device), "processes": several.world()}
        write_whole(out / "config.json", json.dumps({"settings": vars(args), "versions": versions, "problems": digest}, indent=1) + "\n")
    evaluated = several.most(max((row["step"] for row in evaluated), default=-1))
    return model, reference, optimizer, tokenizer, template, problems, tests, step, evaluated, history


def main(argv=None):
    """Set up, then step after step: train, log, evaluate, save."""
    args = parse_args(argv)
    try:
        model, reference, optimizer, tokenizer, template, problems, tests, done, evaluated, history = set_up(args)
    except (ValueError, OSError) as e:
        die("train.py", e)
    P, out = args.prompts_per_step, Path(args.out)
    steps = args.steps or max(1, int((args.epochs or 1) * len(problems)) // P)
    test_prompts = [data.prompt_ids(p, tokenizer, template, args.max_prompt_tokens) for p in tests]
    size = sum(p.numel() for p in model.parameters()) / 1e6
    if args.demo:
        say("The demo: a tiny model that knows how to add and subtract, but slips, learns to take care. Watch `reward`. About two minutes.")
    processes = f" in {several.world()} processes" if several.world() > 1 else ""
    say(f"{args.algo}: {args.model} ({size:.1f}M parameters, {model.compute_dtype} on {model.device}{processes}), {len(problems)} problems, "
        f"steps {done + 1} to {steps} of {P} prompts x {args.samples_per_prompt} samples -> {out}")
    if done >= steps:
        say(f"{out} is at step {done} already: nothing to do (more --steps or --epochs go on)")
    saved, started, first, last = done, time.monotonic(), None, None
    try:
        for step in range(done, steps + 1):
            several.agree()
            if step > done:
                chosen = [problems[i] for i in data.problem_order(len(problems), args.seed, (step - 1) * P, P)]
                prompts = [data.prompt_ids(p, tokenizer, template, args.max_prompt_tokens) for p in chosen]
                metrics, batch = run_step(step, model, reference, optimizer, tokenizer, chosen, prompts, args)
                done = step
                history.append(metrics)
                if several.rank() == 0:
                    append_jsonl(out / "metrics.jsonl", metrics)
                    log_rollouts(out / "rollouts.jsonl", step, batch, tokenizer, args.samples_per_prompt)
                seconds = sum(metrics[f"seconds_{phase}"] for phase in ("rollout", "score", "update"))
                say(f"step {step}/{steps}  reward {metrics['reward']:.3f}  kl {metrics['kl']:.4f}  entropy {metrics['entropy']:.3f}  "
                    f"tokens {metrics['response_tokens']:.0f}  gap {metrics['sampler_gap']:.1e}  {metrics['tokens_per_second']:.0f} tokens/s  "
                    f"{seconds:.1f} s  {(time.monotonic() - started) / 60:.1f} min")
                warn_if_stuck(history, args)
                if several.most(len(history) >= 3 and all(row["skipped"] for row in history[-3:])):
                    sys.exit(f"train.py: updates of steps {step - 2} to {step} were not finite; stopped, and the checkpoint of step {saved} stays")
            if tests and evaluated < step and (step in (0, steps) or (args.eval_every and step % args.eval_every == 0)):
                last = run_eval(step, model, tokenizer, tests, test_prompts, args)
                first = last if step == 0 else first
            if step > saved and (step == steps or (args.save_every and step % args.save_every == 0)):
                save_checkpoint(out, model, optimizer, step, args.keep)
                saved = step
    except several.Interrupted as stopped:
        try:
            if done > saved:
                save_checkpoint(out, model, optimizer, done, args.keep)
        except OSError as e:
            die("train.py", e)
        say(f"stopped: {out} is at step {done}" + (", saved" if done else "") + f"; the same command with --out {out} --resume goes on from there")
        return 128 + stopped.args[0]
    except OSError as e:
        die("train.py", f"{e}; the checkpoint of step {saved} stays, and --resume goes on from it" if saved else e)
    if last is not None:
        start = f"{first:.1%} -> " if first is not None else ""
        minutes = (time.monotonic() - started) / 60
        say(f"accuracy on held-out problems: {start}{last:.1%} in {minutes:.1f} minutes; {out}/checkpoint loads in transformers")
    return 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, several.on_signal)
    several.leave(main())
