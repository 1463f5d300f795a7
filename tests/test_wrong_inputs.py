"""What a hurried person gets wrong, and the one line that each mistake gets back, before anything
is slow.

A row: what was done; what was typed (behind --model, --data and --out of the demo, so that a later
flag wins; "without --flag" takes one of them away); what lies in the folder; and the whole line on
stderr, in which ... stands for any text: words of Python and of libraries, which change.
"""

import gzip
import importlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.checkpoint import read_config

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
GOOD = {
    "train.py": f"--model {DEMO}/model --data {DEMO}/train.jsonl --out RUN",
    "eval.py": f"--model {DEMO}/model --data {DEMO}/test.jsonl",
    "bench.py": f"--model {DEMO}/model --data {DEMO}/test.jsonl",
    "rewards.py": "",
}
SYSTEM = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1="}]
TALK = json.dumps({"prompt": SYSTEM, "answer": "2"})
LINE = '{"problem": "1+1=", "answer": "2"}\n'
POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""

# --------------------------------------------------------------------------------------------------
# Ways to prepare the folder


def files(**contents):
    """Files by their stems: files(f="text") writes f, files(r_py="text") r.py."""

    def prepare():
        for name, content in contents.items():
            content = content if isinstance(content, bytes) else content.encode()
            Path(name.replace("_", ".")).write_bytes(content)

    return prepare


def both(*steps):
    return lambda: [step() for step in steps]


def unreadable(name):
    Path(name).chmod(0)
    if os.access(name, os.R_OK):
        pytest.skip("root may read everything")


def folder(name, *inside):
    return lambda: (Path(name).mkdir(), [(Path(name) / f).write_text("") for f in inside])


def model(*edits):
    """A copy of the demo's checkpoint folder in m, changed."""

    def prepare():
        shutil.copytree(DEMO / "model", "m")
        for edit in edits:
            edit(Path("m"))

    return prepare


def put(name, content):
    content = content if isinstance(content, bytes) else content.encode()
    return lambda m: (m / name).write_bytes(content)


def cut(name, size):
    return lambda m: put(name, (m / name).read_bytes()[:size])(m)


def drop(*names):
    return lambda m: [(m / name).unlink() for name in names]


def rename(name, other):
    return lambda m: (m / name).rename(m / other)


def only(*names):
    return lambda m: ([f.unlink() for f in m.iterdir()], [put(name, "{}")(m) for name in names])


def edit_json(name, **changes):
    return lambda m: put(name, json.dumps(json.loads((m / name).read_text()) | changes))(m)


def config(**changes):
    return edit_json("config.json", **changes)


def chat_template(template):
    return edit_json("tokenizer_config.json", chat_template=template)


def edit_bpe(**changes):
    """The model inside tokenizer.json, changed."""

    def edit(m):
        bpe = json.loads((m / "tokenizer.json").read_text())["model"]
        edit_json("tokenizer.json", model=bpe | changes)(m)

    return edit


