"""Are the default flags safe at any length, and is the old collapse gone?

    python experiments/defaults.py                          # demo, 1,000 tokens, the old collapse
    python experiments/defaults.py --smollm2 DIR            # SmolLM2 with 50-token answers as well

Each setting is trained for a while with the method's default flags (no --beta, --actor-share,
--gae-lambda and so on). A row of results/defaults.jsonl says whether train.py warned, how the
accuracy went, and what c_A and the actor's share were.

    demo       the demo as it is: about 25 tokens
    long       about 1,000 tokens: a tiny model with random weights, and an artificial reward
    smollm2    SmolLM2-135M, sums in a template whose answers have about 50 tokens
    coef_5e-3  the demo with --actor-coef 5e-3, the authors' value for 1,000 tokens
"""

import argparse
import json
import math
import shutil

import smollm2
import torch
from launch import RESULTS, WORK, read_jsonl, rounded, run_all, summarise, train

from demo.make import new_model, write_folder
from model import save_model

LONG, TOKENS = WORK / "long", 1400  # cut at 1,500, about 1,000 are left on average
DEMO = {  # as train.py trains the demo, but for its fixed c_A
    "model": "demo/model",
    "data": "demo/train.jsonl",
    "eval-data": "demo/test.jsonl",
    "eval-top-p": 1.0,
    "prompts-per-step": 64,
    "max-new-tokens": 48,
    "lr": 5e-4,
    "warmup": 5,
    "weight-decay": 0.0,
    "steps": 60,
    "save-every": 0,
}
SETTINGS = {
    "demo": DEMO,
    "long": {
        "model": "runs/experiments/long/model",
        "data": "runs/experiments/long/train.jsonl",
        "reward": "experiments/grades.py:even",
        "max-new-tokens": 1500,
        "prompts-per-step": 4,
        "lr": 1e-4,
        "warmup": 2,
        "steps": 15,
        "save-every": 0,
    },
    "coef_5e-3": DEMO | {"actor-coef": 5e-3, "steps": 30},
    "smollm2": {
        "model": "runs/experiments/smollm2/model",
        "data": "runs/experiments/smollm2/train.jsonl",
        "prompt-template": "runs/experiments/smollm2/template_long.txt",
        "max-new-tokens": 70,
        "prompts-per-step": 8,
        "lr": 1e-5,
        "warmup": 2,
        "steps": 6,
        "save-every": 0,
    },
}


def prepare_long():
    """A random model that stops after about TOKENS tokens, and problems for it.

    All embeddings have a large common part, so that the last hidden state is about a vector of
    ones, and the head of the stop token is set so that its logit is below the others' by what it
    takes. Parameters have no bias that could do it.
    """
    folder = LONG / "model"
    write_folder(folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    model = new_model(folder, seed=0)
    stop, size = config["eos_token_id"], model.config.D
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(5.0)
        torch.nn.init.normal_(model.lm_head.weight, std=0.02)
        model.lm_head.weight[stop] = -math.log(TOKENS / model.config.V) / size
    save_model(model, folder)
    rows = [{"id": str(i), "problem": f"Write {i}:", "answer": "even"} for i in range(200)]
    (LONG / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_job(job):
    folder, seconds, warnings = train(f"defaults-{job['setting']}-{job['seed']}", job["flags"])
    coefs = [rounded(row["actor_coef"], 8) for row in read_jsonl(folder / "metrics.jsonl")]
    row = job | summarise(folder) | {"actor_coef": coefs, "warnings": warnings}
    shutil.rmtree(folder)
    return row | {"seconds": seconds}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", metavar="DIR", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    prepare_long()
    if args.smollm2:
        smollm2.prepare(args.smollm2)
    jobs = []
    for setting, flags in SETTINGS.items():
        if args.smollm2 or setting != "smollm2":
            flags = flags | {"seed": 0, "device": "cpu"}
            jobs.append({"setting": setting, "seed": 0, "flags": flags})
    run_all(jobs, RESULTS / "defaults.jsonl", args.jobs, run=run_job)


if __name__ == "__main__":
    main()
