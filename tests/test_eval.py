"""eval.py: the table, the file of graded samples, what is looked at before hours of sampling."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval as evaluation

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
MODEL = ["--model", str(DEMO / "model")]


@pytest.fixture
def few(tmp_path):
    """Twenty held-out problems."""
    file = tmp_path / "few.jsonl"
    file.write_text("".join((DEMO / "test.jsonl").read_text().splitlines(keepends=True)[:20]))
    return file


def table(out):
    return json.loads(out.read_text(encoding="utf-8"))["table"]


def test_eval_prints_a_table_and_writes_every_graded_sample(tmp_path, few, capsys):
    """A table whose figures are not those of the samples."""
    arguments = [*MODEL, "--data", str(few), "--samples", "3", "--top-p", "1"]
    arguments += ["--max-new-tokens", "60", "--out", str(tmp_path / "o.json")]
    assert evaluation.main(arguments) == 0
    printed = capsys.readouterr().out
    [row] = table(tmp_path / "o.json")
    assert row["n"] == 20 and len(row["problems"]) == 20
    scores = [s for p in row["problems"] for s in p["scores"]]
    assert len(scores) == 60 and row["accuracy"] == pytest.approx(sum(scores) / 60)
    assert 0.1 < row["accuracy"] < 0.95
    assert f"{row['accuracy']:.1%}" in printed and "few.jsonl" in printed and "avg@3" in printed
    for problem in row["problems"]:
        for response, score in zip(problem["responses"], problem["scores"], strict=True):
            assert score == float(f"boxed{{{problem['answer']}}}" in response)


def test_files_are_graded_apart_and_settings_are_written_down(tmp_path, few, capsys):
    """Two benchmarks in one mean; a file of results that nobody can make again."""
    lines, other = few.read_text().splitlines(keepends=True), tmp_path / "a-longer-name.jsonl"
    other.write_text("".join(lines[:3]))
    few.write_text("".join(lines[3:8]))
    arguments = [*MODEL, "--data", str(few), str(other), "--max-new-tokens", "30", "--seed", "5"]
    assert evaluation.main([*arguments, "--out", str(tmp_path / "o.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["file", "few.jsonl", "a-longer-name.jsonl"]
    assert len({len(line) for line in printed}) == 1  # columns that stand one above the other
    assert [row["n"] for row in table(tmp_path / "o.json")] == [5, 3]
    settings = json.loads((tmp_path / "o.json").read_text())["settings"]
    assert settings["seed"] == 5 and settings["model"] == str(DEMO / "model")
    assert settings["temperature"] == 1.0 and settings["top_p"] == 0.7


def test_the_seed_alone_decides_and_greedy_needs_none(tmp_path, few):
    """Results that depend on the number of slots, or two seeds that give one sample."""

    def responses(*more):
        out = tmp_path / "o.json"
        arguments = [*MODEL, "--data", str(few), "--max-new-tokens", "30", "--out", str(out)]
        assert evaluation.main([*arguments, *more]) == 0
        return [text for p in table(out)[0]["problems"] for text in p["responses"]]

    sampled = ["--top-p", "1", "--samples", "2"]
    first = responses(*sampled)
    assert responses(*sampled, "--slots", "3") == first != responses(*sampled, "--seed", "1")
    assert first[0::2] != first[1::2]  # two samples of a problem
    greedy = responses("--temperature", "0")
    assert greedy == responses("--temperature", "0", "--seed", "1")


def test_the_error_bar_is_over_problems_not_samples():
    """Samples of one problem taken for independent: an error bar that k samples make too small."""
    rows = []
    for scores in ([1.0, 1.0], [0.0, 0.0], [1.0, 0.0]):
        rows.append({"scores": scores, "lengths": [10, 20], "truncated": [False, True]})
    found = evaluation.summary("f", rows)
    assert found["accuracy"] == 0.5 and found["stderr"] == pytest.approx(0.5 / 3**0.5)
    assert (found["response_tokens"], found["truncated"]) == (15, 0.5)
    assert evaluation.summary("f", rows[:1])["stderr"] == 0.0


def test_the_line_of_a_training_run_shows_a_response_and_its_verdict():
    """A share of right answers without a look at what is taken for one."""
    shown = {"id": "p7", "responses": ["It is \\boxed{4}."], "scores": [1.0], "lengths": [9]}
    row = evaluation.summary("d/few.jsonl", [shown | {"truncated": [False]}])
    assert evaluation.describe(row) == (
        "eval  few.jsonl: 100.0% of 1 right, 9.0 tokens, 0.0% cut\n"
        '      p7: "It is \\\\boxed{4}." right'
    )


def test_out_is_looked_at_before_the_model_is_read(tmp_path, few, monkeypatch, capsys):
    """Hours of samples, and then no folder to write them to."""
    monkeypatch.setattr(evaluation, "load_model", lambda *_: pytest.fail("the model was read"))
    for out in (tmp_path / "no/x.json", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            evaluation.main([*MODEL, "--data", str(few), "--out", str(out)])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and said.startswith(f"eval.py: --out {out}: ")
        assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["load_model", "evaluate"])
def test_out_of_gpu_memory_is_one_line_and_exit_code_1(few, monkeypatch, capsys, name):
    """A stack trace of thirty lines, or an exit code that says the flags were wrong."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(evaluation, name, full)
    with pytest.raises(SystemExit) as stopped:
        evaluation.main([*MODEL, "--data", str(few)])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.count("\n") == 1
    assert "eval.py: out of GPU memory: lower --slots or --max-new-tokens" in said


def test_a_command_line_works_from_another_folder(tmp_path, few):
    """Imports looked for in the current folder."""
    command = [sys.executable, str(ROOT / "eval.py"), *MODEL, "--data", few.name]
    command += ["--max-new-tokens", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "few.jsonl" in done.stdout and "avg@1" in done.stdout
