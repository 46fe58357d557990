"""Images that are mapped from the cache: the same bits as in memory, in a bounded part of it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from runner.data import image_folder
from runner.data.cache import load, save
from runner.data.decode import Reading
from tests.conftest import ROOT, run_in
from tests.faults.images import NAMES, make_folder
from tests.runner.test_data_decode import make_bands

TINY = (
    "data.validation=0",
    "epochs=2",
    "batch_size=3",
    "model=resnet8",
    "model.width=2",
    "data.augment.crop=1",
)


def test_mapped_or_in_memory_a_run_is_the_same_to_the_bit(tmp_path, capfd):
    root = make_bands(tmp_path / "images", side=16)
    (tmp_path / "file").write_text("in the way")
    given = ("data=image_folder", f"data.root={root}", "data.bits=16", "data.bands=all", *TINY)
    results = []
    for place in ("cache", "file"):  # mapped, in memory
        folder = tmp_path / f"{len(results)}"
        results.append(run_in(folder, *given, f"data.cache={tmp_path / place}"))
        assert results[-1]["weights"] == results[0]["weights"]
        assert results[-1]["test/loss"] == results[0]["test/loss"]
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        results[-1]["data"] = state["made_with"]["data"]
        assert results[-1]["data"] == results[0]["data"]  # so that it may resume
    assert capfd.readouterr().err.count("not cached") == 1


def test_the_splits_share_one_map_that_is_not_copied(tmp_path):
    root, cache = make_folder(tmp_path / "images"), tmp_path / "cache"
    sources = [image_folder(str(root), cache=str(cache)) for _ in range(2)]
    for source in sources:
        assert source.train.images.data_ptr() == source.test.images.data_ptr()
        assert source.train.images.shape == (len(NAMES), 3, 6, 5)
    (file,) = cache.iterdir()
    if sys.platform == "linux":
        with open("/proc/self/maps") as maps:
            rights = [line.split()[1] for line in maps if str(file) in line]
        assert rights == ["r--s"] * 2  # to read alone, and shared with other processes
    assert np.array_equal(np.load(file, mmap_mode="r"), sources[0].train.images)


def test_of_a_large_cache_size_and_fingerprint_are_compared_and_of_a_small_one_every_byte(
    tmp_path, monkeypatch
):
    file, images = tmp_path / "x.npy", np.zeros((2, 3, 4, 4), np.uint8)
    save(file, "key", images.shape, np.uint8, images)
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    assert load(file, "key", 2, Reading()) is None
    monkeypatch.setattr("runner.data.cache.memory_here", lambda: 300)
    assert load(file, "key", 2, Reading()) is not None
    assert load(file, "other", 2, Reading()) is None
    assert load(file, "key", 3, Reading()) is None
    file.write_bytes(content + b"\n")
    assert load(file, "key", 2, Reading()) is None


CHILD = """
import hashlib, resource, sys, threading
import numpy as np
import torch
from runner.data import Batches, image_folder, split_source
from runner.run.fingerprint import digest_tensors

root, cache, allowance = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
threading.stack_size(2**20)
if allowance:
    used = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData")]
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(used[0]) + allowance,) * 2)
    try:
        np.empty(2 * allowance, np.uint8)
        raise SystemExit("there is no limit")
    except MemoryError:
        pass
data = split_source(image_folder(root, size=1024, cache=cache), 0.2, seed=0)
total = hashlib.sha256(digest_tensors({"train": data.train.chunks()}).encode())
batches = Batches(data.train, 1, data.mean, data.std, shuffle=True)
for inputs, targets, *_ in batches.epoch(0):
    total.update(inputs.numpy().data)
    total.update(targets.numpy().data)
print(total.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its limit counts what is allocated alone")
def test_images_that_are_larger_than_the_memory_are_read_and_are_the_same(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(160):
        split, name = ("test", "train")[number % 6 > 0], ("cat", "dog")[number % 2]
        (tmp_path / "images" / split / name).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{number}.png")
    (tmp_path / "file").write_text("in the way")

    def read(cache, allowance):
        command = (sys.executable, "-c", CHILD, tmp_path / "images", tmp_path / cache, allowance)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [str(word) for word in command], env=environment, capture_output=True, text=True
        )

    half = 160 * 3 * 2**20 // 2
    decoded, mapped, in_memory = (
        read("cache", half), read("cache", half), read("file", 0)
    )  # fmt: skip
    assert "Decoding the 160 images" in decoded.stderr
    assert mapped.stderr == ""
    assert "not cached" in in_memory.stderr
    assert len(decoded.stdout) == 65, decoded.stderr
    assert decoded.stdout == mapped.stdout == in_memory.stdout
    assert "MemoryError" in read("file", half).stderr
