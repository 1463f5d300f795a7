r"""Problems: lines of JSONL -> what to ask and what is right -> token ids of the prompt.

One problem a line; other keys are kept in "row". Accepted:

    {"problem": TEXT, "answer": A}              a bare task
    {"problem": TEXT, "solution": TEXT}         MATH: the answer is the solution's last \boxed{}
    {"question": TEXT, "answer": "... #### A"}  GSM8K
    {"prompt": TEXT or MESSAGES, "answer": A}   or "messages": MESSAGES; taken as it is
    {"prompt": ..., "reward_model": {"ground_truth": A}}       exports of the common trainers

MESSAGES are [{"role": "user", "content": TEXT}, ...]. Under the chat template a bare task gets one
sentence more, INSTRUCTION, which says where the verifier will look for the answer.
"""

import hashlib
import json
import random
from pathlib import Path

from lib.console import short

INSTRUCTION = "Work it out step by step and put the final answer in \\boxed{}."
EXPECTED = 'wanted UTF-8 text, each line an object like {"problem": ..., "answer": ...}'
OTHER_FILES = {  # how files begin that are taken for JSONL
    b"PAR1": "a Parquet file (pandas writes JSONL: to_json, orient='records', lines=True)",
    b"\x1f\x8b": "a gzip file",
    b"PK\3\4": "a zip file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\xef\xbb\xbf": "a byte order mark (save it without one)",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
    b"[": "a JSON array over several lines",
    b"{\n": "a JSON object over several lines",
    b"{\r\n": "a JSON object over several lines",
}


def load_problems(paths, need_answer=True):
    """Read JSONL files -> a list of problems, as dicts:

    "id"; "ask", text or messages; "bare", a task without instructions of its own; "answer", text,
    or None where there is none and need_answer is False; "file"; "row", the line's whole object.

    ValueError names file and line number at the first line that is not as it should be.
    """
    problems = []
    for path in paths:
        before = len(problems)
        try:
            with open(path, "rb") as f:  # bytes: a line that is not UTF-8 then has a number too
                for number, line in enumerate(f, 1):
                    if line.strip():
                        where = f"{path}:{number}"
                        problem = _read_problem(where, _read_row(where, line), need_answer)
                        problems.append(problem | {"file": str(path)})
        except OSError as e:
            hint = ""
            if str(path).startswith("~"):
                hint = " (the shell expands ~ only outside quotes, and not behind =)"
            name, reason = str(path) or repr(""), e.strerror or e
            raise ValueError(f"{name}: {reason}{hint}; wanted a JSONL file of problems") from None
        if len(problems) == before:
            raise ValueError(f"{path}: no problems in it; wanted one JSON object a line")
    return problems


def _read_row(where, line):
    """One line -> the JSON object in it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        reason = f"{e.msg}: character {e.colno}" if isinstance(e, json.JSONDecodeError) else e
        text = short(line[:200].decode(errors="replace"))
        found = f"not valid JSON ({reason}): {text}"
        for start, other in OTHER_FILES.items():
            if line.startswith(start):
                found = f"found {other}"
        raise ValueError(f"{where}: {found}; {EXPECTED}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: found {short(row)}; {EXPECTED}")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        # JSON can spell half of a surrogate pair, which no tokenizer takes.
        code = ord(e.object[e.start])
        found = f"holds \\u{code:04x}, half of a character"
        raise ValueError(f"{where}: {found}; wanted whole ones") from None
    return row


def _read_problem(where, row, need_answer):
    names = ("problem", "question", "prompt", "messages")
    present = [name for name in names if name in row]
    if not present:
        wanted = 'wanted "problem", "question" or "prompt"'
        raise ValueError(f"{where}: no problem in it, only the keys {short([*row])}; {wanted}")
    # The first that holds something: exports may have an empty "problem" beside their "prompt".
    key = next((name for name in present if row[name]), present[0])
    answer = _read_answer(where, row, key)
    if answer is None and need_answer:
        wanted = 'wanted "answer", or "reward_model" with "ground_truth"'
        raise ValueError(f"{where}: no answer in it, only the keys {short([*row])}; {wanted}")
    return {
        "id": str(row.get("id", where)),
        "ask": _read_ask(where, row, key),
        "bare": key in ("problem", "question"),
        "answer": answer,
        "row": row,
    }


def _is_message(m):
    texts = isinstance(m, dict) and [m.get("role"), m.get("content")]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _read_ask(where, row, key):
    """Text, or messages of which the last is not the assistant's: that would be the answer."""
    ask = text = row[key]
    if isinstance(ask, list) and all(_is_message(m) for m in ask):
        if ask and ask[-1]["role"] == "assistant":
            wanted = "wanted what is asked alone; the model is to write the answer"
            raise ValueError(f'{where}: "{key}" ends with a message of the assistant; {wanted}')
        text = "".join(m["content"] for m in ask)
    if not isinstance(text, str) or not text.strip():
        wanted = "wanted text, or a list of messages with role and content, both text"
        raise ValueError(f'{where}: "{key}" is {short(ask)}; {wanted}')
    return ask


