"""Names, seeds and links: none leads out of the outputs, and nothing is written through a link."""

import os

import pytest

from tests.conftest import few, few_of
from tests.faults.routes import SWEEP

PLACES = {
    ("name=../x",): "name must be the name of a folder below outputs",
    ("name=a/../../x",): "name must be the name",
    ("name={folder}/x",): "name must be the name",
    ("name=.",): "name must be the name",
    ("name=",): "name must be the name",
    ("name=' '",): "name must be the name",
    ("name=a//b",): "name must be the name",
    ("name=a/",): "name must be the name",
    ("name=3",): "name must be the name",
    ("name=null",): "name must be the name",
    ("name=[a]",): "name must be the name",
    ("name='a\nb'",): "name must be the name",
    ("name='a\0b'",): "name must be the name",
    ("name=" + 300 * "a",): "name must be at most 200 bytes, got 300",
    ("name=" + "/".join(300 * "a"),): "name must be at most 200 bytes",
    ("name=" + 90 * "\u2603",): "",
    ("name='\u202eabc'",): "name must be the name",
    ("name=${{oc.env:HOME}}/x",): "name must be the name",
    ("seed=../../x",): "seed must be a whole number",
    ("seed='1/../../../x'",): "seed must be a whole number",
    ("seed=true",): "seed must be a whole number",
    ("seed=-1",): "seed must be a whole number",
    ("variant=../../x",): "variant must be the name",
    ("variant=a/b",): "variant must be the name",
    ("variant=..",): "variant must be the name",
    ("variant=",): "variant must be the name",
    ("variant={folder}",): "variant must be the name",
    ("hydra.run.dir={folder}/x",): "hydra.run.dir must be left as it is",
    ("hydra.run.dir=../x",): "Name the runs (name=NAME)",
    ("++hydra.run.dir=x",): "hydra.run.dir must be",
    ("hydra.output_subdir=../../x",): "hydra.output_subdir must be left",
    ("hydra.output_subdir=.hydra",): "hydra.output_subdir must be left",
    ("-m", "seed=0,1", "hydra.sweep.dir=../x"): "hydra.sweep.dir must be left",
    ("-m", "seed=0,1", "hydra.sweep.subdir=../x"): "hydra.sweep.subdir must be left",
    ("-m", "seed=0,1", "name=../x"): "name must be the name",
    ("-m", "name=a,../x"): "name must be the name",
    ("-m", "seed=0,'../../../x'"): "seed must be a whole number",
    ("-m", "variant=a,../../x"): "variant must be the name",
    ("-m", "seed=0,1", "hydra/launcher=local", "variant=../../x"): "variant must be the name",
    ("ablation=calibration", "name=../x"): "name must be the name",
    ("ablation=calibration", "name={folder}/x", "ablation.dry_run=true"): "name must be the name",
}
QUICK = (
    *(("name=../x",), ("name=a/../../x",), ("name={folder}/x",), ("name=.",), ("name=3",)),
    *(("name=" + 300 * "a",), ("name=" + 90 * "\u2603",), ("name='a\0b'",)),
    *(("name=${{oc.env:HOME}}/x",), ("seed='1/../../../x'",), ("variant=../../x",)),
    *(("hydra.run.dir=../x",), ("hydra.output_subdir=../../x",)),
    *(("-m", "seed=0,1", "hydra.sweep.dir=../x"), ("-m", "name=a,../x")),
    ("ablation=calibration", "name=../x"),
)


@pytest.mark.parametrize(("arguments", "told"), few_of(PLACES, QUICK), ids=str)
def test_no_name_leads_out_of_the_outputs(sandbox, arguments, told, faults):
    before = sorted(sandbox.folder.parent.rglob("*"))
    line = sandbox.run(*(a.format(folder=sandbox.folder) for a in arguments))
    assert told in line
    assert line.isprintable()
    after = sorted(sandbox.folder.parent.rglob("*"))
    assert [p for p in after if not p.is_relative_to(sandbox.folder / "outputs")] == before
    assert not list(sandbox.folder.glob("outputs/**/seed=*"))
    faults("paths that lead out")


@pytest.mark.parametrize(
    "link",
    few(["mine", "mine/baseline", "mine/baseline/seed=0", "loop"], ["mine/baseline", "loop"]),
)
@pytest.mark.parametrize("more", [(), SWEEP], ids=["run", "sweep"])
def test_no_link_below_the_outputs_leads_out(sandbox, link, more, faults):
    elsewhere = sandbox.folder / "elsewhere"
    elsewhere.mkdir()
    place = sandbox.folder / "outputs" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(place if link == "loop" else elsewhere)
    sandbox.monkeypatch.setattr(sandbox, "folder", elsewhere)  # nothing may be in there
    line = sandbox.refuses("name=loop" if link == "loop" else "name=mine", *more)
    assert ("must be a folder" if link == "loop" else "got a link to") in line
    assert not list(elsewhere.iterdir())
    faults("paths that lead out")


def test_the_outputs_may_be_a_link_and_a_name_may_have_groups(sandbox):
    (sandbox.folder / "disk").mkdir()
    (sandbox.folder / "outputs").symlink_to(sandbox.folder / "disk")
    assert sandbox.run("name=a/b c/con...", "seed=3") is None
    assert (sandbox.folder / "disk/a/b c/con.../baseline/seed=3").is_dir()


@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_outputs_that_are_no_folder_are_one_line(sandbox, kind):
    place = sandbox.folder / "outputs"
    place.write_text("x") if kind == "file" else place.symlink_to(sandbox.folder / "gone" / "there")
    line = sandbox.run("epochs=1")
    assert isinstance(line, str)
    assert line.isprintable()


def test_a_key_of_a_file_cannot_lead_out_either(sandbox, faults):
    for key in ("../../x", "/tmp/x", "a\nb", "x" * 300):
        sandbox.refuses(*sandbox.experiment({"optimizer": {key: 1}}))
        faults("paths that lead out")


@pytest.mark.parametrize(
    "kind", few(["link", "dangling", "hard link", "pipe", "folder"], ["link", "folder"])
)
@pytest.mark.parametrize("swept", few(["seed=0,1", "name=mine,other"], ["name=mine,other"]))
def test_the_sweepers_file_is_not_written_through_what_was_planted(sandbox, kind, swept):
    theirs = sandbox.folder / "bashrc"
    theirs.write_text("mine")
    name = "mine" if "seed" in swept else "digits-resnet8"
    place = sandbox.folder / "outputs" / name / "multirun.yaml"
    place.parent.mkdir(parents=True)
    {
        "link": lambda: place.symlink_to(theirs),
        "dangling": lambda: place.symlink_to(sandbox.mark),
        "hard link": lambda: place.hardlink_to(theirs),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }[kind]()
    line = sandbox.run("-m", swept, *(["name=mine"] if "seed" in swept else []))
    assert theirs.read_text() == "mine"
    assert not sandbox.mark.exists()
    if kind == "folder":
        assert "multirun.yaml cannot be used" in line
    else:
        assert line is None
        assert place.is_file()
        assert not place.is_symlink()
