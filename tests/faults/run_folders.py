"""Folders of runs in which a file after the other is damaged, and what reads them."""

import json
import os
import pickle
import resource
import shutil
import signal
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import yaml

from runner import verify
from runner.errors import UserError
from runner.frames import read_frames
from runner.report.__main__ import main as report
from runner.store.answers import digest_answers, digest_predictions, read_predictions
from runner.store.files import digest, write_json
from runner.store.runs import digest_metrics
from tests.faults.payloads import ODD, RAW, OnLoad


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


class RunFolders:
    """An ablation and a run, whole, in which a file after the other is damaged and mended."""

    def __init__(self, root, capsys):
        self.root, self.capsys, self.outside = root, capsys, root / "outside"
        self.ablation, self.run = root / "mine", root / "one/baseline/seed=0"
        self.mark = self.outside / "MARK"

    def commands(self):
        """Do all that reads a folder; give back what was told."""
        told = []
        for command in (report, verify.main, read_frames):
            place = self.run if command is verify.main else self.ablation
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

    def places(self, name):
        """Give back where it lies: in a run of the ablation, and in the run alone."""
        if name in ("sweep.yaml", "report.json"):
            paths = [self.ablation / name]
        else:
            paths = [self.ablation / "clipping/seed=1" / name, self.run / name]
        return [path for path in paths if path.is_file()]

    @contextmanager
    def damaged(self, name, spoil):
        """Damage a file for a while."""
        contents = {path: path.read_bytes() for path in self.places(name)}
        for path in contents:
            spoil(path)
        try:
            yield
        finally:
            for path, content in contents.items():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                path.write_bytes(content)

    def try_all(self, name, found):
        """Try faults of a file; each that has to be told is told by its name."""
        count = 0
        for title, raw, is_told in found:
            count += 1
            with self.damaged(name, lambda path, raw=raw: path.write_bytes(raw)):
                text = self.commands()
                assert name in text or not is_told, title
        return count

    def faults(self, name):
        """Run through the faults of a file: its name, the bytes, and whether it has to be told."""
        content = self.places(name)[0].read_bytes()
        for title, raw in faults_of(content):
            same = raw == content or (b"checksum" in content and b"checksum" not in raw)
            partly = title.startswith(("flipped", "cut"))
            yield title, raw, name in TOLD and not (partly and (same or name == "config.yaml"))
        if name.endswith(".json"):
            yield from ((title, raw, False) for title, raw in odd_jsons(content))
        if name == "metrics.jsonl":
            lines = content.decode().splitlines()
            for title, raw in odd_jsons(lines[0]):
                whole = [raw, *(line.encode() for line in lines[1:])]
                yield title, b"\n".join(whole) + b"\n", True
        if name == "sweep.yaml":
            yield from ((title, raw, False) for title, raw in odd_plans(content))


def seal(folder):
    """Write the checksums and digests of what is there, as one who knows of them does."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("format", None)
    answers = digest_answers(np.load(folder / "correct.npy"))
    result["digests"] = {"metrics.jsonl": digest_metrics(lines), "correct.npy": answers}
    if (predictions := folder / "predictions.npz").exists():
        result["digests"]["predictions.npz"] = digest_predictions(*read_predictions(predictions))
    files = {name: json.loads((folder / name).read_text()) for name in ("status.json", "run.json")}
    for name, content in {**files, "result.json": result}.items():
        content.pop("checksum", None)
        write_json(folder / name, content)


def sealed(content):
    content = {k: v for k, v in content.items() if k != "checksum"}
    return json.dumps({**content, "checksum": digest(content)}).encode()


FILES = (
    *("config.yaml", "run.json", "status.json", "metrics.jsonl", "result.json", "correct.npy"),
    *("predictions.npz", "checkpoint.pt", ".lock", "sweep.yaml", "report.json"),
)


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


def trap(path):
    return OnLoad(open, str(outside(path) / "MARK"), "w")


PATHS = {
    "gone": lambda _: None,
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link out of the folder": lambda path: path.symlink_to(outside(path) / "secret"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(trap(path))),
    "a pickle of torch": lambda path: torch.save(trap(path), path),
    "a pickle of numpy": lambda path: path.write_bytes(array(trap(path))),
    "a shape too large": lambda path: path.write_bytes(shape(10**12)),
    "a shape beyond all": lambda path: path.write_bytes(shape(10**30)),
    "a sparse file": lambda path: sparse(path),
}


def outside(path):
    return next(parent for parent in path.parents if parent.name == "folders") / "outside"


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
