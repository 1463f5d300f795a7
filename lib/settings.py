"""The flags of train.py and eval.py: flag, type, default, help. A tuple as type: one of these.

The defaults are the authors' settings; `python train.py --help` prints all of it. Without --model
and --data the demo is trained, with DEMO in place of those defaults.
"""

from pathlib import Path

from lib.console import add_flags, make_parser, number
from lib.distributed import world_size
from lib.trackers import missing_package

whole, positive, above_0 = number(int, 0), number(int, 1), number(float, above=0)
share, nucleus = number(float, 0, 1), number(float, above=0, most=1)
NOT_VALIDATED = "in the authors' code, not validated by them"
TRAIN = {
    "what and where": [
        ("--model", str, None, "checkpoint folder to start from; also the reference"),
        ("--data", [str], None, "JSONL files of problems"),
        ("--out", str, None, "run folder (default: a new one, runs/NAME-1 and so on)"),
        ("--resume", bool, False, "go on with the run in --out, or with the newest of this name"),
        ("--eval-data", [str], [], "JSONL files to evaluate on, before, during and after"),
        ("--eval-every", whole, 50, "steps between evaluations; 0: first and last only"),
        ("--eval-temperature", number(float, 0), 1.0, "0 is greedy"),
        ("--eval-top-p", nucleus, 0.7, "nucleus of evaluations"),
        ("--save-every", whole, 50, "steps between checkpoints; 0: at the end only"),
        ("--keep", positive, 2, "checkpoints kept"),
        ("--report-every", whole, 50, "steps between new RUN/report.html; 0: at the end only"),
        ("--watch", whole, 4, "problems answered at each evaluation for report.py; 0: none"),
        ("--tensorboard", bool, False, "metrics to RUN/tensorboard as well"),
        ("--wandb", bool, False, "metrics to Weights & Biases as well"),
    ],
    "how much": [
        ("--steps", positive, None, "steps (instead of --epochs)"),
        ("--epochs", above_0, None, "passes over the problems (default: 1)"),
        ("--prompts-per-step", positive, 96, "P"),
        ("--samples-per-prompt", positive, 8, "S, the group; P x S responses a step"),
        ("--updates-per-step", positive, 1, "passes over a step's batch"),
    ],
    "sampling": [
        ("--max-prompt-tokens", positive, 2048, "longer prompts are cut on the left"),
        ("--max-new-tokens", positive, 4096, "longer responses are cut"),
        ("--temperature", above_0, 1.0, "of the sampling and of all log-probs"),
        ("--top-p", nucleus, 1.0, "nucleus"),
        ("--top-k", whole, 0, "likeliest tokens; 0: all"),
        ("--prompt-template", str, None, "chat, plain, or a file with {problem} in it"),
    ],
    "method": [
        ("--algo", None, "vimpo", "objective, one of vimpo.OBJECTIVES"),
        ("--beta", above_0, 5e-4, "KL strength: the scale of td"),
        ("--actor-share", number(float, 0), 0.025, "the actor's pull beside the value loss's"),
        ("--actor-coef", number(float, 0), None, "c_A, fixed (instead of --actor-share)"),
        ("--actor-gate", bool, False, "c_A times how well V_T - V_0 tells right from wrong (ours)"),
        ("--gae-lambda", share, 1.0, "how far credit reaches back"),
        ("--kl", ("exact", "topk", "k2", "k3"), "exact", "estimator of KL(pi || pi_ref)"),
        ("--kl-top-k", positive, 64, "tokens of --kl topk"),
        ("--log-kl", bool, False, "log KL also where the objective does without a reference"),
        ("--value-loss", ("squared", "huber"), "squared", "form of L_V"),
        ("--huber-delta", above_0, 1.0, "where --value-loss huber becomes linear"),
        ("--soft-values", bool, False, f"count KL into the value ({NOT_VALIDATED})"),
        ("--v0-cap", number(float), None, f"bound V_0 from above ({NOT_VALIDATED})"),
        ("--refresh-reference", whole, 0, f"steps a reference lasts; 0: all ({NOT_VALIDATED})"),
        ("--clip-low", number(float, 0, below=1), 0.2, "PPO's clip below 1"),
        ("--clip-high", number(float, 0), 0.28, "PPO's clip above 1"),
        ("--dual-clip", number(float, above=1), 10.0, "bound on the loss of a bad token"),
        ("--reward", str, "math", "math, or FILE.py:function of (response, JSONL row)"),
        ("--reward-noise", share, 0.0, "share of rewards that are flipped"),
        ("--reward-noise-by", ("group", "response"), "group", "what is flipped as a whole"),
        ("--correct-noise", bool, False, "train on (R - p) / (1 - 2p), unbiased if p is flipped"),
    ],
    "optimizer": [
        ("--lr", above_0, 1e-6, "learning rate of AdamW"),
        ("--warmup", whole, 10, "steps of linear warm-up"),
        ("--weight-decay", number(float, 0), 0.1, "on matrices"),
        ("--grad-clip", above_0, 1.0, "largest gradient norm"),
        ("--seed", int, 0, "of data order, sampling and noise"),
    ],
    "machine": [
        ("--device", str, "auto", "auto, cpu, cuda or cuda:N"),
        ("--dtype", ("auto", "fp32", "bf16"), "auto", "of the arithmetic; auto: bf16 on cuda"),
        ("--tokens-per-microbatch", positive, 8192, "padding included; sets the memory"),
        ("--recompute-activations", bool, False, "half the activations, a sixth more arithmetic"),
        ("--offload", bool, False, "reference and moments in host memory when not needed"),
        ("--slots", positive, None, "rows sampled together (default: as memory allows)"),
    ],
}  # fmt: skip
EVAL = [
    ("--model", [str], None, "checkpoint folders"),
    ("--data", [str], None, "JSONL files of problems"),
    ("--limit", positive, None, "problems of each file, from its beginning (default: all)"),
    ("--preset", ("paper",), None, "paper: the authors' four benchmarks, samples and sampling"),
    ("--samples", positive, 1, "samples a problem, k"),
    ("--temperature", number(float, 0), 1.0, "0 is greedy"),
    ("--top-p", nucleus, 0.7, "nucleus"),
    ("--max-prompt-tokens", positive, 2048, "longer prompts are cut on the left"),
    ("--max-new-tokens", positive, 4096, "longer responses are cut"),
    ("--prompt-template", str, None, "chat, plain, or a file with {problem} in it"),
    ("--reward", str, "math", "math, or FILE.py:function of (response, JSONL row)"),
    ("--seed", int, 0, "of the sampling"),
    ("--slots", positive, None, "rows decoded together (default: as memory allows)"),
    ("--device", str, "auto", "auto, cpu, cuda or cuda:N"),
    ("--dtype", ("auto", "fp32", "bf16"), "auto", "auto: bf16 on cuda, fp32 on cpu"),
    ("--out", str, None, "a JSON file for settings, table and every graded response"),
    ("--compare", str, None, "the --out of another evaluation: differences problem by problem"),
    ("--regrade", str, None, "the --out of another evaluation: grade its responses anew, no model"),
]
ROOT = Path(__file__).resolve().parent.parent
DEMO = {
    "model": str(ROOT / "demo/model"),
    "data": [str(ROOT / "demo/train.jsonl")],
    "eval_data": [str(ROOT / "demo/test.jsonl")],
    "steps": 60,
    "prompts_per_step": 64,
    "max_new_tokens": 48,
    "lr": 5e-4,
    "warmup": 5,
    "weight_decay": 0.0,
    "actor_coef": 1e-4,  # a share of 0.02 at first; fixed, so that figures stay those of before
    "eval_every": 20,
    "report_every": 10,
    "watch": 12,
    "eval_top_p": 1.0,
}
PAPER = {"samples": None, "temperature": 1.0, "top_p": 0.7, "max_new_tokens": 4096}
# Settings of train.py that go to vimpo.py and to rollout.py as they are.
METHOD = (
    *("beta", "gae_lambda", "actor_share", "actor_coef", "actor_gate", "huber_delta"),
    *("soft_values", "v0_cap"),
)
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "slots")
# What may change when a run goes on: it does not change what a step computes.
MAY_CHANGE = {
    "steps", "epochs", "eval_data", "eval_every", "save_every", "keep", "slots", "out", "resume",
    "tokens_per_microbatch", "recompute_activations", "offload", "device", "demo", "report_every",
    "watch", "tensorboard", "wandb",
}  # fmt: skip


