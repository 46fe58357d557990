"""Packing that is killed at every write, and archives that are damaged or by a stranger."""

import hashlib
import os
import shutil
import signal
import struct
import sys
import warnings
import zipfile

import pytest

from runner.ablation.plan import load_plan
from runner.errors import UserError
from runner.frames import read_frames
from runner.pack import main as pack
from runner.report.__main__ import main as report
from runner.run import status
from runner.store import packed
from runner.store.files import Damaged, read_bytes
from runner.store.opening import comment
from runner.store.packed import ARCHIVE, open_archive
from runner.store.runs import read_run
from runner.sweep.dry_run import runs_left
from runner.trained.model import find_file
from tests.builders import tricks, write_ablation
from tests.conftest import few

WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.utime")


@pytest.fixture
def mine(tmp_path):
    """An ablation of two variants and two seeds."""
    root = tmp_path / "outputs" / "mine"
    plan = write_ablation(root, tricks(clipping=0.03), seeds=2, samples=20)
    for seed, variant in plan.runs():
        folder = plan.folder(root, variant, seed)
        (folder / "config.yaml").write_text(f"seed: {seed}\n")
        (folder / "model.pt").write_bytes(os.urandom(300))
    return root


def told(root):
    """Read every file of every run, packed or not."""
    names = ("config.yaml", "run.json", "status.json", "result.json", "metrics.jsonl")
    folders = [root / v / f"seed={s}" for v in ("baseline", "clipping") for s in (0, 1)]
    return {
        (folder.parent.name, folder.name, name): read_bytes(folder / name)
        for folder in folders
        for name in (*names, "correct.npy", "model.pt")
    }


def killed_at(number, *arguments):
    """Pack in a process that is killed before so many writes; give back whether it came so far."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [number]

    def count(event="write", given=()):
        writes = event == "open" and isinstance(given[1], str) and {*given[1]} & {*"wxa+"}
        if event in ("write", *WRITES) or writes:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    usual = zipfile.ZipFile.writestr
    zipfile.ZipFile.writestr = lambda *given: (count(), usual(*given))[1]
    sys.addaudithook(count)
    pack([*arguments])
    os._exit(0)


def kill_at_writes(root, place, step, *arguments):
    """Kill the command at each of its writes, or some, and repeat it."""
    before, number, is_killed = told(root), 0, True
    while is_killed:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(root, place)
        is_killed = killed_at(number, *arguments, str(place / "clipping"))
        assert told(place) == before, number
        runs = [read_run(place / "clipping" / f"seed={s}", "clipping") for s in (0, 1)]
        assert {run.state for run in runs} == {"done"}, number
        pack([*arguments, str(place / "clipping")])
        assert told(place) == before, number
        assert not [*place.rglob("*.tmp")], number
        yield
        number += step


@pytest.mark.parametrize("step", few((7, 1), (7,)))
def test_packing_that_is_killed_at_any_write_loses_nothing(mine, step, faults):
    place = mine.parent / "copy"
    tried = 0
    for _ in kill_at_writes(mine, place, step):
        assert {p.name for p in place.glob("clipping/*")} == {ARCHIVE}
        tried += 1
    pack([str(mine)])
    for _ in kill_at_writes(mine, place, step, "--unpack"):
        assert {p.name for p in place.glob("clipping/*")} == {"seed=0", "seed=1"}
        tried += 1
    assert tried > 60 / step
    faults("packing killed at a write", tried)


def test_a_full_archive_leaves_the_other_runs_as_they_are(mine, monkeypatch, capsys):
    monkeypatch.setattr("runner.store.packing.MOST_FILES", 10)
    before = told(mine)
    with pytest.raises(SystemExit):
        pack([str(mine)])
    assert capsys.readouterr().err.count("runs.zip is full. This run and those after it") == 2
    assert (mine / "clipping/seed=1/config.yaml").exists()
    assert not (mine / "clipping/seed=0").exists()
    assert told(mine) == before


def test_a_full_disk_leaves_everything_as_it_is(mine, monkeypatch, capsys):
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file() and p.name != ".lock"}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(SystemExit):
        pack([str(mine)])
    assert "No space left on device. What was there is kept." in capsys.readouterr().err
    now = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file() and p.name != ".lock"}
    assert now == before


def everything(root, page=True):
    """Do all that reads an archive; give back what was told, none of which is a traceback."""
    lines = []
    plan = load_plan(root)
    left = runs_left(root, plan)
    for command in (
        *([lambda: report([str(root)])] if page else ()),
        lambda: pack([str(root)]),
        lambda: pack(["--unpack", str(root)]),
        lambda: read_frames(root),
        lambda: find_file(root / "clipping/seed=0"),
    ):
        try:
            command()
        except (SystemExit, UserError) as error:
            lines.append(str(error))
    return left, "\n".join(lines)


def seal(path):
    """Give an archive that any program wrote the checksum that ours has."""
    content = path.read_bytes()
    start = content.rindex(b"PK\5\6")
    size, offset = struct.unpack("<2L", content[start + 12 : start + 20])
    digest = hashlib.sha256(content[offset : offset + size]).hexdigest()
    path.write_bytes(content[: start + 20] + comment(digest))


def forged(path, *members, kind=zipfile.ZIP_DEFLATED, stamp=b"1", mode=0o644, end=b""):
    """Write an archive as a stranger may."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.compress_type, info.external_attr, info.comment = kind, mode << 16, stamp
            with warnings.catch_warnings(action="ignore"):  # of the same twice
                archive.writestr(info, b"/etc/passwd")
        if end:
            info.comment = end
    seal(path)


