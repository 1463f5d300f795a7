"""Makes the demo from nothing: a tiny model that can do sums but is careless, and the problems on
which it learns to take care.

    python demo/make.py                        # writes model/, train.jsonl, test.jsonl beside it
    python demo/make.py --out DIR --seed 1     # elsewhere, another set
    python demo/make.py --out DIR --clean      # the check: without slips in its lessons

It takes a few minutes on a CPU. A problem is a sum of three or four operations; the response
carries them out one by one and boxes the result:

    17+8-6+9=                25-6+9=19+9=28 \\boxed{28}<|im_end|>

Totals have two digits, operands are 2 to 9, two steps in three carry or borrow. The teacher slips,
and goes on from the wrong total:

    a carry or borrow is forgotten   17+8=15,  30-4=36     CARRY_SLIP of the steps that need one
    the step is off by one           17+8=24               UNIT_SLIP of the rest

The model is a Qwen3 of 330,000 parameters trained in three phases: one and two operations, all
right (short sequences teach the facts cheaply); three and four, all right; three and four with the
teacher's slips. So it knows how, and errs as the teacher errs: a token here and there has
probability 0.7 where it should have 1, which reinforcement learning can mend and imitating this
teacher could not. Seed 0, the files shipped, on the 512 held-out problems:

    temperature 1    0.386 right (8 samples each), 100% finished by the stop token, 25.9 tokens;
                     taught without slips 0.993
    temperature 0.5  0.702
    greedy           0.883

The test problems are kept out of all that the model sees, here and in train.jsonl. The same seed
gives the same problems and tokenizer everywhere, to the byte. Weights are equal up to rounding at
first (1e-6 after 40 steps), and training makes rounding large: another machine, another version of
torch or of this code gives another model, about as careless.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the project is no package: its root goes on the path first

import lib  # noqa: E402, F401, I001  before torch: it sets how torch's threads wait

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils.rnn import pad_sequence  # noqa: E402

from lib.checkpoint import read_config  # noqa: E402
from lib.tokenizer import Tokenizer  # noqa: E402
from model import Transformer, save_model  # noqa: E402
from rewards import score  # noqa: E402
from rollout import generate  # noqa: E402

CARRY_SLIP, UNIT_SLIP = 0.26, 0.1
PHASES = [  # steps, operations in a problem, whether the teacher slips
    (350, (1, 2), False),
    (350, (3, 4), False),
    (200, (3, 4), True),
]
BATCH, LR, WARMUP = 192, 5e-3, 50
TRAIN, TEST = 4000, 512  # problems
NO_LOSS = -100  # the target of a token that is not learned: the problem itself, and padding

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "use_sliding_window": False,
    "sliding_window": None,
    "initializer_range": 0.02,
    "use_cache": True,
}


# ---- Problems and solutions ----------------------------------------------------------------------


def draw_problem(rng, operations):
    """-> (first number, operands), e.g. (17, [8, -6, 9]); every total on the way is 10 to 99."""
    first = total = rng.randint(10, 99)
    operands = []
    for _ in range(rng.choice(operations)):
        fits = [d for d in (*range(-9, -1), *range(2, 10)) if 10 <= total + d <= 99]
        # Two steps in three shall carry or borrow, where there is such an operand.
        carries = rng.random() < 2 / 3
        wanted = [d for d in fits if ((total + d) // 10 != total // 10) == carries]
        operands.append(rng.choice(wanted or fits))
        total += operands[-1]
    return first, operands


def write_sum(first, operands):
    """
    >>> write_sum(17, [8, -6, 9])
    '17+8-6+9'
    """
    return str(first) + "".join(f"{d:+d}" for d in operands)


def solve(first, operands, slip=None):
    """The response, without its stop token.

    slip: a function (total, operand) -> the sum as a careless teacher sees it.

    >>> solve(17, [8, -6, 9])
    '25-6+9=19+9=28 \\\\boxed{28}'
    """
    total, lines = first, []
    for i, d in enumerate(operands):
        total = slip(total, d) if slip else total + d
        lines.append(write_sum(total, operands[i + 1 :]))
    return "=".join(lines) + f" \\boxed{{{total}}}"


def careless(rng):
    """The teacher's arithmetic: total + operand, mostly."""

    def add(total, d):
        right = total + d
        if right // 10 != total // 10 and rng.random() < CARRY_SLIP:
            return total // 10 * 10 + right % 10
        if rng.random() < UNIT_SLIP:
            return min(99, max(10, right + rng.choice((-1, 1))))
        return right

    return add


def draw_problems(rng, count, seen):
    """`count` different problems that are not in the set `seen`, which grows by them."""
    problems = []
    while len(problems) < count:
        first, operands = draw_problem(rng, PHASES[-1][1])
        text = write_sum(first, operands) + "="
        if text not in seen:
            seen.add(text)
            problems.append((text, str(first + sum(operands))))
    return problems


# ---- Tokenizer: all 256 bytes, a few merges, three special tokens --------------------------------


