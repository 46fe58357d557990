"""On a CUDA card: the same promises as on a CPU. Skipped where there is no card."""

import signal

import pytest
import torch
from torch.utils._pytree import tree_map

from runner.build import build
from runner.frames import read_frames
from runner.ranks import Parts
from runner.signals import Stopped, stoppable
from runner.verify import verify
from tests.conftest import run_in, settings
from tests.faults import conftest as faults
from tests.faults.test_kills import differing
from tests.runner.test_data_decode import make_bands
from tests.runner.test_train import plain_loop, same
from tests.test_ablation import ablate, results
from tests.test_laws import CHAINS, NODES
from tests.test_waiting import begin, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
signal_after = faults.signal_after

ON_CARD = ("epochs=2", "batch_size=100", "data.augment.crop=1", "device=cuda")
TOGETHER = (
    *("clipping", "flooding", "centralization", "anti_aliasing", "warm_up", "sam", "ema", "mixup"),
    *("ghost_batch_norm", "label_smoothing", "rand_augment", "random_erasing", "stochastic_depth"),
    *("squeeze_excite", "no_decay", "selective_backward", "whitening", "test_time_views"),
)
ALL = (f"tricks=[{','.join(TOGETHER)}]", "tricks.flooding.level=0.8")
KINDS = {
    "no trick": (),
    **{name: (f"tricks=[{name}]",) for name in NODES},
    "all tricks": ALL,
    "clipping by unit": ("tricks=[clipping]", "tricks.clipping.by=unit"),
    "clipping by quantile": ("tricks=[clipping]", "tricks.clipping.by=quantile"),
    "flooding of each sample": ("tricks=[flooding]", "tricks.flooding.per_sample=true"),
    "float16": ("precision=float16", *ALL),
    "bfloat16": ("precision=bfloat16", *ALL),
    "channels last": ("memory_format=channels_last", *ALL),
    "compiled": ("compile=true", *ALL),
    "compiled, other blocks": (
        "compile=true",
        "tricks=[stochastic_depth,squeeze_excite,zero_init]",
    ),
    "cuda graphs": ("compile=cuda_graphs", *ALL),
    "full float32": ("tf32=none", *ALL),
    "tf32": ("tf32=all", *ALL),
    "micro-batches": ("micro_batch_size=30", *ALL),
    "augmented": ("data.augment.crop=2", "data.augment.flip=true", "data.augment.cutout=3"),
}


def to_card(value):
    """Put a tensor, all tensors of a collection, or a module, on the card."""
    if isinstance(value, torch.nn.Module):
        return value.cuda()
    return tree_map(lambda x: x.cuda() if isinstance(x, torch.Tensor) else x, value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_config_and_seed_give_the_same_bits(kind, tmp_path):
    for name in ("a", "b"):
        run_in(tmp_path / name, *ON_CARD, *KINDS[kind])
    assert differing(tmp_path / "a", tmp_path / "b") == []


def test_no_trick_equals_a_plain_loop_to_the_bit(tmp_path):
    constant = (*ON_CARD, "scheduler=constant")
    given = settings(*constant)
    bench = build(given)
    assert next(bench.training.model.parameters()).is_cuda
    tensors = [batch[:2] for epoch in (0, 1) for batch in bench.batches.epoch(epoch)]
    taken = ("lr", "momentum", "nesterov", "weight_decay")
    rates = {key: given.optimizer[key] for key in taken}
    model, _, _ = plain_loop(bench.training.model, tensors, **rates)
    run_in(tmp_path / "run", *constant)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["training"]
    assert same(model.state_dict(), saved["model"])


@pytest.mark.parametrize(
    "kind", ["all tricks", "float16", "clipping by quantile", "compiled", "cuda graphs"]
)
def test_a_stopped_run_resumes_bit_identically(kind, tmp_path, signal_after):
    overrides = (*ON_CARD, *KINDS[kind])
    run_in(tmp_path / "straight", *overrides)
    signal_after({15: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        run_in(tmp_path / "stopped", *overrides)
    run_in(tmp_path / "stopped", *overrides)
    assert differing(tmp_path / "straight", tmp_path / "stopped") == []


def test_verify_repeats_a_run(tmp_path):
    run_in(tmp_path / "run", *ON_CARD, *ALL)
    assert verify(tmp_path / "run") == []


def test_an_ablation_shares_a_card_and_equals_one_run_at_a_time(tmp_path):
    command = ("ablation=one_at_a_time", "tricks=[clipping,anti_aliasing]", "device=cuda")
    for count in (1, 3):
        sharing = (f"hydra.launcher.per_card={count}", f"name=sharing{count}")
        ablate(tmp_path, *command, "epochs=1", "ablation.seeds=2", *sharing)
    alone, together = (results(tmp_path / "outputs" / f"sharing{count}") for count in (1, 3))
    assert len(alone) == 6
    assert alone == together
    runs = read_frames(tmp_path / "outputs" / "sharing1").runs
    assert runs["peak_memory"].between(1e5, 4e9).all()


def test_mapped_images_give_the_same_bits_whole_on_the_card_or_batch_by_batch(
    tmp_path, monkeypatch
):
    root, cache = make_bands(tmp_path / "images", side=16), tmp_path / "cache"
    given = ("data=image_folder", f"data.root={root}", f"data.cache={cache}", "data.bits=16")
    given += ("data.bands=all", "data.validation=0", "batch_size=2", "model.width=2")
    whole = run_in(tmp_path / "a", *ON_CARD, *given)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    data = build(settings(*ON_CARD, *given)).data
    assert not data.train.images.is_cuda
    assert data.train.labels.is_cuda
    by_batch = run_in(tmp_path / "b", *ON_CARD, *given)
    assert whole["weights"] == by_batch["weights"]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("named", CHAINS)
def test_no_update_waits_for_the_card(named):
    """But for the first one, of which a trick may ask whether it can do anything."""
    training, batches = begin(CHAINS[named], to_card, parts=Parts(7))
    try:
        train(training, batches, lambda: torch.cuda.set_sync_debug_mode("error"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    training.settle()
