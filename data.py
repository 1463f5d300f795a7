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
            with open(path, "rb") as f:  # bytes: a line that is not UTF-8 then has a number too
                for number, line in enumerate(f, 1):
                    if line.strip():
                        problems.append(_read_problem(f"{path}:{number}", line) | {"file": str(path)})
        except OSError as e:
            home = " (the shell expands ~ only outside quotes, and not behind =)" if str(path).startswith("~") else ""
            raise ValueError(f"{str(path) or repr('')}: {e.strerror or e}{home}; wanted a JSONL file of problems") from None
        if len(problems) == before:
            raise ValueError(f"{path}: no problems in it; wanted one JSON object a line")
    return problems


# How files begin that are taken for JSONL.
_OTHERS = {b"PAR1": "a Parquet file (pandas writes JSONL: to_json with orient='records' and lines=True)", b"\x1f\x8b": "a gzip file",
           b"PK\3\4": "a zip file", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
           b"\xef\xbb\xbf": "a byte order mark (save it without one)",
           b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
           b"[": "a JSON array over several lines", b"{\n": "a JSON object over several lines", b"{\r\n": "a JSON object over several lines"}


def _read_problem(where, line):
    wanted = 'wanted UTF-8 text, each line an object like {"problem": ..., "answer": ...}'
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        reason = f"{e.msg}: character {e.colno}" if isinstance(e, json.JSONDecodeError) else e
        found = f"not valid JSON ({reason}): {short(line[:200].decode(errors='replace'))}"
        found = next((f"found {other}" for start, other in _OTHERS.items() if line.startswith(start)), found)
        raise ValueError(f"{where}: {found}; {wanted}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: found {short(row)}; {wanted}")
    names = ("problem", "question", "prompt")
    key = next((k for k in names if row.get(k)), next((k for k in names if k in row), None))
    if key is None:
        raise ValueError(f"{where}: no problem in it, only the keys {short([*row])}; wanted \"problem\", \"question\" or \"prompt\"")
    ask = text = row[key]
    if isinstance(ask, list) and all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in ask):
        text = "".join(m["content"] for m in ask)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: \"{key}\" is {short(ask)}; wanted text, or a list of messages with role and content, both text")
    if "answer" in row:
        answer, name = row["answer"], "answer"
    else:
        model = row.get("reward_model")
        answer, name = model.get("ground_truth") if isinstance(model, dict) else None, "reward_model.ground_truth"
        if answer is None:
            raise ValueError(f"{where}: no answer in it, only the keys {short([*row])}; wanted \"answer\", or \"reward_model\" with \"ground_truth\"")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or (isinstance(answer, float) and answer - answer != 0):
        raise ValueError(f"{where}: \"{name}\" is {short(answer)}; wanted text or a number")
    answer = str(answer)
    if key == "question" and "####" in answer:
        answer = answer.rsplit("####", 1)[1]
    if not answer.strip():
        raise ValueError(f"{where}: \"{name}\" is empty; wanted the right answer")
    problem = {"id": str(row.get("id", where)), "ask": ask, "bare": key != "prompt", "answer": answer.strip()}
    try:
        json.dumps(problem, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:  # JSON can spell half of a surrogate pair; no tokenizer takes it, and no file that we write
        raise ValueError(f"{where}: holds \\u{ord(e.object[e.start]):04x}, half of a character; wanted whole ones") from None
    return problem


def short(value, most=70):
    """JSON of a value, cut to one short line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 3] + "..."


def choose_template(template, tokenizer, problems):
    """What --prompt-template means here: "chat", "plain", or the text of a file that holds {problem}. None: chat where the tokenizer has one.

    Tries it, so that a template which refuses these problems does so now: on one problem for each sequence of roles.
    """
    if template is None:
        template = "chat" if tokenizer.has_chat_template else "plain"
    if template == "chat" and not tokenizer.has_chat_template:
        raise ValueError("--prompt-template chat: this tokenizer has no chat template; wanted plain, or a file with {problem} in it")
    if template not in ("chat", "plain"):
        template = _read_template(template)
    for problem in {str([m["role"] for m in p["ask"]]) if isinstance(p["ask"], list) else "": p for p in reversed(problems)}.values():
        prompt_ids(problem, tokenizer, template, 1)
    return template


def _read_template(template):
    try:
        text = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise ValueError(f"--prompt-template {template}: {reason}; wanted chat, plain, or a text file with {{problem}} in it") from None
    if "{problem}" not in text:
        raise ValueError(f"--prompt-template {template}: no {{problem}} in it; wanted a text file that says where the problem goes")
    return text


def prompt_ids(problem, tokenizer, template, max_tokens) -> list[int]:
    """Token ids of one problem under a template from `choose_template`; cut on the left to max_tokens, since the end says what is asked."""
    ask = problem["ask"]
    if template == "chat":
        if isinstance(ask, str):
            ask = [{"role": "user", "content": f"{ask}\n{INSTRUCTION}" if problem["bare"] else ask}]
        try:
            text = tokenizer.chat(ask)
        except ValueError as e:
            raise ValueError(f"{e} (for problem {problem['id']} of {problem['file']}); wanted messages and a template that agree") from None
        ids = tokenizer.encode(text, add_special=False)  # the template writes its own BOS
    else:
        text = ask if isinstance(ask, str) else "\n".join(m["content"] for m in ask)
        ids = tokenizer.encode(text if template == "plain" else template.replace("{problem}", text))
    if not ids:
        raise ValueError(f"{problem['file']}, problem {problem['id']}: the template makes no tokens of it; wanted one at least")
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
    if isinstance(message, OSError) and message.filename is not None:
        message = f"{message.filename}: {message.strerror}"
    print(f"{program}: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong flag costs one line and not a screen of usage."""

    def error(self, message):
        hint = ": flags have dashes, no underscores" if message.startswith("unrecognized") and "_" in message else ""
        die(self.prog, f"{message}{hint} (see {self.prog} --help)")


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
