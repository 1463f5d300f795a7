"""eval.py: the tables, the file of graded samples, what goes on after a cut, what is graded anew,
what is compared, and what is looked at before hours of sampling."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval as evaluation
from lib import evaluation as kept
from lib.eval_tables import describe, format_table

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
    assert settings["seed"] == 5 and settings["model"] == [str(DEMO / "model")]
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
        row = {"scores": scores, "lengths": [10, 20], "truncated": [False, True]}
        rows.append(row | {"answers": ["4", None], "boxed": [True, False]})
    found = evaluation.summary("f", rows)
    assert found["accuracy"] == 0.5 and found["stderr"] == pytest.approx(0.5 / 3**0.5)
    assert (found["response_tokens"], found["truncated"]) == (15, 0.5)
    assert evaluation.summary("f", rows[:1])["stderr"] == 0.0


def test_the_line_of_a_training_run_shows_a_response_and_its_verdict():
    """A share of right answers without a look at what is taken for one."""
    shown = {"id": "p7", "responses": ["It is \\boxed{4}."], "scores": [1.0], "lengths": [9]}
    shown |= {"truncated": [False], "answers": ["4"], "boxed": [True]}
    row = evaluation.summary("d/few.jsonl", [shown])
    assert describe(row) == (
        "eval  few.jsonl: 100.0% of 1 right (2.5 to 100.0%), 9.0 tokens, 0.0% cut\n"
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


# --------------------------------------------------------------------------------------------------
# Several models and files; what the table and the file say


@pytest.fixture
def run(tmp_path, few, capsys):
    """run(flag, ...) -> (the result in --out, what was printed), of a short evaluation."""

    def evaluate(*more, out="o.json", data=(few,)):
        words = [*MODEL, "--data", *data, "--max-new-tokens", "30", "--top-p", "1", *more]
        assert evaluation.main([*map(str, words), "--out", str(tmp_path / out)]) == 0
        return json.loads((tmp_path / out).read_text(encoding="utf-8")), capsys.readouterr().out

    return evaluate


def refused(capsys, *arguments):
    """What eval.py says on stderr and ends with 2, as one line, for these arguments."""
    with pytest.raises(SystemExit) as stopped:
        evaluation.main(list(map(str, arguments)))
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.err.count("\n") == 1 and printed.out == ""
    return printed.err


def test_two_models_on_two_files_are_four_lines(tmp_path, few, run, capsys):
    """A model that gets the other's responses; two checkpoints of one run with the same name."""
    other, copy = tmp_path / "other.jsonl", tmp_path / "copy"
    other.write_text("".join((DEMO / "train.jsonl").read_text().splitlines(keepends=True)[:9]))
    shutil.copytree(DEMO / "model", copy)
    more = ["--model", DEMO / "model", copy, "--limit", "7", "--samples", "2"]
    result, printed = run(*more, data=(few, other))
    lines = [(line["model"], line["file"]) for line in result["table"]]
    assert lines == [(str(m), str(f)) for m in (DEMO / "model", copy) for f in (few, other)]
    assert [line["n"] for line in result["table"]] == [7] * 4
    first, second = result["table"][:2], result["table"][2:]
    assert [line["problems"] for line in first] == [line["problems"] for line in second]
    assert "\nmodel  few.jsonl" in printed and "\ncopy  few.jsonl" in printed
    alone, _ = run("--limit", "7", "--samples", "2", data=(other,))
    assert alone["table"][0]["problems"] == first[1]["problems"]


def test_the_file_says_what_it_was_made_of(tmp_path, few, run):
    """Figures whose model, data, template or verifier nobody can name a month later."""
    result, _ = run("--samples", "2")
    assert result["data"] == {str(few): hashlib.sha256(few.read_bytes()).hexdigest()}
    assert result["torch"] == torch.__version__ and result["dtype"] == "fp32"
    assert result["device"] == "cpu" and len(result["verifier"]) == 16
    digests = result["models"][str(DEMO / "model")]
    assert {len(digests[key]) for key in ("weights", "template")} == {64}
    [line] = result["table"]
    [problem] = [p for p in line["problems"] if p["id"] == "test-3"]
    assert problem["row"] == json.loads(few.read_text().splitlines()[3])
    assert len(problem["responses"]) == len(problem["answers"]) == len(problem["boxed"]) == 2
    assert not (tmp_path / "o.json.parts").exists()