def _last_box(solution):
    r"""What stands in the last box of a solution that people wrote; None if there is no box.

    >>> _last_box(r"First \boxed{1}, then \boxed{\frac{1}{2}}."), _last_box(r"It is \boxed 5.")
    ('\\frac{1}{2}', '5')
    """
    _, box, rest = solution.replace("\\fbox", "\\boxed").rpartition("\\boxed")
    rest = rest.lstrip()
    if not box or not rest:
        return None
    depth = 0
    for i, c in enumerate(rest):
        depth += (c == "{") - (c == "}")
        if depth == 0:  # the brace is closed; or there was none, and one character is the answer
            return rest[1:i].strip() if rest[0] == "{" else rest[0]
    return None


def _read_answer(where, row, key):
    """The right answer as text; None if there is none."""
    name, answer = "answer", row.get("answer")
    if "answer" not in row and isinstance(row.get("reward_model"), dict):
        name, answer = "reward_model.ground_truth", row["reward_model"].get("ground_truth")
    if "answer" not in row and answer is None and isinstance(row.get("solution"), str):
        answer = _last_box(row["solution"])
        if answer is None:
            wanted = 'wanted \\boxed{...} around its result, or "answer"'
            raise ValueError(f'{where}: "solution" has no box in it; {wanted}')
    if answer is None and "answer" not in row:
        return None
    number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    if not isinstance(answer, str) and not (number and abs(answer) < float("inf")):
        raise ValueError(f'{where}: "{name}" is {short(answer)}; wanted text or a number')
    answer = str(answer)
    if key == "question" and "####" in answer:
        answer = answer.rsplit("####", 1)[1]
    if not answer.strip():
        raise ValueError(f'{where}: "{name}" is empty; wanted the right answer')
    return answer.strip()


# --------------------------------------------------------------------------------------------------
# Prompts


def choose_template(template, tokenizer, problems):
    """What --prompt-template means: "chat", "plain", or the text of a file with {problem} in it.

    None is chat where the tokenizer has a chat template, else plain. It is tried at once, on one
    problem for each sequence of roles, so that a template which refuses them does so now.
    """
    if template is None:
        template = "chat" if tokenizer.has_chat_template else "plain"
    if template == "chat" and not tokenizer.has_chat_template:
        wanted = "wanted plain, or a file with {problem} in it"
        raise ValueError(f"--prompt-template chat: this tokenizer has no chat template; {wanted}")
    if template not in ("chat", "plain"):
        template = _read_template(template)
    examples = {}
    for problem in reversed(problems):
        ask = problem["ask"]
        examples[str([m["role"] for m in ask]) if isinstance(ask, list) else ""] = problem
    for problem in examples.values():
        prompt_ids(problem, tokenizer, template, 1)
    return template


def _read_template(path):
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        wanted = "wanted chat, plain, or a text file with {problem} in it"
        raise ValueError(f"--prompt-template {path}: {reason}; {wanted}") from None
    if "{problem}" not in text:
        wanted = "wanted a text file that says where the problem goes"
        raise ValueError(f"--prompt-template {path}: no {{problem}} in it; {wanted}")
    return text


def prompt_ids(problem, tokenizer, template, max_tokens):
    """Token ids of one problem; cut on the left to max_tokens, since the end says what is asked."""
    ask, name = problem["ask"], f"problem {problem['id']} of {problem['file']}"
    if template == "chat":
        if isinstance(ask, str):
            text = f"{ask}\n{INSTRUCTION}" if problem["bare"] else ask
            ask = [{"role": "user", "content": text}]
        try:
            text = tokenizer.chat(ask)
        except ValueError as e:
            wanted = "wanted messages and a template that agree"
            raise ValueError(f"{e} (for {name}); {wanted}") from None
        ids = tokenizer.encode(text, add_special=False)  # the template writes its own BOS
    else:
        text = ask if isinstance(ask, str) else "\n".join(m["content"] for m in ask)
        if template != "plain":
            text = template.replace("{problem}", text)
        ids = tokenizer.encode(text)
    if not ids:
        raise ValueError(f"{name}: the template makes no tokens of it; wanted one at least")
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
    """SHA-256 of what is asked and what is right, in order."""
    asked = [[p["ask"], p["answer"], p["row"]] for p in problems]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def template_digest(template, tokenizer):
    """SHA-256 of what makes prompts of problems."""
    text = tokenizer.chat_template if template == "chat" else template
    return hashlib.sha256(f"{INSTRUCTION}\0{text}".encode()).hexdigest()
