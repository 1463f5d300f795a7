"""The fault drill: runs of the demo model are killed, signalled, starved of disk and corrupted; all
must end as if undisturbed.

    python tests/fault_drill.py                # 50 kills and all else: a quarter of an hour
    python tests/fault_drill.py --kills 10     # less of it; test_faults.py is the short form

A run under the drill is train.py's own main in a process of its own, which reports through a pipe
what phase it enters; the drill waits for a phase, a moment more, and strikes. Renames and syncs of
a save are slowed down, so that moments between them are hit as well. Then train.py --resume runs to
the end, and weights, optimizer and the lines of RUN/*.jsonl (times apart) must be those of the
undisturbed run.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
LOGS = ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl")
STEPS = 5

# Whose function, patched where train.py looks it up, begins which phase.
PHASES = (
    ("train", "set_up", "loading"),
    ("train", "generate_together", "sampling"),
    ("lib.distributed", "map_partitioned", "grading"),
    ("train", "score", "scoring"),
    ("train", "accumulate_gradients", "update"),
    ("torch.optim.AdamW", "step", "optimizer"),
    ("lib.run_folder", "append_jsonl", "logging"),
    ("train", "evaluate", "evaluation"),
    ("lib.run_folder", "save_checkpoint", "saving"),
)


def settings(out, few, steps=STEPS):
    """The flags of a run of the drill: saves at 2, 4 and 5, evaluations at 0, 2, 4 and 5."""
    flags = {
        "--model": ROOT / "demo/model",
        "--data": ROOT / "demo/train.jsonl",
        "--eval-data": few,
        "--out": out,
        "--steps": steps,
        "--save-every": 2,
        "--eval-every": 2,
        "--prompts-per-step": 4,
        "--samples-per-prompt": 4,
        "--max-new-tokens": 30,
        "--lr": 1e-3,
        "--actor-coef": 1e-4,
        "--reward-noise": 0.2,
        "--tokens-per-microbatch": 200,
    }
    return [str(word) for flag in flags.items() for word in flag]


def few_problems(folder):
    """A handful of held-out problems for the evaluations."""
    few = Path(folder) / "few.jsonl"
    lines = (ROOT / "demo/test.jsonl").read_text().splitlines(keepends=True)
    few.write_text("".join(lines[:4]))
    return few


def wrap(owner, name, before, after=lambda: None):
    """Call `before` and `after` around every call of owner.name."""
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
        before()
        result = original(*args, **kwargs)
        after()
        return result

    setattr(owner, name, wrapped)


def child(pipe, arguments):
    """train.main in this process, reporting each phase as a line on file descriptor `pipe`."""
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    import train
    from lib import distributed, run_folder

    owners = {
        "train": train,
        "lib.distributed": distributed,
        "lib.run_folder": run_folder,
        "torch.optim.AdamW": torch.optim.AdamW,
    }
    for owner, name, phase in PHASES:
        line = f"{phase}\n".encode()
        wrap(owners[owner], name, lambda line=line: os.write(pipe, line))
    slow = ((os, "fsync"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree"))
    for owner, name in slow:
        wrap(owner, name, lambda: time.sleep(0.01), lambda: time.sleep(0.01))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, distributed.on_signal)
    sys.exit(train.main(arguments))


def strike(arguments, phase, nth, delay, number=signal.SIGKILL):
    """Run, wait for the nth time that the phase is entered and `delay` seconds more, send the
    signal -> (exit code, phase that was hit, stdout, stderr)."""
    read, write = os.pipe()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = [sys.executable, __file__, "--child", str(write), *arguments]
        process = subprocess.Popen(command, pass_fds=[write], stdout=out, stderr=err)
        os.close(write)
        now = "starting"
        with open(read) as pipe:
            for line in pipe:
                now = line.strip()
                nth -= now == phase
                if not nth:
                    break
            time.sleep(delay)
            process.send_signal(number)
            rest = pipe.read().split()
        code = process.wait(timeout=120)
        for f in (out, err):
            f.seek(0)
        hit = rest[-1] if rest and number == signal.SIGKILL else now
        return code, hit, out.read(), err.read()


def train_py(arguments, **options):
    """train.py as a command of its own, to its end."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def resume_until_done(out, few):
    """What a user, or a scheduler, does after a crash: the same command with --resume, or anew if
    nothing was written yet."""
    resume = ["--resume"] if (out / "config.json").exists() else []
    return train_py([*settings(out, few), *resume])


