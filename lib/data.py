r"""Problems: lines of JSONL -> what to ask and what is right -> token ids of the prompt.

One problem a line, in one of these forms; other keys are kept in "row":

    {"problem": TEXT, "answer": A}             a bare task; "question" is the same
    {"problem": TEXT, "answer": "... #### A"}  GSM8K
    {"problem": TEXT, "solution": TEXT}        MATH: the answer is the solution's last \boxed{}
    {"prompt": TEXT or MESSAGES, "answer": A}  taken as it is; MESSAGES also as "messages"
    {"prompt": ..., "reward_model": {"ground_truth": A}}       exports of the common trainers

MESSAGES are [{"role": "user", "content": TEXT}, ...]. Under the chat template a bare task gets one
sentence more, INSTRUCTION, which says where the verifier will look for the answer.
"""

import hashlib
import json
import random
import re
from pathlib import Path

from lib.console import short

INSTRUCTION = "Work it out step by step and put the final answer in \\boxed{}."
ROW = 'UTF-8 text, each line an object like {"problem": ..., "answer": ...}'
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
OTHER_FILES = {  # how files begin that are taken for JSONL
    b"PAR1": "a Parquet file (pandas writes JSONL: to_json with orient='records' and lines=True)",
    b"\x1f\x8b": "a gzip file",
    b"PK\3\4": "a zip file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\xef\xbb\xbf": "a byte order mark (save it without one)",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
    b"[": "a JSON array over several lines",
    b"{\n": "a JSON object over several lines",
}


def wrong(where, found, wanted):
    """The form of all errors here."""
    return ValueError(f"{where}: {found}; wanted {wanted}")


def load_problems(paths, need_answer=True):
    """Read JSONL files -> a list of problems, as dicts:

    "id"; "ask", text or messages; "bare", a task without instructions of its own; "answer", text,
    or None if need_answer is False and the line has none; "file"; "row", the line's whole object.
    ValueError at the first line that is not as it should be: file, line number, what is wrong.
    """
    problems = []
    for path in map(str, paths):
        before = len(problems)
        try:
            with open(path, "rb") as file:  # bytes: a line that is not UTF-8 has a number too
                for number, line in enumerate(file, 1):
                    if line.strip():
                        problem = read_problem(f"{path}:{number}", line, need_answer)
                        problems.append(problem | {"file": path})
        except OSError as error:
            found = error.strerror or str(error)
            if path.startswith("~"):
                found += " (the shell expands ~ only outside quotes, and not behind =)"
            raise wrong(path or "''", found, "a JSONL file of problems") from None
        if len(problems) == before:
            raise wrong(path, "no problems in it", "one JSON object a line")
    return problems


def read_problem(where, line, need_answer):
    """One line -> a problem, all but its "file"."""
    row = read_row(where, line)
    key, ask = read_ask(where, row)
    try:
        answer = read_answer(where, row)
    except ValueError:
        if need_answer:
            raise
        answer = None  # a reward function of one's own finds in the row what it wants
    name = where if row.get("id") is None else str(row["id"])
    bare = key in ("problem", "question")
    problem = {"id": name, "ask": ask, "bare": bare, "answer": answer}
    # JSON can spell half of a surrogate pair, which no tokenizer takes and no file.
    half = re.search("[\ud800-\udfff]", json.dumps(problem, ensure_ascii=False))
    if half:
        raise wrong(where, f"holds \\u{ord(half[0]):04x}, half of a character", "whole ones")
    return problem | {"row": row}


