"""A trained network in the forms that others load: weights, a program of torch's, ONNX."""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import Any, NamedTuple

import torch
import torch.fx.experimental._config as sizes
from torch import Tensor, nn

from runner.errors import UserError
from runner.trained.model import TrainedModel

OUTPUT = "logits"
FREE = {0: "batch", 2: "height", 3: "width"}
"""The axes of the images that may have any size."""

Answer = Callable[[Tensor], Tensor]


class Form(NamedTuple):
    """An exported network."""

    content: bytes
    """The file."""
    load: Callable[[], Answer]
    """Loads it as its user would: from images, or normalised inputs, to logits."""


def require_onnx() -> None:
    """Refuse, where a package is missing.

    Raises:
        UserError: If it is.
    """
    packages = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(
            f"--to onnx needs {' and '.join(missing)}. Run pip install 'biscuits-bench[onnx]'."
        )


class Whole(nn.Module):
    """A network with its normalisation: integers [N, C, H, W] to logits [N, K]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = _plain(model)
        self.register_buffer("scale", model.scale.clone())
        self.register_buffer("shift", model.shift.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, and pass on."""
        return self.network(images.to(torch.float32) * self.scale + self.shift)  # type: ignore[no-any-return]


class Normalized(nn.Module):
    """A network alone, for inputs [N, C, H, W] that are normalised already."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = _plain(model)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pass on."""
        return self.network(inputs)  # type: ignore[no-any-return]


def _plain(model: TrainedModel) -> nn.Module:
    """Copy a network in the usual memory format: an export does not tell of another."""
    network = copy.deepcopy(model.network).cpu().eval().requires_grad_(False)
    return model.chain.prediction(network.to(memory_format=torch.contiguous_format)).eval()


def state_dict(network: nn.Module) -> Form:
    """Save the weights alone, as `torch.save(network.state_dict(), file)`."""
    file = BytesIO()
    torch.save(dict(network.state_dict()), file)

    def load() -> Answer:
        again = copy.deepcopy(network)
        with torch.no_grad():
            for value in again.state_dict().values():
                value.zero_()
        again.load_state_dict(torch.load(BytesIO(file.getvalue()), weights_only=True))
        return torch.no_grad()(again)

    return Form(file.getvalue(), load)


def program(module: nn.Module, images: Tensor, any_size: bool) -> Form:
    """Save a program of `torch.export`.

    Args:
        module: What to export; it has one input.
        images: Two or more, to trace it with.
        any_size: Whether height and width stay open, as the number of images does.

    Raises:
        Exception: Of any type, if it cannot be exported so.
    """
    exported = _trace(module, images, any_size)
    file = BytesIO()
    torch.export.save(exported, file)

    def load() -> Answer:
        again: Answer = torch.export.load(BytesIO(file.getvalue())).module()
        return torch.no_grad()(again)

    return Form(file.getvalue(), load)


def onnx(module: nn.Module, images: Tensor, any_size: bool, facts: Mapping[str, Any]) -> Form:
    """Save a model of ONNX, by `torch.onnx.export(dynamo=True)`; as `program`.

    Args:
        module: What to export; it has one input.
        images: Two or more, to trace it with.
        any_size: Whether height and width stay open, as the number of images does.
        facts: What is written into its metadata; what is no text, as JSON.

    Raises:
        Exception: Of any type, if it cannot be exported so.
    """
    import onnxruntime

    exported = _trace(module, images, any_size)
    name = input_name(module)
    given = {name: {axis: word for axis, word in FREE.items() if any_size or axis == 0}}
    names = {"input_names": [name], "output_names": [OUTPUT], "dynamic_shapes": given}
    made = torch.onnx.export(exported, (), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    proto = made.model_proto
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        proto.metadata_props.add(key=key, value=text)
    content = proto.SerializeToString()

    def load() -> Answer:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        return lambda each: torch.from_numpy(session.run([OUTPUT], {name: each.numpy()})[0])

    return Form(content, load)


def _trace(module: nn.Module, images: Tensor, any_size: bool) -> torch.export.ExportedProgram:
    """Trace a module; of this machine nothing is in the program.

    A map of one pixel is no special case: small images must be among those of any size.
    """
    free = {axis: torch.export.Dim.DYNAMIC for axis in FREE if any_size or axis == 0}
    oblivious = sizes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), oblivious:
        exported = torch.export.export(module, (images,), dynamic_shapes={input_name(module): free})
    for part in exported.graph_module.modules():
        for node in getattr(getattr(part, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # which names files
    return exported


def input_name(module: nn.Module) -> str:
    """Name the input of an exported network."""
    return "images" if isinstance(module, Whole) else "inputs"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print off the terminal, and attention to what they know."""
    before, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(before)