def differences(a, b, tolerance=0.0):
    """What is not the same at the end of two runs, a line each; times apart.

    With a tolerance numbers may differ by that.
    """
    found = []

    def near(x, y):
        if isinstance(x, list) and isinstance(y, list):
            return len(x) == len(y) and all(map(near, x, y))
        numbers = isinstance(x, float) and isinstance(y, float)
        return x == y or (numbers and abs(x - y) <= tolerance)

    def matters(key):
        # Advantages are whitened: where all log-ratios are small, so is the divisor.
        return "second" not in key and not (tolerance and key == "advantages")

    for name in ("model.safetensors", "optimizer.safetensors"):
        x, y = (load_file(run / "checkpoint" / name) for run in (a, b))
        for key in x:
            if key not in y or not torch.allclose(x[key], y[key], rtol=0, atol=tolerance):
                found.append(f"{name}: {key}")
    for name in LOGS:
        x, y = (read_lines(run / name) for run in (a, b))
        if len(x) != len(y):
            found.append(f"{name}: {len(x)} lines and {len(y)}")
        for row, other in zip(x, y, strict=False):
            for key in filter(matters, row):
                if not near(row[key], other.get(key)):
                    found.append(f"{name} step {row['step']}: {key}")
    return found + [f"left over: {f.name}" for f in b.iterdir() if f.name.endswith(".new")]


def read_lines(path):
    """The objects of a JSONL file, whose last line must be whole."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def damage(file, how):
    """Truncate, flip one bit of, or delete a file."""
    if how == "deleted":
        file.unlink()
        return
    content = bytearray(file.read_bytes())
    if how == "bit flipped":
        content[len(content) // 2] ^= 4
    file.write_bytes(content if how == "bit flipped" else content[:-1])


def limited(arguments, most):
    """A run in which no file may grow beyond `most` bytes: a full disk that needs no rights."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return train_py(arguments, preexec_fn=limit)


# --------------------------------------------------------------------------------------------------
# The long form. work: a folder; few: problems to evaluate on; whole: the undisturbed run;
# tally(what, faults found): counts.


def ending(ended, whole, out, tolerance=0.0):
    """What is wrong with how a resumed run ended, a line each."""
    if ended.returncode:
        return [f"exit code {ended.returncode}: {ended.stderr.strip()[-200:]}"]
    return differences(whole, out, tolerance)


def kill_drill(work, few, whole, kills, rnd, tally):
    """SIGKILL at random moments, every phase in turn."""
    phases = ("sampling", "saving", "scoring", "update", "loading", "logging", "optimizer")
    phases += ("saving", "evaluation", "grading")
    for k in range(kills):
        out, phase = work / f"kill-{k}", phases[k % len(phases)]
        nth = 1 if phase == "loading" else rnd.randint(1, 3)
        longest = 0.35 if phase == "saving" else 0.1
        _, hit, _, _ = strike(settings(out, few), phase, nth, rnd.uniform(0, longest))
        tally(f"killed in {hit}", ending(resume_until_done(out, few), whole, out))
        shutil.rmtree(out)


def signal_drill(work, few, whole, rnd, tally):
    """SIGINT and SIGTERM in every phase: exit code 130 or 143, how to go on, and the same end."""
    phases = ("loading", "sampling", "scoring", "update", "optimizer", "saving", "evaluation")
    for number in (signal.SIGINT, signal.SIGTERM):
        for phase in phases:
            out, nth = work / f"signal-{number}-{phase}", 1 if phase == "loading" else 2
            code, _, said, _ = strike(settings(out, few), phase, nth, rnd.uniform(0, 0.03), number)
            right = code == 128 + number and "--resume goes on" in said
            bad = [] if right else [f"exit code {code}, said {said[-200:]}"]
            bad += ending(resume_until_done(out, few), whole, out)
            tally(f"{number.name} in {phase}", bad)
            shutil.rmtree(out)


def damage_drill(work, few, whole, tally):
    """Each file of the newest checkpoint, each way: named, and the one before goes on."""
    for file in sorted(f.name for f in (whole / "checkpoint").iterdir()):
        for how in ("cut short", "bit flipped", "deleted"):
            out = work / "damaged"
            shutil.copytree(whole, out)
            damage(out / "checkpoint" / file, how)
            refused, bad = resume_until_done(out, few), []
            named = f"checkpoint/{file} is" in refused.stderr
            offered = "checkpoint-4 (step 4) is whole" in refused.stderr
            if refused.returncode != 2 or not (named and offered) or refused.stderr.count("\n") > 1:
                bad = [f"exit code {refused.returncode}: {refused.stderr[-300:]}"]
            shutil.rmtree(out / "checkpoint")
            if how == "deleted" and file == "model.safetensors":
                bad += ending(resume_until_done(out, few), whole, out)
            tally(f"checkpoint file {how}", bad)
            shutil.rmtree(out)


