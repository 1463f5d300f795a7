"""report.py: what reaches the page, what can't, and the page itself in headless Chromium, if there
is one (driven through its DevTools pipe)."""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from conftest import ROOT

import report
import train
from lib import page, settings, trackers

DEMO = ROOT / "demo"
HOSTILE = [
    "</script><script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>",
    "&lt;", "<!--<script>", "\0", "\u2028\u202e", "\ud800", "'\"`${1}\\", "x" * 100_000,
]  # fmt: skip


def row(step=1, id="p", sample=0, reward=1.0, td=(0.1, -0.2, 0.3), tokens=None, **more):
    """A line of rollouts.jsonl."""
    n = len(td)
    tokens = tokens or [f"t{i}" for i in range(n)]
    return {
        "step": step, "id": id, "sample": sample, "answer": "7", "prompt": "1+6=", "tokens": tokens,
        "response": "".join(map(str, tokens)), "finished": True, "reward": reward,
        "reward_clean": reward, "baseline": 0.5, "grpo": 1.5, "td": list(td),
        "log_ratio": list(td), "kl": [0.01] * n,
        "entropy": [0.5] * n, "advantages": [-1.0] * n,
    } | more  # fmt: skip


def metric(step, **more):
    """A line of metrics.jsonl."""
    return {"step": step, "reward": 0.5, "reward_clean": 0.5, "seconds_rollout": 1.0} | more


def folder(out, rows=(), metrics=None, evals=(), raw=""):
    """A run folder of these lines."""
    out.mkdir(exist_ok=True)
    config = {"settings": {"algo": "vimpo", "gae_lambda": 1.0, "steps": 9}, "versions": {}}
    (out / "config.json").write_text(json.dumps(config | {"date": "2031"}))
    metrics = [metric(1)] if metrics is None else metrics
    for name, objects in (("rollouts", rows), ("metrics", metrics), ("eval", evals)):
        text = "".join(json.dumps(x) + "\n" for x in objects) + raw
        (out / f"{name}.jsonl").write_text(text)
    return out


