"""Run directories by a stranger, or damaged: told in a line, and never followed, run or waited for.

Each fault is tried on the report, on tables and views, and on `runner.verify`.
"""

import dataclasses
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from runner import verify
from runner.ablation import plan as plans
from runner.ablation.designs import Contrast, Factor
from runner.ablation.verdicts import Verdict, judge
from runner.build import build
from runner.errors import UserError
from runner.frames import read_frames
from runner.report import curves, html, plots, tensorboard, verdict_table, write_report
from runner.report.__main__ import main as report
from runner.report.multirun import Multirun
from runner.report.multirun import table as multirun_table
from runner.report.story import path as shown_path
from runner.report.tensorboard import write_views
from runner.run.attempt import attempt
from runner.store.files import digest, write_json
from runner.store.runs import digest_answers, digest_metrics, find_runs
from tests.conftest import settings
from tests.runner.ablations import (
    make_finding,
    make_findings,
    trick,
    tricks,
    write_ablation,
    write_plan,
    write_run,
)

LONG = "x" * 10_000_000
CONTROLS = "\x00\x1b[2J\x1b]0;title\x07\r\n\u202e\u2066\ud800\x9b31m"
MARKUP = "<script>alert(1)</script>"
ODD = {
    "null": None,
    "a list": [[1], "a"],
    "a mapping": {"a": {"b": 1}},
    "nothing": "",
    "negative": -1,
    "no": False,
    "huge": 10**400,
    "of thousands of digits": 10**4200,
    "as large as can be": 1.7e308,
    "infinite": float("inf"),
    "no number": float("nan"),
    "controls": CONTROLS,
    "markup": MARKUP,
    "long": LONG,
    "deep": json.loads("[" * 300 + "]" * 300),
}
RAW = {
    "empty": b"",
    "spaces": b"   \n",
    "zeros": bytes(5000),
    "deep lists": b"[" * 100_000,
    "deep mappings": b'{"a":' * 100_000,
    "deep but whole": b'{"a":' * 900 + b"1" + b"}" * 900,
    "not UTF-8": b'{"format": 1, "status": "\xff\xfe"}',
    "a newer format": b'{"format": 2}',
    "a much newer format": b'{"format": ' + b"9" * 4000 + b"}",
    "no format": b'{"format": null}',
    "a list": b"[1, 2]",
    "a number too long": b'{"format": 1, "epochs": ' + b"9" * 100_000 + b"}",
    "a hexadecimal": b"format: 0x" + b"f" * 100_000 + b"\n",
    "a tag": b"format: !!python/object/apply:os.system ['touch MARK']\n",
    "an alias bomb": b"a: &a [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 112)
    ),
    "a merge": b"<<: {format: 1}\n? [1, 2]\n: 3\n",
    "base 60": b"format: 1" + b":1" * 200_000 + b"\n",
    "two documents": b"format: 1\n--- \nformat: 1\n",
    "a date": b"format: 2026-01-01\n",
}


class Hangs(BaseException):
    """It waited, or went on, for too long."""


@contextmanager
def at_most(seconds):
    def ring(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    usual = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (8 * 2**30, usual[1]))  # bytes, and not all there are
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, usual)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


class Shop:
    """An ablation and a run, whole, in which a file after the other is damaged and mended."""

    def __init__(self, root, capsys, monkeypatch):
        self.root, self.capsys, self.outside = root, capsys, root / "outside"
        self.mark = self.outside / "MARK"
        self.monkeypatch = monkeypatch

    def commands(self, folder):
        """Do all that reads a folder; give back what was told."""
        told = []
        for command in (report, verify.main, read_frames):
            place = folder if command is not verify.main else self.run
            try:
                with at_most(20):
                    command([str(place)] if command is not read_frames else place)
            except SystemExit as error:
                told.append(str(error.code))
            except UserError as error:
                told.append(str(error))
            out, err = self.capsys.readouterr()
            told += [out, err]
        text = "\n".join(told)
        assert all(char.isprintable() for char in text.replace("\n", "")), ascii(text)[:2000]
        assert "Traceback" not in text
        assert max(map(len, text.splitlines()), default=0) < 2000
        return text