def read_row(where, line):
    """One line -> the JSON object in it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = error
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg}: character {error.colno}"
        begin = line[:200].replace(b"\r\n", b"\n")
        found = f"not valid JSON ({reason}): {short(begin.decode(errors='replace'))}"
        for start, name in OTHER_FILES.items():
            if begin.startswith(start):
                found = f"found {name}"
        raise wrong(where, found, ROW) from None
    if not isinstance(row, dict):
        raise wrong(where, f"found {short(row)}", ROW)
    return row


def read_ask(where, row):
    """-> the key of what is asked, and its text or messages."""
    keys = [key for key in ("problem", "question", "prompt", "messages") if key in row]
    if not keys:
        found = f"no problem in it, only the keys {short([*row])}"
        raise wrong(where, found, '"problem", "question", "prompt" or "messages"')
    # The first that holds something: tables joined from several sources have empty columns.
    key = next((key for key in keys if row[key]), keys[0])
    ask = text = row[key]
    if isinstance(ask, list) and all(is_message(m) for m in ask):
        # A conversation, as used for fine-tuning, ends with the response: not for the model to see.
        # A prompt that ends so is meant to be continued, which chat templates don't do.
        while ask and ask[-1]["role"] == "assistant":
            if key != "messages":
                found = f'"{key}" ends with a message of the assistant'
                raise wrong(where, found, "messages that the assistant is to answer")
            ask = ask[:-1]
        text = "".join(m["content"] for m in ask)
    if not isinstance(text, str) or not text.strip():
        wanted = "text, or a list of messages with role and content, both text"
        raise wrong(where, f'"{key}" is {short(row[key])}', wanted)
    return key, ask


def is_message(m):
    texts = [m.get("role"), m.get("content")] if isinstance(m, dict) else [None]
    return all(isinstance(text, str) for text in texts)


def read_answer(where, row):
    """The right answer as text, from the first of three places that holds one."""
    model, solution = row.get("reward_model"), row.get("solution")
    places = [('"answer"', row.get("answer"))]
    if isinstance(model, dict):
        places.append(('"reward_model.ground_truth"', model.get("ground_truth")))
    if isinstance(solution, str):
        places.append(('the last box of "solution"', last_box(solution)))
    name, answer = next((place for place in places if place[1] is not None), places[0])
    if answer is None and "answer" not in row:
        found = f"no answer in it, only the keys {short([*row])}"
        wanted = '"answer", "reward_model" with "ground_truth", or "solution" with \\boxed{...}'
        raise wrong(where, found, wanted)
    is_number = type(answer) in (int, float) and abs(answer) < float("inf")  # so not true, not NaN
    if not isinstance(answer, str) and not is_number:
        raise wrong(where, f"{name} is {short(answer)}", "text or a number")
    answer = str(answer).rpartition("####")[2].strip()  # GSM8K: the reasoning comes before
    if not answer:
        raise wrong(where, f"{name} is empty", "the right answer")
    return answer


def last_box(solution):
    r"""The content of the last box in a solution; None if there is none, or it does not end.

    >>> last_box(r"No \boxed{1}, but \fbox{\frac{1}{2}}."), last_box(r"It is $\boxed 5$.")
    ('\\frac{1}{2}', '5')
    """
    *before, rest = BOX.split(solution)
    if not before:
        return None
    if not rest.startswith("{"):
        # TeX allows \boxed 5 as well: take it up to a space or the end of the formula.
        content = re.split(r"[\s$]|\\[)\]]", rest)[0].rstrip(".,")
        whole = content.count("{") == content.count("}")
        return content if content and whole else None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", rest, re.DOTALL):  # \{ and \} are no braces
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return rest[1 : brace.start()].strip()
    return None


# ---- Prompts -------------------------------------------------------------------------------------


def choose_template(template, tokenizer, problems):
    """What --prompt-template means: "chat", "plain", or the text of a file with {problem} in it.

    None is chat where the tokenizer has a chat template, else plain. ValueError for a template
    that can't be used, or that refuses one of these problems.
    """
    if template is None:
        template = "chat" if tokenizer.has_chat_template else "plain"
    if template == "chat" and not tokenizer.has_chat_template:
        found = "this tokenizer has no chat template"
        raise wrong("--prompt-template chat", found, "plain, or a file with {problem} in it")
    if template not in ("chat", "plain"):
        template = read_template(template)
    # Try it on one problem for each sequence of roles, on which templates insist.
    examples = {}
    for problem in problems:
        ask = problem["ask"]
        roles = "" if isinstance(ask, str) else str([m["role"] for m in ask])
        examples.setdefault(roles, problem)
    for problem in examples.values():
        prompt_ids(problem, tokenizer, template, 1)
    return template


def read_template(path):
    """A --prompt-template file -> its text. ValueError if it can't be read or lacks {problem}."""
    where = f"--prompt-template {path}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        wanted = "chat, plain, or a text file with {problem} in it"
        raise wrong(where, found, wanted) from None
    if "{problem}" not in text:
        raise wrong(where, "no {problem} in it", "a text file that says where the problem goes")
    return text


def prompt_ids(problem, tokenizer, template, max_tokens):
    """Token ids of one problem; cut on the left to max_tokens, since the end says what is asked."""
    ask = problem["ask"]
    if template == "chat":
        if isinstance(ask, str):
            content = f"{ask}\n{INSTRUCTION}" if problem["bare"] else ask
            ask = [{"role": "user", "content": content}]
        try:
            text = tokenizer.chat(ask)
        except ValueError as error:
            found = f"{error} (for problem {problem['id']} of {problem['file']})"
            raise ValueError(f"{found}; wanted messages and a template that agree") from None
        ids = tokenizer.encode(text, add_special=False)  # the template writes its own BOS
    else:
        text = ask if isinstance(ask, str) else "\n".join(m["content"] for m in ask)
        if template != "plain":
            text = template.replace("{problem}", text)
        ids = tokenizer.encode(text)
    if not ids:
        where = f"{problem['file']}, problem {problem['id']}"
        raise wrong(where, "the template makes no tokens of it", "one at least")
    return ids[-max_tokens:]


def problem_order(n, seed, start, count):
    """Which problems come at places start, ..., start + count - 1 of an endless stream.

    The stream holds all n problems, shuffled anew for every epoch.
    """
    order = []
    for epoch in range(start // n, (start + count - 1) // n + 1):
        order.extend(random.Random(f"{seed}:{epoch}").sample(range(n), n))
    return order[start % n : start % n + count]


def problems_digest(problems):
    """SHA-256 of all problems, in their order: a run that goes on with others is another run."""
    asked = [[problem["ask"], problem["answer"], problem["row"]] for problem in problems]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def template_digest(template, tokenizer):
    """SHA-256 of what decides how prompts are made of problems."""
    parts = ["chat", tokenizer.chat_template, INSTRUCTION] if template == "chat" else [template]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
