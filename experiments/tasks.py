"""Two tasks beside the demo's sums, made from nothing: models, problems and solutions.

    python experiments/tasks.py star        # writes runs/experiments/star; CPU, some minutes
    python experiments/tasks.py filler      # writes runs/experiments/filler
    python experiments/tasks.py filler --copies 8 --seed 1 --out DIR

Path-star. Four arms of six nodes leave a centre; the problem writes them down and names the last
node of one of them, and the response is that arm. The first node decides. All later ones are forced
by the one before, so a response of 7 tokens has one that earns or loses the reward:

    krwpqv,mzxcse,ynjlih,ctgdfu:e        mzxcse<|im_end|>

Sums with filler. The demo's sums, but each line of the response is restated COPIES times: 80 to
160 tokens, of which the first writing of each total decides, two digits at a time, and the rest is
copied:

    17+8-6=        25-6;25-6;25-6;19;19;19; \\boxed{19}<|im_end|>

Both models imitate a teacher, as the demo's does, who takes care in a part of all decisions. The
others on path-star go to a wrong arm, those on sums are made as the careless teacher of
demo/make.py makes them; what is forced is always right. In the first lesson the teacher takes more
care than in the last, so that the models know how, and err: a third of all responses are right at
the start. (With a first lesson that is all right, path-star's model looks up every node by the goal
and none by the node before, and can't go on from a wrong first one.) Every problem has one right
solution, so the first wrong token of a wrong response is the first that differs from it
(first_wrong). The same seed gives the same problems everywhere, and the same weights on the same
kind of machine.
"""

import argparse
import json
import random
import re
import string
import time
from pathlib import Path

import torch
from launch import ROOT, WORK  # it puts the root on the path
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from demo.make import NO_LOSS, careless, draw_problem, new_model, solve, write_folder, write_sum
from lib.fast import keep_less
from lib.tokenizer import Tokenizer
from model import load_model, save_model
from rollout import generate

ARMS, LENGTH = 4, 6
NODES = string.ascii_lowercase.replace("o", "")  # the tokenizer would join "bo"
COPIES = 6
TRAIN, TEST = 4000, 512  # problems
# Of each lesson: steps, and the part of decisions in which the teacher takes care.
LESSONS = {"star": [(1500, 0.7), (300, 0.4)], "filler": [(400, 1), (250, 0.3)]}
BATCH = {"star": 128, "filler": 64}
PEAK_LR, WARMUP = 3e-3, 50


# --------------------------------------------------------------------------------------------------
# Path-star


def draw_star(rng):
    """-> (the arms, which of them is asked for)."""
    nodes = rng.sample(NODES, ARMS * LENGTH)
    arms = ["".join(nodes[i * LENGTH : (i + 1) * LENGTH]) for i in range(ARMS)]
    return arms, rng.randrange(ARMS)


def star_problem(star):
    arms, asked = star
    return ",".join(arms) + f":{arms[asked][-1]}"


def star_response(star, rng=None, care=1):
    """The arm that is asked for; with care below 1, as the teacher finds it."""
    arms, asked = star
    if care < 1 and rng.random() >= care:
        asked = rng.choice([i for i in range(ARMS) if i != asked])
    return arms[asked]


# --------------------------------------------------------------------------------------------------
# Sums, with and without filler


def sum_response(first, operands, copies=COPIES, slip=None):
    r"""The response to a sum; slip as in demo/make.py.

    >>> sum_response(17, [8, -6], copies=2)
    '25-6;25-6;19;19; \\boxed{19}'
    """
    total, lines = first, []
    for i, d in enumerate(operands):
        total = slip(total, d) if slip else total + d
        lines += [write_sum(total, operands[i + 1 :]) + ";"] * copies
    return "".join(lines) + f" \\boxed{{{total}}}"


def demo_solution(problem):
    """The only right response to a problem of the demo.

    >>> demo_solution("17+8-6+9=")
    '25-6+9=19+9=28 \\\\boxed{28}'
    """
    first, *operands = map(int, re.findall(r"[+-]?\d+", problem))
    return solve(first, operands)


def draw_filler(rng):
    return draw_problem(rng, (3, 4))


# --------------------------------------------------------------------------------------------------
# The first wrong token


def first_wrong(response_ids, solution_ids):
    """Where a response leaves the only right solution; None if it is that solution.

    Both with their stop token. A response that stops in the middle is wrong where it stops.

    >>> first_wrong([5, 7, 9], [5, 6, 9]), first_wrong([5, 6, 9], [5, 6, 9])
    (1, None)
    """
    for t, (found, right) in enumerate(zip(response_ids, solution_ids, strict=False)):
        if found != right:
            return t
    return None if len(response_ids) >= len(solution_ids) else len(response_ids) - 1