def seal(folder):
    """Write the checksums and digests of what is there, as one who knows of them does."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("format", None)
    answers = digest_answers(np.load(folder / "correct.npy"))
    result["digests"] = {"metrics.jsonl": digest_metrics(lines), "correct.npy": answers}
    files = {name: json.loads((folder / name).read_text()) for name in ("status.json", "run.json")}
    for name, content in {**files, "result.json": result}.items():
        content.pop("checksum", None)
        write_json(folder / name, content)


def sealed(content):
    content = {k: v for k, v in content.items() if k != "checksum"}
    return json.dumps({**content, "checksum": digest(content)}).encode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An ablation whose files are all there, and a real run."""
    place = tmp_path_factory.mktemp("whole")
    write_ablation(place / "mine", tricks(clipping=0.03), seeds=2, samples=50)
    given = settings("epochs=2", "batch_size=256", "model.width=4", "tricks=[clipping]")
    run = place / "one/baseline/seed=0"
    run.mkdir(parents=True)
    attempt(run, given, build(given), quiet=True)
    for folder in (place / "mine").glob("*/seed=*"):
        for name in ("config.yaml", "checkpoint.pt", "checkpoint.before.pt", ".lock"):
            shutil.copy(run / name, folder / name)
        seal(folder)
    (place / "outside").mkdir()
    (place / "outside/secret").write_text("the user's own")
    return place


FILES = (
    *("config.yaml", "run.json", "status.json", "metrics.jsonl", "result.json", "correct.npy"),
    *("checkpoint.pt", "checkpoint.before.pt", ".lock", "sweep.yaml", "report.json"),
)


@pytest.fixture
def shop(whole, tmp_path, capsys, monkeypatch):
    """A copy; done again is by copying too, and pictures are not drawn, for the time they take."""
    shutil.copytree(whole, tmp_path / "shop")
    shop = Shop(tmp_path / "shop", capsys, monkeypatch)
    shop.ablation, shop.run = shop.root / "mine", shop.root / "one/baseline/seed=0"
    shop.whole = whole

    def copied(_, place, __):
        shutil.copytree(whole / "one/baseline/seed=0", place, dirs_exist_ok=True)

    monkeypatch.setattr(verify, "_do_again", copied)
    yield shop
    assert not shop.mark.exists()
    assert {path.name: path.read_bytes() for path in shop.outside.iterdir()} == {
        "secret": b"the user's own"
    }


def places(shop, name):
    """Give back where a file of that name lies: in a run of the ablation, and in the run alone."""
    if name in ("sweep.yaml", "report.json"):
        return [shop.ablation / name]
    return [shop.ablation / "clipping/seed=1" / name, shop.run / name]


@contextmanager
def damaged(shop, name, spoil):
    """Damage a file for a while."""
    paths = [path for path in places(shop, name) if path.is_file()]
    contents = {path: path.read_bytes() for path in paths}
    for path in paths:
        spoil(path)
    try:
        yield
    finally:
        for path, content in contents.items():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_bytes(content)


TOLD = ("run.json", "status.json", "metrics.jsonl", "result.json", "sweep.yaml", "config.yaml")


