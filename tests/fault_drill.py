"""The fault drill: real training runs of the demo model are killed, signalled, starved of disk and corrupted; all must end as if undisturbed.

    python tests/fault_drill.py                   # 50 kills and everything else: about a quarter of an hour on two cores
    python tests/fault_drill.py --kills 10        # less of it; test_faults.py is the short form that runs with the tests

A run under the drill is train.py's own main in a process of its own, which reports through a pipe what phase it enters; the drill waits for a
phase, a moment more, and strikes. Renames and syncs of a save are slowed down, so that moments between them are hit as well. Then
train.py --resume runs to the end, and weights, optimizer and the lines of RUN/*.jsonl (times apart) must be those of the undisturbed run.
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
PHASES = {"set_up": "loading", "verify": "grading", "score_batch": "scoring", "accumulate_gradients": "update", "append_jsonl": "logging",
          "run_eval": "evaluation", "save_checkpoint": "saving"}  # functions of train.py
STEPS = 5


def settings(out, few, steps=STEPS):
    """The flags of a run of the drill: saves at 2, 4 and 5, evaluations at 0, 2, 4 and 5."""
    return ["--model", str(ROOT / "demo/model"), "--data", str(ROOT / "demo/train.jsonl"), "--eval-data", str(few), "--out", str(out), "--steps",
            str(steps), "--save-every", "2", "--eval-every", "2", "--prompts-per-step", "4", "--samples-per-prompt", "4", "--max-new-tokens", "30",
            "--lr", "1e-3", "--actor-coef", "1e-4", "--reward-noise", "0.2", "--tokens-per-microbatch", "200"]


def few_problems(folder):
    """A handful of held-out problems for the evaluations."""
    few = Path(folder) / "few.jsonl"
    few.write_text("".join((ROOT / "demo/test.jsonl").read_text().splitlines(keepends=True)[:4]))
    return few


def child(pipe, arguments):
    """train.main in this process, reporting each phase as a line on file descriptor `pipe`."""
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    import several
    import train

    def report(owner, name, phase):
        original = getattr(owner, name)

        def reporting(*args, **kwargs):
            os.write(pipe, f"{phase}\n".encode())
            return original(*args, **kwargs)

        setattr(owner, name, reporting)

    def slow(owner, name):
        original = getattr(owner, name)

        def slowly(*args, **kwargs):
            time.sleep(0.01)
            result = original(*args, **kwargs)
            time.sleep(0.01)
            return result

        setattr(owner, name, slowly)

    for name, phase in PHASES.items():
        report(train, name, phase)
    report(several, "sample", "sampling")
    report(torch.optim.AdamW, "step", "optimizer")
    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree")):
        slow(owner, name)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, several.on_signal)
    sys.exit(train.main(arguments))


def strike(arguments, phase, nth, delay, number=signal.SIGKILL):
    """Run, wait for the nth time that the phase is entered and `delay` seconds more, send the signal -> (exit code, phase, stdout, stderr)."""
    read, write = os.pipe()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, __file__, "--child", str(write), *arguments], pass_fds=[write], stdout=out, stderr=err)
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
        return code, rest[-1] if rest and number == signal.SIGKILL else now, out.read(), err.read()


def resume_until_done(out, few):
    """What a user, or a scheduler, does after a crash: the same command with --resume, or anew if nothing was written yet."""
    arguments = [sys.executable, str(ROOT / "train.py"), *settings(out, few), *(["--resume"] if (out / "config.json").exists() else [])]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300)


def differences(a, b, tolerance=0.0):
    """What is not the same at the end of two runs, a line each; times apart. With a tolerance numbers may differ by that."""
    found = []

    def near(x, y):
        if isinstance(x, list) and isinstance(y, list):
            return len(x) == len(y) and all(map(near, x, y))
        return x == y or (isinstance(x, float) and isinstance(y, float) and abs(x - y) <= tolerance)

    for name in ("model.safetensors", "optimizer.safetensors"):
        x, y = load_file(a / "checkpoint" / name), load_file(b / "checkpoint" / name)
        found += [f"{name}: {key}" for key in x if key not in y or not torch.allclose(x[key], y[key], rtol=0, atol=tolerance)]
    for name in ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl"):
        x, y = ([json.loads(line) for line in (run / name).read_text(encoding="utf-8").split("\n")[:-1]] for run in (a, b))
        if len(x) != len(y):
            found.append(f"{name}: {len(x)} lines and {len(y)}")
        for row, other in zip(x, y, strict=False):
            found += [f"{name} step {row['step']}: {key}" for key in row if "second" not in key and not near(row[key], other.get(key))
                      and not (tolerance and key == "advantages")]  # whitened: where all log-ratios are small, so is the divisor
    return found + [f"left over: {f.name}" for f in b.iterdir() if f.name.endswith(".new")]


def damage(file, how):
    """Truncate, flip one bit of, or delete a file."""
    if how == "deleted":
        file.unlink()
        return
    content = bytearray(file.read_bytes())
    if how == "bit flipped":
        content[len(content) // 2] ^= 4
    file.write_bytes(content if how == "bit flipped" else content[:-1])


# ---------------------------------------------------------------------------------------------------------------------------------
# The long form


def kill_drill(work, few, whole, kills, rnd, tally):
    """SIGKILL at random moments, every phase in turn."""
    phases, durations = ["sampling", "saving", "scoring", "update", "loading", "logging", "optimizer", "saving", "evaluation", "grading"], 0.1
    for k in range(kills):
        out = work / f"kill-{k}"
        phase = phases[k % len(phases)]
        nth = 1 if phase == "loading" else rnd.randint(1, 3)
        _, hit, _, _ = strike(settings(out, few), phase, nth, rnd.uniform(0, 0.35 if phase == "saving" else durations))
        ended = resume_until_done(out, few)
        bad = differences(whole, out) if ended.returncode == 0 else [f"exit code {ended.returncode}: {ended.stderr.strip()[-200:]}"]
        tally(f"killed in {hit}", bad)
        shutil.rmtree(out)


def signal_drill(work, few, whole, rnd, tally):
    """SIGINT and SIGTERM in every phase: exit code 130 or 143, how to go on, and the same end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        for phase in ("loading", "sampling", "scoring", "update", "optimizer", "saving", "evaluation"):
            out = work / f"signal-{number}-{phase}"
            code, _, said, _ = strike(settings(out, few), phase, 1 if phase == "loading" else 2, rnd.uniform(0, 0.03), number)
            ended = resume_until_done(out, few)
            bad = [] if code == 128 + number and "--resume goes on" in said else [f"exit code {code}, said {said[-200:]}"]
            bad += differences(whole, out) if ended.returncode == 0 else [f"exit code {ended.returncode}: {ended.stderr.strip()[-200:]}"]
            tally(f"{number.name} in {phase}", bad)
            shutil.rmtree(out)