STRANGE = {
    "a name that leads out": {"members": ("seed=0/../../../../evil",)},
    "an absolute name": {"members": ("/tmp/evil",)},
    "a name of another folder": {"members": ("other/result.json",)},
    "a folder in a run": {"members": ("seed=0/more/result.json",)},
    "backslashes": {"members": ("seed=0\\..\\..\\evil",)},
    "a hidden name": {"members": ("seed=0/.bashrc",)},
    "a name cut by a zero": {"members": ("seed=0/result.json\0../evil",)},
    "a name with a line": {"members": ("seed=0/result.json\nx",)},
    "other digits": {"members": ("seed=\u0663/result.json",)},
    "the same twice": {"members": ("seed=0/result.json", "seed=0/result.json")},
    "stored": {"members": ("seed=0/result.json",), "kind": zipfile.ZIP_STORED},
    "of lzma": {"members": ("seed=0/result.json",), "kind": zipfile.ZIP_LZMA},
    "without a time": {"members": ("seed=0/result.json",), "stamp": b""},
    "a time of many digits": {"members": ("seed=0/result.json",), "stamp": b"9" * 3000},
    "of a larger form": {"members": ("seed=0/result.json",), "end": b"PK\6\7" + bytes(16)},
}


@pytest.mark.usefixtures("no_pictures")
def test_a_strange_archive_is_told_in_a_line_and_nothing_of_it_is_followed(mine, capsys, faults):
    shutil.rmtree(mine / "clipping")
    (mine / "clipping").mkdir()
    path = mine / "clipping" / ARCHIVE
    there = {*mine.parent.parent.rglob("*")}
    for what, given in STRANGE.items():
        forged(path, *given["members"], **{k: v for k, v in given.items() if k != "members"})
        before = path.read_bytes()
        left, lines = everything(mine, page=what in ("a name that leads out", "of lzma"))
        out = capsys.readouterr()
        assert f"{ARCHIVE} holds" in lines + out.out + out.err or "is damaged" in out.err, what
        assert "Traceback" not in lines + out.out + out.err
        assert ("clipping", 0) in left
        assert path.read_bytes() == before
        new = {*mine.parent.parent.rglob("*")} - there
        assert all(".lock" in p.name or mine in p.parents for p in new), what
        assert [*(mine / "clipping").iterdir()] == [path], what
        for seed in (0, 1):  # it is not done again, since it may be in there
            status.conclude(mine / "clipping" / f"seed={seed}", "failed", "x")
        assert [*(mine / "clipping").iterdir()] == [path], what
    faults("strange archives of runs", len(STRANGE))