def faults_of(content):
    """Run through what may be in a file's place: its name, and the bytes."""
    for tenth in range(10):
        yield f"cut at {tenth} tenths", content[: len(content) * tenth // 10]
    for number in range(30):
        spoiled = bytearray(content)
        if content:
            spoiled[len(content) * number // 30] ^= 1 << number % 8
        yield f"flipped in region {number}", bytes(spoiled)
    yield from RAW.items()


def odd_jsons(content):
    """Run through a JSON object with one value after the other changed, and sealed again."""
    content = json.loads(content)
    for key in [*content, "tricks/clipping/x", "validation/x"]:
        for title, value in ODD.items():
            yield f"{key} is {title}", sealed({**content, key: value})
    for title, value in ODD.items():
        if isinstance(value, str):
            yield f"a key is {title}", sealed({**content, f"tricks/clipping/{value}": 1.0})


def try_all(shop, name, found):
    """Try faults of a file; each that is no right file of another run has to be told by name."""
    count = 0
    for title, raw, is_told in found:
        count += 1
        with damaged(shop, name, lambda path, raw=raw: path.write_bytes(raw)):
            text = shop.commands(shop.ablation)
            assert name in text or not is_told, title
    return count


def all_faults(shop, name):
    """Run through the faults of a file: its name, the bytes, and whether it has to be told."""
    path = next(path for path in places(shop, name) if path.is_file())
    content = path.read_bytes()
    for title, raw in faults_of(content):
        same = raw == content or (b"checksum" in content and b"checksum" not in raw)
        partly = title.startswith(("flipped", "cut"))
        yield title, raw, name in TOLD and not (partly and (same or name == "config.yaml"))
    if name.endswith(".json"):
        yield from ((title, raw, False) for title, raw in odd_jsons(content))
    if name == "metrics.jsonl":
        lines = content.decode().splitlines()
        for title, raw in odd_jsons(lines[0]):
            yield title, b"\n".join([raw, *(line.encode() for line in lines[1:])]) + b"\n", True
    if name == "sweep.yaml":
        yield from ((title, raw, False) for title, raw in odd_plans(content))


def odd_plans(content):
    """Run through a plan with one value after the other changed, at every depth."""
    plan = yaml.safe_load(content)
    del plan["checksum"]

    def nodes(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield node, key
            if isinstance(node[key], dict | list):
                yield from nodes(node[key])

    for node, key in list(nodes(plan)):
        before = node[key]
        for title, value in ODD.items():
            if title in ("deep", "of thousands of digits", "long", "controls"):
                continue  # slow to write as YAML; they are tried as raw text
            node[key] = value
            yield f"{key} is {title}", yaml.dump(plan, Dumper=yaml.CSafeDumper).encode()
        node[key] = before


def no_pictures(monkeypatch):
    """Draw nothing, which takes nearly all of the time."""
    for module in (curves, plots):
        monkeypatch.setattr(module, "draw", lambda *_: "")
    monkeypatch.setattr(tensorboard, "_forest", lambda _: Figure(figsize=(1, 1), dpi=20))


@pytest.mark.parametrize("name", ["run.json", "status.json", "metrics.jsonl", "result.json"])
def test_a_damaged_file_of_a_run_is_told_by_name(shop, name, faults, monkeypatch):
    no_pictures(monkeypatch)
    found = list(all_faults(shop, name))
    told = [fault for fault in found if fault[2]]
    deep = [fault for fault in found if fault[0] == "deep but whole"]
    faults("damaged run files", try_all(shop, name, told[::12] + found[3::60] + deep))


@pytest.mark.parametrize("name", ["sweep.yaml", "config.yaml", "correct.npy", "checkpoint.pt"])
def test_a_damaged_plan_config_or_binary_ends_in_a_line(shop, name, faults, monkeypatch):
    no_pictures(monkeypatch)
    found = list(all_faults(shop, name))
    faults("damaged run files", try_all(shop, name, found[:: max(5, len(found) // 14)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_whatever_a_file_holds_ends_in_a_line(shop, name, faults, monkeypatch):
    if not any(path.is_file() for path in places(shop, name)):
        pytest.skip(f"{name} is not there")
    no_pictures(monkeypatch)
    faults("damaged run files", try_all(shop, name, all_faults(shop, name)))


@pytest.mark.slow
def test_odd_numbers_can_be_drawn_or_are_left_out(shop, faults):
    for name in ("result.json", "metrics.jsonl", "status.json"):
        found = [f for f in all_faults(shop, name) if "large" in f[0] or "huge" in f[0]]
        faults("damaged run files", try_all(shop, name, found))


PATHS = {
    "gone": lambda _: None,
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link out of the folder": lambda path: path.symlink_to(outside(path) / "secret"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Trap(outside(path) / "MARK"))),
    "a pickle of torch": lambda path: torch.save(Trap(outside(path) / "MARK"), path),
    "a pickle of numpy": lambda path: path.write_bytes(array(Trap(outside(path) / "MARK"))),
    "a shape too large": lambda path: path.write_bytes(shape(10**12)),
    "a shape beyond all": lambda path: path.write_bytes(shape(10**30)),
    "a sparse file": lambda path: sparse(path),
}


def outside(path):
    return next(parent for parent in path.parents if parent.name == "shop") / "outside"


def array(content):
    file = BytesIO()
    np.save(file, np.array([content]), allow_pickle=True)
    return file.getvalue()


def shape(count):
    file = BytesIO()
    header = {"descr": "|b1", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**35)


NO_FAULT = (("sweep.yaml", "gone"),)  # these are runs without a plan


@pytest.mark.parametrize("name", [n for n in FILES if n not in (".lock", "checkpoint.before.pt")])
def test_what_stands_in_a_files_place_is_not_followed_or_waited_for(
    shop, name, faults, monkeypatch
):
    no_pictures(monkeypatch)
    for title, put in PATHS.items():
        if title == "a sparse file" and name == "checkpoint.pt":
            continue  # a checkpoint may be as large

        def spoil(path, put=put):
            path.unlink()
            put(path)

        with damaged(shop, name, spoil):
            text = shop.commands(shop.ablation)
            is_told = name in TOLD and (name, title) not in NO_FAULT
            assert name in text or not is_told, title
        faults("hostile run files")


ODD_PLANS = {
    "a key within a key": lambda plan: plan["config"].update({"epochs.a": 1}),
    "a key of thousands of parts": lambda plan: plan["config"].update({"a." * 5000 + "a": 1}),
    "a seed beyond all numbers": lambda plan: plan.update(seeds=[0, 10**300]),
    "the same seed twice": lambda plan: plan.update(seeds=[1, 1]),
    "a name with nothing in it": lambda plan: rename(plan, "clipping", "a\0b"),
    "a name that is too long": lambda plan: rename(plan, "clipping", "x" * 300),
    "a name that leads out": lambda plan: rename(plan, "clipping", ".."),
    "a contrast about nothing": lambda plan: plan["contrasts"][0].update(factors=[]),
    "a contrast about another": lambda plan: plan["contrasts"][0].update(factors=["x"]),
    "endless weights": lambda plan: plan["contrasts"][0].update(
        weights={"clipping": float("inf"), "baseline": -float("inf")}
    ),
    "runs without end": lambda plan: plan.update(seeds=list(range(600))),
    "no share": lambda plan: plan["question"].update(alpha=float("nan")),
    "a margin below 0": lambda plan: plan["question"].update(margin=-1.0),
    "a factor without levels": lambda plan: plan["factors"][0].update(levels=[]),
    "a long name": lambda plan: plan["contrasts"][0].update(name="x" * 10**6),
}


def rename(plan, old, new):
    for part in (plan["variants"], plan["changes"], plan["contrasts"][0]["weights"]):
        part[new] = part.pop(old)


@pytest.mark.parametrize("change", ODD_PLANS.values(), ids=ODD_PLANS)
def test_a_plan_that_makes_no_sense_is_refused_in_a_line(shop, change, faults, monkeypatch):
    monkeypatch.setattr(plans, "MOST_RUNS", 1000)
    path = shop.ablation / "sweep.yaml"
    plan = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    del plan["checksum"]
    change(plan)
    path.write_text(yaml.dump(plan, Dumper=yaml.CSafeDumper))
    with at_most(20):
        for command in (lambda: report([str(shop.ablation)]), lambda: read_frames(shop.ablation)):
            with pytest.raises((SystemExit, UserError)) as told:
                command()
            (line,) = str(told.value).splitlines()
            assert "sweep.yaml must be the plan of an ablation, got something else (" in line
    faults("hostile run files")


@pytest.mark.parametrize("epochs", [(0, 0), (-3, -1), (1, 10**200), (1, 2)])
def test_epochs_and_numbers_beyond_all_measure_can_be_drawn_or_are_left_out(tmp_path, epochs):
    place = write_run(tmp_path, "baseline", 0, 0.9)
    line = {"update": 1, "train/loss": 1e308, "validation/accuracy": 1.7e308}
    lines = [json.dumps({"epoch": epoch, **line}) + "\n" for epoch in epochs]
    usual = {**line, "train/loss": 0.5, "validation/accuracy": 0.5}
    lines += [json.dumps({"epoch": epoch, **usual}) + "\n" for epoch in epochs]
    (place / "metrics.jsonl").write_text("".join(lines))
    report([str(tmp_path)])
    assert (tmp_path / "report.html").read_text().count("<svg") == 2


IN_THE_WAY = ("a pipe", "a folder", "a link out of the folder", "a link to itself")


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_nothing_is_written_through_what_stands_in_the_place_of_views_and_reports(
    shop, kind, faults, monkeypatch
):
    no_pictures(monkeypatch)
    shop.commands(shop.ablation)
    run = shop.ablation / "clipping/seed=1"
    old = [run / "events.out.tfevents.0000000001.000000.view"]
    old += [*shop.ablation.glob("**/*.view")]
    old += [shop.ablation / name for name in ("report.md", "report.json")]
    old += [shop.ablation / f".report.md.{os.getpid()}.tmp", run / f".view.{os.getpid()}.tmp"]
    for path in old:
        path.unlink(missing_ok=True)
        PATHS[kind](path)
        faults("hostile run files")
    text = shop.commands(shop.ablation)
    assert ("TensorBoard: tensorboard --logdir" in text) == (kind != "a folder")
    assert kind != "a folder" or "report.md must be written, got Is a directory" in text


def test_a_folder_of_the_ablation_that_is_a_link_out_of_it_is_not_written_into(shop, monkeypatch):
    no_pictures(monkeypatch)
    elsewhere = shutil.copytree(shop.ablation / "clipping/seed=1", shop.root / "elsewhere")
    before = sorted(elsewhere.iterdir())
    for place in ("means", "clipping/seed=1"):
        folder = shop.ablation / place
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.symlink_to(elsewhere)
        assert "must lie in" in shop.commands(shop.ablation)
        assert sorted(elsewhere.iterdir()) == before
        folder.unlink()


BUILT = {
    "a width beyond all memory": ("width: 4", "width: 100000000"),
    "a batch beyond all numbers": ("batch_size: 256", f"batch_size: {10**30}"),
    "threads beyond all numbers": ("threads: 1", f"threads: {10**30}"),
    "a failure that nobody thought of": ("seed: 0", "seed: 1"),
}


@pytest.mark.parametrize(("old", "new"), BUILT.values(), ids=BUILT)
def test_a_config_that_cannot_be_built_is_one_line(shop, old, new, monkeypatch):
    def fails(_):
        raise MemoryError("as nobody thought of")

    monkeypatch.undo()
    if new == "seed: 1":
        monkeypatch.setattr(verify, "build", fails)
    path = shop.run / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SystemExit) as told:
        verify.main([str(shop.run)])
    assert len(str(told.value).splitlines()) <= 4


PAYLOADS = (
    MARKUP,
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "</text></svg><script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<foreignObject><body onload=alert(1)>",
    "<!--",
    "-->",
    "]]>",
    "<![CDATA[",
    "<?xml version='1.0'?>",
    "&lt;script&gt;",
    "&#60;b&#62;",
    "'\"><b>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "$\\frac{1}{2}$ $x",
    "\\input{/etc/passwd}",
    "url(https://evil.example/x)",
    "#fe0101 var(--ink)",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "https://evil.example www.evil.example @everyone #1",
    "a|b``c~~d~~ **e** _f_ \\",
    "# heading",
    "- item",
    "1. item",
    "```\n# out\n```",
    "line\nbreak\r\n\ttab",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m\x90\x9d",
    "\rover\x08\x08written",
    "\u202egnp.exe\u2066\u200f",
    "zero\u200bwidth\ufeff\u00ad\u2028\u2029",
    "nul\x00 del\x7f bell\x07",
    "surrogate\udfff\ud800",
    "nothing\ufffe\U0010ffff",
    "العربية עברית ไทย हिन्दी 日本語 👩‍👩‍👧",
    "x" * 5000,
    "_hidden",
    "=cmd|'/c calc'!A1",
    "[bold red]rich[/] :smile:",
)


class Tags(HTMLParser):
    """The elements and attributes of a page, in their order; but for those of text itself."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_comment(self, data):
        self.found.append(("comment", data))

    def handle_pi(self, data):
        self.found.append(("instruction", data))

    def unknown_decl(self, data):
        self.found.append(("declaration", data))


def dressed(root, payload, clean):
    """Make an ablation in which every text is a payload; give back what it came to."""
    word = (lambda tag: tag) if clean else (lambda tag: f"{payload} {tag}" if tag else payload)
    folder = root / ("clean" if clean else "dressed")
    asked = write_plan(folder, (trick("clipping"), trick("flooding")), "pairs", seeds=2)
    names = {name: name if clean else safe_name(f"{payload} {name}") for name in asked.variants}
    factors = tuple(Factor(word(f.name), tuple(map(word, f.levels))) for f in asked.factors)
    contrasts = tuple(
        Contrast(
            word(c.name),
            c.kind,
            tuple(map(word, c.factors)),
            {names[variant]: weight for variant, weight in c.weights.items()},
        )
        for c in asked.contrasts
    )
    plan = dataclasses.replace(
        asked,
        name=word("name"),
        command=word("command"),
        factors=factors,
        contrasts=contrasts,
        question=dataclasses.replace(
            asked.question, design=word("design"), metric=f"test/{word('m')}"
        ),
        config={
            "data._target_": word("data"),
            "model._target_": word("model"),
            "epochs": word("3"),
        },
        changes={names[variant]: {} for variant in asked.variants},
        variants={names[v]: tuple(map(word, levels)) for v, levels in asked.variants.items()},
    )
    for number, (seed, variant) in enumerate(plan.runs()):
        write_dressed_run(plan, folder, variant, seed, word, failed=number == 7)
    return plan, folder


def safe_name(text):
    """Give back a name that a file system takes."""
    return text.replace("/", "+").replace("\0", "").encode("utf-8", "replace").decode()[-60:]


def write_dressed_run(plan, folder, variant, seed, word, failed):
    place = plan.folder(folder, variant, seed)
    place.mkdir(parents=True)
    error = f"Traceback\n  {word('frame')}\n{word('error')}"
    told = {"status": "failed" if failed else "done", "seconds": 1.0, "error": error}
    write_json(place / "status.json", told)
    machine = {"config": plan.digests(variant)[seed], word("a key"): word("value")}
    part = {word("commit"): word("abc"), "commit": word(str(seed))}
    write_json(place / "run.json", {**machine, "code": part, "libraries": {word("lib"): word("1")}})
    line = {"epoch": 1, "update": 1, "train/loss": 1.0, "validation/accuracy": 0.5}
    line |= {word("x"): 1.0, "time/seconds": 1.0}
    (place / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    if not failed:
        number = 0.9 + 0.01 * seed + 0.001 * len(plan.variants[variant])
        result = {plan.question.metric: number, "test/accuracy": number, "inactive": [word("idle")]}
        name = plan.factors[0].name
        result |= {f"tricks/{name}/{word('y')}": 0.5, word("z"): word("text"), "weights": word("w")}
        write_json(place / "result.json", result)


def render(root, payload, clean):
    """Give back the pages, the Markdown, the tables, and TensorBoard's text."""
    plan, folder = dressed(root, payload, clean)
    findings = judge(folder, plan)
    assert findings.effects[0].mean is not None
    loose = Multirun(folder, list(findings.runs.values()))
    shown = []
    for found in (findings, loose):
        files = write_report(found)
        shown += [files[0].read_text(), files[1].read_text()]
        json.loads(files[2].read_bytes().decode("ascii"))
    terminal = "\n".join([*verdict_table(findings), *multirun_table(loose), shown_path(folder)])
    write_views(findings)
    return (*shown, terminal, tensorboard._table(findings))


@pytest.mark.parametrize(
    "payloads", [PAYLOADS[::2], pytest.param(PAYLOADS[1::2], marks=pytest.mark.slow)]
)
def test_every_string_of_a_stranger_is_shown_as_text(tmp_path, faults, monkeypatch, payloads):
    """The shape of a page is that of a clean one, whatever the names in it."""
    no_pictures(monkeypatch)
    pages = ("page", "page without verdicts")
    *clean, _, _ = render(tmp_path / "0", "", clean=True)
    shapes = [Tags(clean[0]).found, Tags(clean[2]).found]
    for number, payload in enumerate(payloads, 1):
        page, markdown, loose, loose_markdown, terminal, views = render(
            tmp_path / str(number), payload, clean=False
        )
        for title, text, shape in zip(pages, (page, loose), shapes, strict=True):
            assert set(Tags(text).found) <= set(shape), (title, payload)
            assert "{{" not in text or "{{" in payload
        for text in (page, loose, markdown, loose_markdown, terminal):
            bad = {c for c in text if not c.isprintable() and c != "\n"}
            assert not bad, (payload, bad)
        assert "\x1b" not in views
        for text in (markdown, loose_markdown):
            assert not re.search("://|www[.]", text.partition("```")[0]), payload  # links of GitHub
            rows = [line for line in text.splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, payload
        for text in (markdown, loose_markdown, views):
            told = MarkdownIt("commonmark").enable("table").render(text)
            tags = {tag for tag, _ in Tags(told).found}
            assert tags <= MARKDOWN_TAGS, (payload, tags - MARKDOWN_TAGS)
            assert told.count("<h2") <= 1
        faults("hostile strings", 20)


def many_names(root):
    """Make an ablation whose effects and variants have the payloads as names."""
    names = [f"{payload} {number}" for number, payload in enumerate(PAYLOADS[:38])]
    plan = write_plan(root, tuple(trick(f"t{number}") for number in range(len(names))), seeds=1)
    given = {contrast.factors[0]: contrast for contrast in plan.contrasts}
    runs = {}
    for number in range(len(names)):
        write_run(root, f"t{number}", 0, 0.9 + 0.001 * number)
    for run in find_runs(root):
        name = names[int(run.variant[1:])]
        runs[name, 0] = dataclasses.replace(run, variant=name)
    weights = [{name: 1.0, names[0]: -1.0} for name in names]
    effects = [
        make_finding(
            dataclasses.replace(given[f"t{number}"], name=name, weights=weights[number]),
            Verdict.HELPS,
            (0.01, 0.02 + 0.001 * number),
        )
        for number, name in enumerate(names)
    ]
    variants = {name: ("off",) * len(names) for name in names}
    question = dataclasses.replace(plan.question, metric=f"test/{MARKUP}")
    shown = dataclasses.replace(plan, variants=variants, question=question)
    return make_findings(root, {}, shown, effects=tuple(effects), runs=runs)


def test_names_in_pictures_are_text(tmp_path, faults):
    page = html.page(many_names(tmp_path))
    tags = {tag for tag, _ in Tags(page).found}
    assert {"svg", "text", "path"} <= tags
    assert not tags & {"script", "img", "iframe", "a", "foreignobject", "comment", "instruction"}
    attributes = {name for _, names in Tags(page).found for name in names}
    assert not [name for name in attributes if name.startswith("on")]
    assert page.count("<svg") == page.count("</svg>") > 10
    for svg in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg.replace("xlink:", ""))
    faults("hostile strings", 38)


CHROMIUM = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_a_browser_runs_nothing_of_a_page(tmp_path):
    """Without the policy of the page too, which would forbid it."""
    page = html.page(many_names(tmp_path / "a"))
    content = page.replace("default-src 'none'", "default-src * 'unsafe-inline'")
    assert content != page
    mark = "document.documentElement.setAttribute('data-ran','1')"
    for title, text in (("page", content), ("sure", f"{content}<script>{mark}</script>")):
        file = tmp_path / f"{title}.html"
        file.write_text(text.replace("alert(1)", mark))
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(file)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert ('data-ran="1"' in done.stdout) == (title == "sure")


MARKDOWN_TAGS = {
    *("h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
    *("pre", "code"),
}
