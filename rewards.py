r"""The reward: does a response answer the problem? It decides what the policy learns.

    score(response, gold) -> 1.0 or 0.0
    extract_answer    the answer that the response marks as its final one, or None
    is_equivalent     does that answer mean the gold answer? (lib/equivalence.py)

What counts as marked, in text after the last </think>, the first that is found:

    \boxed{18}, \fbox{18}    the last one that is complete and not empty
    #### 18                  the last one, to the end of the line (GSM8K)
    the answer is 18.        the last one, to the end of the sentence

Where nothing marks an answer there is none: a number in the text is only mentioned.

    python rewards.py --gold '\frac{1}{2}' --response 'So \boxed{0.5}.'    # explains each step
    python rewards.py --data pairs.jsonl   # {"gold", "response", "expected", "kind"} a line

>>> score(r"No. \boxed{(x+1)^2}", "x^2 + 2x + 1"), score("It is 4.", "4")
(1.0, 0.0)
"""

import numbers
import re
import sys
from itertools import islice

from lib import console
from lib.equivalence import compare, is_equivalent
from lib.grading import agreement, describe, load_function, one_line

MAX_BOXES = 20  # boxes looked at, from the end
MAX_TAIL = 20_000  # braces read after these; characters in which "answer is" is looked for
BRACE = re.compile(r"\\boxed\s{0,20}\{|\\[\\{}]|[{}]")  # \\boxed is a line break and "boxed"
ANSWER_IS = re.compile(r"(?i)\banswer\s{1,5}is\b\s{0,5}:?")
SENTENCE_END = re.compile(r"\.(?:\s|$)|\n")


def extract_answer(response):
    r"""The final answer in `response`, or None.

    >>> extract_answer("<think>\\boxed{3}</think> It is \\boxed {4}."), extract_answer("#### 4")
    ('4', '4')
    """
    return extract(response)[0]


def extract(response):
    """-> (answer or None, the step that found it)."""
    # an unfinished thought is no answer; what came before it may be
    text = response.rpartition("</think>")[2].partition("<think>")[0]
    if box := last_box(text):
        return box, "last box"
    if "####" in text:
        line = text.rpartition("####")[2].strip().partition("\n")[0].strip()
        if line:
            return line, "after ####"
    *_, tail = ANSWER_IS.split(text[-MAX_TAIL:])
    if len(tail) < len(text[-MAX_TAIL:]):
        sentence = SENTENCE_END.split(tail.lstrip(), maxsplit=1)[0]
        return sentence.strip("* \t") or None, 'after "answer is"'
    return None, 'no box, no ####, no "answer is"'


def last_box(text):
    """The content of the complete, non-empty box that closes last, or None.

    So an outer box wins over the one inside it.
    """
    text = text.replace(r"\fbox", r"\boxed")
    start = len(text.rsplit(r"\boxed", MAX_BOXES)[0].rstrip("\\"))
    best, opened = None, []  # where each open box begins, None for any other open brace
    for brace in islice(BRACE.finditer(text, start), MAX_TAIL):
        if brace[0] == "}" and opened:
            begin = opened.pop()
            content = "" if begin is None else text[begin : brace.start()].strip()
            best = content or best
        elif brace[0] == "{":
            opened.append(None)
        elif brace[0].startswith(r"\boxed"):
            opened.append(brace.end())
    return best


def score(response, gold):
    """1.0 if the final answer of `response` is `gold`, else 0.0; never raises."""
    return float(isinstance(response, str) and is_equivalent(extract_answer(response), gold))


# ------------------------------------------------------------------------------ reward functions
def load_reward(spec):
    """The flag --reward, "math" or "FILE.py:function" -> grade(response, problem) in [0, 1].

    `problem` is an entry of lib.data.load_problems; a user's function gets its "row".
    ValueError in one line: what is wrong with the flag, the file or what the function returned.
    """
    if spec == "math":
        return lambda response, problem: score(response, problem["answer"])
    try:
        function, path = load_function(spec)
    except ValueError as error:
        raise ValueError(f"--reward {spec}: {error}") from error

    def grade(response, problem):
        where = f"--reward {spec}: problem {problem['id']} of {problem['file']}"
        row = problem["row"]
        try:
            reward = function(response, row)
        except Exception as error:
            raise ValueError(f"{where}: {describe(error, path)}") from error
        # NaN is in no range; a bool is a number
        if not isinstance(reward, numbers.Real) or not 0 <= reward <= 1:
            found = f"{path} returned {one_line(repr(reward))}"
            raise ValueError(f"{where}: {found}, wanted a number from 0 to 1")
        return float(reward)

    return grade


# ---------------------------------------------------------------------------------- command line
def explain(response, gold):
    answer, step = extract(response)
    how, notes = compare(answer, gold) if answer is not None else ("", [])
    print(f"extracted   {answer}   ({step})", *notes, sep="\n")
    print(f"compared    {how or 'not shown to be equal'}\nverdict     {float(bool(how))}")


def main(arguments=None):
    parser = console.make_parser("rewards.py", "Grade one response, or a file of graded pairs.")
    parser.add_argument("--gold", help="the right answer")
    parser.add_argument("--response", help="the whole response to grade, explained step by step")
    parser.add_argument("--data", metavar="FILE", help="JSONL file of graded pairs")
    options = parser.parse_args(arguments)
    given = [value is not None for value in (options.gold, options.response, options.data)]
    if given not in ([True, True, False], [False, False, True]):
        parser.error("wanted --gold and --response, or --data")
    try:
        if options.data is None:
            explain(options.response, options.gold)
        else:
            agreement(options.data, score)
    except (OSError, ValueError) as error:
        console.die("rewards.py", error)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a response may hold what no terminal shows
    sys.exit(main())