@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_archive_of_a_plain_sweep_is_listed_among_its_runs(mine, capsys):
    (mine / "sweep.yaml").unlink()
    pack([str(mine)])
    path = mine / "clipping" / ARCHIVE
    path.write_bytes(path.read_bytes()[:-1])
    report([str(mine)])
    out = capsys.readouterr().out
    assert f"{ARCHIVE} is damaged (it does not end as an archive of runs)" in " ".join(out.split())
    runs = read_frames(mine).runs
    assert [*runs.state] == ["done", "done", "damaged"]
    assert f"{ARCHIVE} is damaged" in runs.error[2]
    with pytest.raises(SystemExit, match="Its events are unchanged"):
        report([str(mine), "--rebuild-events"])
    assert "the events of 2 packed runs are left in its archive" in capsys.readouterr().out


def test_what_no_run_writes_and_links_are_not_unpacked(mine, capsys):
    shutil.rmtree(mine / "clipping")
    (mine / "clipping").mkdir()
    path = mine / "clipping" / ARCHIVE
    forged(path, "seed=0/sitecustomize.py")
    with pytest.raises(SystemExit):
        pack(["--unpack", str(mine)])
    assert "holds seed=0/sitecustomize.py, which no run writes" in capsys.readouterr().err
    forged(path, "seed=0/result.json", mode=0o120777)  # as a link in other programs
    pack(["--unpack", str(mine)])
    found = mine / "clipping/seed=0/result.json"
    assert not found.is_symlink()
    assert found.read_bytes() == b"/etc/passwd"


@pytest.mark.usefixtures("no_pictures")
def test_what_stands_in_its_place_is_not_followed_or_waited_for(mine, capsys):
    pack([str(mine)])
    path, aside = mine / "clipping" / ARCHIVE, mine.parent / "aside.zip"
    path.rename(aside)
    for make in (lambda: path.symlink_to(aside), lambda: os.mkfifo(path), path.mkdir):
        make()
        _, lines = everything(mine)
        out = capsys.readouterr()
        assert "Traceback" not in out.err + lines
        words = ("is a link, which is not followed", "is not a regular file", "(Is a directory)")
        assert any(word in lines for word in words)
        assert path.is_symlink() or path.is_fifo() or path.is_dir()
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_flipped_or_lost_byte_is_noticed_or_changes_nothing(mine, faults):
    (mine / "clipping/seed=1/model.pt").unlink()
    pack([str(mine / "clipping")])
    path = mine / "clipping" / ARCHIVE
    whole, archive = path.read_bytes(), open_archive(path.parent)
    said = {(r, n): archive.read(r, n) for r, files in archive.runs.items() for n in files}
    tried = noticed = 0
    for place in range(0, len(whole), 31):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        for content in (bytes(flipped), whole[:place]):
            path.write_bytes(content)
            tried += 1
            for (run, name), expected in said.items():
                try:
                    found = read_bytes(path.parent / run / name)
                except Damaged:
                    noticed += 1
                else:
                    assert found == expected
            if tried % 20 == 0:
                with pytest.raises(SystemExit):
                    pack(["--unpack", str(path.parent)])
                assert path.read_bytes() == content
                assert [*path.parent.iterdir()] == [path]
    assert noticed > tried
    path.write_bytes(whole)
    assert packed.read(path.parent / "seed=0/result.json", 10**6) == said["seed=0", "result.json"]
    faults("damaged archives of runs", tried)


def test_a_bomb_is_not_unpacked(mine):
    shutil.rmtree(mine / "clipping")
    (mine / "clipping").mkdir()
    path = mine / "clipping" / ARCHIVE
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("seed=0/result.json")
        info.compress_type, info.comment = zipfile.ZIP_DEFLATED, b"1"
        archive.writestr(info, bytes(2**25))
    seal(path)
    with pytest.raises(Damaged, match="which is no file of a run"):
        open_archive(path.parent)
    content = path.read_bytes()
    lies = content.replace(struct.pack("<L", 2**25), struct.pack("<L", 100))
    path.write_bytes(lies[: lies.rindex(b"PK\5\6") + 20] + b"\0\0")
    seal(path)
    with pytest.raises(Damaged, match="has another checksum"):
        open_archive(path.parent).read("seed=0", "result.json")