def damage_drill(work, few, whole, tally):
    """Each file of the newest checkpoint, each way: named, and the run goes on from the one before."""
    for file in sorted(f.name for f in (whole / "checkpoint").iterdir()):
        for how in ("cut short", "bit flipped", "deleted"):
            out = work / "damaged"
            shutil.copytree(whole, out)
            damage(out / "checkpoint" / file, how)
            refused = resume_until_done(out, few)
            bad = [] if (refused.returncode == 2 and f"checkpoint/{file} is" in refused.stderr and "checkpoint-4 (step 4) is whole" in refused.stderr
                         and refused.stderr.count("\n") == 1) else [f"exit code {refused.returncode}: {refused.stderr[-300:]}"]
            shutil.rmtree(out / "checkpoint")
            ended = resume_until_done(out, few) if how == "deleted" and file == "model.safetensors" else None
            bad += differences(whole, out) if ended and ended.returncode == 0 else [ended.stderr] if ended else []
            tally(f"checkpoint file {how}", bad)
            shutil.rmtree(out)


@contextlib.contextmanager
def small_disk(folder, size):
    """A tmpfs of `size` bytes, where mounting is allowed; yields whether it is."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def limited(arguments, most):
    """A run in which no file may grow beyond `most` bytes: a stand-in for a full disk that needs no rights."""
    return subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], capture_output=True, text=True, timeout=300,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))


def disk_drill(work, few, whole, tally):
    """A disk that fills up at a log line, at the weights, at the optimizer: one line that names the file, nothing lost, and no rubbish left."""
    weights = (whole / "checkpoint/model.safetensors").stat().st_size
    for most, named in ((2000, ".jsonl"), (weights // 2, "model.safetensors"), (weights + 4096, "optimizer.safetensors")):
        out = work / f"full-{most}"
        begun = subprocess.run([sys.executable, str(ROOT / "train.py"), *settings(out, few, 2)], capture_output=True, text=True, timeout=300)
        full = limited([*settings(out, few), "--resume"], most)
        bad = [begun.stderr] if begun.returncode else []
        if not (full.returncode == 2 and named in full.stderr and full.stderr.count("\n") == 1 and not (out / "checkpoint.new").exists()):
            bad.append(f"exit code {full.returncode}: {full.stderr[-300:]}")
        ended = resume_until_done(out, few)
        bad += differences(whole, out) if ended.returncode == 0 else [f"exit code {ended.returncode}: {ended.stderr.strip()[-200:]}"]
        tally("file size limit", bad)
        shutil.rmtree(out)
    with small_disk(work / "small", 6 * weights) as mounted:  # room for one checkpoint (3 x weights) and a part of the next
        if not mounted:
            print("a small tmpfs: skipped, mounting is not allowed here")
            return
        out = work / "small/run"
        full = subprocess.run([sys.executable, str(ROOT / "train.py"), *settings(out, few)], capture_output=True, text=True, timeout=300)
        bad = [] if full.returncode == 2 and "No space left" in full.stderr and full.stderr.count("\n") == 1 and not (
            out / "checkpoint.new").exists() else [f"exit code {full.returncode}: {full.stderr[-300:]}"]
        shutil.copytree(out, work / "freed")
        ended = resume_until_done(work / "freed", few)
        bad += differences(whole, work / "freed") if ended.returncode == 0 else [f"exit code {ended.returncode}: {ended.stderr.strip()[-200:]}"]
        tally("full tmpfs", bad)


def torchrun(arguments, processes=2):
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), str(ROOT / "train.py"), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def several_drill(work, few, whole, rnd, tally):
    """Two processes: one killed takes the other down within a minute; SIGTERM to torchrun saves; one process goes on, to 1e-5."""
    for victim in (0, 1, None):
        out = work / f"several-{victim}"
        process = torchrun(settings(out, few))
        said = []
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
        ended = resume_until_done(out, few)
        bad += differences(whole, out, 2e-5) if ended.returncode == 0 else [f"exit code {ended.returncode}: {ended.stderr.strip()[-200:]}"]
        tally("SIGTERM to torchrun" if victim is None else f"process {victim} of 2 killed", bad)
        shutil.rmtree(out)


def main():
    parser = argparse.ArgumentParser(description="Disturb training runs in every way; end non-zero if one of them ends otherwise than undisturbed.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rnd, counts, failures, begun = random.Random(args.seed), Counter(), Counter(), time.monotonic()

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
            sys.exit(f"the undisturbed run ended with {undisturbed.returncode}: {undisturbed.stderr}")
        kill_drill(work, few, whole, args.kills, rnd, tally)
        signal_drill(work, few, whole, rnd, tally)
        damage_drill(work, few, whole, tally)
        disk_drill(work, few, whole, tally)
        several_drill(work, few, whole, rnd, tally)
    print(f"{'disturbance':<28}{'times':>6}{'survived':>10}")
    for what in sorted(counts):
        print(f"{what:<28}{counts[what]:>6}{counts[what] - failures[what]:>10}")
    total, failed = sum(counts.values()), sum(failures.values())
    print(f"{'all':<28}{total:>6}{total - failed:>10}   in {(time.monotonic() - begun) / 60:.0f} minutes")
    sys.exit(bool(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), sys.argv[3:])
    main()
