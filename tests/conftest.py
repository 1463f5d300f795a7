"""What all tests share: the root on the path, and tiny models of real form with random weights."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Tiny tensors: a second thread costs more in waiting than it brings, minutes on a busy machine.
torch.set_num_threads(1)

# Tiny checkpoints as transformers saves them, with the logits it computes: see make_golden.py.
GOLDEN = ROOT / "tests" / "golden"
FAMILIES = (
    *("qwen3_tied", "qwen3_untied_sharded", "qwen2"),
    *("llama3_new", "llama3_old", "llama_linear", "llama_biases"),
)
GOLDEN_V = 61  # tokens in the vocabulary of each of them

TINY = {
    "model_type": "qwen3",
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}

# Inputs and outputs of the authors' own implementation (backprop07/VIMPO at 2aa83bc), run in
# float64: four cases, tensor `i.name` belongs to case i.
VECTORS = load_file(ROOT / "tests" / "vimpo_vectors.safetensors")


def near(a, b, tolerance=0.0):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)  # shape and dtype too


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw_tokens(*shape, seed=0):
    """Random ids of the golden vocabulary."""
    return torch.randint(GOLDEN_V, shape, generator=torch.Generator().manual_seed(seed))


class Watch(TorchDispatchMode):
    """Counts tensor operations, the bytes of the largest tensor they made, and the most bytes alive
    at once, backward included."""

    def __init__(self):
        super().__init__()
        self.ops, self.largest, self.peak, self.alive = 0, 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.ops += 1
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        for storage in (t.untyped_storage() for t in tensors):
            self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self.alive.values()))
        return out


@pytest.fixture(params=range(4), ids="case{}".format)
def case(request):
    """The tensors of one of the authors' cases, by name."""
    return {name[2:]: x for name, x in VECTORS.items() if name.startswith(f"{request.param}.")}


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """make_model(dtype, std, seed, **config) -> a Transformer of Qwen3's form whose weights are all
    random, norms included."""
    from lib.checkpoint import read_config
    from model import Transformer

    def make(dtype=torch.float32, std=0.3, seed=0, **config):
        folder = tmp_path_factory.mktemp("tiny")
        (folder / "config.json").write_text(json.dumps(TINY | config))
        model = Transformer(read_config(folder), dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * std)
        return model

    return make
