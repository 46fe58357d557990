"""What is told where ranks cannot begin: one line, by one rank."""

import shutil
import socket

import pytest

from tests.faults.images import make_folder, picture, write
from tests.ranks.start import SETTINGS, ended, lines, run_ranks, start_ranks

QUICK = "epochs=1"


def test_ranks_with_different_configs_are_told_so_in_one_line(tmp_path):
    each = {0: {"arguments": ["seed=1"]}, 1: {"arguments": ["seed=2"]}}
    found = run_ranks(tmp_path, QUICK, each=each)
    assert found.codes == [1, 1]
    assert found.err[0].startswith("rank 1 differs from rank 0: seed is 2, not 1. ")
    assert len(lines(found.err[0])) == 1
    assert found.err[1] == found.out[1] == ""
    assert not (tmp_path / "outputs").exists() or not [*tmp_path.glob("outputs/**/result.json")]


@pytest.mark.slow
def test_a_rank_without_the_data_or_with_other_data_is_named(tmp_path):
    for name in ("zero", "one"):
        (tmp_path / name).mkdir()
    make_folder(tmp_path / "zero/photos")
    data = ("data=image_folder", "data.root=photos", "data.size=8", "data.validation=0", QUICK)
    places = {rank: {"folder": tmp_path / name} for rank, name in enumerate(("zero", "one"))}
    found = run_ranks(tmp_path, *data, each=places)
    assert found.codes == [1, 1]
    told = [line for line in lines("".join(found.err)) if line.startswith("rank")]
    assert len(told) == 1, told
    assert told[0].startswith("rank 1: data.root: photos does not exist.")
    shutil.copytree(tmp_path / "zero/photos", tmp_path / "one/photos")
    write(tmp_path / "one/photos", "train/dog/a.png", picture(99))
    found = run_ranks(tmp_path, *data, each=places)
    told = [line for line in lines("".join(found.err)) if line.startswith("rank")]
    assert len(told) == 1, told
    assert "rank 1 differs from rank 0" in told[0]


@pytest.mark.slow
def test_mistakes_are_told_by_one_rank(tmp_path):
    for argument, line in {
        "epochss=1": "epochss is not a setting. Did you mean epochs?",
        "batch_size=1": "batch_size=1 is an update's, and is divided among 2 ranks.",
        "ablation=one_at_a_time": "torchrun starts the ranks of one run, and this is a sweep",
    }.items():
        found = run_ranks(tmp_path, argument)
        told = lines("".join(found.err))
        assert len(told) == 1, told
        assert told[0].startswith(line)
        assert found.codes == [1, 1]


@pytest.mark.slow
def test_several_runs_are_verified_and_each_mistake_is_told_once(tmp_path):
    run_ranks(tmp_path, QUICK)
    (place,) = tmp_path.glob("outputs/ours/*/seed=0")
    given = ("nothing", str(place), "nothing")
    found = ended(start_ranks(tmp_path, *given, module="runner.verify"))
    assert found.codes == [1, 1], found.err
    assert "bit-identical" in found.out[0]
    assert found.out[1] == found.err[1] == ""
    told = lines(found.err[0])
    assert len(told) == 2
    assert all(line.startswith("nothing is not the folder of a run") for line in told)
    (tmp_path / "nothing").mkdir()
    found = ended(start_ranks(tmp_path, str(place), module="runner.verify", count=1))
    assert found.codes == [1]
    assert "was made by 2 ranks, and this is 1" in found.err[0]


@pytest.mark.slow
def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ranks = start_ranks(tmp_path, *SETTINGS, QUICK, port=port)
        ranks[1].kill()  # it would try for half an hour
        found = ended(ranks)
    assert "That port is in use" in found.err[0]