class Parts(HTMLParser):
    """The elements of a page, and the text of its scripts and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag in ("script", "style")
        if self.open:
            self.inside.append([tag, ""])

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.inside[-1][1] += data


def content(path):
    """The JSON that stands in a page."""
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>',
                        path.read_text(), re.DOTALL)  # fmt: skip
    return json.loads(data)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A short run of the demo's model, with its checkpoint and its page."""
    out = tmp_path_factory.mktemp("runs") / "r"
    arguments = ["--steps", "2", "--prompts-per-step", "4", "--samples-per-prompt", "4"]
    arguments += ["--lr", "5e-4", "--beta", "0.2", "--max-new-tokens", "40", "--eval-every", "1"]
    tests = out.parent / "test.jsonl"
    tests.write_text("".join((DEMO / "test.jsonl").open().readlines()[:6]))
    arguments += ["--watch", "3", "--model", str(DEMO / "model"), "--out", str(out)]
    arguments += ["--data", str(DEMO / "train.jsonl"), "--eval-data", str(tests)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert train.main(arguments) == 0
    (out / "said.txt").write_text(said.getvalue())
    return out


# ---- What training leaves for it -----------------------------------------------------------------


def test_the_same_problems_are_answered_at_every_evaluation_with_the_same_noise(demo):
    """Early beside late without a prompt that was met twice; another draw at every evaluation, so
    that luck looks like learning."""
    rows = [json.loads(line) for line in (demo / "rollouts.jsonl").open()]
    watched = [r for r in rows if r.get("watched")]
    assert [r["step"] for r in watched] == [step for step in (0, 1, 2) for _ in range(12)]
    asked = [(r["id"], r["sample"]) for r in watched]
    assert asked == 3 * [(f"test-{i}", s) for i in range(3) for s in range(4)]
    start = [r for r in watched if r["step"] == 0]
    assert all(set(r["td"]) == {0.0} and set(r["values"]) == {r["baseline"]} for r in start)
    assert any(any(r["td"]) for r in watched if r["step"] == 2)
    texts = [[r["response"] for r in watched if r["step"] == step] for step in (0, 1, 2)]
    # The first update is tiny: nearly all responses stay what they were.
    assert sum(a == b for a, b in zip(texts[0], texts[1], strict=True)) >= 6


def test_training_ends_with_a_page_and_its_path(demo, tmp_path, capsys):
    """A page that only comes by hand; a full disk for the page that ends the run."""
    assert (demo / "said.txt").read_text().strip().endswith(f"{demo}/report.html")
    found = content(demo / "report.html")["runs"][0]
    assert found["metrics"]["step"] == [1, 2] and len(found["rollouts"]) >= 36
    run = SimpleNamespace(args=SimpleNamespace(report_every=2), step=4, steps=9, history=[1],
                          out=tmp_path / "none")  # fmt: skip
    report.refresh_page(run)
    assert "no report: " in capsys.readouterr().err
    run.step = 5
    report.refresh_page(run)
    assert capsys.readouterr().err == ""


# ---- What stands on the page ---------------------------------------------------------------------


def test_nothing_of_a_model_can_end_the_data_or_run(tmp_path):
    """A response holding </script> that runs in the reader's browser."""
    tokens = HOSTILE
    hostile = row(td=[0.1] * len(tokens), tokens=tokens, prompt=HOSTILE[0], id=HOSTILE[0])
    out = folder(tmp_path / "<b>r", [hostile])
    assert report.main([str(out)]) == 0
    text = (out / "report.html").read_text(encoding="utf-8")
    parts = Parts(text)
    assert [tag for tag, _ in parts.inside] == ["style", "script", "script"]
    assert json.loads(parts.inside[1][1])["runs"][0]["rollouts"][0]["tokens"] == tokens
    assert "<" not in parts.inside[1][1] and "hacked = 1</script>" not in text
    [policy] = [a["content"] for tag, a in parts.tags if "http-equiv" in a]
    hashes = [hashlib.sha256(parts.inside[i][1].encode()).digest() for i in (2, 0)]
    script, style = (f"'sha256-{base64.b64encode(x).decode()}'" for x in hashes)
    assert policy.startswith(f"default-src 'none'; script-src {script}; style-src {style};")
    assert "unsafe" not in policy
    for _, attributes in parts.tags:
        assert not {"src", "href", "style", "onload"} & attributes.keys()
    script = parts.inside[2][1]
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch("):
        assert word not in script


def test_a_page_stays_below_five_megabytes_and_keeps_first_and_last_answers(tmp_path):
    """A page of a long run that no browser opens; early and late cut away first."""
    rows = [row(step, f"p{i}", i, td=[0.123456] * 600, watched=step % 4 == 0)
            for step in range(13) for i in range(16)]  # fmt: skip
    out = folder(tmp_path / "r", rows)
    assert report.main([str(out)]) == 0
    assert 2e6 < (out / "report.html").stat().st_size < 5e6
    found = content(out / "report.html")["runs"][0]
    kept = [(r["step"], r["id"]) for r in found["rollouts"]]
    assert found["logged"] == len(rows) > len(kept)
    assert all((step, f"p{i}") in kept for step in (0, 12) for i in range(16))
    folder(out, [row(td=[0.1] * 150_000)])
    assert report.main([str(out)]) == 0
    [long] = content(out / "report.html")["runs"][0]["rollouts"]
    assert len(long["tokens"]) == len(long["td"]) == page.MOST_TOKENS and long["length"] == 150_000


def test_the_curves_of_a_long_run_are_thinned(tmp_path):
    """A page of 40 MB for 20,000 steps; a curve that ends before the run does."""
    more = [{f"m{i}": 1 / (step + i) for i in range(1, 20)} for step in range(9001)]
    metrics = [metric(step, **numbers) for step, numbers in enumerate(more)]
    out = folder(tmp_path / "r", [row()], metrics)
    assert report.main([str(out)]) == 0
    run = content(out / "report.html")["runs"][0]
    assert run["every"] == 5 and run["metrics"]["step"][:2] == [0, 5]
    assert run["metrics"]["step"][-1] == 9000 and len(run["metrics"]["m3"]) == 1801
    assert (out / "report.html").stat().st_size < 1e6


def test_two_runs_stand_on_one_page(tmp_path):
    """The second run folder left out, or the page of the first one overwritten."""
    a, b = folder(tmp_path / "a", [row()]), folder(tmp_path / "b", [row(step=2)])
    assert report.main([str(a), str(b)]) == 0 and not (a / "report.html").exists()
    assert [run["name"] for run in content(a / "compare.html")["runs"]] == ["a", "b"]


def test_a_response_that_was_logged_twice_counts_once(tmp_path):
    """A run that was cut off and went on: its step twice in the measure of the value."""
    first, again = row(2, td=(0.1, 0.1, 0.1)), row(2, td=(0.2, 0.2, 0.2))
    run = page.read_run(folder(tmp_path / "r", [first, row(1), again]))
    assert run["logged"] == 2 and [r["step"] for r in run["rollouts"]] == [1, 2]
    assert run["rollouts"][1]["td"] == [0.2, 0.2, 0.2]


def test_lines_that_were_cut_off_are_left_out_and_nan_is_a_gap(tmp_path):
    """A report that fails on the folder of a run that was killed, or of one that diverged."""
    out = folder(tmp_path / "r", [row(td=[0.1, float("nan"), 0.2])],
                 [metric(1, kl=float("nan")), metric(2, kl=float("inf")), metric(3, kl=0.5)],
                 raw='{"step": 4, "tokens": ["a')  # fmt: skip
    run = page.read_run(out)
    assert run["metrics"]["kl"] == [None, None, 0.5] and run["metrics"]["step"] == [1, 2, 3]
    assert [r["td"] for r in run["rollouts"]] == [[0.1, None, 0.2]]
    assert report.main([str(out)]) == 0 and "NaN" not in (out / "report.html").read_text()


def test_a_folder_of_before_td_was_logged_is_shown(tmp_path):
    """Old runs of which nobody can see a page; rows of another form that end the report."""
    old = row(values=[0.5, 0.6, 0.4, 0.7])
    del old["td"], old["kl"], old["grpo"], old["sample"]
    bad = [{"step": 1}, row(tokens=[1, 2, 3]), row(kl=[1.0])]
    [shown, short] = page.read_run(folder(tmp_path / "r", [old, *bad]))["rollouts"]
    assert shown["td"] == pytest.approx([0.1, -0.2, 0.3]) and shown["kl"] is None
    assert short["kl"] is None and short["td"]


@pytest.mark.parametrize("wrong", ["missing", "file", "empty", "config", "no steps", "out"])
def test_what_is_no_run_folder_costs_one_line(tmp_path, capsys, wrong):
    """A stack trace, or an empty page, for a folder that was mistyped."""
    out, more = tmp_path / "r", []
    if wrong == "file":
        out.write_text("x")
    elif wrong == "empty":
        out.mkdir()
    elif wrong != "missing":
        folder(out, metrics=[] if wrong == "no steps" else None)
    if wrong == "config":
        (out / "config.json").write_text("{")
    if wrong == "out":
        more = ["--out", str(tmp_path / "no/page.html")]
    with pytest.raises(SystemExit) as stopped:
        report.main([str(out), *more])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and str(tmp_path) in said
    assert not (out / "report.html").exists()


def test_intervals_are_wilsons():
    """An interval of width 0 for 0 of 10 right, or one beyond 1."""
    found = page.with_interval({"n": 10, "accuracy": 0.0})
    assert (found["low"], found["high"]) == pytest.approx((0, 0.2775), abs=1e-3)
    found = page.with_interval({"n": 100, "accuracy": 0.5})
    assert (found["low"], found["high"]) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_what_the_value_knows_is_counted_within_prompts(tmp_path):
    """Credit for telling easy prompts from hard ones; a tie counted as known."""
    right, wrong = [[0.0, 0.2], [0.0, -0.1]], [[0.1, 0.0], [0.0, -0.1]]
    rows = [row(2, "a", s, 1.0, td, watched=True) for s, td in enumerate(right)]
    rows += [row(2, "a", s + 2, 0.0, td, watched=True) for s, td in enumerate(wrong)]
    rows += [row(2, "b", s, 1.0, [0.4, 0.4], watched=True) for s in range(3)]
    [found] = page.what_the_value_knows([page.briefly(r) for r in rows])
    # at the end: 0.2 beats both, -0.1 loses to 0.1 and ties with -0.1
    assert found["pairs"] == 4 and found["prompts"] == 1 and found["area"][-1] == 2.5 / 4
    assert found["area"][1] == 0.25  # half way: two ties of four pairs
    assert found["right"] == pytest.approx([(0.2 - 0.1 + 3 * 0.8) / 5, 0.5])
    assert found["wrong"] == pytest.approx([0.0, -0.5])
    assert sum(count for *_, count in found["bins"]) == 7
    few = [page.briefly(r | {"watched": True}) for r in (row(reward=0.0, td=[0.1]), row(td=[0.3]))]
    assert page.calibration(few, 1) == [[pytest.approx(0.7), 0.5, 2]]


def test_monte_carlo_says_what_becomes_of_each_prefix(demo, tmp_path):
    """The success of another response, or of another policy than the one that wrote it."""
    assert report.main([str(demo), "--monte-carlo", "4", "--out", str(tmp_path / "p.html")]) == 0
    rows = content(tmp_path / "p.html")["runs"][0]["rollouts"]
    judged = [r for r in rows if r.get("truth")]
    assert judged and {(r["step"], r["watched"]) for r in judged} == {(2, True)}
    for r in judged:
        assert len(r["truth"]) == len(r["tokens"]) + 1 and r["truth"][-1] == r["reward"]
        assert all(0 <= x <= 1 and (4 * x).is_integer() for x in r["truth"])
        # Before the stop token only that is left to write: all is decided.
        assert r["truth"][-2] == r["reward"]


# ---- The picture of the README -------------------------------------------------------------------


def test_the_picture_takes_the_middle_one_and_names_its_step(tmp_path):
    """The most telling response picked out; a step named that is not the one that is blamed."""
    picture = runpy.run_path(str(DEMO / "picture.py"))
    tokens = list("13+2=14")  # 9+4+2=: 9+4 is 13, and 13+2 is not 14
    falls = (-0.1, -0.3, -0.2, 0.0)
    rows = [
        row(9, f"p{i}", s, float(s), [0, 0, 0, 0, 0, 0, x], tokens, watched=True, prompt="9+4+2=")
        for i, x in enumerate(falls) for s in (0, 1)
    ]  # fmt: skip
    rows += [row(9, "p9", 0, 0.0, [-0.9] * 7, tokens, watched=True)]  # no right one beside it
    rows += [row(4, "p0", 0, 0.0, [-0.9] * 7, tokens, watched=True)]  # not the last evaluation
    shown = page.read_run(folder(tmp_path / "r", rows))["rollouts"]
    wrong, right = picture["choose"](shown)
    assert (wrong["id"], right["id"], wrong["reward"]) == ("p0", "p0", 0.0)
    t, said = picture["what_it_blames"](wrong)
    assert t == 6 and said == "The model blames 13+2 = 14 (not 15). V falls from 0.50 to 0.40 here."
    drawn = picture["draw"](wrong, right, 0.3)
    assert drawn.count("<polyline") == 2 and xml.etree.ElementTree.fromstring(drawn) is not None
    with pytest.raises(ValueError, match="no right and wrong response"):
        picture["choose"](shown[:1])


# ---- TensorBoard and Weights & Biases ------------------------------------------------------------


def test_a_tracker_without_its_package_is_refused_in_one_line(capsys, monkeypatch):
    """An ImportError after the model is loaded."""
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(SystemExit) as stopped:
            settings.train_args([f"--{name}"], ("vimpo",))
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and said.count("\n") == 1 and f"pip install {name}" in said


def test_trackers_get_the_numbers_of_the_logs_by_their_names(tmp_path, monkeypatch):
    """Names that are not those of metrics.jsonl; two files of an evaluation on one curve."""
    sent, ended = [], []
    run = SimpleNamespace(log=lambda row, step: sent.append((step, row)),
                          finish=lambda: ended.append(1))  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: run))
    args = SimpleNamespace(tensorboard=False, wandb=True)
    with contextlib.ExitStack() as stack:
        track = trackers.open_trackers(args, tmp_path, 0, stack)
        track({"step": 3, "reward": 0.5, "kl": None})
        track({"step": 3, "file": "x/test.jsonl", "accuracy": 0.25, "n": 8})
    assert sent == [(3, {"reward": 0.5}), (3, {"eval/test/accuracy": 0.25, "eval/test/n": 8})]
    assert ended == [1]


