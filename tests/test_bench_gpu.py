"""`bench.py --gpu` on a simulated GPU (tests/fake_cuda.py), with everything small; its arithmetic.

    pytest tests/test_bench_gpu.py
    python tests/test_bench_gpu.py        # the run alone; its last line is that of bench.py

The run has a process of its own, because the simulation patches torch.
"""

import contextlib
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
DEMO = [
    *("--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "4", "--watch", "0"),
    *("--max-new-tokens", "8", "--report-every", "0", "--model", str(ROOT / "demo/model")),
    *("--data", str(ROOT / "demo/train.jsonl"), "--eval-data", "few.jsonl"),
]
TINY = {
    "model_type": "qwen3", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
PLAN = {
    "models": {"small": TINY}, "seconds": 470, "rows": (1, 16), "new_tokens": 10,
    "update": (1, 5), "step": 2, "step_seconds": 90, "lengths": (10, 6, 2, 20), "demo": DEMO,
    "tests": ["--version"],
}  # fmt: skip


def main():
    """bench.py's own run, on the simulated GPU; and a step for which there is hardly any time.

    In that step every look at the clock takes a second.
    """
    import fake_cuda

    import bench
    from lib import timing

    torch.set_num_threads(1)
    timing.LOADS["cuda"] = 64, 2**12
    lines = (ROOT / "demo/test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.chdir(folder))
        Path("few.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
        stack.enter_context(fake_cuda.machine())
        most = mock.patch.object(torch.cuda, "max_memory_allocated", lambda *_: 3 * 10**9)
        stack.enter_context(most)
        device = bench.gpu_device("auto")
        facts, short = {"matmul_gflops": 1, "copy_gb_per_s": 1}, PLAN | {"step_seconds": 0}
        start = bench.gpu_start(device, folder, TINY)
        with mock.patch.object(time, "perf_counter", itertools.count().__next__):
            print(json.dumps(bench.gpu_step(lambda: start, short, facts)))
        return bench.bench_gpu(device, PLAN)


@pytest.fixture(scope="module")
def run():
    """-> the step that was cut short; the JSON line of the whole run."""
    command = [sys.executable, str(Path(__file__).resolve())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = done.stdout.splitlines()
    return json.loads(lines[0]), json.loads(lines[-1])


def test_every_part_gives_numbers_and_none_an_error(run):
    """A part that no longer fits train.py's or rollout.py's functions, found out by whoever has
    waited for a GPU; a figure that is left out, NaN or 0."""
    facts = {"device", "torch", "memory_gb", "cuda", "date"}
    parts = {
        "limits": {"matmul_gflops", "copy_gb_per_s"},
        "demo sampler": {"check_passed", "sampler_gap"},
        "demo": {"code", "step", "accuracy", "first_kl", "seconds_a_step", "sampler_gap"},
        "small sampler": {"check_passed", "sampler_gap"},
        "small decode": {"B=1", "B=16"},
        "small update": {"seconds", "fraction_of_peak"},
        "small step": {
            "responses", "response_tokens", "seconds_sampling", "share_sampled",
            "seconds_score_and_update", "share_learned", "tokens_per_second", "fraction_of_peak",
            "peak_gb", "formula_gb",
        },
        "tests": {"code", "last_line", "failed"},
    }  # fmt: skip
    found = run[1]
    assert set(found) == facts | set(parts)
    for name, keys in parts.items():
        assert set(found[name]) - {"said"} == keys | {"took"}, name
        if name not in ("demo", "tests"):
            figures = [*found[name].values(), *found[name].get("B=16", {}).values()]
            figures = [x for x in figures if not isinstance(x, dict)]
            assert all(0 < x < math.inf for x in figures), name
    assert set(found["small decode"]["B=1"]) == {
        "milliseconds", "tokens_per_second", "fraction_of_limit",
    }  # fmt: skip
    demo = found["demo"]
    assert demo["code"] == demo["first_kl"] == 0 and demo["step"] == 1
    assert demo["seconds_a_step"] > 0 and 0 < demo["sampler_gap"] < 0.03
    assert "pytest" in found["tests"]["last_line"]


def test_a_sampler_is_checked_and_its_steps_are_recorded(run):
    """Eager steps that are timed as recorded ones; a warning that doesn't reach the line."""
    found = run[1]
    assert found["demo sampler"]["check_passed"] and found["small sampler"]["check_passed"]
    assert not any("CUDA graphs" in line for part in found.values() if isinstance(part, dict)
                   for line in part.get("said", ()))  # fmt: skip
    assert any("WARNING" in line for line in found["demo"]["said"])  # of 8 tokens a response


def test_a_whole_step_is_measured_whole_where_time_allows_and_else_in_part(run):
    """Seconds of a part that pass for those of the step; a step that takes minutes too many."""
    part, found = run
    whole = found["small step"]
    assert whole["share_sampled"] == whole["share_learned"] == 1
    assert whole["responses"] == 16 and whole["peak_gb"] == 3
    assert part["response_tokens"] == pytest.approx(160, abs=60)
    assert part["share_sampled"] < 0.5 and 0.2 < part["share_learned"] < 0.8
    # Two looks at the clock after the first, when sampling is stopped; and one when all is learned.
    assert part["seconds_sampling"] == pytest.approx(2 / part["share_sampled"])
    assert part["seconds_score_and_update"] == pytest.approx(1 / part["share_learned"])


# ---- Part after part -----------------------------------------------------------------------------


def test_a_part_that_fails_or_takes_too_long_costs_only_itself(capsys):
    """An out-of-memory in one part that takes the whole line with it; a card so slow that nothing
    is ever printed; a figure with 17 digits."""
    from lib import gpu_bench

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    def give_up():
        print("train.py: a line for the user", file=sys.stderr)
        sys.exit(2)

    parts = [
        ("fails", 5, fail), ("exits", 5, give_up), ("hangs", 0.2, lambda: time.sleep(20)),
        ("too long", 1000, fail), ("well", 5, lambda: {"x": 1 / 3, "n": 12345678}),
    ]  # fmt: skip
    found = gpu_bench.run_parts(parts, 100)
    assert found["fails"]["error"].startswith("OutOfMemoryError: CUDA out of memory. Tried to")
    assert "(test_bench_gpu.py:" in found["fails"]["error"]
    assert found["exits"]["error"].startswith("SystemExit: 2")
    assert found["exits"]["said"] == ["train.py: a line for the user"]
    assert "ran past 0 s" in found["hangs"]["error"] and found["hangs"]["took"] < 5
    assert "skipped" in found["too long"]
    assert found["well"].pop("took") < 5 and found["well"] == {"x": 0.3333, "n": 12345678}
    assert "a line for the user" in capsys.readouterr().err


def test_all_parts_have_less_than_eight_minutes():
    """A step that may take longer than its part, and so never ends well."""
    import bench
    from lib.gpu_bench import PLAN

    assert PLAN["seconds"] <= 460  # loading torch comes before
    parts = list(bench.gpu_parts(torch.device("cpu"), None, PLAN))
    assert len(parts) == 4 + 4 * len(PLAN["models"])
    assert min(most for name, most, _ in parts if "step" in name) >= PLAN["step_seconds"] + 20


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    """A traceback, or figures of a CPU that pass for those of a GPU."""
    import bench

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for flags in (["--gpu"], ["--gpu", "--device", "cpu"], ["--gpu", "--device", "cuda"],
                  ["--gpu", "--quick"]):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            bench.main(flags)
        printed = capsys.readouterr()
        assert end.value.code == 2 and printed.out == ""
        assert printed.err.count("\n") == 1 and "wanted" in printed.err


# ---- What is computed ----------------------------------------------------------------------------


def test_responses_get_the_lengths_that_were_drawn_for_them(make_model):
    """A forced stop that comes a token late, or for another sample once rows change hands; a stop
    by chance; log-probs that are those of the forced choice (0) and not the model's."""
    import rollout
    from lib import gpu_bench
    from lib.sampling import sample_keys
    from lib.self_check import sampler_gap

    model, lengths, noise = make_model(torch.float32), (8, 6, 1, 20), rollout.token_noise
    prompts = [[1, 2, 3], [4, 5], [6]]
    keys = torch.tensor(sample_keys(prompts, 8, 0))
    wanted = gpu_bench.response_lengths(lengths, keys).tolist()
    assert len(set(wanted)) > 6 and min(wanted) >= 1 and max(wanted) <= 20
    rollouts, drawn, _ = gpu_bench.sample_for(100, rollout, model, prompts, 8, lengths)
    assert [len(r.response_ids) for r in rollouts] == wanted and drawn == sum(wanted)
    assert all(r.finished and r.response_ids[-1] == 59 for r in rollouts)
    assert sampler_gap(model, rollouts) < 1e-4
    assert rollout.token_noise is noise  # afterwards all is as before


def test_lengths_have_the_mean_and_the_deviation_asked_for():
    """A step of 96 x 8 that is called 1,000 +- 600 tokens, and has others."""
    from lib.gpu_bench import response_lengths

    keys = torch.randint(2**32, (20000, 2), generator=torch.Generator().manual_seed(0))
    drawn = response_lengths((1000, 600, 16, 4096), keys).double()
    assert drawn.min() >= 16 and drawn.max() <= 4096
    assert drawn.median() == pytest.approx(1000, abs=15)
    assert drawn.std() == pytest.approx(580, abs=30)  # the clip at 16 takes a little


def test_a_step_is_timed_after_the_steps_that_record():
    """Seconds of loading kernels and recording that pass for those of a decode step."""
    from lib.gpu_bench import decode_step

    def generate(model, prompts, stop_ids, on_progress, max_new_tokens):
        on_progress(0, 1, 1)
        for step in range(max_new_tokens):
            time.sleep(0.05 if step < 5 else 0.001)
            on_progress(0, 1, step)

    seconds, own = decode_step(generate, None, [[1]], max_new_tokens=9)
    assert 0.001 < seconds < 0.04 and own == 6.5


def test_a_decode_step_reads_weights_and_the_keys_and_values_that_count(make_model):
    """A prompt counted once a row; an embedding counted that is only looked up in."""
    from lib.gpu_bench import decode_bytes, parameters

    for tied in (True, False):
        model = make_model(torch.float32, tie_word_embeddings=tied)
        c, model.compute_dtype = model.config, torch.bfloat16
        weights = parameters(model) - (0 if tied else c.V * c.D)
        tokens = 7 + 4 * 10
        wanted = 2 * (weights + 2 * c.layers * c.Hkv * c.Dh * tokens)
        assert decode_bytes(model, [[1] * 3, [1] * 4], 4, 10) == wanted


def test_the_formula_of_memory_is_that_of_the_page_on_memory(tmp_path):
    """A measured peak beside another figure than the table's."""
    from lib.checkpoint import read_config
    from lib.gpu_bench import PLAN, update_gb
    from model import Transformer

    page = (ROOT / "docs/memory.md").read_text(encoding="utf-8")
    for name, shape in PLAN["models"].items():
        (tmp_path / "config.json").write_text(json.dumps(shape))
        with torch.device("meta"):
            model = Transformer(read_config(tmp_path))
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} "))
        assert round(update_gb(model, 8192)) == int(re.search(r"= (\d+) \|", row)[1])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
