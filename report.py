"""A run folder into one HTML file: where the credit went, the curves, what the value knows.

    python report.py runs/demo-1                          # writes runs/demo-1/report.html
    python report.py runs/demo-1 runs/demo-2              # runs/demo-1/compare.html: overlaid
    python report.py runs/demo-1 --monte-carlo 32         # beside V_t the truth, by sampling

What stands on the page is made in lib/page.py; lib/report.html, .css and .js show it. The page asks
no network.

train.py writes the page as well, every --report-every steps. `watch`, which it calls at every
evaluation, answers the same few problems again, so that early can stand beside late.
"""

import lib  # noqa: F401, I001  before torch: it sets how torch's threads wait

import sys
from pathlib import Path

import torch

from lib import console, data, distributed, metrics, run_folder
from lib.batch import make_batch, score
from lib.fast import on_device
from lib.page import read_run, write_page
from lib.settings import SAMPLING, is_due
from lib.tokenizer import Tokenizer
from model import load_model
from rewards import load_reward
from rollout import generate, generate_together
from vimpo import OBJECTIVES, implied_values


# ---- While training ------------------------------------------------------------------------------


def watch(run, policy):
    """Answer the first --watch problems of --eval-data (or of --data) -> rows of rollouts.jsonl.

    Rollout, reward, score and credit as in train.take_step, with the same noise every time. All
    processes call this, and each gets a group at least.
    """
    args, S, tokenizer = run.args, run.args.samples_per_prompt, run.tokenizer
    problems = (run.tests or run.problems)[: max(args.watch, distributed.world_size())]
    if not args.watch or len(problems) < distributed.world_size():
        return []
    rollouts = generate_together(
        policy, run.prompts(problems), samples_per_prompt=S, stop_ids=tokenizer.eos_ids,
        seed=f"watch {args.seed}", **{name: getattr(args, name) for name in SAMPLING},
    )  # fmt: skip

    def reward(i):
        response = tokenizer.decode(rollouts[i].response_ids, skip_special=True)
        return run.grade(response, problems[i // S])

    rewards = distributed.map_partitioned(reward, len(rollouts))
    device, dtype = run.model.device, torch.promote_types(policy.compute_dtype, torch.float32)
    batch = make_batch(rollouts, problems, rewards, rewards, S, device, dtype)
    objective = OBJECTIVES[args.algo]
    reference = run.reference if objective.reference or args.log_kl else None
    with on_device(reference, device, args.offload):
        settings = args.tokens_per_microbatch, args.temperature, args.kl
        scores = score(policy, reference, batch, *settings, kl_top_k=args.kl_top_k)
    batch.logps, batch.ref_logps, batch.kl, batch.entropy = scores
    objective.credit(batch, **vars(args))
    curves = None
    if batch.td is not None:
        curves = implied_values(batch.td, batch.mask, batch.baseline)
    rows = []
    for i, group in enumerate(batch.group.tolist()):
        row = metrics.rollout_row(run.step, batch, i, curves, tokenizer, S)
        rows.append([group, row | {"watched": True}])
    gathered = [row for part in distributed.all_gather(rows) for row in part]
    if distributed.rank() > 0:  # process 0 writes them
        return []
    return [row for _, row in sorted(gathered, key=lambda pair: pair[0])]


def refresh_page(run):
    """Write RUN/report.html if it is time to: every --report-every steps, and after the last."""
    due = run.step == run.steps or is_due(run.step, run.args.report_every)
    if distributed.rank() == 0 and due and run.history:
        try:
            write_page([read_run(run.out)], run.out / "report.html")
        except (ValueError, OSError) as error:  # the run is worth more than the page
            console.warn(f"no report: {error}")


# ---- The truth, by Monte-Carlo -------------------------------------------------------------------


def add_truth(folder, run, samples):
    """Row by row "truth": the share of right ones among `samples` continuations of each prefix.

    Of the responses that a checkpoint in the folder has sampled: the watched ones of its step, and
    those of the training step after it. The last prefix has ended: its share is the reward.
    """
    settings = run["settings"]
    grade = load_reward(settings["reward"])
    files = {False: settings["data"], True: settings["eval_data"] or settings["data"]}
    need = settings["reward"] == "math"
    problems = {w: {p["id"]: p for p in data.load_problems(x, need)} for w, x in files.items()}
    for checkpoint in run_folder.checkpoints(folder):
        step = run_folder.read_checkpoint(checkpoint)["step"]
        rows = [row for row in run["rollouts"] if row["step"] == step + (not row["watched"])]
        rows = some_of_each(row for row in rows if row["prompt_ids"] and row["ids"])
        model, tokenizer = load_model(checkpoint), Tokenizer.from_pretrained(checkpoint)
        show = console.progress(f"step {step}: continuations of {len(rows)} responses")
        for done, row in enumerate(rows):
            problem = problems[row["watched"]][row["id"]]
            row["truth"] = success(model, tokenizer, row, problem, grade, samples, settings)
            show(done + 1, len(rows))


def some_of_each(rows, most=2):
    """Up to `most` right and `most` wrong responses of each prompt."""
    kept = {}
    for row in rows:
        some = kept.setdefault((row["watched"], row["id"], row["reward"] >= 1), [])
        some += [row] * (len(some) < most)
    return [row for some in kept.values() for row in some]


def success(model, tokenizer, row, problem, grade, samples, settings):
    """The share of right continuations of each prefix of a response: T + 1 numbers."""
    prompt, ids, most = row["prompt_ids"], row["ids"], settings["max_new_tokens"]
    sampling = {name: settings[name] for name in ("temperature", "top_p", "top_k")}
    continued = generate(
        model, [prompt + ids[:t] for t in range(len(ids))], samples_per_prompt=samples,
        max_new_tokens=most, stop_ids=tokenizer.eos_ids, seed="monte-carlo", **sampling,
    )  # fmt: skip
    rewards = []
    for r in continued:
        whole = (r.prompt_ids[len(prompt) :] + r.response_ids)[:most]
        rewards.append(grade(tokenizer.decode(whole, skip_special=True), problem))
    starts = range(0, len(rewards), samples)
    return [sum(rewards[i : i + samples]) / samples for i in starts] + [row["reward"]]


# ---- Command line --------------------------------------------------------------------------------


def parse_args(argv):
    parser = console.make_parser("report.py", "A run folder into one HTML file.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, overlaid")
    flags = [
        ("--monte-carlo", console.number(int, 0), 0, "continuations of every prefix; 0: none"),
        ("--out", Path, None, "HTML file (default: RUN/report.html, of several compare.html)"),
    ]
    console.add_flags(parser, "settings", flags)
    return parser.parse_args(argv)


def main(argv=None):
    """Read the run folders, sample what --monte-carlo asks for, write the page."""
    args = parse_args(argv)
    out = args.out or args.runs[0] / ("compare.html" if len(args.runs) > 1 else "report.html")
    try:
        runs = [read_run(folder, len(args.runs)) for folder in args.runs]
        console.check_file("--out", out)
        for folder, run in zip(args.runs, runs, strict=True):
            if args.monte_carlo:
                add_truth(folder, run, args.monte_carlo)
        write_page(runs, out)
    except (ValueError, OSError) as error:
        console.die("report.py", error)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