# ---- The page in a browser -----------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip


class Browser:
    """Headless Chromium, spoken to through its DevTools pipe: JSON texts that end in NUL."""

    def __init__(self, profile):
        (down, self.send), (self.receive, up) = os.pipe(), os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        flags += " --disable-background-networking --disable-component-update --disable-sync"
        flags += f" --user-data-dir={profile}"
        command = f"exec {CHROMIUM} {flags} --remote-debugging-pipe 3<&{down} 4>&{up}"
        command = ["bash", "-c", command + " >/dev/null 2>&1"]
        self.process = subprocess.Popen(command, pass_fds=(down, up))
        os.close(down), os.close(up)
        self.number, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while (answer := self.next_message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def next_message(self):
        while b"\0" not in self.buffer:
            data = os.read(self.receive, 1 << 16)
            assert data, "the browser has gone"
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path, width, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(self.next_message())
        # Two frames later all sizes are known, and what depends on them is drawn.
        frames = "new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))"
        self.call("Runtime.evaluate", expression=frames, awaitPromise=True)

    def run(self, script):
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def group(self, title):
        """The radio buttons under a title, as an expression in the page."""
        return (
            f"[...document.querySelectorAll('fieldset')].find(f => f.textContent.startsWith("
            f"'{title}')).querySelectorAll('input')"
        )

    def click(self, title, number):
        self.run(f"{self.group(title)}[{number}].click()")

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode={"Tab": 9, "ArrowRight": 39}[name])  # fmt: skip

    def complaints(self):
        """What went wrong, and every address that was asked but the page's own."""
        wrong = []
        for event in self.events:
            name, params = event["method"], event["params"]
            if name in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                wrong.append(params)
            if name == "Network.requestWillBeSent":
                url = params["request"]["url"]
                wrong += [] if url.startswith(("file:", "about:")) else [url]
        return wrong

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.send), os.close(self.receive)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLOURED = "document.querySelectorAll('.card .token.signed').length"
BLAMED = "[...document.querySelectorAll('.token.blamed')].map(x => x.textContent).join()"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_and_every_control_works(demo, browser, tmp_path, width, scheme):
    """A page that scrolls sideways on a phone, a control that does nothing, an error in the
    console."""
    file = tmp_path / "p.html"
    rows = [row(step, sample=s, reward=s % 2, watched=True) for step in (1, 2) for s in range(4)]
    other = folder(tmp_path / "other", rows, [metric(1), metric(2, kl=1)])
    assert report.main([str(other), str(demo), "--out", str(file)]) == 0
    browser.open(file, width, scheme)
    paper = browser.run("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(25, 27, 32)"}[scheme]
    assert browser.run("document.querySelectorAll('figure').length") >= 12
    assert browser.run("document.querySelectorAll('#settings tbody')[0].rows.length") > 5

    # Radio buttons: the first run first, then the same with the second.
    for run in (0, 1):
        browser.click("Run", run)
        for title in ("Colour tokens by", "Sort by", "Show", "Lines"):
            seen = set()
            for choice in range(browser.run(browser.group(title) + ".length")):
                browser.click(title, choice)
                seen.add(browser.run("document.getElementById('page').innerHTML"))
                assert browser.run(WIDER) <= 0
            assert len(seen) == browser.run(browser.group(title) + ".length") >= 3, title
            browser.click(title, 0)

    # Lists to choose from, and the buttons.
    # The last one first: the choice of a problem changes those of steps.
    for number in reversed(range(browser.run("document.querySelectorAll('select').length"))):
        box = f"document.querySelectorAll('select')[{number}]"
        before = browser.run("document.getElementById('page').textContent")
        browser.run(f"{box}.selectedIndex = ({box}.selectedIndex + 1) % {box}.options.length")
        browser.run(f"{box}.dispatchEvent(new Event('change'))")
        assert browser.run("document.getElementById('page').textContent") != before, number
        assert browser.run(WIDER) <= 0
    for name in ("next", "more"):
        buttons = f"document.querySelectorAll('button.{name}')"
        before = browser.run("document.getElementById('page').textContent")
        browser.run(f"{buttons}[0].click()")
        assert browser.run("document.getElementById('page').textContent") != before
    assert browser.run(WIDER) <= 0 and browser.complaints() == []


