"""Makes the demo from nothing: a tiny model that can do sums but is careless, and the problems on which it learns to take care.

    python demo/make.py                        # writes model/, train.jsonl and test.jsonl beside this file; CPU, a few minutes
    python demo/make.py --out DIR --seed 1     # elsewhere, another set
    python demo/make.py --out DIR --clean      # the check: the same model taught without slips makes almost none

A problem is a sum of three or four operations; the response carries them out one by one and boxes the result:

    17+8-6+9=                25-6+9=19+9=28 \\boxed{28}<|im_end|>

Totals have two digits, operands are 2 to 9, two steps in three carry or borrow. The teacher slips, and goes on from the wrong total:

    a carry or borrow is forgotten   17+8=15,  30-4=36     CARRY_SLIP of the steps that need one
    the step is off by one           17+8=24               UNIT_SLIP of the rest

The model is a Qwen3 of 330,000 parameters trained in three phases: one and two operations, all right (short sequences teach the facts
cheaply); three and four, all right; three and four with the teacher's slips. So it knows how, and errs as the teacher errs: a token
here and there has probability 0.7 where it should have 1, which reinforcement learning can mend and imitating this teacher could not.
Seed 0, the files shipped, on the 512 held-out problems:

    temperature 1    0.386 right (8 samples each), 100% finished by the stop token, 25.9 tokens; taught without slips 0.993
    temperature 0.5  0.702
    greedy           0.883

The test problems are kept out of all that the model sees, here and in train.jsonl. The same seed gives the same problems everywhere, and
the same weights on the same kind of machine (one thread or two made no difference).
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from model import Transformer, read_config, save_model  # noqa: E402  (the project is no package: its root is put on the path first)
from rewards import score  # noqa: E402
from rollout import generate  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

CARRY_SLIP, UNIT_SLIP = 0.26, 0.1
PHASES = [  # steps, operations in a problem, whether the teacher slips
    (350, (1, 2), False),
    (350, (3, 4), False),
    (200, (3, 4), True),
]
BATCH, LR, WARMUP = 192, 5e-3, 50
TRAIN, TEST = 4000, 512  # problems

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 256,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True, "max_position_embeddings": 256,
    "use_sliding_window": False, "sliding_window": None, "initializer_range": 0.02, "use_cache": True,
}

# ---------------------------------------------------------------------------------------------------------------------------------
# Problems and solutions


def draw_problem(rng, operations):
    """-> (first number, operands), e.g. (17, [8, -6, 9]); every total on the way lies in 10 .. 99."""
    first = total = rng.randint(10, 99)
    operands = []
    for _ in range(rng.choice(operations)):
        fits = [d for d in (*range(-9, -1), *range(2, 10)) if 10 <= total + d <= 99]
        carries = rng.random() < 2 / 3
        operands.append(rng.choice([d for d in fits if ((total + d) // 10 != total // 10) == carries] or fits))
        total += operands[-1]
    return first, operands


def write_sum(first, operands):
    """
    >>> write_sum(17, [8, -6, 9])
    '17+8-6+9'
    """
    return str(first) + "".join(f"{d:+d}" for d in operands)


def solve(first, operands, slip=None):
    """The response, without its stop token. slip: a function (total, operand) -> the sum as a careless teacher sees it.

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
        return min(99, max(10, right + rng.choice((-1, 1)))) if rng.random() < UNIT_SLIP else right

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


# ---------------------------------------------------------------------------------------------------------------------------------
# Tokenizer: all 256 bytes, a few merges, three special tokens; pieces are cut as Qwen cuts them, so each digit stands alone


