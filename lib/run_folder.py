"""The run folder: settings, logs and checkpoints of a training run that may die at any moment.

    RUN/config.json       settings, versions, and digests of all that a step depends on
    RUN/metrics.jsonl     one object a step; eval.jsonl and rollouts.jsonl likewise
    RUN/checkpoint/       the newest checkpoint; RUN/checkpoint-STEP/ are older ones

A step depends on the weights, the optimizer's moments, the settings and its number alone. So a
checkpoint is a Hugging Face folder, optimizer.safetensors, and trainer.json with the size and
SHA-256 of every file. It is written as checkpoint.new and then renamed: there is a whole one at
every moment. --resume drops the log lines of later steps and takes those steps again, on a CPU to
the same bits.

All of it is called in process 0 alone, except write_config, save_checkpoint and load_optimizer.
"""

import contextlib
import datetime
import fcntl
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.checkpoint import write_checkpoint
from lib.console import say, warn
from lib.distributed import full_tensor, rank, shard_like

LOGS = ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl")


# ---- Which folder, and whose ---------------------------------------------------------------------


def run_name(model):
    """A name for runs that start from this checkpoint folder: its own, or that of its run.

    >>> run_name("models/Qwen3-0.6B"), run_name("runs/one/checkpoint")
    ('Qwen3-0.6B', 'one')
    """
    folder = Path(model).resolve()
    return (folder.parent if folder.name.startswith("checkpoint") else folder).name or "run"


@contextlib.contextmanager
def _locked(out):
    """Hold a folder for this process alone; yields whether that went well. Death lets go of it."""
    handle, free = os.open(out, os.O_RDONLY), True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:  # NFS, which can't lock a folder, raises another kind: go on without
        free = not isinstance(e, BlockingIOError)
    try:
        yield free
    finally:
        os.close(handle)


def _make_folder(out):
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as e:
        wanted = "wanted a folder that can be made and written to"
        raise ValueError(f"--out {out}: {e.strerror}; {wanted}") from None


def _holds_run(out):
    return (out / "config.json").exists() or (out / "metrics.jsonl").exists()


def open_folder(out, name, resume, stack):
    """The folder of this run, locked until `stack` (a contextlib.ExitStack) closes -> its path.

    out: as --out says. None: a new folder runs/NAME-1, runs/NAME-2 and so on, or with resume the
    newest of them that holds a run. The path is text. Two runs that are started at once never
    share a folder. ValueError for a folder that is in use, or is not as it should be.
    """
    if out == "":
        raise ValueError("--out is empty; wanted a folder, or no --out to make a new one")
    if out is None and resume:
        found = [f for f in Path("runs").glob(f"{name}-*") if _holds_run(f)]
        tails = [f.name.removeprefix(f"{name}-") for f in found]
        numbers = [int(tail) for tail in tails if tail.isdecimal()]
        if not numbers:
            raise ValueError(f"--resume: no run in runs/{name}-1, runs/{name}-2, ...; wanted --out")
        out = f"runs/{name}-{max(numbers)}"
    if out is None:
        for i in itertools.count(1):
            out = Path(f"runs/{name}-{i}")
            _make_folder(out)
            # Look before locking: older runs must stay free for whoever goes on with them.
            if not any(out.iterdir()) and stack.enter_context(_locked(out)):
                return str(out)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a file is in the way; wanted a new folder")
    if not resume and _holds_run(out):
        wanted = "wanted a new folder, or --resume to go on with that one"
        raise ValueError(f"--out {out}: holds another run; {wanted}")
    if resume and not (out / "config.json").is_file():
        raise ValueError(f"--resume: {out} holds no run; leave --resume out to start one")
    _make_folder(out)
    if not stack.enter_context(_locked(out)):
        raise ValueError(f"--out {out}: another run is using it; wanted a folder of its own")
    return str(out)


