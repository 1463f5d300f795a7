"""Problems: JSONL files -> what to ask and what is right -> prompt token ids.

One problem a line. Accepted (other keys are kept, and ignored):

    {"problem": TEXT, "answer": A}          {"question": TEXT, "answer": "... #### A"}         (GSM8K's own form)
    {"prompt": TEXT, "answer": A}           {"prompt": [{"role": "user", "content": TEXT}, ...], "answer": A}
    {"prompt": as above, "reward_model": {"ground_truth": A}}                                  (exports of the common trainers)

A "problem" or "question" is a bare task: under the chat template INSTRUCTION is added to it. A "prompt" is taken to be whole: nothing is added.

Both command lines, train.py and eval.py, report what a user got wrong through `die` and `Parser` below: one line on stderr, exit code 2.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

INSTRUCTION = "Work it out step by step and put the final answer in \\boxed{}."


def load_problems(paths) -> list[dict]:
    """Read JSONL files -> [{"id", "ask" (text, or chat messages), "bare" (a task without instructions), "answer" (text), "file"}, ...].

    Raises ValueError in one line with file, line number, what was found and what was wanted: at the first bad line, before anything is slow.
    """
    problems = []
    for path in paths:
        before = len(problems)
        try:
            with open(path, encoding="utf-8") as f:
                for number, line in enumerate(f, 1):
                    if line.strip():
                        problems.append(_read_problem(f"{path}:{number}", line) | {"file": str(path)})
        except OSError as e:
            raise ValueError(f"{path}: {e.strerror or e}; wanted a JSONL file of problems") from None
        except UnicodeDecodeError as e:
            raise ValueError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start}); wanted a JSONL file of problems") from None
        if len(problems) == before:
            raise ValueError(f"{path}: no problems in it; wanted one JSON object a line")
    return problems


def _read_problem(where, line):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: not valid JSON; wanted an object like {{\"problem\": ..., \"answer\": ...}}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: found a JSON {type(row).__name__}; wanted an object like {{\"problem\": ..., \"answer\": ...}}")
    key = next((k for k in ("problem", "question", "prompt") if row.get(k)), None)
    if key is None:
        raise ValueError(f"{where}: no problem in it (keys: {', '.join(map(str, row)) or 'none'}); wanted \"problem\", \"question\" or \"prompt\"")
    ask = row[key]
    messages = isinstance(ask, list) and ask and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in ask)
    if not messages and (not isinstance(ask, str) or not ask.strip()):
        raise ValueError(f"{where}: \"{key}\" is {short(ask)}; wanted text, or a list of messages with role and content")
    if "answer" in row:
        answer, name = row["answer"], "answer"
    else:
        model = row.get("reward_model")
        answer, name = model.get("ground_truth") if isinstance(model, dict) else None, "reward_model.ground_truth"
        if answer is None:
            raise ValueError(f"{where}: no answer in it; wanted \"answer\", or \"reward_model\" with \"ground_truth\"")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise ValueError(f"{where}: \"{name}\" is {short(answer)}; wanted text or a number")
    answer = str(answer)
    if key == "question" and "####" in answer:
        answer = answer.rsplit("####", 1)[1]
    if not answer.strip():
        raise ValueError(f"{where}: \"{name}\" is empty; wanted the right answer")
    return {"id": str(row.get("id", where)), "ask": ask, "bare": key != "prompt", "answer": answer.strip()}


def short(value, most=70):
    """JSON of a value, cut to one short line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 3] + "..."


def choose_template(template, tokenizer, problems):
    """What --prompt-template means here: "chat", "plain", or the text of a file that holds {problem}. None: chat where the tokenizer has one."""
    if template is None:
        template = "chat" if tokenizer.has_chat_template else "plain"
    if template == "chat" and not tokenizer.has_chat_template:
        raise ValueError("--prompt-template chat: this tokenizer has no chat template; wanted plain, or a file with {problem} in it")
    if template in ("chat", "plain"):
        return template
    try:
        text = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"--prompt-template {template}: can't be read ({e}); wanted chat, plain, or a text file") from None
    if "{problem}" not in text:
        raise ValueError(f"--prompt-template {template}: no {{problem}} in it; wanted a text file that says where the problem goes")
    return text


def prompt_ids(problem, tokenizer, template, max_tokens) -> list[int]:
    """Token ids of one problem under a template from `choose_template`; cut on the left to max_tokens, since the end says what is asked."""
    ask = problem["ask"]
    if template == "chat":
        if isinstance(ask, str):
            ask = [{"role": "user", "content": f"{ask}\n{INSTRUCTION}" if problem["bare"] else ask}]
        ids = tokenizer.encode(tokenizer.chat(ask), add_special=False)  # the template writes its own BOS
    else:
        text = ask if isinstance(ask, str) else "\n".join(m["content"] for m in ask)
        ids = tokenizer.encode(text if template == "plain" else template.replace("{problem}", text))
    return ids[-max_tokens:]


def problem_order(n, seed, start, count) -> list[int]:
    """Which problems come at places start .. start + count - 1 of an endless stream that shuffles all n anew for every epoch."""
    order = []
    for epoch in range(start // n, (start + count - 1) // n + 1):
        order.extend(random.Random(f"{seed}:{epoch}").sample(range(n), n))
    return order[start % n : start % n + count]


# ---------------------------------------------------------------------------------------------------------------------------------
# Talking to the person at the command line


def die(program, message):
    """One line on stderr, exit code 2: something the user can put right.

    Of several processes the first speaks for all; the others speak up if it has nothing to say, and so has not ended them all by now.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(5)
    print(f"{program}: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong flag costs one line and not a screen of usage."""

    def error(self, message):
        die(self.prog, f"{message} (see {self.prog} --help)")


def ranged(kind, least=None, most=None, above=None, below=None):
    """An argparse type: an int or a finite float within bounds (least, most inclusive; above, below exclusive)."""
    bounds = [f"{word} {bound}" for word, bound in (("at least", least), ("at most", most), ("above", above), ("below", below)) if bound is not None]
    wanted = f"a {'whole number' if kind is int else 'number'} {' and '.join(bounds)}".strip()

    def parse(text):
        try:
            value = kind(text)
            ok = ((least is None or value >= least) and (most is None or value <= most) and (above is None or value > above)
                  and (below is None or value < below) and abs(value) != float("inf") and value == value)
        except ValueError:
            ok = False
        if not ok:
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted {wanted}")
        return value

    return parse


def progress(phase, every=10.0):
    """A callback (done, total, tokens=0) that shows phase, share done, tokens/s and time to go.

    On a terminal one line that rewrites itself; elsewhere a plain line every `every` seconds at most, and none for what is over sooner.
    """
    start = shown = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done, total, tokens=0):
        nonlocal shown
        now = time.monotonic()
        if now - shown < (0.1 if terminal else every) and not (terminal and done == total):
            return
        shown = now
        line = f"{phase} {done}/{total}"
        if tokens:
            line += f"  {tokens / (now - start):.0f} tokens/s"
        if total / 20 <= done < total:  # before that the first to end, the shortest, would promise too much
            left = (now - start) * (total - done) / done
            line += f"  {int(left // 60)}:{int(left % 60):02d} to go"
        if terminal:
            print(f"\r\x1b[K{line}" if done < total else "\r\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(f"  {line}", file=sys.stderr, flush=True)

    return show