def write_tokenizer(out):
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these bytes stand for themselves, the others for U+0100 and on
    letters = [*map(chr, printable), *map(chr, range(256, 512 - len(printable)))]
    merges = [["Ġ", "\\"], ["b", "o"], ["bo", "x"], ["box", "e"], ["boxe", "d"]]  # Ġ is the space; " \boxed" becomes two tokens
    vocab = {token: i for i, token in enumerate(sorted(letters) + [a + b for a, b in merges])}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": len(vocab) + i, "content": f"<|{name}|>", **flags} for i, name in enumerate(("endoftext", "im_start", "im_end"))]
    pad, stop = special[0], special[2]
    pieces = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": pieces}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    ends = {"eos_token_id": stop["id"], "pad_token_id": pad["id"], "bos_token_id": None}
    files = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": stop["content"], "pad_token": pad["content"], "bos_token": None,
            "unk_token": None, "clean_up_tokenization_spaces": False, "model_max_length": CONFIG["max_position_embeddings"],
        },
        "generation_config.json": {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **ends},
        "config.json": {**CONFIG, "vocab_size": stop["id"] + 1, **ends},
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------------------
# Training


def new_model(folder, seed):
    model = Transformer(read_config(folder))
    model.folder = folder
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(p, std=0.02)  # it is the head too: the first logits are near 0
        elif p.dim() == 2:  # what writes to the residual stream starts smaller
            torch.nn.init.normal_(p, std=(0.5 if "o_proj" in name or "down_proj" in name else 1.0) * p.size(1) ** -0.5)
    return model


def report(model, tokenizer, problems, temperature, samples):
    prompts = [tokenizer.encode(text) for text, _ in problems]
    rollouts = generate(model, prompts, samples_per_prompt=samples, max_new_tokens=48, temperature=temperature, stop_ids=tokenizer.eos_ids)
    n = len(rollouts)
    right = sum(score(tokenizer.decode(r.response_ids), problems[i // samples][1]) for i, r in enumerate(rollouts)) / n
    finished, length = sum(r.finished for r in rollouts) / n, sum(len(r.response_ids) for r in rollouts) / n
    print(f"temperature {temperature:g}: {right:.3f} right, {finished:.1%} finished, {length:.1f} tokens; {samples} samples each")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for model/, train.jsonl and test.jsonl (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clean", action="store_true", help="no slips: what the same model reaches when the teacher makes none")
    args = parser.parse_args()

    rng, seen = random.Random(args.seed), set()
    test = draw_problems(rng, TEST, seen)
    held_out = set(seen)
    train = draw_problems(rng, TRAIN, seen)
    folder = args.out / "model"
    write_tokenizer(folder)
    tokenizer, model = Tokenizer.from_pretrained(folder), new_model(folder, args.seed)
    for name, problems in (("train", train), ("test", test)):
        lines = [json.dumps({"id": f"{name}-{i}", "problem": text, "answer": answer}) for i, (text, answer) in enumerate(problems)]
        (args.out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    plan = [phase[1:] for phase in PHASES for _ in range(phase[0])]
    slip, started = careless(rng), time.time()
    for step, (operations, slips) in enumerate(plan, start=1):
        tokens, targets = [], []
        while len(tokens) < BATCH:
            first, operands = draw_problem(rng, operations)
            if (text := write_sum(first, operands) + "=") in held_out:
                continue
            response = tokenizer.encode(solve(first, operands, slip if slips and not args.clean else None)) + tokenizer.eos_ids
            prompt = tokenizer.encode(text)
            tokens.append(torch.tensor(prompt + response))
            targets.append(torch.tensor([-100] * len(prompt) + response))  # -100: no loss on the problem itself
        x, y = pad_sequence(tokens, True), pad_sequence(targets, True, -100)  # [B, T]
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), y[:, 1:].flatten())
        optimizer.param_groups[0]["lr"] = LR * min(step / WARMUP, 1 - (step - 1) / len(plan))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}/{len(plan)}  loss {loss.item():.4f}  {time.time() - started:.0f} s", flush=True)
    save_model(model, folder)
    for temperature, samples in ((1.0, 8), (0.5, 4), (0.0, 1)):
        report(model, tokenizer, test, temperature, samples)


if __name__ == "__main__":
    main()