# ---- Logs ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(path):
    """Whatever goes wrong in here is an OSError that names the file: not all libraries do."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        reason = getattr(e, "strerror", None) or e
        raise OSError(f"{path}: can't be written ({reason})") from None


def append_jsonl(path, row):
    """One more line. NaN and infinity, which are no JSON, become null."""
    bad = {key for key, x in row.items() if isinstance(x, float) and not math.isfinite(x)}
    clean = row | dict.fromkeys(bad)
    with writing(path), open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(clean, ensure_ascii=False) + "\n")


def _sync(path):
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def write_whole(path, text):
    """All of the text or, if we are cut off, what was there before."""
    new = path.with_name(path.name + ".new")
    with writing(path):
        try:
            new.write_text(text, encoding="utf-8")
            _sync(new)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def keep_lines_up_to(path, step):
    """Drop the lines of later steps, and a last line that was cut off -> the rows that stay."""
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    rows = []
    for line in before.split("\n"):  # not splitlines: JSON text may hold U+2028 as it is
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    rows = [row for row in rows if row["step"] <= step]
    after = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if after != before:
        write_whole(path, after)
    return rows


# ---- The beginning of a run, or its going on -----------------------------------------------------


def reward_digest(spec):
    """SHA-256 of the file of --reward FILE.py:function; None for math."""
    return None if spec == "math" else _file_digest(Path(spec.rpartition(":")[0]))[1]


def begin(out, resume, settings, digests, may_change):
    """Look at what an earlier part of the run has left, and whether this is the same run.

    settings {name: value}; digests {name in messages: digest} of all else that a step depends on;
    may_change: the settings that do not change what a step computes. Returns {"out", "checkpoint"
    (its folder, or None), "step", "reference" (likewise), "history" (the rows of metrics.jsonl),
    "evaluated" (the last step that was), "date" (when the run began), "config" (for write_config)}.
    ValueError where --resume would make it another run, or a checkpoint is damaged.
    """
    out, date = Path(out), datetime.datetime.now().isoformat()
    if resume:
        date = _check_config(out, settings, digests, may_change)
    checkpoint, step = newest_checkpoint(out)
    if resume and checkpoint is None:
        say(f"--resume: {out} holds no checkpoint yet, so from the start")
    last = step if checkpoint else -1
    history, evaluations, shown = [keep_lines_up_to(out / name, last) for name in LOGS]
    evaluations += [row for row in shown if row.get("watched")]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    config = {"settings": settings, "digests": digests, "versions": versions, "date": date}
    evaluated = max((row["step"] for row in evaluations), default=-1)
    found = {"out": str(out), "checkpoint": checkpoint and str(checkpoint), "step": step}
    found["reference"] = reference_checkpoint(out, step, settings["refresh_reference"])
    return found | {"history": history, "evaluated": evaluated, "date": date, "config": config}


def write_config(found):
    """From now on the folder holds a run; what fails earlier, such as loading, leaves it free."""
    if rank() == 0:
        text = json.dumps(found["config"], indent=1) + "\n"
        write_whole(Path(found["out"]) / "config.json", text)


def _check_config(out, settings, digests, may_change):
    """Refuse all that would make it another run, at once -> the date when the run began."""
    file = out / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        before, digests_before, date = config["settings"], config["digests"], config["date"]
        changed = [name for name in settings if before.get(name) != settings[name]]
        stale = [name for name, digest in digests.items() if digests_before.get(name) != digest]
    except (ValueError, KeyError, TypeError, AttributeError):
        wanted = "wanted the settings that this run began with"
        raise ValueError(f"--resume: {file} is damaged; {wanted}") from None
    # A reward file may be mended: the steps that are taken stay, and it is said.
    refused = [f"{x} has changed since the run began" for x in stale if x != "--reward (its file)"]
    if "--reward (its file)" in stale:
        warn("--resume: the file of --reward has changed; from here on its new rewards count")
    harmless = []
    for name in changed:
        flag = "--" + name.replace("_", "-")
        text = f"{flag} was {before.get(name)} and is {settings[name]} now"
        if name != "resume":
            (harmless if name in may_change else refused).append(text)
    if refused:
        raise ValueError(f"--resume: {'; '.join(refused)}; wanted the settings of {file}")
    if harmless:
        say(f"--resume: {'; '.join(harmless)}; the run stays the same")
    return date


# ---- Checkpoints ---------------------------------------------------------------------------------


def checkpoints(out):
    """The checkpoints of a run folder, newest first."""
    older = []
    for folder in out.glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdecimal():
            older.append((int(step), folder))
    newest = [out / "checkpoint"] if (out / "checkpoint").is_dir() else []
    return newest + [folder for _, folder in sorted(older, reverse=True)]


def _trainer_json(state):
    """The text of trainer.json, which vouches for itself as well by its own SHA-256."""
    own = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return json.dumps(state | {"self": own}, indent=1) + "\n"


def _file_digest(file):
    with open(file, "rb") as f:
        return [file.stat().st_size, hashlib.file_digest(f, "sha256").hexdigest()]


def read_checkpoint(folder):
    """{"step", "files"} of a checkpoint; ValueError names the first file that is not whole."""
    file = folder / "trainer.json"
    try:
        text = file.read_text(encoding="utf-8")
        state = json.loads(text)
        state = {"step": state["step"], "files": state["files"]}
        if _trainer_json(state) != text:
            raise ValueError
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is damaged: not what was written") from None
    for name, (size, digest) in state["files"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        found = _file_digest(file)
        if found[0] != size:
            raise ValueError(f"{file} is damaged: {found[0]} bytes long, not {size}")
        if found[1] != digest:
            raise ValueError(f"{file} is damaged: its checksum is not that of what was written")
    return state


def newest_checkpoint(out):
    """(folder, step) of the newest checkpoint, (None, 0) if there is none.

    If it is damaged, ValueError says what to do.
    """
    found, damage = checkpoints(out), None
    for i, folder in enumerate(found):
        try:
            step = read_checkpoint(folder)["step"]
        except ValueError as e:
            damage = damage or e
            continue
        if damage is None:
            return folder, step
        worse = ", ".join(map(str, found[:i]))
        remedy = f"remove {worse}, and --resume goes on from it"
        raise ValueError(f"--resume: {damage}; {folder} (step {step}) is whole: {remedy}")
    if damage:
        remedy = f"no older checkpoint in {out} is whole: start again with another --out"
        raise ValueError(f"--resume: {damage}; {remedy}")
    return None, 0


def _gathered(tensor):
    """The whole tensor on the host, in process 0; the others only help to gather it."""
    whole = full_tensor(tensor.detach())
    return whole.cpu() if rank() == 0 else None


def _step_of(folder):
    return json.loads((folder / "trainer.json").read_text(encoding="utf-8"))["step"]


def reference_checkpoint(out, step, lasts):
    """The checkpoint whose weights are the reference after `step`, if one lasts so many steps.

    None: the model that the run began with. ValueError: it is not there, or not whole.
    """
    wanted = step // lasts * lasts if lasts else 0
    if wanted == 0:
        return None
    folder = out / "checkpoint" if wanted == step else out / f"checkpoint-{wanted}"
    read_checkpoint(folder)
    return str(folder)


def save_checkpoint(out, model, optimizer, step, keep, lasts=0):
    """Write RUN/checkpoint, move the one before to RUN/checkpoint-STEP, and leave `keep` in all.

    With a reference that lasts so many steps, those that are the reference of another stay too.
    All processes call this. OSError names the file that can't be written; then the checkpoints of
    before are as they were.
    """
    weights, moments = {}, {}
    for name, p in model.named_parameters():
        weights[name] = _gathered(p)
        for key, tensor in optimizer.state.get(p, {}).items():
            moments[f"{key}.{name}"] = _gathered(tensor)
    if rank() > 0:
        return
    new, final = out / "checkpoint.new", out / "checkpoint"
    try:
        _write_new(new, model, weights, moments, step)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with writing(final):
        if final.exists():
            older = out / f"checkpoint-{_step_of(final)}"
            shutil.rmtree(older, ignore_errors=True)
            final.rename(older)
        new.rename(final)
        _sync(out)
    found = checkpoints(out)
    references = {_step_of(folder) // lasts * lasts for folder in found[:keep] if lasts}
    for old in found[keep:]:
        if _step_of(old) not in references:
            shutil.rmtree(old, ignore_errors=True)


def _write_new(new, model, weights, moments, step):
    """All files of a checkpoint, and the logs beside it, down to the disk."""
    shutil.rmtree(new, ignore_errors=True)
    with writing(new / "model.safetensors"):
        write_checkpoint(new, weights, model.config.raw, model.folder)
    with writing(new / "optimizer.safetensors"):
        save_file(moments, new / "optimizer.safetensors")
    with writing(new / "trainer.json"):
        files = {f.name: _file_digest(f) for f in sorted(new.iterdir())}
        text = _trainer_json({"step": step, "files": files})
        (new / "trainer.json").write_text(text, encoding="utf-8")
        logs = [new.parent / name for name in LOGS if (new.parent / name).exists()]
        for path in [*new.iterdir(), new, *logs]:
            _sync(path)


def load_optimizer(folder, model, optimizer):
    """AdamW's moments and step counts, as save_checkpoint wrote them."""
    with safe_open(folder / "optimizer.safetensors", framework="pt") as f:
        names = set(f.keys())
        for name, p in model.named_parameters():
            keys = [key for key in ("exp_avg", "exp_avg_sq", "step") if f"{key}.{name}" in names]
            for key in keys:
                optimizer.state[p][key] = shard_like(p, f.get_tensor(f"{key}.{name}"))