def byte_letters():
    """The letters that stand for the 256 bytes in such a file, sorted.

    Printable bytes stand for themselves, the others for U+0100 and on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = range(256, 512 - len(printable))
    return sorted(map(chr, [*printable, *others]))


def tokenizer_json():
    """The content of tokenizer.json."""
    # The first letter is the space, so " \boxed" becomes two tokens.
    merges = [["Ġ", "\\"], ["b", "o"], ["bo", "x"], ["box", "e"], ["boxe", "d"]]
    tokens = byte_letters() + [a + b for a, b in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    flags |= {"normalized": False, "special": True}
    special = []
    for i, name in enumerate(("endoftext", "im_start", "im_end")):
        special.append({"id": len(vocab) + i, "content": f"<|{name}|>", **flags})
    # Text is cut into pieces as Qwen cuts it: each digit stands alone.
    pieces = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pieces}}
    split |= {"behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    byte_level |= {"trim_offsets": False, "use_regex": False}
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": ""}
    bpe |= {"end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False}
    bpe |= {"ignore_merges": False, "vocab": vocab, "merges": merges}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": bpe,
    }


def write_folder(folder):
    """The model folder, all but the weights."""
    tokenizer = tokenizer_json()
    pad, _, stop = tokenizer["added_tokens"]
    ends = {"eos_token_id": stop["id"], "pad_token_id": pad["id"], "bos_token_id": None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": stop["content"],
        "pad_token": pad["content"],
        "bos_token": None,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
    }
    sampling = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
        "generation_config.json": sampling | ends,
        "config.json": CONFIG | {"vocab_size": stop["id"] + 1} | ends,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def write_problems(file, name, problems):
    lines = []
    for i, (text, answer) in enumerate(problems):
        lines.append(json.dumps({"id": f"{name}-{i}", "problem": text, "answer": answer}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- Training ------------------------------------------------------------------------------------


def new_model(folder, seed):
    """Random weights for the config.json in the folder."""
    model = Transformer(read_config(folder))
    model.folder = folder
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(p, std=0.02)  # it is the head too: the first logits are near 0
        elif p.dim() == 2:
            # What writes to the residual stream starts smaller.
            writes = "o_proj" in name or "down_proj" in name
            torch.nn.init.normal_(p, std=(0.5 if writes else 1.0) * p.size(1) ** -0.5)
    return model


def draw_batch(tokenizer, rng, operations, slip, held_out):
    """-> tokens [B, T] and what to predict, [B, T], for problems and the teacher's responses."""
    tokens, targets = [], []
    while len(tokens) < BATCH:
        first, operands = draw_problem(rng, operations)
        text = write_sum(first, operands) + "="
        if text in held_out:
            continue
        response = tokenizer.encode(solve(first, operands, slip)) + tokenizer.eos_ids
        prompt = tokenizer.encode(text)
        tokens.append(torch.tensor(prompt + response))
        targets.append(torch.tensor([NO_LOSS] * len(prompt) + response))
    return pad_sequence(tokens, True), pad_sequence(targets, True, NO_LOSS)


def teach(model, tokenizer, rng, held_out, clean):
    """Three phases of supervised training, with a learning rate that falls to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    plan = []  # of each step: operations, whether the teacher slips
    for steps, operations, slips in PHASES:
        plan += [(operations, slips)] * steps
    slip, started = careless(rng), time.time()
    for step, (operations, slips) in enumerate(plan, start=1):
        wrong = slip if slips and not clean else None
        tokens, targets = draw_batch(tokenizer, rng, operations, wrong, held_out)
        logits = model(tokens[:, :-1])  # [B, T - 1, V]
        loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
        lr = LR * min(step / WARMUP, 1 - (step - 1) / len(plan))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            seconds = time.time() - started
            print(f"step {step}/{len(plan)}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)


def report(model, tokenizer, problems, temperature, samples):
    """Sample and print how many responses are right."""
    prompts = [tokenizer.encode(text) for text, _ in problems]
    rollouts = generate(
        model,
        prompts,
        samples_per_prompt=samples,
        max_new_tokens=48,
        temperature=temperature,
        stop_ids=tokenizer.eos_ids,
    )
    right = finished = tokens = 0
    for i, r in enumerate(rollouts):
        right += score(tokenizer.decode(r.response_ids), problems[i // samples][1])
        finished += r.finished
        tokens += len(r.response_ids)
    n = len(rollouts)
    print(
        f"temperature {temperature:g}: {right / n:.3f} right, {finished / n:.1%} finished, "
        f"{tokens / n:.1f} tokens; {samples} samples each"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = "folder for model/, train.jsonl and test.jsonl (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=HERE, help=files)
    parser.add_argument("--seed", type=int, default=0)
    clean = "no slips: what the same model reaches when the teacher makes none"
    parser.add_argument("--clean", action="store_true", help=clean)
    args = parser.parse_args()

    # The test problems come first, and nothing after them may repeat one.
    rng, seen = random.Random(args.seed), set()
    test = draw_problems(rng, TEST, seen)
    held_out = set(seen)
    train = draw_problems(rng, TRAIN, seen)
    folder = args.out / "model"
    write_folder(folder)
    write_problems(args.out / "train.jsonl", "train", train)
    write_problems(args.out / "test.jsonl", "test", test)
    tokenizer, model = Tokenizer.from_pretrained(folder), new_model(folder, args.seed)
    teach(model, tokenizer, rng, held_out, args.clean)
    save_model(model, folder)
    for temperature, samples in ((1.0, 8), (0.5, 4), (0.0, 1)):
        report(model, tokenizer, test, temperature, samples)


if __name__ == "__main__":
    main()