@contextlib.contextmanager
def small_disk(folder, size):
    """A tmpfs of `size` bytes, where mounting is allowed; yields whether it is."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def disk_drill(work, few, whole, tally):
    """A disk that fills up at a log line, at the weights, at the optimizer: one line that names the
    file, nothing lost, and no rubbish left."""
    weights = (whole / "checkpoint/model.safetensors").stat().st_size

    def complaint(full, out, named):
        right = full.returncode == 2 and named in full.stderr and full.stderr.count("\n") == 1
        if right and not (out / "checkpoint.new").exists():
            return []
        return [f"exit code {full.returncode}: {full.stderr[-300:]}"]

    cases = {2000: ".jsonl", weights // 2: "model.safetensors"}
    for most, named in (cases | {weights + 4096: "optimizer.safetensors"}).items():
        out = work / f"full-{most}"
        begun = train_py(settings(out, few, 2))
        full = limited([*settings(out, few), "--resume"], most)
        bad = [begun.stderr] if begun.returncode else []
        bad += complaint(full, out, named)
        bad += ending(resume_until_done(out, few), whole, out)
        tally("file size limit", bad)
        shutil.rmtree(out)
    # Room for one checkpoint, three times the weights, and a part of the next.
    with small_disk(work / "small", 6 * weights) as mounted:
        if not mounted:
            print("a small tmpfs: skipped, mounting is not allowed here")
            return
        out = work / "small/run"
        bad = complaint(train_py(settings(out, few)), out, "No space left")
        shutil.copytree(out, work / "freed")
        bad += ending(resume_until_done(work / "freed", few), whole, work / "freed")
        tally("full tmpfs", bad)


def torchrun(arguments, processes=2):
    module = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [sys.executable, *module, str(ROOT / "train.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **pipes, text=True, env=environment)


def processes_drill(work, few, whole, rnd, tally):
    """Two processes: one killed takes the other down within a minute; SIGTERM to torchrun saves;
    one process goes on, to 1e-5."""
    for victim in (0, 1, None):
        out = work / f"processes-{victim}"
        process, said = torchrun(settings(out, few)), []
        for line in process.stdout:
            said.append(line)
            if line.startswith("step 3/"):
                break
        struck = time.monotonic()
        if victim is None:
            process.terminate()
        else:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            time.sleep(rnd.uniform(0, 0.3))
            os.kill(int(children[victim]), signal.SIGKILL)
        said += process.stdout.read()
        code, took = process.wait(timeout=120), time.monotonic() - struck
        bad = [] if code and took < 60 else [f"exit code {code} after {took:.0f} s"]
        if victim is None and "--resume goes on" not in "".join(said):
            bad.append("SIGTERM to torchrun: no word on how to go on")
        bad += ending(resume_until_done(out, few), whole, out, 2e-5)
        what = "SIGTERM to torchrun" if victim is None else f"process {victim} of 2 killed"
        tally(what, bad)
        shutil.rmtree(out)


def main():
    parser = argparse.ArgumentParser(description="Disturb training runs in every way.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rnd, begun = random.Random(args.seed), time.monotonic()
    counts, failures = Counter(), Counter()

    def tally(what, bad):
        counts[what] += 1
        failures[what] += bool(bad)
        if bad:
            print(f"FAILED {what}: {'; '.join(bad[:5])}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        few, whole = few_problems(work), work / "whole"
        undisturbed = resume_until_done(whole, few)
        if undisturbed.returncode:
            sys.exit(f"the undisturbed run failed, {undisturbed.returncode}: {undisturbed.stderr}")
        kill_drill(work, few, whole, args.kills, rnd, tally)
        signal_drill(work, few, whole, rnd, tally)
        damage_drill(work, few, whole, tally)
        disk_drill(work, few, whole, tally)
        processes_drill(work, few, whole, rnd, tally)
    print(f"{'disturbance':<28}{'times':>6}{'survived':>10}")
    for what in sorted(counts):
        print(f"{what:<28}{counts[what]:>6}{counts[what] - failures[what]:>10}")
    total, failed = sum(counts.values()), sum(failures.values())
    minutes = (time.monotonic() - begun) / 60
    print(f"{'all':<28}{total:>6}{total - failed:>10}   in {minutes:.0f} minutes")
    sys.exit(bool(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), sys.argv[3:])
    main()
