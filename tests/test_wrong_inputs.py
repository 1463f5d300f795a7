"""What a hurried person gets wrong, and the one line that each mistake gets back, before anything is slow.

A row: what was done; what was typed (after --model, --data and --out of the demo, so that a later flag wins; "without" takes flags away);
what lies in the folder; and the whole line on stderr, in which ... stands for any text: words of Python and of libraries, which change.
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

from model import read_config

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
GOOD = {"train.py": ["--model", DEMO / "model", "--data", DEMO / "train.jsonl", "--out", "RUN"],
        "eval.py": ["--model", DEMO / "model", "--data", DEMO / "test.jsonl"],
        "bench.py": ["--model", DEMO / "model", "--data", DEMO / "test.jsonl"], "rewards.py": []}
TALK = '{"prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1="}], "answer": "2"}'
LINE = '{"problem": "1+1=", "answer": "2"}\n'
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

# ---------------------------------------------------------------------------------------------------------------------------------
# Ways to prepare the folder


def files(**contents):
    """Files by their stems: files(f="text") writes f."""
    return lambda: [Path(name).write_bytes(c if isinstance(c, bytes) else c.encode()) for name, c in contents.items()]


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
    return lambda m: (m / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(name, size):
    return lambda m: put(name, (m / name).read_bytes()[:size])(m)


def drop(*names):
    return lambda m: [(m / name).unlink() for name in names]


def only(*names):
    return lambda m: ([f.unlink() for f in m.iterdir()], [(m / name).write_text("{}") for name in names])


def edit_json(name, **changes):
    return lambda m: put(name, json.dumps(json.loads((m / name).read_text()) | changes))(m)


def edit_bpe(**changes):
    """The model inside tokenizer.json, changed."""
    return lambda m: edit_json("tokenizer.json", model=json.loads((m / "tokenizer.json").read_text())["model"] | changes)(m)


def more_tokens(m):
    """An added token behind the last id of the model's vocabulary, 263."""
    token = {"id": 264, "content": "<new>", "special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    edit_json("tokenizer.json", added_tokens=[*json.loads((m / "tokenizer.json").read_text())["added_tokens"], token])(m)


def tensors(**changes):
    """The weights, with model.norm.weight changed: None takes it away; another name is added."""
    def edit(m):
        state = load_file(m / "model.safetensors") | {"model." + name.replace("_", ".") + ".weight": t for name, t in changes.items()}
        save_file({name: t for name, t in state.items() if t is not None}, m / "model.safetensors")
    return edit


REFUSES_SYSTEM = edit_json("tokenizer_config.json", chat_template="{{ raise_exception('no system') if messages[0].role == 'system' else '1+1=' }}")


def shards(index):
    return lambda m: (drop("model.safetensors")(m), put("model.safetensors.index.json", index)(m))


# ---------------------------------------------------------------------------------------------------------------------------------
# The table

OBJECT = 'wanted UTF-8 text, each line an object like {"problem": ..., "answer": ...}'
FOLDER = "wanted a checkpoint folder with config.json and *.safetensors"
SAFE = "m/model.safetensors: cut short, damaged or no safetensors file (..."
KINDS = "; this project computes qwen3, qwen2 and llama (Qwen3, Qwen2/2.5, Llama 2/3.x, SmolLM2) only"
LIKE = "; wanted a tokenizer as that of Qwen2/3, Llama 3 or SmolLM2"
TEXT = "; wanted text, or a list of messages with role and content, both text"
PAIR = 'wanted {"gold": text, "response": text, "expected": true or false}, found '

FLAGS = [
    ("a negative number", "train.py --steps -1", None, "argument --steps: found '-1', wanted a whole number at least 1 (see train.py --help)"),
    ("a fraction", "train.py --steps 2.5", None, "argument --steps: found '2.5', wanted a whole number at least 1 (see train.py --help)"),
    ("a number with a unit", "train.py --max-new-tokens 4k", None, "argument --max-new-tokens: found '4k', wanted a whole number at least 1..."),
    ("a number with a comma", "train.py --lr 1e-6,", None, "argument --lr: found '1e-6,', wanted a number above 0 (see train.py --help)"),
    ("not a number", "train.py --lr nan", None, "argument --lr: found 'nan', wanted a number above 0 (see train.py --help)"),
    ("an infinite number", "train.py --beta inf", None, "argument --beta: found 'inf', wanted a number above 0 (see train.py --help)"),
    ("a seed that is no number", "train.py --seed x", None, "argument --seed: invalid int value: 'x' (see train.py --help)"),
    ("greedy training", "train.py --temperature 0", None, "argument --temperature: found '0', wanted a number above 0 (see train.py --help)"),
    ("top-p in percent", "train.py --top-p 70", None, "argument --top-p: found '70', wanted a number at most 1 and above 0 (see train.py --help)"),
    ("lambda above 1", "train.py --gae-lambda 1.1", None, "argument --gae-lambda: found '1.1', wanted a number at least 0 and at most 1..."),
    ("clipping everything", "train.py --clip-low 1", None, "argument --clip-low: found '1', wanted a number at least 0 and below 1..."),
    ("dual clip of 1", "train.py --dual-clip 1", None, "argument --dual-clip: found '1', wanted a number above 1 (see train.py --help)"),
    ("noise in percent", "train.py --reward-noise 10", None, "argument --reward-noise: found '10', wanted a number at least 0 and at most 1..."),
    ("a group of one", "train.py --samples-per-prompt 1", None,
     "--samples-per-prompt is 1; wanted 2 or more: vimpo compares the samples of a prompt, and one has no baseline (see train.py --help)"),
    ("an unknown method", "train.py --algo ppo", None, "argument --algo: invalid choice: 'ppo' (choose from ...vimpo..., ...grpo...)..."),
    ("an unknown estimator", "train.py --kl k1", None, "argument --kl: invalid choice: 'k1' (choose from ...exact..., ...k3...)..."),
    ("an unknown flag", "train.py --gamma 1", None, "unrecognized arguments: --gamma 1 (see train.py --help)"),
    ("underscores", "train.py --max_new_tokens 5", None,
     "unrecognized arguments: --max_new_tokens 5: flags have dashes, no underscores (see train.py --help)"),
    ("half a flag", "train.py --eval 5", None, "ambiguous option: --eval could match --eval-data, --eval-every, ..."),
    ("a value without a flag", "train.py --resume 1", None, "unrecognized arguments: 1 (see train.py --help)"),
    ("a flag without a value", "train.py --data", None, "argument --data: expected at least one argument (see train.py --help)"),
    ("two lengths", "train.py --steps 1 --epochs 1", None, "argument --epochs: not allowed with argument --steps (see train.py --help)"),
    *[(f"no {flag}", f"train.py without {flag}", None,
       f"{flag} is missing; wanted --model, --data and --out together, or neither model nor data for the demo (see train.py --help)")
      for flag in ("--model", "--data", "--out")],
    ("no such dtype", "train.py --dtype fp16", None, "argument --dtype: invalid choice: 'fp16' (choose from ...fp32..., ...bf16...)..."),
    ("no such device", "train.py --device gpu", None, "--device is 'gpu'; wanted auto, cpu, cuda or cuda:N"),
    ("a device's bare number", "train.py --device 0", None, "--device is '0'; wanted auto, cpu, cuda or cuda:N"),
    ("CUDA without CUDA", "train.py --device cuda", None, "--device cuda: torch ... sees 0 CUDA devices here; wanted auto, cpu or one of those"),
    ("a GPU too many", "train.py --device cuda:77", None, "--device cuda:77: torch ... sees 0 CUDA devices here; wanted auto, ..."),
    ("another kind of device", "train.py --device mps", None, "--device mps: torch ... sees 0 CUDA devices here; wanted auto, cpu or one of those"),
    ("eval: no model", "eval.py without --model", None, "the following arguments are required: --model (see eval.py --help)"),
    ("eval: no data", "eval.py without --data", None, "the following arguments are required: --data (see eval.py --help)"),
    ("eval: no samples", "eval.py --samples 0", None, "argument --samples: found '0', wanted a whole number at least 1 (see eval.py --help)"),
    ("eval: top-p of 0", "eval.py --top-p 0", None, "argument --top-p: found '0', wanted a number at most 1 and above 0 (see eval.py --help)"),
    ("eval: no such device", "eval.py --device gpu", None, "--device is 'gpu'; wanted auto, cpu, cuda or cuda:N"),
    ("bench: no rounds", "bench.py --rounds 0", None, "argument --rounds: found '0', wanted a whole number at least 1 (see bench.py --help)"),
    ("bench: an unknown part", "bench.py --only speed", None, "argument --only: invalid choice: 'speed' (choose from ...sampling..., ...)..."),
    ("bench: data without a model", "bench.py without --model", None, "--data wants --model: random weights have no tokenizer"),
    ("bench: CUDA without CUDA", "bench.py --device cuda --quick", None, "--device cuda: torch ... sees 0 CUDA devices here; wanted auto, ..."),
]
PATHS = [
    ("a model that is not there", "train.py --model nowhere", None, f"nowhere: no such folder, and nothing is downloaded; {FOLDER}"),
    ("a model's name on a hub", "train.py --model Qwen/Qwen3-0.6B", None, f"Qwen/Qwen3-0.6B: no such folder, and nothing is downloaded; {FOLDER}"),
    ("a file as the model", "train.py --model m/model.safetensors", model(), f"m/model.safetensors: a file, no such folder, ...; {FOLDER}"),
    ("an empty variable as the model", "eval.py --model ''", None, f"'': no such folder, and nothing is downloaded; {FOLDER}"),
    ("~ in quotes", "train.py --model '~/m'", None, f"~/m: no such folder (the shell expands ~ only outside quotes, and not behind =); {FOLDER}"),
    ("~ behind =", "train.py --data=~/d", None, "~/d: No such file or directory (the shell expands ~ only ...); wanted a JSONL..."),
    ("data that are not there", "train.py --data no.jsonl", None, "no.jsonl: No such file or directory; wanted a JSONL file of problems"),
    ("files with a comma", "train.py --data a,b", None, "a,b: No such file or directory; wanted a JSONL file of problems"),
    ("an empty variable as data", "train.py --data ''", None, "'': No such file or directory; wanted a JSONL file of problems"),
    ("a folder as data", "train.py --data f", folder("f"), "f: Is a directory; wanted a JSONL file of problems"),
    ("a link to itself as data", "train.py --data f", lambda: Path("f").symlink_to("f"), "f: Too many levels of symbolic links; wanted..."),
    ("data of another user", "train.py --data f", lambda: (files(f=LINE)(), unreadable("f")), "f: Permission denied; wanted a JSONL file..."),
    ("a model of another user", "train.py --model m", model(lambda m: unreadable(m / "config.json")), "m/config.json: Permission denied"),
    ("the second file is not there", f"train.py --data '{DEMO}/test.jsonl' no.jsonl", None, "no.jsonl: No such file or directory; wanted..."),
    ("held-out data that are not there", "train.py --eval-data no.jsonl", None, "no.jsonl: No such file or directory; wanted a JSONL..."),
    ("another run's folder", "train.py --out f", folder("f", "metrics.jsonl"),
     "--out f: holds another run; wanted a new folder, or --resume to go on with that one"),
    ("a file as the run's folder", "train.py --out f", files(f=""), "--out f: a file is in the way; wanted a new folder"),
    ("nothing to resume", "train.py --resume", None, "--resume: RUN holds no run...; leave --resume out to start one"),
    ("no chat template", "train.py --prompt-template chat", None,
     "--prompt-template chat: this tokenizer has no chat template; wanted plain, or a file with {problem} in it"),
    ("a template that is not there", "train.py --prompt-template f", None,
     "--prompt-template f: No such file or directory; wanted chat, plain, or a text file with {problem} in it"),
    ("a folder as a template", "train.py --prompt-template f", folder("f"), "--prompt-template f: Is a directory; wanted chat, plain, or..."),
    ("a template in UTF-16", "train.py --prompt-template f", files(f="{problem}".encode("utf-16")), "--prompt-template f: not UTF-8 text; wanted..."),
    ("a template without {problem}", "train.py --prompt-template f", files(f="Solve {question}"),
     "--prompt-template f: no {problem} in it; wanted a text file that says where the problem goes"),
    ("eval: a model that is not there", "eval.py --model nowhere", None, f"nowhere: no such folder, and nothing is downloaded; {FOLDER}"),
    ("eval: data that are not there", "eval.py --data no.jsonl", None, "no.jsonl: No such file or directory; wanted a JSONL file of problems"),
    ("eval: a folder that is not there", "eval.py --out no/x.json", None, "--out no/x.json: no such folder ..."),
    ("bench: a model that is not there", "bench.py --model nowhere", None, f"nowhere: no such folder, and nothing is downloaded; {FOLDER}"),
    ("rewards: no pairs", "rewards.py --data f", files(f="\n"), "f:1: " + PAIR + "..."),
    ("rewards: an empty file", "rewards.py --data f", files(f=""), "f: no pairs in it"),
    ("rewards: gold is a number", "rewards.py --data f", files(f='{"gold": 1, "response": "x", "expected": true}'),
     "f:1: " + PAIR + "'{\"gold\": 1, ..."),
    ("rewards: a huge line", "rewards.py --data f", files(f="{" + "x" * 10**7), "f:1: " + PAIR + "'{" + "x" * 59 + "'"),
    ("an empty variable as the run's folder", "train.py --out ''", None, "--out is missing; wanted --model, --data and --out together, or..."),
    ("a run's folder in a file", "train.py --out f/run", files(f=""),
     "--out f/run: Not a directory; wanted a folder that can be made and written to"),
    ("a run's folder that can't be made", "train.py --out /proc/run", None, "--out /proc/run: No such file or directory; wanted a folder that ..."),
    ("held-out messages that the template refuses", "train.py --model m --eval-data d", lambda: (files(d=TALK)(), model(REFUSES_SYSTEM)()),
     "m/tokenizer_config.json: chat template: no system (for problem d:1 of d); wanted messages and a template that agree"),
    ("eval: a folder as --out", "eval.py --out f", folder("f"), "--out f: a folder; wanted the name of a file"),
    ("eval: --out in a file", "eval.py --out f/x.json", files(f=""), "--out f/x.json: no such folder f; wanted a file in a folder that exists"),
    ("eval: --out that can't be written", "eval.py --out /proc/x.json", None, "--out /proc/x.json: No such file or directory; wanted a file that..."),
    ("bench: data that are not there", "bench.py --data no.jsonl", None, "no.jsonl: No such file or directory; wanted a JSONL file of problems"),
    ("rewards: nothing asked", "rewards.py", None, "wanted --gold and --response, or --data (see rewards.py --help)"),
    ("rewards: gold without a response", "rewards.py --gold 1", None, "wanted --gold and --response, or --data (see rewards.py --help)"),
    ("rewards: gold and data", "rewards.py --gold 1 --data f", None, "wanted --gold and --response, or --data (see rewards.py --help)"),
    ("rewards: an unknown flag", "rewards.py --answer 1", None, "unrecognized arguments: --answer 1 (see rewards.py --help)"),
    ("rewards: data that are not there", "rewards.py --data no.jsonl", None, "no.jsonl: No such file or directory"),
    ("rewards: a folder as data", "rewards.py --data f", folder("f"), "f: Is a directory"),
]
DATA = [
    ("an empty file", "", "d: no problems in it; wanted one JSON object a line"),
    ("empty lines", "\n \n", "d: no problems in it; wanted one JSON object a line"),
    ("a line of text", LINE + "not json\n", 'd:2: not valid JSON (Expecting value: character 1): "not json\\n"; ' + OBJECT),
    ("a line cut short", LINE * 3 + LINE[:24], 'd:4: not valid JSON (...: character 21): "{\\"problem\\": \\"1+1=\\", \\"ans"; ' + OBJECT),
    ("a byte order mark", "\ufeff" + LINE, f"d:1: found a byte order mark (save it without one); {OBJECT}"),
    ("UTF-16", LINE.encode("utf-16"), f"d:1: found UTF-16 text; {OBJECT}"),
    ("Latin-1", LINE.encode() * 3000 + b'{"problem": "caf\xe9"', "d:3001: not valid JSON ('utf-8' codec can't decode byte 0xe9 ...): ...; " + OBJECT),
    ("CSV", "problem,answer\n1+1=,2\n", 'd:1: not valid JSON (Expecting value: character 1): "problem,answer\\n"; ' + OBJECT),
    ("Parquet", b"PAR1\x15\x04\x15\x10\xff",
     f"d:1: found a Parquet file (pandas writes JSONL: to_json with orient='records' and lines=True); {OBJECT}"),
    ("gzip", gzip.compress(LINE.encode()), f"d:1: found a gzip file; {OBJECT}"),
    ("a Git LFS pointer", POINTER, f"d:1: found a Git LFS pointer (git lfs pull fetches the file itself); {OBJECT}"),
    ("a JSON array", f"[{LINE.strip()}]", 'd:1: found [{"problem": "1+1=", "answer": "2"}]; ' + OBJECT),
    ("a JSON array over lines", f"[\n{LINE}]", f"d:1: found a JSON array over several lines; {OBJECT}"),
    ("a JSON object over lines", '{\n "problem": "1+1=",\n "answer": "2"\n}', f"d:1: found a JSON object over several lines; {OBJECT}"),
    ("a list in a line", LINE + '["1+1=", "2"]', f'd:2: found ["1+1=", "2"]; {OBJECT}'),
    ("a huge line", "{" + "x" * 10**7, 'd:1: not valid JSON (...: character 2): "{' + "x" * 65 + f"...; {OBJECT}"),
    ("brackets without end", '{"problem": ' + "[" * 10**6, f'd:1: not valid JSON (...): "{{\\"problem\\": [[...; {OBJECT}'),
    ("a number without end", '{"answer": ' + "9" * 5000 + "}", f"d:1: not valid JSON (...4300...): ...; {OBJECT}"),
    ("other keys", '{"instruction": "1+1=", "output": "2"}',
     'd:1: no problem in it, only the keys ["instruction", "output"]; wanted "problem", "question" or "prompt"'),
    ("a key in capitals", '{"Problem": "1+1=", "answer": "2"}', 'd:1: no problem in it, only the keys ["Problem", "answer"]; wanted "problem", ...'),
    ("a thousand keys", json.dumps({f"key {i}": 0 for i in range(1000)}),
     'd:1: no problem in it, only the keys ["key 0", "key 1", ..."key...; wanted...'),
    ("messages under another key", '{"messages": [{"role": "user", "content": "1+1"}]}',
     'd:1: no problem in it, only the keys ["messages"]; wanted...'),
    ("a problem of null", '{"problem": null, "answer": "2"}', f'd:1: "problem" is null{TEXT}'),
    ("an empty problem", '{"problem": " ", "answer": "2"}', f'd:1: "problem" is " "{TEXT}'),
    ("a problem that is a number", '{"problem": 3, "answer": "2"}', f'd:1: "problem" is 3{TEXT}'),
    ("no messages", '{"prompt": [], "answer": "2"}', f'd:1: "prompt" is []{TEXT}'),
    ("a message without content", '{"prompt": [{"role": "user"}], "answer": "2"}', f'd:1: "prompt" is [{{"role": "user"}}]{TEXT}'),
    ("an empty message", '{"prompt": [{"role": "user", "content": ""}], "answer": "2"}',
     f'd:1: "prompt" is [{{"role": "user", "content": ""}}]{TEXT}'),
    ("content in parts", '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1="}]}], "answer": "2"}',
     f'd:1: "prompt" is [...]{TEXT}'),
    ("no answer", '{"problem": "1+1=", "solution": "2"}',
     'd:1: no answer in it, only the keys ["problem", "solution"]; wanted "answer", or "reward_model" with "ground_truth"'),
    ("no ground truth", '{"prompt": "1+1=", "reward_model": {}}', 'd:1: no answer in it, only the keys ["prompt", "reward_model"]; wanted...'),
    ("an answer of null", '{"problem": "1+1=", "answer": null}', 'd:1: "answer" is null; wanted text or a number'),
    ("a list of answers", '{"problem": "1+1=", "answer": ["2", "two"]}', 'd:1: "answer" is ["2", "two"]; wanted text or a number'),
    ("an answer of true", '{"problem": "1+1=", "answer": true}', 'd:1: "answer" is true; wanted text or a number'),
    ("an answer of NaN", '{"problem": "1+1=", "answer": NaN}', 'd:1: "answer" is NaN; wanted text or a number'),
    ("an answer too large", '{"problem": "1+1=", "answer": 1e999}', 'd:1: "answer" is Infinity; wanted text or a number'),
    ("an empty answer", '{"problem": "1+1=", "answer": " "}', 'd:1: "answer" is empty; wanted the right answer'),
    ("nothing behind ####", '{"question": "1+1=", "answer": "One and one. ####"}', 'd:1: "answer" is empty; wanted the right answer'),
    ("half a character", '{"problem": "1+1=\\ud83d", "answer": "2"}', "d:1: holds \\ud83d, half of a character; wanted whole ones"),
]
CONFIGS = [
    ("an empty folder", only(), f"m/config.json: not found (the folder is empty); {FOLDER}"),
    ("a LoRA adapter", only("adapter_config.json", "adapter_model.safetensors"),
     f"m/config.json: not found (only adapter_config.json, adapter_model.safetensors); {FOLDER}; merge the adapter into its base model first"),
    ("a GGUF file", only("q4.gguf"), f"m/config.json: not found (only q4.gguf); {FOLDER}"),
    ("a run instead of its checkpoint", put("config.json", '{"settings": {}, "versions": {}}'),
     "m/config.json: describes a training run; wanted the checkpoint in it, m/checkpoint"),
    ("an empty config.json", put("config.json", ""), f"m/config.json: not valid JSON (the file is empty); {FOLDER}"),
    ("config.json cut short", cut("config.json", 100), f"m/config.json: not valid JSON (...: line 7 column 1 (char 100)); {FOLDER}"),
    ("config.json is a picture", put("config.json", b"\x89PNG\r\n"), f"m/config.json: not valid JSON ('utf-8' codec can't decode...); {FOLDER}"),
    ("config.json is a list", put("config.json", "[]"), "m/config.json: found a JSON list, wanted an object"),
    ("config.json nests without end", put("config.json", "[" * 10**6), f"m/config.json: not valid JSON (...); {FOLDER}"),
    ("an unknown architecture", edit_json("config.json", model_type="gemma3"), "m/config.json: model_type is 'gemma3'" + KINDS),
    ("experts", edit_json("config.json", model_type="qwen3_moe"), "m/config.json: model_type is 'qwen3_moe'" + KINDS),
    ("experts in a dense family", edit_json("config.json", num_experts=8),
     "m/config.json: num_experts is 8; this project computes plain dense weights only, every layer alike"),
    ("quantized weights", edit_json("config.json", quantization_config={"quant_method": "gptq"}),
     "m/config.json: quantization_config is {'quant_method': 'gptq'}; this project computes plain dense weights only, every layer alike"),
    ("sliding windows", edit_json("config.json", use_sliding_window=True),
     "m/config.json: use_sliding_window is True; this project computes full attention in every layer only"),
    ("yarn", edit_json("config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0}),
     "m/config.json: rope type 'yarn' is unknown; wanted one of default, linear, llama3"),
    ("a width in quotes", edit_json("config.json", hidden_size="96"), "m/config.json: hidden_size is '96'; wanted a positive whole number"),
]
WEIGHTS = [
    ("none", drop("model.safetensors"), "m: no model.safetensors or model.safetensors.index.json (and no weights in another form)"),
    ("pickled weights", lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"),
     "m: no model.safetensors or ... (only pytorch_model.bin; convert it with transformers' save_pretrained, or fetch what is missing)"),
    ("GGUF beside config.json", lambda m: (m / "model.safetensors").rename(m / "q4.gguf"),
     "m: no model.safetensors or ... (only q4.gguf; convert it..."),
    ("shards without their index", lambda m: (m / "model.safetensors").rename(m / "model-00001-of-00002.safetensors"),
     "m: no model.safetensors or model.safetensors.index.json (only model-00001-of-00002.safetensors; ... or fetch what is missing)"),
    ("an index of absent shards", shards('{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}'),
     "m/model.safetensors.index.json: weight_map names 'model-00001-of-00002.safetensors', which is not a file of m"),
    ("an index cut short", shards('{"weight_map": {"mod'),
     "m/model.safetensors.index.json: wanted a JSON object with a weight_map from tensor to file"),
    ("cut short", cut("model.safetensors", 500_000), SAFE + "not fully covered); wanted the weights as they were published"),
    ("cut to their first bytes", cut("model.safetensors", 4), SAFE + "header too small); wanted the weights as they were published"),
    ("empty", cut("model.safetensors", 0), SAFE + "header too small); wanted the weights as they were published"),
    ("a web page as weights", put("model.safetensors", "<html>Not found</html>"), SAFE + "header too large); wanted the weights..."),
    ("noise as weights", put("model.safetensors", b"\x20" + bytes(7) + bytes(range(40))), SAFE + "); wanted the weights as they were published"),
    ("a Git LFS pointer as weights", put("model.safetensors", POINTER), SAFE + "a Git LFS pointer: git lfs pull fetches the file itself); wanted..."),
    ("a tensor missing", tensors(norm=None), "m: tensor model.norm.weight is missing; config.json wants it"),
    ("layers missing", edit_json("config.json", num_hidden_layers=4),
     "m: tensor model.layers.3.input_layernorm.weight is missing, and 10 more; config.json wants it"),
    ("a head missing", edit_json("config.json", tie_word_embeddings=False), "m: tensor lm_head.weight is missing; config.json wants it"),
    ("a tensor too many", tensors(extra=torch.ones(1)),
     "m/model.safetensors: surplus tensor model.extra.weight, which config.json does not account for"),
    ("another vocabulary", edit_json("config.json", vocab_size=300),
     "m/model.safetensors: tensor model.embed_tokens.weight has shape [264, 96]; config.json wants [300, 96]"),
    ("fp8", tensors(norm=torch.ones(96).to(torch.float8_e4m3fn)),
     "m/model.safetensors: tensor model.norm.weight is F8_E4M3; wanted bf16, fp16 or fp32"),
    ("int8", tensors(norm=torch.ones(96, dtype=torch.int8)),
     "m/model.safetensors: tensor model.norm.weight is I8; wanted bf16, fp16 or fp32"),
]
TOKENIZERS = [
    ("no tokenizer.json", drop("tokenizer.json"), "m/tokenizer.json: no such file; wanted a checkpoint folder with its tokenizer"),
    ("SentencePiece alone", lambda m: (m / "tokenizer.json").rename(m / "tokenizer.model"),
     "m/tokenizer.json: no such file, only tokenizer.model, which can't be read; transformers' save_pretrained may write this one; wanted..."),
    ("an empty tokenizer.json", put("tokenizer.json", ""), "m/tokenizer.json: not valid JSON: the file is empty"),
    ("tokenizer.json cut short", cut("tokenizer.json", 1000), "m/tokenizer.json: not valid JSON: ...: line 52 column 1 (char 1000)"),
    ("noise as tokenizer.json", put("tokenizer.json", b"\xff\0"), "m/tokenizer.json: not valid JSON: 'utf-8' codec can't decode byte 0xff..."),
    ("a Git LFS pointer as tokenizer.json", put("tokenizer.json", POINTER),
     "m/tokenizer.json: not valid JSON: a Git LFS pointer; git lfs pull fetches the file itself"),
    ("another JSON as tokenizer.json", put("tokenizer.json", "{}"), "m/tokenizer.json: not the form of a tokenizer: KeyError('model')"),
    ("a list as tokenizer.json", put("tokenizer.json", "[]"), "m/tokenizer.json: wanted a JSON object, found list"),
    ("Unigram", edit_bpe(type="Unigram", merges=None, vocab=[["a", 0.0]]),
     "m/tokenizer.json: a Unigram model with 0 merges is not byte-level BPE" + LIKE),
    ("WordPiece", edit_bpe(type="WordPiece", merges=None), "m/tokenizer.json: a WordPiece model with 0 merges is not byte-level BPE" + LIKE),
    ("SentencePiece as BPE", edit_bpe(byte_fallback=True), "m/tokenizer.json: byte_fallback True is not byte-level BPE" + LIKE),
    ("another normalizer", edit_json("tokenizer.json", normalizer={"type": "NFKC"}), "m/tokenizer.json: normalizer NFKC is not NFC" + LIKE),
    ("another pre-tokenizer", edit_json("tokenizer.json", pre_tokenizer={"type": "Metaspace"}),
     "m/tokenizer.json: pre-tokenizer Metaspace is not ..." + LIKE),
    ("tokenizer_config.json cut short", put("tokenizer_config.json", "{"), "m/tokenizer_config.json: not valid JSON: ...: line 1 column 2 (char 1)"),
    ("a stop token of another model", edit_json("tokenizer_config.json", eos_token="</s>"),
     "m/tokenizer_config.json: eos_token '</s>' is not in the vocabulary"),
    ("a stop id in quotes", put("generation_config.json", '{"eos_token_id": "2"}'),
     "m/generation_config.json: eos_token_id ['2'] is not an id or a list of ids"),
    ("ids behind the model's vocabulary", more_tokens,
     "m/tokenizer.json: ids up to 264, but vocab_size 264 in config.json; wanted the tokenizer of this model"),
    ("a chat template that is no template", edit_json("tokenizer_config.json", chat_template="{% if %}"),
     "m/tokenizer_config.json: chat template: Expected an expression, ... (for problem train-0 of ...train.jsonl); wanted messages and..."),
    ("a chat template that refuses", edit_json("tokenizer_config.json", chat_template="{{ raise_exception('roles must\n alternate') }}"),
     "m/tokenizer_config.json: chat template: roles must alternate (for problem train-0 of ...); wanted messages and a template that agree"),
    ("a chat template that is a number", edit_json("tokenizer_config.json", chat_template=7),
     "m/tokenizer_config.json: chat_template is 7 and not text (for problem train-0 of ...train.jsonl); wanted..."),
    ("a chat template that is empty", put("chat_template.jinja", ""),
     "...train.jsonl, problem train-0: the template makes no tokens of it; wanted one at least"),
    ("a chat template in UTF-16", put("chat_template.jinja", "{{ messages }}".encode("utf-16")),
     "m/chat_template.jinja: 'utf-8' codec can't decode byte 0xff...; wanted a chat template in UTF-8"),
]
ROWS = [*FLAGS, *PATHS]
ROWS += [(f"data: {what}", "train.py --data d", files(d=content), says) for what, content, says in DATA]
for kind, rows in (("config", CONFIGS), ("weights", WEIGHTS), ("tokenizer", TOKENIZERS)):
    ROWS += [(f"{kind}: {what}", "train.py --model m", model(edit), says) for what, edit, says in rows]


def command_line(typed):
    """What was typed -> program, its arguments."""
    program, *words = shlex.split(typed)
    good = list(map(str, GOOD[program]))
    if words[:1] == ["without"]:
        for flag in words[1:]:
            at = good.index(flag)
            del good[at : at + 2]
        words = []
    return program, [*good, *words]


def check(program, says, code, out, err, seconds):
    assert code == 2, err
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    pattern = ".*".join(map(re.escape, f"{program}: {says}".split("...")))
    assert re.fullmatch(pattern, err[:-1]), f"said:   {err}wanted: {program}: {says}"
    assert len(err) < 450 and "[Errno" not in err
    assert seconds < 2


def everything():
    return sorted(str(f) for f in Path.cwd().rglob("*") if not f.is_dir())


@pytest.mark.parametrize(("what", "typed", "prepare", "says"), [
    pytest.param(*row, id=row[0]) for row in ROWS])
def test_a_wrong_input_costs_one_line_and_exit_code_2_before_anything_is_slow(tmp_path, monkeypatch, capsys, what, typed, prepare, says):
    """A stack trace; a mistake found after an hour; a line that leaves the reader to guess which file, flag or line it means."""
    monkeypatch.chdir(tmp_path)
    if prepare:
        prepare()
    before, (program, arguments) = everything(), command_line(typed)
    main = importlib.import_module(program.removesuffix(".py"))
    for module, name in (("train", "run_step"), ("train", "evaluate"), ("eval", "evaluate"), ("bench", "card"), ("rewards", "score")):
        monkeypatch.setattr(f"{module}.{name}", lambda *_, **__: pytest.fail("the work has begun"))
    if not what.startswith("weights"):
        monkeypatch.setattr("model.load_model", lambda path, *_, **__: read_config(path) and pytest.fail("the weights were read"))
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
    """-> what ended, and the seconds of CPU it took: what it takes in all on a machine that is not busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def torch_alone():
    """The same of Python and `import torch`: nothing can be said sooner."""
    return timed("-c", "import torch")[1]


@pytest.mark.parametrize("what", ["a negative number", "data: Parquet", "tokenizer: Unigram", "eval: data that are not there",
                                  "bench: data without a model", "rewards: an empty file"])
def test_as_a_command_of_its_own_it_is_as_quick_once_torch_is_loaded(tmp_path, monkeypatch, torch_alone, what):
    """A main that reports well and is not what runs; warnings of libraries around the one line; seconds of imports for a flag mistyped."""
    monkeypatch.chdir(tmp_path)
    typed, prepare, says = next(row[1:] for row in ROWS if row[0] == what)
    if prepare:
        prepare()
    program, arguments = command_line(typed)
    done, seconds = timed(ROOT / program, *arguments)
    check(program, says, done.returncode, done.stdout, done.stderr, seconds - torch_alone * (program != "rewards.py"))


def test_the_table_is_long_and_no_row_stands_twice():
    """A table that shrinks unseen, or ids that hide a row behind another."""
    assert len({row[0] for row in ROWS}) == len(ROWS) and len(ROWS) >= 60