def made_up(scores, answers=None, length=10):
    """A line of a table, of one problem for each list of scores."""
    rows = []
    for i, one in enumerate(scores):
        row = {"id": str(i), "scores": one, "row": {"problem": i}, "boxed": [True] * len(one)}
        row["answers"] = answers[i] if answers else ["4" if score else "5" for score in one]
        row |= {"lengths": [length + score for score in one], "truncated": [False] * len(one)}
        rows.append(row)
    return {"model": "m"} | kept.summary("d/few.jsonl", rows)


def test_the_tables_show_the_parts_of_a_line():
    """pass@k and maj@k that are avg@k; tokens of right and wrong responses in one mean."""
    line = made_up([[1.0, 1.0, 0.0, 0.0], [0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    assert line["accuracy"] == 0.25 and line["majority"] == pytest.approx(0.5 / 3)
    assert line["pass_at"] == {"1": 0.25, "2": pytest.approx((5 / 6 + 0 + 1 / 2) / 3), "4": 2 / 3}
    assert line["tokens_right"] == {"mean": 11, "median": 11}
    assert line["tokens_wrong"] == {"mean": 10, "median": 10} and line["boxed"] == 1
    assert line["interval"][0] < 0.25 < line["interval"][1]
    first, second = format_table([line]).split("\n\n")
    assert "avg@4" in first and "16.7%" in first and "25.0%" in first
    assert "pass@4" in second and "66.7%" in second
    for text in (first, second):
        assert len({len(row) for row in text.splitlines()}) == 1
    assert made_up([[0.0, 0.0]], answers=[[None, None]])["majority"] is None
    assert made_up([[0.0, 0.0]], answers=[[None, "4"]])["majority"] == 0
    assert made_up([[0.0]])["tokens_right"] is None


# --------------------------------------------------------------------------------------------------
# Cut off, and on


@pytest.fixture
def cut(monkeypatch):
    """cut(n): from now on Ctrl-C comes after n parts of some 4 responses."""
    append = kept.append

    def set_up(n):
        written = []

        def interrupted(*arguments):
            append(*arguments)
            written.append(1)
            if len(written) == n:
                raise KeyboardInterrupt

        monkeypatch.setattr(kept, "append", interrupted)

    monkeypatch.setattr(evaluation, "PART", {"cpu": 4})
    return set_up


def test_an_evaluation_that_was_cut_off_ends_in_the_same_file(tmp_path, few, run, cut, capsys):
    """Hours of finished samples lost; samples drawn twice, left out, or in another order; a
    problem that stands twice and gets the same samples twice; a line that was cut in its middle."""
    twins, lines = tmp_path / "twins.jsonl", few.read_text().splitlines(keepends=True)
    twins.write_text("".join([*lines[:5], *lines[:3]]))
    copy, sampled = tmp_path / "copy", []
    shutil.copytree(DEMO / "model", copy)
    arguments = ["--model", DEMO / "model", copy, "--samples", "2", "--limit", "8"]
    both, out, parts = (few, twins), tmp_path / "o.json", tmp_path / "o.json.parts"
    run(*arguments, data=both)
    whole = out.read_bytes()
    out.unlink()
    for n in (1, 2, 5):
        cut(n)
        with pytest.raises(SystemExit) as stopped:
            run(*arguments, data=both)
        assert stopped.value.code == 130 and not out.exists()
        sampled.append(len(parts.read_text().splitlines()) - 1)
        assert "stopped; the same command goes on" in capsys.readouterr().err
        with open(parts, "a") as f:
            f.write('{"model": "cut off in the mid')
    assert sampled == [2, 6, 16]  # problems; equal ones come in one part
    cut(0)
    run(*arguments, "--slots", "3", data=both)
    assert out.read_bytes().replace(b'"slots": 3', b'"slots": null') == whole
    assert not parts.exists()
    texts = [p["responses"] for p in json.loads(whole)["table"][1]["problems"]]
    assert texts[0] != texts[5] and texts[1] != texts[6]


def test_progress_counts_the_parts_together(monkeypatch):
    """Time to go that begins anew with each part, or shares above 1."""
    shown = []
    monkeypatch.setattr(kept, "progress", lambda phase: lambda *seen: shown.append(seen))
    show = kept.progress_of_parts(10)
    for done, part, tokens in ((0, 4, 4), (2, 4, 9), (4, 4, 20), (0, 6, 6), (6, 6, 30)):
        show(done, part, tokens)
    assert shown == [(0, 10, 4), (2, 10, 9), (4, 10, 20), (4, 10, 26), (10, 10, 50)]


def test_only_the_same_evaluation_goes_on(tmp_path, few, run, cut, capsys, monkeypatch):
    """Half of a table from other settings, other problems or other weights."""
    parts, out = tmp_path / "o.json.parts", tmp_path / "o.json"
    cut(1)
    with pytest.raises(SystemExit):
        run("--seed", "3")
    capsys.readouterr()
    monkeypatch.setattr(evaluation, "load_model", lambda *_: pytest.fail("the model was read"))
    same = [*MODEL, "--data", few, "--max-new-tokens", "30", "--top-p", "1", "--out", out]
    said = refused(capsys, *same, "--seed", "4")
    assert said.startswith(f"eval.py: {parts}: ") and "--seed was 3 and is 4 now; wanted" in said
    said = refused(capsys, *same, "--seed", "3", "--samples", "2")
    assert "--samples was 1 and is 2 now" in said
    few.write_text("".join(few.read_text().splitlines(keepends=True)[1:]))
    assert f"{parts}: an evaluation that was cut off; data was " in refused(
        capsys, *same, "--seed", "3"
    )
    parts.write_text("no JSON\n")
    assert f"{parts}: damaged; wanted" in refused(capsys, *same, "--seed", "3")


def test_a_reward_that_fails_costs_no_samples(tmp_path, few, run, cut, capsys, monkeypatch):
    """Hours of samples lost to a missing key, or kept only for a reward without a fault."""
    cut(0)
    (tmp_path / "r.py").write_text("def fails(response, problem):\n    return problem['no']\n")
    with pytest.raises(SystemExit):
        run("--reward", f"{tmp_path}/r.py:fails")
    (tmp_path / "r.py").write_text("def fails(response, problem):\n    return 0.25\n")
    monkeypatch.setattr(evaluation, "generate_together", lambda *_, **__: pytest.fail("sampled"))
    result, _ = run("--reward", f"{tmp_path}/r.py:fails")
    assert result["table"][0]["accuracy"] == 0.25


# --------------------------------------------------------------------------------------------------
# Saved results


REWARDS = """
def short(response, problem):
    return float(len(response) < 20)

def half(response, problem):
    return 0.5 * float(problem["answer"] in response)
"""


def test_regrading_equals_grading_anew(tmp_path, few, run, capsys, monkeypatch):
    """Scores that stay as they were; a reward without the JSONL row; a model that is read."""
    (tmp_path / "r.py").write_text(REWARDS)
    specs = ["math", f"{tmp_path}/r.py:short", f"{tmp_path}/r.py:half"]
    words = "--samples", "2", "--reward"
    anew = [run(*words, spec, out=f"{i}.json") for i, spec in enumerate(specs)]
    monkeypatch.setattr(evaluation, "load_model", lambda *_: pytest.fail("the model was read"))
    for i, spec in enumerate(specs):
        words = ["--regrade", tmp_path / f"{(i + 1) % 3}.json", "--reward", spec]
        assert evaluation.main([*map(str, words), "--out", str(tmp_path / "r.json")]) == 0
        result = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        wanted, table = anew[i]
        changed = {key for key in wanted if result[key] != wanted[key]}
        assert changed == {"settings"} and capsys.readouterr().out == table
        settings = result["settings"]
        differ = {key for key in settings if settings[key] != wanted["settings"][key]}
        assert differ == {"regrade", "out"} and settings["reward"] == spec
    assert len({line["accuracy"] for result, _ in anew for line in result["table"]}) == 3


def test_a_comparison_is_problem_by_problem(tmp_path, few, run, capsys):
    """Problems matched by their place; a difference whose sign is the other way round."""
    run("--samples", "2", out="a.json")
    few.write_text("".join(reversed(few.read_text().splitlines(keepends=True)[5:])))
    greedy, printed = run("--temperature", "0", "--compare", tmp_path / "a.json", out="b.json")
    [found] = greedy["comparison"]
    theirs = {p["id"]: p["scores"] for p in json.loads((tmp_path / "a.json").read_text())["table"]
              [0]["problems"]}  # fmt: skip
    gaps = [p["scores"][0] - sum(theirs[p["id"]]) / 2 for p in greedy["table"][0]["problems"]]
    assert found["n"] == 15 and found["difference"] == pytest.approx(sum(gaps) / 15)
    assert found["won"] == sum(g > 0 for g in gaps) and found["lost"] == sum(g < 0 for g in gaps)
    assert f"{found['difference']:+.1%}" in printed and f"against {tmp_path}/a.json:" in printed
    words = ["--regrade", str(tmp_path / "a.json"), "--compare", str(tmp_path / "b.json")]
    assert evaluation.main(words) == 0
    printed = capsys.readouterr()
    assert f"{-found['difference']:+.1%}" in printed.out
    assert "different settings: temperature 1.0 and 0.0" in printed.err


# --------------------------------------------------------------------------------------------------
# --preset paper


def test_the_paper_preset_draws_32_samples_of_aime_and_prints_one_line_a_model(
    tmp_path, few, run, monkeypatch
):
    """One sample of AIME, where the paper has 32; a mean over problems instead of benchmarks."""
    names = ("olympiadbench", "AIME2025", "math500", "aime_2024")
    lines = few.read_text().splitlines(keepends=True)
    data = [tmp_path / f"{name}.jsonl" for name in names]
    for i, file in enumerate(data):
        file.write_text("".join(lines[: i + 1]))
    result, printed = run("--preset", "paper", data=data)
    assert [line["samples"] for line in result["table"]] == [1, 32, 1, 32]
    assert [line["n"] for line in result["table"]] == [1, 2, 3, 4]
    head, line = printed.splitlines()[-2:]
    order = ["MATH-500 avg@1", "AIME 2024 avg@32", "AIME 2025 avg@32", "OlympiadBench avg@1"]
    assert [head.index(name) for name in order] == sorted(head.index(name) for name in order)
    shares = [100 * result["table"][i]["accuracy"] for i in (2, 3, 1, 0)]
    assert line.split() == ["model", *(f"{x:.1f}" for x in [*shares, sum(shares) / 4])]
    settings = result["settings"]
    assert (settings["temperature"], settings["max_new_tokens"]) == (1.0, 30)


# --------------------------------------------------------------------------------------------------
# Wrong inputs


GOOD = [*MODEL, "--data", str(DEMO / "test.jsonl")]
FOUR = ["--preset", "paper", "--data", "aime24", "math500", "olympiadbench", "aime25"]
WRONG = [
    ("a benchmark missing", [*MODEL, "--preset", "paper", "--data", "math500.jsonl"],
     "--preset paper: no file of AIME 2024, AIME 2025, OlympiadBench in --data; wanted math500"),
    ("one too many", [*MODEL, *FOUR, "amc23"],
     "--preset paper: amc23 is none of its benchmarks; wanted one file of each"),
    ("one twice", [*MODEL, *FOUR, "aime2024"],
     "--preset paper: aime2024 is a second file of AIME 2024; wanted one file of each"),
    ("no problems", [*GOOD, "--limit", "0"], "argument --limit: found '0', wanted a whole number"),
    ("the second model is not there", [*GOOD, "--model", str(DEMO / "model"), "nowhere"],
     "nowhere: no such folder, and nothing is downloaded"),
    ("nothing to compare with", [*GOOD, "--compare", "no.json"],
     "--compare no.json: No such file or directory; wanted the --out of eval.py"),
    ("an empty variable", [*GOOD, "--compare", ""], "--compare '': No such file or directory"),
    ("to compare with a list", [*GOOD, "--compare", "list.json"],
     "--compare list.json: not in the form of a result; wanted the --out of eval.py"),
    ("to compare with another JSON", [*GOOD, "--compare", "other.json"],
     "--compare other.json: not in the form of a result; wanted the --out of eval.py"),
    ("to compare with other benchmarks", [*GOOD, "--compare", "good.json"],
     "--compare good.json: results on few.jsonl only; wanted one of the files in --data"),
    ("nothing to regrade", ["--regrade", "no.json"], "--regrade no.json: No such file"),
    ("problems to regrade", ["--regrade", "test.jsonl"], "--regrade test.jsonl: not in the form"),
    ("to regrade with a model", [*MODEL, "--regrade", "good.json"],
     "--regrade and --model; wanted one of them: responses are taken as they are"),
    ("to regrade without answers", ["--regrade", "good.json"],
     "--regrade good.json: problem 0 of few.jsonl has no answer; wanted --reward FILE.py:function"),
    ("to regrade into a folder", ["--regrade", "good.json", "--out", "."], "--out .: a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), [pytest.param(*r[1:], id=r[0]) for r in WRONG])
def test_what_is_wrong_is_said_in_one_line_before_a_model_is_read(
    tmp_path, monkeypatch, capsys, arguments, says
):
    """A benchmark left out of a table of four; a comparison that fails after hours of sampling."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "load_model", lambda *_: pytest.fail("the model was read"))
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "other.json").write_text('{"settings": {}, "table": [{"file": "few.jsonl"}]}')
    row = {key: [] for key in kept.SAVED} | {"id": "0", "answer": None, "row": {}}
    line = {"model": "m", "file": "few.jsonl", "samples": 1, "problems": [row]}
    (tmp_path / "good.json").write_text(json.dumps({"settings": {}, "table": [line]}))
    shutil.copy(DEMO / "test.jsonl", tmp_path)
    assert refused(capsys, *arguments).startswith(f"eval.py: {says}")
