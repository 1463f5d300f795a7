"""What all tests share: the top level on the path, and tiny models of real form with random weights."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # tiny tensors: a second thread costs more in waiting than it brings, minutes of it on a busy machine
sys.path.insert(0, str(ROOT))

TINY = {"model_type": "qwen3", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True, "rms_norm_eps": 1e-6}


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """make_model(dtype, std, **config) -> a Transformer of Qwen3 form whose weights are all random, norms included."""
    from model import Transformer, read_config

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