def test_the_token_at_which_v_fell_most_is_named(browser, tmp_path):
    """A page that blames another token than the numbers do, or a right response."""
    rows = [
        row(5, sample=0, reward=0.0, td=(0.0, 0.01, -0.3, -0.1), tokens=list("1+5="), watched=True),
        row(5, sample=1, reward=1.0, td=(0.0, 0.01, 0.0, -0.2), tokens=list("1+6="), watched=True),
    ]
    out = folder(tmp_path / "r", rows)
    assert report.main([str(out)]) == 0
    browser.open(out / "report.html", 1400, "light")
    assert browser.run(BLAMED) == "5,5"  # once side by side, once in the list
    said = browser.run("document.querySelector('.card.wrong .blame').textContent")
    assert said == "The model blames 1+5= (token 3 of 4): V \u22120.3, 73% of all its movement."
    said = browser.run("document.querySelector('.card.right .blame').textContent")
    assert said.startswith("V falls most at ")
    # The line stands over the tokens: its last point at the right edge of the last one.
    ends = browser.run(
        "[document.querySelector('.value').points.getItem(4).x,"
        "[...document.querySelectorAll('.card .token')][3].getBoundingClientRect().right"
        " - document.querySelector('.curve').getBoundingClientRect().left]"
    )
    assert ends[0] == pytest.approx(ends[1], abs=0.1)


