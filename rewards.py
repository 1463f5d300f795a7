r"""The reward: does a response answer the problem? It decides what the policy learns.

    score(response, gold) -> 1.0 or 0.0
    extract_answer    the answer that the response marks as its final one, or None
    is_equivalent     does that answer mean the gold answer? (lib/equivalence.py)

What counts as marked, in the text after the last </think>. The first row that is found counts:

    <answer> 18 </answer>    templates like R1's ask for it; the last one, searched by these rules
    \boxed{18}, \fbox{18}    MATH and most prompts ask for it; the last complete, non-empty one
    #### 18                  GSM8K         } of these three the one that stands last, to the end of
    Answer: 18               DAPO's prompt } its sentence. Not a heading like "#### Step 2", and
    the answer is 18         Minerva, CoT  } "Answer:" only where it begins a line

What other graders also take, and this one does not, since a looser rule is one to be exploited:
the last number or formula of the text (a number may only be mentioned), \boxed 18 (TeX boxes the 1
alone), a box that is not closed, an answer inside the thought.

    python rewards.py --gold '\frac{1}{2}' --response 'So \boxed{0.5}.'    # explains each step
    python rewards.py --data pairs.jsonl   # {"gold", "response", "expected", "kind"} a line

>>> extract_answer(r"<think>\boxed{3}</think> It is \boxed {4}."), extract_answer("It is 4.")
('4', None)
>>> score(r"No. \boxed{(x+1)^2}", "x^2 + 2x + 1"), score(r"\boxed{x^2 + 1}", "x^2 + 2x + 1")
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
MAX_TAIL = 20_000  # braces read after these; characters in which a mark is looked for
BRACE = re.compile(r"\\boxed\s{0,20}\{|\\[\\{}]|[{}]")  # \\boxed is a line break and "boxed"
HEADING = r"[^\W\d_]{2}|\d{1,3}[.):][ \t]{1,3}\S"  # a word, or the number of a section
OPENING = r"[\s*_]{0,9}(?:(?:\\\[|\$\$)\s{0,9})?(?=\S)"  # the answer may stand on its own line
MARKS = {
    "after ####": re.compile(rf"####[# \t*_]{{0,9}}+(?=\S)(?!{HEADING})"),
    'after "Answer:"': re.compile(
        rf"(?im)^[\W_]{{0,9}}(?:the |my )?(?:final )?answer[ *_]{{0,4}}:{OPENING}"
    ),
    'after "answer is"': re.compile(
        rf"(?i)\banswer\s{{1,5}}(?:is|equals)\b\s{{0,5}}:?{OPENING}(?:(?:indeed|simply|then)\s)?"
    ),
}
# the end of the sentence, or of what it says: "18, because ...", "18 (nine eggs at two dollars)"
END = re.compile(
    r"\.(?:\s|$)|\n|,?\s(?:because|since)\b"
    r"|\s\((?![^()]{0,99}\b(?:or|not)\b)[a-z]{2,20}(?: [a-z]{2,20}){2,9}\)"
)


def extract_answer(response):
    """The final answer in `response`, or None."""
    return extract(response)[0]


def extract(response):
    """-> (answer or None, the step that found it)."""
    # an unfinished thought is no answer; what came before it may be
    text = response.rpartition("</think>")[2].partition("<think>")[0]
    _, opened, inside = text.rpartition("</answer>")[0].rpartition("<answer>")
    tagged = inside.strip() if opened else ""
    text = tagged or text
    if box := last_box(text):
        return box, "last box"
    tail = text[-MAX_TAIL:]
    found = [(m.end(), step) for step, mark in MARKS.items() for m in mark.finditer(tail)]
    if found:
        end, step = max(found)
        return END.split(tail[end:], maxsplit=1)[0].strip("*_ \t") or None, step
    return (tagged, "in <answer>") if tagged else (None, "no mark of an answer")


def last_box(text):
    """The content of the complete, non-empty box that closes last: an outer one wins, or None."""
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


# ---- Reward functions ----------------------------------------------------------------------------
def load_reward(spec):
    """The flag --reward, "math" or "FILE.py:function" -> grade(response, problem) in [0, 1].

    `problem` is an entry of lib.data.load_problems; a user's function gets its "row". ValueError:
    what is wrong with the flag; from grade: what the function raised or returned.
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
        if not isinstance(reward, numbers.Real) or not 0 <= reward <= 1:  # NaN is in no range
            found = f"{path} returned {one_line(repr(reward))}"
            raise ValueError(f"{where}: {found}, wanted a number from 0 to 1")
        return float(reward)

    return grade


# ---- Command line --------------------------------------------------------------------------------
def explain(response, gold):
    answer, step = extract(response)
    how, notes = compare(answer, gold) if answer is not None else ("", [])
    print(f"extracted   {answer}   ({step})", *notes, sep="\n")
    print(f"compared    {how or 'not shown to be equal'}\nverdict     {float(bool(how))}")


def main(arguments=None):
    """Explain one verdict, or count the agreement with a file of graded pairs."""
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
