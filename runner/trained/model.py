"""A trained model: its network, and what prepares its images and names its classes."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from runner.data import normalization
from runner.data.decode import Reading, decode_one
from runner.device import find_device
from runner.errors import UserError
from runner.names import label
from runner.run import model_file
from runner.run.model_file import Facts
from runner.run.status import command
from runner.store.packed import is_packed, is_there, problem
from runner.store.runs import CONFIG, MODEL, read_run
from runner.texts import short
from tricks import Chain


class Picture(NamedTuple):
    """An image file, read for a model."""

    pixels: Tensor | None
    """[C, H, W], uint8 or uint16; None if it cannot be read."""
    problem: str = ""
    """Why not."""
    resized: bool = False
    """Whether it had to be resized, although the images that were trained on were not."""


class TrainedModel(nn.Module):
    """A network in evaluation mode, with what prepares its images and names its classes.

    Called with images [N, C, H, W] as they come from a file, uint8 (or uint16, where it was trained
    on these), it gives logits [N, K], float32: `network((images / levels - mean) / std)`, or what
    the tricks of its run made of that: the mean over several views.

    Attributes:
        network: The plain module; its inputs are normalised.
        chain: The tricks that changed it, or what it answers.
        classes: K names.
        mean: [C], of the pixels / levels, over the training images.
        std: [C].
        levels: The value of white, 255 or 65535.
        shape: (C, H, W) of the images that it was trained on.
        reading: How their files were read; None if they came from no image files.
        precision: What it computes in.
        batch_size: Images that `predict` takes at a time, as the run did.
        threads: The run's CPU threads. On as many, on its device, the answers are its own bits.
        device_type: The run's device, `cpu` or `cuda`.
        data: The name of its data set.
        architecture: What builds the network: its node of the config, and those of the tricks that
            changed it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, facts: Facts, chain: Chain) -> None:
        super().__init__()
        form = torch.channels_last if facts.channels_last else torch.contiguous_format
        self.network, self.chain, self.memory_format = network, chain, form
        if facts.channels_last:
            network.to(memory_format=form)
        self.mean, self.std = torch.tensor(facts.mean), torch.tensor(facts.std)
        self.classes, self.shape, self.levels = facts.classes, facts.shape, facts.levels
        self.reading, self.precision, self.data = facts.reading, facts.precision, facts.data
        self.batch_size, self.threads = facts.batch_size, facts.threads
        self.device_type, self.tf32 = facts.device, facts.tf32
        self.architecture = {"model": facts.architecture.model, "tricks": facts.tricks}
        scale, shift = normalization(self.mean, self.std, facts.levels)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits [N, K] of images [N, C, H, W].

        Raises:
            ValueError: If they are no such images.
        """
        kind = torch.uint8 if self.levels == 255 else torch.uint16
        if images.dtype != kind or images.ndim != 4 or images.shape[1] != self.shape[0]:
            raise ValueError(
                f"The images must be {kind} [N, {self.shape[0]}, H, W], got {images.dtype} "
                f"{list(images.shape)}. Read them with model.read(path)."
            )
        inputs = images.to(torch.float32, memory_format=self.memory_format)
        inputs = inputs.mul(self.scale).add(self.shift)
        predictor = self.chain.prediction(self.network)
        if self.precision == "float32":
            return predictor(inputs)  # type: ignore[no-any-return]
        with torch.autocast(images.device.type, getattr(torch, self.precision)):
            outputs: Tensor = predictor(inputs)
        return outputs.float()

    def read(self, path: str | Path) -> Tensor:
        """Read an image file as the run read its own; one of another size is resized.

        Returns:
            [C, H, W], uint8 or uint16.

        Raises:
            UserError: If it cannot be read.
        """
        picture = self.look_at(path)
        if picture.pixels is None:
            raise UserError(f"{short(path)} cannot be read: {picture.problem}. Give another image.")
        return picture.pixels

    def look_at(self, path: str | Path) -> Picture:
        """Read an image file, as `read` does; say why, if that is not possible."""
        channels, height, width = self.shape
        reading = self.reading or Reading(
            bits=8 if self.levels == 255 else 16,
            bands="auto" if channels in (1, 3) else "all",
        )
        found = decode_one(Path(path), reading, channels)
        resized = not isinstance(found, str) and found.shape[1:] != (height, width)
        if resized:
            found = decode_one(Path(path), replace(reading, size=(height, width)), channels)
        if isinstance(found, str):
            return Picture(None, found)
        return Picture(torch.from_numpy(found.copy()), resized=resized)

    def predict(self, images: Tensor | str | Path | Sequence[str | Path]) -> Tensor:
        """Give the probabilities [N, K], float32 on the CPU, of images or of image files.

        Raises:
            UserError: If a file cannot be read.
            ValueError: If the images are not [N, C, H, W] of the model's kind.
        """
        if isinstance(images, str | Path):
            images = [images]
        if isinstance(images, Tensor):
            blocks: Iterator[Tensor] = iter(images.split(self.batch_size))
        else:
            blocks = self.batched(map(self.read, images))
        logits = [self.answer(block) for block in blocks]
        return torch.cat(logits or [torch.empty(0, len(self.classes))]).softmax(1)

    def batched(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """Put images together, as many as the run did."""
        rest = iter(images)
        while block := [*islice(rest, self.batch_size)]:
            yield torch.stack(block)

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Give the logits [N, K] of one batch, on the CPU, as the run's own evaluation does."""
        with warnings.catch_warnings(action="ignore"):  # the run has shown them
            logits: Tensor = self(images.to(self.scale.device))
        return logits.cpu()


def load_run(run: str | Path, device: str = "cpu") -> TrainedModel:
    """Load the model of a finished run, with its own weights; nothing is downloaded.

    Args:
        run: The folder of the run, or its `model.pt` or `best.pt`.
        device: cpu, cuda, cuda:N, or auto.

    Raises:
        UserError: If the run is not finished, its file is damaged, or is of a network that
            `BISCUITS_ALLOW` does not allow.
    """
    path = find_file(Path(run).expanduser())
    place = find_device(device)
    facts, network, chain = model_file.read(path)
    return TrainedModel(network, facts, chain).to(place)


def find_file(run: Path) -> Path:
    """Give back the file of a run's model.

    Raises:
        UserError: If there is none, with the reason.
    """
    if is_there(run):
        return run
    where = short(label(run))
    if is_there(run / MODEL):
        return run / MODEL
    if not run.is_dir() and not is_packed(run):
        raise UserError(
            f"{where} does not exist. Give the folder of a run (outputs/NAME/VARIANT/seed=0), "
            f"or its {MODEL}."
        )
    if damage := problem(run):
        raise UserError(f"{where}: {damage}. Put it back from a copy, or do its runs again.")
    if not is_there(run / CONFIG):
        below = sorted(path.parent for path in run.glob(f"*/*/{MODEL}"))
        hint = f", such as {short(label(below[0]))}" if below else " (outputs/NAME/VARIANT/seed=0)"
        raise UserError(f"{where} is not the folder of a run. Give one{hint}.")
    state = read_run(run, run.parent.name).state
    if state == "done":
        raise UserError(
            f"{where} has no {MODEL}: it was removed, or an older version made the run. "
            f"Do it again: {command(run, 'again=true')}"
        )
    raise UserError(
        f"{where} is not done ({state}), so it has no {MODEL}. Finish it: {command(run)}"
    )