def test_the_keyboard_shows_what_the_mouse_shows(demo, browser):
    """Numbers that only a mouse can reach."""
    browser.open(demo / "report.html", 1400, "light")
    readout = "document.querySelector('.card .readout').textContent"
    browser.run("document.querySelector('.card .token').focus()")
    assert browser.run(readout).startswith("token 1 of ")
    browser.key("ArrowRight")
    by_key = browser.run(readout)
    assert by_key.startswith("token 2 of ")
    assert all(name in by_key for name in ("td ", "A ", "log-ratio ", "KL ", "entropy ", "V "))
    browser.run("document.activeElement.blur()")
    for number in (0, 1):
        token = f"document.querySelectorAll('.card .token')[{number}]"
        browser.run(f"{token}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}}))")
    assert browser.run(readout) == by_key
    browser.run("document.querySelector('figure svg').focus()")
    assert "step 2" in browser.run("document.querySelector('figure .readout').textContent")
    assert browser.complaints() == []


def test_hostile_text_is_shown_and_not_run(browser, tmp_path):
    """A response that runs in the page, or is swallowed by it."""
    rows = [row(td=[0.1] * len(HOSTILE), tokens=HOSTILE, prompt=HOSTILE[0], id=HOSTILE[1],
                answer=HOSTILE[1], sample=i, reward=float(i)) for i in range(2)]  # fmt: skip
    out = folder(tmp_path / "r", rows, evals=[{"step": 0, "file": HOSTILE[0], "accuracy": 0.5}])
    assert report.main([str(out)]) == 0
    browser.open(out / "report.html", 400, "light")
    assert browser.run("window.hacked") is None and browser.run(WIDER) <= 0
    text = browser.run("document.querySelector('.tokens').textContent")
    for shown in (*HOSTILE[:4], "\u2400", "U+202E", HOSTILE[-1]):
        assert shown in text
    assert browser.run("document.querySelectorAll('img, script').length") == 2
    assert browser.complaints() == []