def more_tokens(m):
    """An added token behind the last id of the model's vocabulary, 263."""
    token = {"id": 264, "content": "<new>", "special": True, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    added = json.loads((m / "tokenizer.json").read_text())["added_tokens"]
    edit_json("tokenizer.json", added_tokens=[*added, token])(m)


def tensors(**changes):
    """The weights, with model.NAME.weight changed: None takes it away; another name is added."""

    def edit(m):
        state = load_file(m / "model.safetensors")
        for name, tensor in changes.items():
            state["model." + name.replace("_", ".") + ".weight"] = tensor
        kept = {name: t for name, t in state.items() if t is not None}
        save_file(kept, m / "model.safetensors")

    return edit


def shards(index):
    def edit(m):
        drop("model.safetensors")(m)
        put("model.safetensors.index.json", index)(m)

    return edit


REFUSES = "{{ raise_exception('roles must\n alternate') }}"
NO_SYSTEM = "{{ raise_exception('no system') if messages[0].role == 'system' else '1+1=' }}"
GOOD_REWARD = "half = 0.5\n\n\ndef right(response, problem):\n    return 1\n"

# --------------------------------------------------------------------------------------------------
# Flags

NUMBERS = [  # what was done, the flag, its value, what was wanted
    ("a negative number", "--steps", "-1", "a whole number at least 1"),
    ("a fraction", "--steps", "2.5", "a whole number at least 1"),
    ("half of nothing", "--epochs", "0", "a number above 0"),
    ("a number with a unit", "--max-new-tokens", "4k", "a whole number at least 1"),
    ("no prompts", "--prompts-per-step", "0", "a whole number at least 1"),
    ("no updates", "--updates-per-step", "0", "a whole number at least 1"),
    ("a number with a comma", "--lr", "1e-6,", "a number above 0"),
    ("not a number", "--lr", "nan", "a number above 0"),
    ("an infinite number", "--beta", "inf", "a number above 0"),
    ("greedy training", "--temperature", "0", "a number above 0"),
    ("top-p in percent", "--top-p", "70", "a number at most 1 and above 0"),
    ("a top-k below none", "--top-k", "-1", "a whole number at least 0"),
    ("lambda above 1", "--gae-lambda", "1.1", "a number at least 0 and at most 1"),
    ("clipping everything", "--clip-low", "1", "a number at least 0 and below 1"),
    ("dual clip of 1", "--dual-clip", "1", "a number above 1"),
    ("noise in percent", "--reward-noise", "10", "a number at least 0 and at most 1"),
    ("an actor that pulls back", "--actor-share", "-1", "a number at least 0"),
    ("a coefficient in words", "--actor-coef", "auto", "a number at least 0"),
    ("saving before anything", "--save-every", "-1", "a whole number at least 0"),
    ("no checkpoint kept", "--keep", "0", "a whole number at least 1"),
    ("no gradient left", "--grad-clip", "0", "a number above 0"),
    ("weights that grow", "--weight-decay", "-0.1", "a number at least 0"),
    ("a warm-up that is over", "--warmup", "-5", "a whole number at least 0"),
    ("no slots", "--slots", "0", "a whole number at least 1"),
    ("no memory", "--tokens-per-microbatch", "8k", "a whole number at least 1"),
    ("an evaluation of nothing", "--eval-top-p", "0", "a number at most 1 and above 0"),
]
CHOICES = [  # what was done, the flag, its value, some of the choices
    ("an unknown method", "--algo", "ppo", "...vimpo..., ...grpo..."),
    ("a method by its family name", "--algo", "reinforce", "...vimpo..., ...rloo..."),
    ("an unknown estimator", "--kl", "k1", "...exact..., ...k3..."),
    ("an unknown loss", "--value-loss", "mse", "...squared..., ...huber..."),
    ("noise by the token", "--reward-noise-by", "token", "...group..., ...response..."),
    ("no such dtype", "--dtype", "fp16", "...fp32..., ...bf16..."),
]
SEE = " (see train.py --help)"
CUDA_COUNT = "torch ... sees 0 CUDA devices here; wanted auto, cpu or one of those"
MISSING = "is missing; wanted --model and --data"
FLAGS = [
    ("a group of one", "train.py --samples-per-prompt 1", None,
     "--samples-per-prompt is 1; wanted 2 or more: vimpo compares the samples of a prompt, and one "
     "has no baseline" + SEE),
    ("a seed that is no number", "train.py --seed x", None,
     "argument --seed: invalid int value: 'x'" + SEE),
    ("an unknown flag", "train.py --gamma 1", None, "unrecognized arguments: --gamma 1" + SEE),
    ("underscores", "train.py --max_new_tokens 5", None,
     "unrecognized arguments: --max_new_tokens 5: flags have dashes, no underscores" + SEE),
    ("half a flag", "train.py --eval 5", None,
     "ambiguous option: --eval could match --eval-data, --eval-every, ..."),
    ("a value without a flag", "train.py --resume 1", None, "unrecognized arguments: 1" + SEE),
    ("a switch with a value", "train.py --log-kl yes", None, "unrecognized arguments: yes" + SEE),
    ("a flag without a value", "train.py --data", None,
     "argument --data: expected at least one argument" + SEE),
    ("two rewards", "train.py --reward math r.py:f", None,
     "unrecognized arguments: r.py:f" + SEE),
    ("two lengths", "train.py --steps 1 --epochs 1", None,
     "--steps and --epochs; wanted one of them" + SEE),
    ("no --model", "train.py without --model", None,
     f"--model {MISSING}, or for the demo neither" + SEE),
    ("no --data", "train.py without --data", None,
     f"--data {MISSING}, or for the demo neither" + SEE),
    ("no such device", "train.py --device gpu", None,
     "--device is 'gpu'; wanted auto, cpu, cuda or cuda:N"),
    ("a device's bare number", "train.py --device 0", None,
     "--device is '0'; wanted auto, cpu, cuda or cuda:N"),
    ("CUDA without CUDA", "train.py --device cuda", None, f"--device cuda: {CUDA_COUNT}"),
    ("a GPU too many", "train.py --device cuda:77", None, f"--device cuda:77: {CUDA_COUNT}"),
    ("another kind of device", "train.py --device mps", None, f"--device mps: {CUDA_COUNT}"),
    ("eval: no model", "eval.py without --model", None, f"--model {MISSING} (see eval.py --help)"),
    ("eval: no data", "eval.py without --data", None, f"--data {MISSING} (see eval.py --help)"),
    ("eval: no samples", "eval.py --samples 0", None,
     "argument --samples: found '0', wanted a whole number at least 1 (see eval.py --help)"),
    ("eval: top-p of 0", "eval.py --top-p 0", None,
     "argument --top-p: found '0', wanted a number at most 1 and above 0 (see eval.py --help)"),
    ("eval: colder than greedy", "eval.py --temperature -1", None,
     "argument --temperature: found '-1', wanted a number at least 0 (see eval.py --help)"),
    ("eval: no such device", "eval.py --device gpu", None,
     "--device is 'gpu'; wanted auto, cpu, cuda or cuda:N"),
    ("bench: no rounds", "bench.py --rounds 0", None,
     "argument --rounds: found '0', wanted a whole number at least 1 (see bench.py --help)"),
    ("bench: an unknown part", "bench.py --only speed", None,
     "argument --only: invalid choice: 'speed' (choose from ...sampling..., ...)..."),
    ("bench: data without a model", "bench.py without --model", None,
     "--data wants --model: random weights have no tokenizer"),
    ("bench: CUDA without CUDA", "bench.py --device cuda --quick", None,
     f"--device cuda: {CUDA_COUNT}"),
]  # fmt: skip
for what, flag, value, wanted in NUMBERS:
    says = f"argument {flag}: found '{value}', wanted {wanted}" + SEE
    FLAGS.append((what, f"train.py {flag} {value}", None, says))
for what, flag, value, names in CHOICES:
    says = f"argument {flag}: invalid choice: '{value}' (choose from {names})..."
    FLAGS.append((what, f"train.py {flag} {value}", None, says))

# --------------------------------------------------------------------------------------------------
# Files and folders

FOLDER = "wanted a checkpoint folder with config.json and *.safetensors"
HUB = f"no such folder, and nothing is downloaded; {FOLDER}"
TILDE = "(the shell expands ~ only outside quotes, and not behind =)"
JSONL = "wanted a JSONL file of problems"
ABSENT = f"No such file or directory; {JSONL}"
TEMPLATE = "wanted chat, plain, or a text file with {problem} in it"
PATHS = [
    ("a model that is not there", "train.py --model nowhere", None, f"nowhere: {HUB}"),
    ("a model's name on a hub", "train.py --model Qwen/Qwen3-0.6B", None,
     f"Qwen/Qwen3-0.6B: {HUB}"),
    ("a file as the model", "train.py --model m/model.safetensors", model(),
     f"m/model.safetensors: a file, no such folder, ...; {FOLDER}"),
    ("an empty variable as the model", "train.py --model ''", None,
     f"--model {MISSING}, or for the demo neither" + SEE),
    ("eval: an empty variable as the model", "eval.py --model ''", None,
     f"--model {MISSING} (see eval.py --help)"),
    ("~ in quotes", "train.py --model '~/m'", None, f"~/m: no such folder {TILDE}; {FOLDER}"),
    ("~ behind =", "train.py --data=~/d", None,
     f"~/d: No such file or directory {TILDE}; {JSONL}"),
    ("data that are not there", "train.py --data no.jsonl", None, f"no.jsonl: {ABSENT}"),
    ("files with a comma", "train.py --data a,b", None, f"a,b: {ABSENT}"),
    ("an empty variable as data", "train.py --data ''", None, f"'': {ABSENT}"),
    ("a folder as data", "train.py --data f", folder("f"), f"f: Is a directory; {JSONL}"),
    ("a link to itself as data", "train.py --data f", lambda: Path("f").symlink_to("f"),
     f"f: Too many levels of symbolic links; {JSONL}"),
    ("data of another user", "train.py --data f", both(files(f=LINE), lambda: unreadable("f")),
     f"f: Permission denied; {JSONL}"),
    ("a model of another user", "train.py --model m",
     model(lambda m: unreadable(m / "config.json")), "m/config.json: Permission denied"),
    ("the second file is not there", f"train.py --data '{DEMO}/test.jsonl' no.jsonl", None,
     f"no.jsonl: {ABSENT}"),
    ("held-out data that are not there", "train.py --eval-data no.jsonl", None,
     f"no.jsonl: {ABSENT}"),
    ("held-out data with a bad line", "train.py --eval-data d", files(d=LINE + "{}\n"),
     'd:2: no problem in it, only the keys []; wanted "problem", ...'),
    ("another run's folder", "train.py --out f", folder("f", "metrics.jsonl"),
     "--out f: holds another run; wanted a new folder, or --resume to go on with that one"),
    ("a file as the run's folder", "train.py --out f", files(f=""),
     "--out f: a file is in the way; wanted a new folder"),
    ("an empty variable as the run's folder", "train.py --out ''", None,
     "--out is empty; wanted a folder, or no --out to make a new one"),
    ("a run's folder in a file", "train.py --out f/run", files(f=""),
     "--out f/run: Not a directory; wanted a folder that can be made and written to"),
    ("a run's folder that can't be made", "train.py --out /proc/run", None,
     "--out /proc/run: No such file or directory; wanted a folder that ..."),
    ("a file where the runs go", "train.py without --out", files(runs=""),
     "--out runs/model-1: Not a directory; wanted a folder that can be made and written to"),
    ("nothing to resume", "train.py --resume", None,
     "--resume: RUN holds no run; leave --resume out to start one"),
    ("nothing to resume, and no --out", "train.py without --out --resume", None,
     "--resume: no run in runs/model-1, runs/model-2, ...; wanted --out"),
    ("a run of another name to resume", "train.py without --out --resume",
     both(folder("runs"), folder("runs/other-1", "config.json")),
     "--resume: no run in runs/model-1, runs/model-2, ...; wanted --out"),
    ("a run without settings to resume", "train.py --resume --out f", folder("f", "config.json"),
     "--resume: f/config.json is damaged; wanted the settings that this run began with"),
    ("no chat template", "train.py --prompt-template chat", None,
     "--prompt-template chat: this tokenizer has no chat template; wanted plain, or a file with "
     "{problem} in it"),
    ("a template that is not there", "train.py --prompt-template f", None,
     f"--prompt-template f: No such file or directory; {TEMPLATE}"),
    ("a folder as a template", "train.py --prompt-template f", folder("f"),
     f"--prompt-template f: Is a directory; {TEMPLATE}"),
    ("a template in UTF-16", "train.py --prompt-template f",
     files(f="{problem}".encode("utf-16")), f"--prompt-template f: not UTF-8 text; {TEMPLATE}"),
    ("a template without {problem}", "train.py --prompt-template f", files(f="Solve {question}"),
     "--prompt-template f: no {problem} in it; wanted a text file that says where the problem "
     "goes"),
    ("held-out messages that the template refuses", "train.py --model m --eval-data d",
     both(files(d=TALK), model(chat_template(NO_SYSTEM))),
     "m/tokenizer_config.json: chat template: no system (for problem d:1 of d); wanted messages "
     "and a template that agree"),
    ("eval: a model that is not there", "eval.py --model nowhere", None, f"nowhere: {HUB}"),
    ("eval: data that are not there", "eval.py --data no.jsonl", None, f"no.jsonl: {ABSENT}"),
    ("eval: a folder that is not there", "eval.py --out no/x.json", None,
     "--out no/x.json: no such folder no; wanted a file in a folder that exists"),
    ("eval: a folder as --out", "eval.py --out f", folder("f"),
     "--out f: a folder; wanted the name of a file"),
    ("eval: an empty variable as --out", "eval.py --out ''", None,
     "--out ...: a folder; wanted the name of a file"),
    ("eval: --out in a file", "eval.py --out f/x.json", files(f=""),
     "--out f/x.json: no such folder f; wanted a file in a folder that exists"),
    ("eval: --out that can't be written", "eval.py --out /proc/x.json", None,
     "--out /proc/x.json: No such file or directory; wanted a file that can be written"),
    ("bench: a model that is not there", "bench.py --model nowhere", None, f"nowhere: {HUB}"),
    ("bench: data that are not there", "bench.py --data no.jsonl", None, f"no.jsonl: {ABSENT}"),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------
# Rewards

MATH_OR = "wanted math or FILE.py:function"
TWO = "wanted a function (response, problem)"
PAIR = 'wanted {"gold": text, "response": text, "expected": true or false}'
ASKED = "wanted --gold and --response, or --data (see rewards.py --help)"
REWARDS = [
    ("a reward without a function", "train.py --reward r.py", files(r_py=GOOD_REWARD),
     f"--reward r.py: found 'r.py', {MATH_OR}"),
    ("a reward by a name of its own", "train.py --reward gsm8k", None,
     f"--reward gsm8k: found 'gsm8k', {MATH_OR}"),
    ("an empty variable as the reward", "train.py --reward ''", None,
     f"--reward ...: found '', {MATH_OR}"),
    ("a reward with nothing behind the colon", "train.py --reward r.py:",
     files(r_py=GOOD_REWARD), f"--reward r.py:: found 'r.py:', {MATH_OR}"),
    ("a reward as a module", "train.py --reward r:right", files(r_py=GOOD_REWARD),
     f"--reward r:right: found 'r:right', {MATH_OR}"),
    ("a reward that is not there", "train.py --reward no.py:right", None,
     f"--reward no.py:right: no file .../no.py, {MATH_OR}"),
    ("a reward function that is not there", "train.py --reward r.py:wrong",
     files(r_py=GOOD_REWARD), f"--reward r.py:wrong: .../r.py: wrong is not in it, {TWO}"),
    ("a reward that is no function", "train.py --reward r.py:half", files(r_py=GOOD_REWARD),
     f"--reward r.py:half: .../r.py: half is no function, {TWO}"),
    ("a reward with a typing error", "train.py --reward r.py:right",
     files(r_py=GOOD_REWARD + "def f(:\n"),
     "--reward r.py:right: .../r.py:6: SyntaxError: ..."),
    ("a reward that wants what is not installed", "train.py --reward r.py:right",
     files(r_py="\nimport no_such_library\n"),
     "--reward r.py:right: .../r.py:2: ModuleNotFoundError: No module named 'no_such_library'"),
    ("a reward file that ends the program", "train.py --reward r.py:right",
     files(r_py="import sys\nsys.exit(3)\n"), "--reward r.py:right: .../r.py:2: SystemExit: 3"),
    ("eval: a reward that is not there", "eval.py --reward no.py:right", None,
     f"--reward no.py:right: no file .../no.py, {MATH_OR}"),
    ("no answers, and no reward of one's own", "train.py --data d",
     files(d='{"problem": "1+1="}\n'),
     'd:1: no answer in it, only the keys ["problem"]; wanted...'),
    ("no problems for a reward of one's own", "train.py --data d --reward r.py:right",
     files(d='{"answer": "2"}\n', r_py=GOOD_REWARD),
     'd:1: no problem in it, only the keys ["answer"]; wanted...'),
    ("rewards: nothing asked", "rewards.py", None, ASKED),
    ("rewards: gold without a response", "rewards.py --gold 1", None, ASKED),
    ("rewards: gold and data", "rewards.py --gold 1 --data f", None, ASKED),
    ("rewards: an unknown flag", "rewards.py --answer 1", None,
     "unrecognized arguments: --answer 1 (see rewards.py --help)"),
    ("rewards: data that are not there", "rewards.py --data no.jsonl", None,
     "no.jsonl: No such file or directory"),
    ("rewards: a folder as data", "rewards.py --data f", folder("f"), "f: Is a directory"),
    ("rewards: no pairs", "rewards.py --data f", files(f="\n"), f"f:1: found '', {PAIR}"),
    ("rewards: an empty file", "rewards.py --data f", files(f=""), "f: no pairs in it"),
    ("rewards: gold is a number", "rewards.py --data f",
     files(f='{"gold": 1, "response": "x", "expected": true}'),
     "f:1: found '{\"gold\": 1, ...', " + PAIR),
    ("rewards: a huge line", "rewards.py --data f", files(f="{" + "x" * 10**7),
     "f:1: found '{" + "x" * 59 + "', " + PAIR),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------
# Data: what was done, what is in the file d, what is said

OBJECT = 'wanted UTF-8 text, each line an object like {"problem": ..., "answer": ...}'
TEXT = "wanted text, or a list of messages with role and content, both text"
ASKS = 'wanted "problem", "question", "prompt" or "messages"'
ANSWERS = 'wanted "answer", "reward_model" with "ground_truth", or "solution" with \\boxed{...}'
EXPECTS = "not valid JSON (Expecting value: character 1)"
PARTS = [{"role": "user", "content": [{"type": "text", "text": "1+1="}]}]
DATA = [
    ("an empty file", "", "d: no problems in it; wanted one JSON object a line"),
    ("empty lines", "\n \n", "d: no problems in it; wanted one JSON object a line"),
    ("a line of text", LINE + "not json\n", f'd:2: {EXPECTS}: "not json\\n"; {OBJECT}'),
    ("a line cut short", LINE * 3 + LINE[:24],
     'd:4: not valid JSON (...: character 21): "{\\"problem\\": \\"1+1=\\", \\"ans"; ' + OBJECT),
    ("a byte order mark", "\ufeff" + LINE,
     f"d:1: found a byte order mark (save it without one); {OBJECT}"),
    ("UTF-16", LINE.encode("utf-16"), f"d:1: found UTF-16 text; {OBJECT}"),
    ("Latin-1", LINE.encode() * 3000 + b'{"problem": "caf\xe9"',
     f"d:3001: not valid JSON ('utf-8' codec can't decode byte 0xe9 ...): ...; {OBJECT}"),
    ("CSV", "problem,answer\n1+1=,2\n", f'd:1: {EXPECTS}: "problem,answer\\n"; {OBJECT}'),
    ("Parquet", b"PAR1\x15\x04\x15\x10\xff",
     "d:1: found a Parquet file (pandas writes JSONL: to_json with orient='records' and "
     f"lines=True); {OBJECT}"),
    ("gzip", gzip.compress(LINE.encode()), f"d:1: found a gzip file; {OBJECT}"),
    ("zip", b"PK\3\4\x14\0\n", f"d:1: found a zip file; {OBJECT}"),
    ("a Git LFS pointer", POINTER,
     f"d:1: found a Git LFS pointer (git lfs pull fetches the file itself); {OBJECT}"),
    ("a JSON array", f"[{LINE.strip()}]",
     f'd:1: found [{{"problem": "1+1=", "answer": "2"}}]; {OBJECT}'),
    ("a JSON array over lines", f"[\n{LINE}]",
     f"d:1: found a JSON array over several lines; {OBJECT}"),
    ("a JSON object over lines", '{\n "problem": "1+1=",\n "answer": "2"\n}',
     f"d:1: found a JSON object over several lines; {OBJECT}"),
    ("a list in a line", LINE + '["1+1=", "2"]', f'd:2: found ["1+1=", "2"]; {OBJECT}'),
    ("a huge line", "{" + "x" * 10**7,
     'd:1: not valid JSON (...: character 2): "{' + "x" * 65 + f"...; {OBJECT}"),
    ("brackets without end", '{"problem": ' + "[" * 10**6,
     f'd:1: not valid JSON (...): "{{\\"problem\\": [[...; {OBJECT}'),
    ("a number without end", '{"answer": ' + "9" * 5000 + "}",
     f"d:1: not valid JSON (...4300...): ...; {OBJECT}"),
    ("other keys", '{"instruction": "1+1=", "output": "2"}',
     f'd:1: no problem in it, only the keys ["instruction", "output"]; {ASKS}'),
    ("a key in capitals", '{"Problem": "1+1=", "answer": "2"}',
     f'd:1: no problem in it, only the keys ["Problem", "answer"]; {ASKS}'),
    ("a thousand keys", json.dumps({f"key {i}": 0 for i in range(1000)}),
     f'd:1: no problem in it, only the keys ["key 0", "key 1", ..."key...; {ASKS}'),
    ("a problem of null", '{"problem": null, "answer": "2"}', f'd:1: "problem" is null; {TEXT}'),
    ("an empty problem", '{"problem": " ", "answer": "2"}', f'd:1: "problem" is " "; {TEXT}'),
    ("a problem that is a number", '{"problem": 3, "answer": "2"}',
     f'd:1: "problem" is 3; {TEXT}'),
    ("no messages", '{"prompt": [], "answer": "2"}', f'd:1: "prompt" is []; {TEXT}'),
    ("a message without content", '{"prompt": [{"role": "user"}], "answer": "2"}',
     f'd:1: "prompt" is [{{"role": "user"}}]; {TEXT}'),
    ("an empty message", '{"prompt": [{"role": "user", "content": ""}], "answer": "2"}',
     f'd:1: "prompt" is [{{"role": "user", "content": ""}}]; {TEXT}'),
    ("content in parts", json.dumps({"messages": PARTS, "answer": "2"}),
     f'd:1: "messages" is [...]; {TEXT}'),
    ("a prompt with its response",
     '{"prompt": [{"role": "assistant", "content": "2"}], "answer": "2"}',
     'd:1: "prompt" ends with a message of the assistant; wanted messages that the assistant is '
     "to answer"),
    ("no answer", '{"problem": "1+1=", "solution": "2"}',
     f'd:1: no answer in it, only the keys ["problem", "solution"]; {ANSWERS}'),
    ("a solution whose box does not end", '{"problem": "1+1=", "solution": "\\\\boxed{2"}',
     f'd:1: no answer in it, only the keys ["problem", "solution"]; {ANSWERS}'),
    ("an empty box", '{"problem": "1+1=", "solution": "\\\\boxed{ }"}',
     'd:1: the last box of "solution" is empty; wanted the right answer'),
    ("messages without an answer", '{"messages": [{"role": "user", "content": "1+1"}]}',
     f'd:1: no answer in it, only the keys ["messages"]; {ANSWERS}'),
    ("no ground truth", '{"prompt": "1+1=", "reward_model": {}}',
     f'd:1: no answer in it, only the keys ["prompt", "reward_model"]; {ANSWERS}'),
    ("an answer of null", '{"problem": "1+1=", "answer": null}',
     'd:1: "answer" is null; wanted text or a number'),
    ("a list of answers", '{"problem": "1+1=", "answer": ["2", "two"]}',
     'd:1: "answer" is ["2", "two"]; wanted text or a number'),
    ("an answer of true", '{"problem": "1+1=", "answer": true}',
     'd:1: "answer" is true; wanted text or a number'),
    ("an answer of NaN", '{"problem": "1+1=", "answer": NaN}',
     'd:1: "answer" is NaN; wanted text or a number'),
    ("an answer too large", '{"problem": "1+1=", "answer": 1e999}',
     'd:1: "answer" is Infinity; wanted text or a number'),
    ("an empty answer", '{"problem": "1+1=", "answer": " "}',
     'd:1: "answer" is empty; wanted the right answer'),
    ("nothing behind ####", '{"question": "1+1=", "answer": "One and one. ####"}',
     'd:1: "answer" is empty; wanted the right answer'),
    ("half a character", '{"problem": "1+1=\\ud83d", "answer": "2"}',
     "d:1: holds \\ud83d, half of a character; wanted whole ones"),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------
# Checkpoint folders: what was done, how, what is said

KINDS = "this project computes qwen3, qwen2 and llama (...) only"
DENSE = "this project computes plain dense weights only, every layer alike"
CONFIGS = [
    ("an empty folder", only(), f"m/config.json: not found (the folder is empty); {FOLDER}"),
    ("a LoRA adapter", only("adapter_config.json", "adapter_model.safetensors"),
     "m/config.json: not found (only adapter_config.json, adapter_model.safetensors); "
     f"{FOLDER}; merge the adapter into its base model first"),
    ("a GGUF file", only("q4.gguf"), f"m/config.json: not found (only q4.gguf); {FOLDER}"),
    ("a run instead of its checkpoint", put("config.json", '{"settings": {}, "versions": {}}'),
     "m/config.json: describes a training run; wanted the checkpoint in it, m/checkpoint"),
    ("an empty config.json", put("config.json", ""),
     f"m/config.json: not valid JSON (the file is empty); {FOLDER}"),
    ("config.json cut short", cut("config.json", 100),
     f"m/config.json: not valid JSON (...: line 7 column 1 (char 100)); {FOLDER}"),
    ("config.json is a picture", put("config.json", b"\x89PNG\r\n"),
     f"m/config.json: not valid JSON ('utf-8' codec can't decode...); {FOLDER}"),
    ("config.json is a list", put("config.json", "[]"),
     "m/config.json: found a JSON list, wanted an object"),
    ("config.json nests without end", put("config.json", "[" * 10**6),
     f"m/config.json: not valid JSON (...); {FOLDER}"),
    ("an unknown architecture", config(model_type="gemma3"),
     f"m/config.json: model_type is 'gemma3'; {KINDS}"),
    ("experts", config(model_type="qwen3_moe"),
     f"m/config.json: model_type is 'qwen3_moe'; {KINDS}"),
    ("experts in a dense family", config(num_experts=8),
     f"m/config.json: num_experts is 8; {DENSE}"),
    ("quantized weights", config(quantization_config={"quant_method": "gptq"}),
     f"m/config.json: quantization_config is {{'quant_method': 'gptq'}}; {DENSE}"),
    ("sliding windows", config(use_sliding_window=True),
     "m/config.json: use_sliding_window is True; this project computes full attention in every "
     "layer only"),
    ("yarn", config(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
     "m/config.json: rope type 'yarn' is unknown; wanted one of default, linear, llama3"),
    ("a width in quotes", config(hidden_size="96"),
     "m/config.json: hidden_size is '96'; wanted a positive whole number"),
]  # fmt: skip
NO_WEIGHTS = "m: no model.safetensors or model.safetensors.index.json"
SAFE = "m/model.safetensors: cut short, damaged or no safetensors file"
PUBLISHED = "wanted the weights as they were published"
SHARD = "model-00001-of-00002.safetensors"
WEIGHTS = [
    ("none", drop("model.safetensors"), f"{NO_WEIGHTS} (and no weights in another form)"),
    ("pickled weights", rename("model.safetensors", "pytorch_model.bin"),
     f"{NO_WEIGHTS} (only pytorch_model.bin; convert it with transformers' save_pretrained, or "
     "fetch what is missing)"),
    ("GGUF beside config.json", rename("model.safetensors", "q4.gguf"),
     f"{NO_WEIGHTS} (only q4.gguf; convert it..."),
    ("shards without their index", rename("model.safetensors", SHARD),
     f"{NO_WEIGHTS} (only {SHARD}; ... or fetch what is missing)"),
    ("an index of absent shards", shards(f'{{"weight_map": {{"model.norm.weight": "{SHARD}"}}}}'),
     f"m/model.safetensors.index.json: weight_map names '{SHARD}', which is not a file of m"),
    ("an index cut short", shards('{"weight_map": {"mod'),
     "m/model.safetensors.index.json: wanted a JSON object with a weight_map from tensor to "
     "file"),
    ("cut short", cut("model.safetensors", 500_000), f"{SAFE} (...not fully covered); {PUBLISHED}"),
    ("cut to their first bytes", cut("model.safetensors", 4),
     f"{SAFE} (...header too small); {PUBLISHED}"),
    ("empty", cut("model.safetensors", 0), f"{SAFE} (...header too small); {PUBLISHED}"),
    ("a web page as weights", put("model.safetensors", "<html>Not found</html>"),
     f"{SAFE} (...header too large); {PUBLISHED}"),
    ("noise as weights", put("model.safetensors", b"\x20" + bytes(7) + bytes(range(40))),
     f"{SAFE} (...); {PUBLISHED}"),
    ("a Git LFS pointer as weights", put("model.safetensors", POINTER),
     f"{SAFE} (a Git LFS pointer: git lfs pull fetches the file itself); {PUBLISHED}"),
    ("a tensor missing", tensors(norm=None),
     "m: tensor model.norm.weight is missing; config.json wants it"),
    ("layers missing", config(num_hidden_layers=4),
     "m: tensor model.layers.3.input_layernorm.weight is missing, and 10 more; config.json wants "
     "it"),
    ("a head missing", config(tie_word_embeddings=False),
     "m: tensor lm_head.weight is missing; config.json wants it"),
    ("a tensor too many", tensors(extra=torch.ones(1)),
     "m/model.safetensors: surplus tensor model.extra.weight, which config.json does not account "
     "for"),
    ("another vocabulary", config(vocab_size=300),
     "m/model.safetensors: tensor model.embed_tokens.weight has shape [264, 96]; config.json "
     "wants [300, 96]"),
    ("fp8", tensors(norm=torch.ones(96).to(torch.float8_e4m3fn)),
     "m/model.safetensors: tensor model.norm.weight is F8_E4M3; wanted bf16, fp16 or fp32"),
    ("int8", tensors(norm=torch.ones(96, dtype=torch.int8)),
     "m/model.safetensors: tensor model.norm.weight is I8; wanted bf16, fp16 or fp32"),
]  # fmt: skip
LIKE = "wanted a tokenizer as that of Qwen2/3, Llama 3 or SmolLM2"
BPE = "is not byte-level BPE"
AS_IT_WAS = "wanted the file as it was published"
AGREE = "wanted messages and a template that agree"
TOKENIZERS = [
    ("no tokenizer.json", drop("tokenizer.json"),
     "m/tokenizer.json: no such file; wanted a checkpoint folder with its tokenizer"),
    ("SentencePiece alone", rename("tokenizer.json", "tokenizer.model"),
     "m/tokenizer.json: no such file, only tokenizer.model, which can't be read; transformers' "
     "save_pretrained may write this one; wanted..."),
    ("an empty tokenizer.json", put("tokenizer.json", ""),
     f"m/tokenizer.json: not valid JSON (the file is empty); {AS_IT_WAS}"),
    ("tokenizer.json cut short", cut("tokenizer.json", 1000),
     f"m/tokenizer.json: not valid JSON (...: line 52 column 1 (char 1000)); {AS_IT_WAS}"),
    ("noise as tokenizer.json", put("tokenizer.json", b"\xff\0"),
     f"m/tokenizer.json: not valid JSON ('utf-8' codec can't decode byte 0xff...); {AS_IT_WAS}"),
    ("a Git LFS pointer as tokenizer.json", put("tokenizer.json", POINTER),
     "m/tokenizer.json: not valid JSON (a Git LFS pointer: git lfs pull fetches the file "
     f"itself); {AS_IT_WAS}"),
    ("another JSON as tokenizer.json", put("tokenizer.json", "{}"),
     "m/tokenizer.json: not the form of a tokenizer: KeyError('model')"),
    ("a list as tokenizer.json", put("tokenizer.json", "[]"),
     "m/tokenizer.json: found a JSON list, wanted an object"),
    ("Unigram", edit_bpe(type="Unigram", merges=None, vocab=[["a", 0.0]]),
     f"m/tokenizer.json: a Unigram model with 0 merges {BPE}; {LIKE}"),
    ("WordPiece", edit_bpe(type="WordPiece", merges=None),
     f"m/tokenizer.json: a WordPiece model with 0 merges {BPE}; {LIKE}"),
    ("SentencePiece as BPE", edit_bpe(byte_fallback=True),
     f"m/tokenizer.json: byte_fallback True {BPE}; {LIKE}"),
    ("another normalizer", edit_json("tokenizer.json", normalizer={"type": "NFKC"}),
     f"m/tokenizer.json: normalizer NFKC is not NFC; {LIKE}"),
    ("another pre-tokenizer", edit_json("tokenizer.json", pre_tokenizer={"type": "Metaspace"}),
     f"m/tokenizer.json: pre-tokenizer Metaspace is not ...; {LIKE}"),
    ("tokenizer_config.json cut short", put("tokenizer_config.json", "{"),
     f"m/tokenizer_config.json: not valid JSON (...: line 1 column 2 (char 1)); {AS_IT_WAS}"),
    ("a stop token of another model", edit_json("tokenizer_config.json", eos_token="</s>"),
     "m/tokenizer_config.json: eos_token '</s>' is not in the vocabulary"),
    ("a stop id in quotes", put("generation_config.json", '{"eos_token_id": "2"}'),
     "m/generation_config.json: eos_token_id ['2'] is not an id or a list of ids"),
    ("ids behind the model's vocabulary", more_tokens,
     "m/tokenizer.json: ids up to 264, but vocab_size 264 in config.json; wanted the tokenizer of "
     "this model"),
    ("a chat template that is no template", chat_template("{% if %}"),
     "m/tokenizer_config.json: chat template: Expected an expression, ... (for problem train-0 of "
     f"...train.jsonl); {AGREE}"),
    ("a chat template that refuses", chat_template(REFUSES),
     "m/tokenizer_config.json: chat template: roles must alternate (for problem train-0 of ...); "
     f"{AGREE}"),
    ("a chat template that is a number", chat_template(7),
     "m/tokenizer_config.json: chat_template is 7 and not text (for problem train-0 of ...); "
     f"{AGREE}"),
    ("a chat template that is empty", put("chat_template.jinja", ""),
     "...train.jsonl, problem train-0: the template makes no tokens of it; wanted one at least"),
    ("a chat template in UTF-16", put("chat_template.jinja", "{{ messages }}".encode("utf-16")),
     "m/chat_template.jinja: 'utf-8' codec can't decode byte 0xff...; wanted a chat template in "
     "UTF-8"),
]  # fmt: skip
ROWS = [*FLAGS, *PATHS, *REWARDS]
for what, content, says in DATA:
    ROWS.append((f"data: {what}", "train.py --data d", files(d=content), says))
for kind, rows in (("config", CONFIGS), ("weights", WEIGHTS), ("tokenizer", TOKENIZERS)):
    for what, edit, says in rows:
        ROWS.append((f"{kind}: {what}", "train.py --model m", model(edit), says))

# --------------------------------------------------------------------------------------------------
# The tests


def command_line(typed):
    """What was typed -> program, its arguments."""
    program, *words = shlex.split(typed)
    good = shlex.split(GOOD[program])
    if words[:1] == ["without"]:
        at = good.index(words[1])
        del good[at : at + 2], words[:2]
    return program, [*good, *words]


def check(program, says, code, out, err, seconds):
    assert code == 2, err
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    pattern = ".*".join(map(re.escape, f"{program}: {says}".split("...")))
    assert re.fullmatch(pattern, err[:-1]), f"said:   {err}wanted: {program}: {says}"
    assert len(err) < 450 and "[Errno" not in err
    assert seconds < 2


def everything():
    """All files but compiled Python."""
    files = (f for f in Path.cwd().rglob("*") if not f.is_dir() and f.suffix != ".pyc")
    return sorted(map(str, files))


def begun(*_, **__):
    pytest.fail("the work has begun")


def read(path, *_, **__):
    read_config(path)
    pytest.fail("the weights were read")


@pytest.mark.parametrize(("what", "typed", "prepare", "says"), [
    pytest.param(*row, id=row[0]) for row in ROWS])  # fmt: skip
def test_a_wrong_input_costs_one_line_and_exit_code_2_before_anything_is_slow(
    tmp_path, monkeypatch, capsys, what, typed, prepare, says
):
    """A stack trace; a mistake found after an hour; a line that leaves the reader to guess which
    file, flag or line it means; a run folder left behind by a run that never began."""
    monkeypatch.chdir(tmp_path)
    if prepare:
        prepare()
    before, (program, arguments) = everything(), command_line(typed)
    main = importlib.import_module(program.removesuffix(".py"))
    for name in ("take_step", "evaluate"):
        monkeypatch.setattr(f"train.{name}", begun)
    for name in ("eval.evaluate", "bench.card", "rewards.score"):
        monkeypatch.setattr(name, begun)
    if not what.startswith("weights"):
        for module in ("train", "eval", "bench"):
            monkeypatch.setattr(f"{module}.load_model", read)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    start = time.process_time()
    try:
        code = main.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    seconds, printed = time.process_time() - start, capsys.readouterr()
    check(program, says, code, printed.out, printed.err, seconds)
    assert everything() == before


def timed(*command):
    """-> what ended, and the seconds of CPU it took: what it takes in all on a machine that is not
    busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def torch_alone():
    """The same of Python and `import torch`: nothing can be said sooner."""
    return timed("-c", "import torch")[1]


AS_COMMANDS = ("a negative number", "data: Parquet", "tokenizer: Unigram")
AS_COMMANDS += ("eval: data that are not there", "bench: data without a model")
AS_COMMANDS += ("rewards: an empty file", "a reward function that is not there")


@pytest.mark.parametrize("what", AS_COMMANDS)
def test_as_a_command_of_its_own_it_is_as_quick_once_torch_is_loaded(
    tmp_path, monkeypatch, torch_alone, what
):
    """A main that reports well and is not what runs; warnings of libraries around the one line;
    seconds of imports for a flag mistyped."""
    monkeypatch.chdir(tmp_path)
    typed, prepare, says = next(row[1:] for row in ROWS if row[0] == what)
    if prepare:
        prepare()
    program, arguments = command_line(typed)
    done, seconds = timed(ROOT / program, *arguments)
    torch_seconds = torch_alone if program != "rewards.py" else 0
    check(program, says, done.returncode, done.stdout, done.stderr, seconds - torch_seconds)


def test_the_table_is_long_and_no_row_stands_twice():
    """A table that shrinks unseen, or ids that hide a row behind another."""
    assert len({row[0] for row in ROWS}) == len(ROWS) and len(ROWS) >= 200
