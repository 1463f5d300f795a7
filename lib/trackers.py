"""TensorBoard and Weights & Biases, for who wants them: the numbers of metrics.jsonl, by its names.

    python train.py --tensorboard        # needs `pip install tensorboard`; writes RUN/tensorboard
    python train.py --wandb              # needs `pip install wandb`; its own variables and login

Nothing here is needed: RUN/metrics.jsonl and RUN/report.html hold the same. lib/settings.py refuses
a flag whose package is missing, before anything slow starts.
"""

import importlib.util
import numbers
from pathlib import Path

from lib.distributed import rank


def missing_package(args):
    """What is wrong with --tensorboard and --wandb: one line, or None."""
    for name in ("tensorboard", "wandb"):
        if getattr(args, name) and importlib.util.find_spec(name) is None:
            return f"--{name}: the package {name} is missing; wanted it (pip install {name})"
    return None


def open_trackers(args, out, step, stack):
    """-> track(row), which hands a row of metrics.jsonl or eval.jsonl to those that were asked for.

    step: the last step taken; what was tracked of later ones is replaced. stack, a
    contextlib.ExitStack, closes them.
    """
    send = []
    if rank() > 0:
        return None  # process 0 keeps the logs
    if args.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(Path(out) / "tensorboard", purge_step=step + 1 if step else None)
        stack.callback(board.close)
        send.append(lambda step, row: [board.add_scalar(k, x, step) for k, x in row.items()])
    if args.wandb:
        import wandb

        name = Path(out).resolve().name
        run = wandb.init(project="vimpo", name=name, dir=str(out), config=vars(args))
        stack.callback(run.finish)
        send.append(lambda step, row: run.log(row, step=step))

    def track(row):
        # An evaluation has a row for each file, so its numbers carry the file's name.
        where = f"eval/{Path(row['file']).stem}/" if "file" in row else ""
        named = {
            where + key: x
            for key, x in row.items()
            if key != "step" and isinstance(x, numbers.Real)
        }
        for one in send:
            one(row["step"], named)

    return track