# --------------------------------------------------------------------------------------------------
# Making them


def teachers(task, copies):
    """-> draw(rng), problem(x), response(x, rng, care): the right one where care is 1."""
    if task == "star":
        return draw_star, star_problem, star_response

    def response(x, rng=None, care=1):
        if care == 1:
            return sum_response(*x, copies)
        slip = careless(rng)

        def seldom(total, d):
            return slip(total, d) if rng.random() < 1 - care else total + d

        return sum_response(*x, copies, seldom)

    return draw_filler, lambda x: write_sum(*x) + "=", response


def draw_problems(rng, count, seen, draw, problem):
    """`count` instances whose problems are not in the set `seen`, which grows by them."""
    found = []
    while len(found) < count:
        x = draw(rng)
        if problem(x) not in seen:
            seen.add(problem(x))
            found.append(x)
    return found


def write_problems(file, name, instances, problem, response):
    lines = []
    for i, x in enumerate(instances):
        solution = response(x)
        answer = solution.partition("\\boxed{")[2].rstrip("}") or solution
        row = {"id": f"{name}-{i}", "problem": problem(x), "answer": answer}
        lines.append(json.dumps(row | {"solution": solution}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def imitate(model, tokenizer, rng, lessons, size, held_out, teacher):
    """Supervised training on the teacher's responses, with a learning rate that falls to 0."""
    draw, problem, response = teacher
    plan = [care for steps, care in lessons for _ in range(steps)]
    steps, started = len(plan), time.time()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step, care in enumerate(plan, start=1):
        tokens, targets = [], []
        for x in draw_problems(rng, size, set(held_out), draw, problem):
            prompt = tokenizer.encode(problem(x))
            ids = tokenizer.encode(response(x, rng, care)) + tokenizer.eos_ids
            tokens.append(torch.tensor(prompt + ids))
            targets.append(torch.tensor([NO_LOSS] * len(prompt) + ids))
        tokens, targets = pad_sequence(tokens, True), pad_sequence(targets, True, NO_LOSS)
        logits = model(tokens[:, :-1])  # [B, T - 1, V]
        loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
        lr = PEAK_LR * min(step / WARMUP, 1 - (step - 1) / steps)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            seconds = time.time() - started
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)


def report(model, tokenizer, instances, teacher, samples=4):
    """Sample and print how many responses are the right solution, and where the wrong ones err."""
    _, problem, response = teacher
    prompts = [tokenizer.encode(problem(x)) for x in instances]
    rollouts = generate(
        model, prompts, samples_per_prompt=samples, max_new_tokens=200, stop_ids=tokenizer.eos_ids
    )
    places = []
    for i, r in enumerate(rollouts):
        solution = tokenizer.encode(response(instances[i // samples])) + tokenizer.eos_ids
        places.append(first_wrong(r.response_ids, solution))
    right = places.count(None) / len(places)
    tokens = sum(len(r.response_ids) for r in rollouts) / len(rollouts)
    finished = sum(r.finished for r in rollouts) / len(rollouts)
    print(f"{right:.3f} are the right solution, {finished:.1%} finished, {tokens:.1f} tokens")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=LESSONS)
    parser.add_argument("--out", type=Path, help="folder (default: runs/experiments/TASK)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=COPIES, help="how often a line is written")
    args = parser.parse_args()
    out = args.out or WORK / args.task
    teacher = draw, problem, response = teachers(args.task, args.copies)

    # The test problems come first, and nothing after them may repeat one.
    rng, seen = random.Random(args.seed), set()
    test = draw_problems(rng, TEST, seen, draw, problem)
    held_out = set(seen)
    train = draw_problems(rng, TRAIN, seen, draw, problem)
    write_folder(out / "model")
    write_problems(out / "train.jsonl", "train", train, problem, response)
    write_problems(out / "test.jsonl", "test", test, problem, response)
    tokenizer = Tokenizer.from_pretrained(out / "model")
    if args.task == "star":
        model = new_model(out / "model", args.seed)
    else:  # the demo's model can do sums already
        model = keep_less(load_model(ROOT / "demo" / "model"))
        model.folder = out / "model"
    imitate(model, tokenizer, rng, LESSONS[args.task], BATCH[args.task], held_out, teacher)
    save_model(model, out / "model")
    report(model, tokenizer, test, teacher)


if __name__ == "__main__":
    main()