def is_due(step, every):
    """Whether this step is one of every `every`; 0 is none of them."""
    return every > 0 and step % every == 0


def train_args(argv, objectives):
    """The flags of train.py -> a namespace; objectives: what --algo may be."""
    parser = make_parser("train.py", "Without --model and --data it trains the demo.")
    for title, rows in TRAIN.items():
        rows = [(r[0], objectives, *r[2:]) if r[0] == "--algo" else r for r in rows]
        add_flags(parser, title, rows)
    args = parser.parse_args(argv)
    if args.steps and args.epochs:
        parser.error("--steps and --epochs; wanted one of them")
    demo = args.model is None and args.data is None
    if demo:
        # The demo's c_A is fixed; who asks for a share of the pull gets the share.
        asked = args.actor_share != parser.get_default("actor_share")
        parser.set_defaults(**DEMO | ({"actor_coef": None} if asked else {}))
        args = parser.parse_args(argv)
    args.demo = demo
    for flag in ("model", "data"):
        if not getattr(args, flag):
            parser.error(f"--{flag} is missing; wanted --model and --data, or for the demo neither")
    if args.samples_per_prompt < 2:
        wanted = f"{args.algo} compares the samples of a prompt, and one has no baseline"
        parser.error(f"--samples-per-prompt is 1; wanted 2 or more: {wanted}")
    if args.correct_noise and args.reward_noise == 0.5:
        parser.error("--correct-noise with --reward-noise 0.5, which leaves nothing; wanted less")
    if missing := missing_package(args):
        parser.error(missing)
    processes = world_size()
    if args.prompts_per_step < processes:
        found = f"--prompts-per-step is {args.prompts_per_step} with {processes} processes"
        parser.error(f"{found}; wanted one prompt each or more")
    if args.offload and processes > 1:
        parser.error(f"--offload with {processes} processes; wanted one: several share the moments")
    return args


def eval_args(argv):
    """The flags of eval.py -> a namespace."""
    parser = make_parser("eval.py", "Accuracy of checkpoint folders on benchmarks.")
    add_flags(parser, "settings", EVAL)
    args = parser.parse_args(argv)
    if args.preset:
        parser.set_defaults(**PAPER)
        args = parser.parse_args(argv)
    if args.regrade is not None and (args.model or args.data):
        given = "--model" if args.model else "--data"
        parser.error(f"--regrade and {given}; wanted one of them: responses are taken as they are")
    for flag in ("model", "data") if args.regrade is None else ():
        if not any(getattr(args, flag) or ()):
            parser.error(f"--{flag} is missing; wanted --model and --data")
    return args