def test_a_response_of_thousands_of_tokens_is_shown_in_parts(browser, tmp_path):
    """A page that hangs on a long response, never shows its end, or hides what is blamed."""
    long = row(td=[0.0001] * 4000 + [-0.5], reward=1.0, finished=False)
    wrong = row(sample=1, td=[0.0001] * 2000 + [-0.5] + [0.0001] * 2000, reward=0.0)
    out = folder(tmp_path / "r", [long, wrong])
    assert report.main([str(out)]) == 0
    browser.open(out / "report.html", 1400, "light")
    tokens = "document.querySelector('.card.right .tokens')"
    shown = f"{tokens}.querySelectorAll('.token').length"
    assert 0 < browser.run(shown) < 4001
    browser.run(f"{tokens}.querySelector('button').click()")
    assert browser.run(shown) == 4001
    assert browser.run(f"{tokens}.querySelector('.cut').textContent.includes('cut')")
    place = "document.querySelector('.card.wrong .tokens').getBoundingClientRect().{0}"
    blamed = "document.querySelector('.card.wrong .token.blamed').getBoundingClientRect().{0}"
    assert browser.run(place.format("top") + " < " + blamed.format("top"))
    assert browser.run(blamed.format("bottom") + " < " + place.format("bottom"))
    assert browser.complaints() == []
