"""Ranks on CUDA cards, over NCCL: the same promises as on a CPU. Skipped where there is no card.

With a single card each rank is a machine that has it: `tests.ranks.start.on_cards`.
"""

import json
import signal

import pytest
import torch

from tests.conftest import ROOT, start
from tests.ranks.start import (
    SETTINGS,
    ended,
    lines,
    on_cards,
    run_ranks,
    start_ranks,
    wait_for_epochs,
)
from tests.ranks.test_run import AGREED, DRIFTED, result, status, trained
from tests.ranks.test_tricks import LAWS
from tests.test_laws import NODES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")

CARD = ("device=cuda", "tricks=core")
SECONDS = 60
"""Within which a rank that has lost another one is to end."""


def run(folder, *arguments):
    """Do a run in one process."""
    found = ended([start(folder, *SETTINGS, *arguments)])
    assert found.codes == [0], found.err


def test_every_trick_is_the_same_over_two_cards(tmp_path):
    file = tmp_path / "found.json"
    given = (str(file), "cuda", "None", *NODES)
    found = ended(start_ranks(ROOT, *given, module="tests.ranks.worker", each=on_cards()), 300)
    assert found.codes == [0, 0], found.err
    known = json.loads(file.read_text())
    assert {law: [name for name in known if not known[name][law]] for law in LAWS} == {
        law: [] for law in LAWS
    }


def test_odd_networks_and_wishes(tmp_path):
    found = ended(
        start_ranks(tmp_path, "cuda", module="tests.ranks.odd_worker", each=on_cards()), 120
    )
    assert found.codes == [0, 0], found.err
    everywhere = json.loads(found.out[0])
    assert [case for wrong, *_ in everywhere for case in wrong.items() if case[1]] == []
    assert [agreed for _, agreed, _ in everywhere] == AGREED
    assert [drift for *_, drift in everywhere] == DRIFTED


@pytest.mark.parametrize(
    "kind",
    [
        ("tf32=none",),
        ("precision=bfloat16", "memory_format=channels_last"),
        ("precision=float16",),
        ("data.augment.crop=1", "data.augment.flip=true"),
    ],
)
def test_micro_batches_are_dealt_so_that_one_process_has_the_same_weights(kind, tmp_path):
    (tmp_path / "one").mkdir()
    run(tmp_path / "one", *CARD, *kind, "epochs=2", "micro_batch_size=32")
    found = run_ranks(tmp_path, *CARD, *kind, "epochs=2", "micro_batch_size=32", each=on_cards())
    assert found.codes == [0, 0], found.err
    assert found.out[1] == ""
    assert lines("".join(found.err)) == []
    assert trained(tmp_path) == trained(tmp_path / "one")


@pytest.mark.parametrize(("kind", "near"), [("compile=true", 1e-3), ("sync_batch_norm=true", 1e-2)])
def test_to_rounding_the_run_is_that_of_one_process(kind, near, tmp_path):
    (tmp_path / "one").mkdir()
    parts = () if "sync" in kind else ("micro_batch_size=32",)
    given = ("device=cuda", "tf32=none", "epochs=2", *parts)
    run(tmp_path / "one", *given)
    found = run_ranks(tmp_path, *given, kind, each=on_cards())
    assert found.codes == [0, 0], found.err
    one, two = (result(place)[1][0] for place in (tmp_path / "one", tmp_path))
    for key in ("train/loss", "train/gradient_norm"):
        assert two[key] == pytest.approx(one[key], rel=near)


def test_a_rank_that_is_killed_ends_the_other_with_the_cause(tmp_path):
    ranks = start_ranks(tmp_path, *SETTINGS, *CARD, "epochs=500", each=on_cards())
    wait_for_epochs(tmp_path, 1, ranks[0])
    ranks[1].kill()
    found = ended(ranks, timeout=SECONDS)
    assert found.codes == [1, -signal.SIGKILL], found.err
    told = [line for line in lines(found.err[0]) if line.startswith("A rank was killed")]
    assert len(told) == 1, found.err
    assert status(tmp_path)["status"] == "failed"
    assert status(tmp_path)["cause"] == "machine"


def test_a_signal_to_one_rank_stops_both_and_the_run_resumes_exactly(tmp_path):
    (tmp_path / "whole").mkdir()
    given = (*CARD, "epochs=8")
    whole = run_ranks(tmp_path / "whole", *given, each=on_cards())
    assert whole.codes == [0, 0], whole.err
    ranks = start_ranks(tmp_path, *SETTINGS, *given, each=on_cards())
    wait_for_epochs(tmp_path, 2, ranks[0])
    ranks[1].terminate()
    found = ended(ranks, timeout=SECONDS)
    assert "Stopped and saved at update" in found.out[0], found.err
    again = run_ranks(tmp_path, *given, each=on_cards())
    assert again.codes == [0, 0], again.err
    assert "resuming at update" in again.out[0]
    assert result(tmp_path) == result(tmp_path / "whole")


def test_more_ranks_than_cards_are_told_so(tmp_path):
    many = torch.cuda.device_count() + 1
    found = run_ranks(tmp_path, "device=cuda", count=many)
    assert found.codes == [1] * many
    told = lines("".join(found.err))
    assert len(told) == 1, told
    assert "--nproc-per-node" in told[0]
