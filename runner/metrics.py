"""Metrics of a classifier's answers, by name: from the logits and the labels of a split.

Beside accuracy and loss, which every run measures: those of `BUILT_IN`, and functions of the
user's own that `BISCUITS_ALLOW` names, which are called with (logits, labels) and give a number.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner import allowed
from runner.errors import UserError, did_you_mean
from runner.fit import place_of
from runner.texts import reason

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

BINS = 15  # of the calibration error, as in the paper
TRIED = 1000  # samples on which a function of the user's own is tried before training

LOWER_IS_BETTER = ("loss", "calibration_error")
"""Of the built-in metrics, those that are minimized."""

MEASURED = ("accuracy", "mean_accuracy", "loss", "shift_consistency")
"""What a run measures without being asked: names that no other metric may have."""

_TOP = re.compile(r"top([2-9]|[1-9][0-9]+)_accuracy")


def balanced_accuracy(logits: Logits, labels: Labels) -> float:
    """Return the recall of a class, averaged over the classes that the split has.

    mean over c of #{i: argmax_k logits[i, k] = c = labels[i]} / #{i: labels[i] = c}, in [0, 1]. The
    same as the accuracy where all classes have as many samples.

    Args:
        logits: [N, K].
        labels: [N], from 0 to K - 1.
    """
    from sklearn.metrics import recall_score  # takes a second to import

    found = recall_score(labels, logits.argmax(1), labels=np.unique(labels), average="macro")
    return float(found)


def macro_f1(logits: Logits, labels: Labels) -> float:
    """Return the F1 score of a class, averaged over the classes of the labels and predictions.

    F1 = 2 TP / (2 TP + FP + FN) of each class against the others, in [0, 1]. A class that is never
    right counts as 0, also if it is predicted and the split has none of it; a class that is neither
    predicted nor in the split is left out. As scikit-learn's `f1_score(average="macro")` has it.

    Args:
        logits: [N, K].
        labels: [N], from 0 to K - 1.
    """
    from sklearn.metrics import f1_score  # takes a second to import

    return float(f1_score(labels, logits.argmax(1), average="macro", zero_division=0.0))


def top_accuracy(logits: Logits, labels: Labels, k: int) -> float:
    """Return how often the label is among the k classes with the largest logits, in [0, 1].

    Of equal logits the first comes first, as in `argmax`: k = 1 is the accuracy. (scikit-learn's
    `top_k_accuracy_score` takes the last first, and sorts, which takes long with many classes.)

    Args:
        logits: [N, K].
        labels: [N], from 0 to K - 1.
        k: From 1 to K.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(1)
    return float((rank < k).mean())


def calibration_error(logits: Logits, labels: Labels) -> float:
    """Return the expected calibration error: by how much confidence and accuracy differ.

    Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    https://arxiv.org/abs/1706.04599, equation (3), with 15 bins:

        ECE = sum over m of |B_m| / N * |accuracy(B_m) - confidence(B_m)|

    The confidence of a sample is the largest of its probabilities, softmax(logits); B_m are the
    samples whose confidence is in ((m - 1) / 15, m / 15]. In [0, 1]; 0 is best. It depends on the
    bins, and is biased upwards with few samples.

    Args:
        logits: [N, K].
        labels: [N], from 0 to K - 1.
    """
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    confidence = 1 / np.exp(shifted).sum(1)
    right = logits.argmax(1) == labels
    bins = np.ceil(confidence * BINS).astype(int) - 1
    gaps = np.bincount(bins, right - confidence, BINS)
    return float(np.abs(gaps).sum() / len(labels))


BUILT_IN: dict[str, Callable[[Logits, Labels], float]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "calibration_error": calibration_error,
}
"""Beside topK_accuracy."""

LISTED = "balanced_accuracy, macro_f1, top5_accuracy (any number from 2), calibration_error"


def measure(names: Sequence[str], logits: Any, labels: Any) -> dict[str, float]:  # noqa: ANN401
    """Compute metrics.

    Args:
        names: As `check_metrics` lets them pass.
        logits: [N, K] float32, an array or a tensor on the CPU.
        labels: [N] int64, likewise.

    Returns:
        The numbers by name, that of a function of the user's own without its module. They are NaN
        where the largest logit of a sample is not finite.

    Raises:
        UserError: If a function of the user's own fails, or gives back no number.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if not np.isfinite(logits.max(1)).all():  # one of -inf excludes a class; NaN goes through max
        return {short_name(name): np.nan for name in names}
    return {short_name(name): _measure(name, logits, labels) for name in names}


def _measure(name: str, logits: Logits, labels: Labels) -> float:
    if match := _TOP.fullmatch(name):
        return top_accuracy(logits, labels, int(match[1]))
    if name in BUILT_IN:
        return BUILT_IN[name](logits, labels)
    return _call(name, logits, labels)


def _call(name: str, logits: Logits, labels: Labels) -> float:
    """Call a function of the user's own, which can change neither its arguments nor a run."""
    import torch  # takes a second to import

    function = allowed.locate(name, "metrics", "metric")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return float(function(torch.tensor(logits), torch.tensor(labels)))
    except Exception as error:  # it may raise anything
        raise UserError(f"metrics: {name} failed: {reason(error)}{place_of(error)}.") from error


def is_built_in(name: str) -> bool:
    """Whether a name is that of a metric of ours."""
    return name in BUILT_IN or _TOP.fullmatch(name) is not None


def short_name(name: str) -> str:
    """Give back what a metric is called in result.json: a function, without its module."""
    return name.rpartition(".")[2]


def own_metrics(names: Sequence[str]) -> Iterator[str]:
    """Run through the metrics that are functions of the user's own."""
    return (name for name in names if "." in name)


def check_metrics(names: Sequence[str]) -> None:
    """Check the setting `metrics`.

    Raises:
        UserError: If a name is unknown, or two have the same one; if a function of the user's own
            is not allowed, does not exist, or cannot be called with (logits, labels).
    """
    allowed.refuse_foreign({f"metrics[{i}]": (name, "metric") for i, name in enumerate(names)})
    for name in names:
        short = short_name(name)
        if name == short and not is_built_in(name):
            raise UserError(f"metrics: {name} is unknown.{advice(name)}")
        if name != short and (is_built_in(short) or short in MEASURED):
            raise UserError(
                f"metrics: {name} would be called {short} in the results, which is the name of a "
                "built-in metric. Rename the function."
            )
        if [short_name(other) for other in names].count(short) > 1:
            raise UserError(f"metrics names {short} twice. Drop one, or rename it.")
    for name in own_metrics(names):
        function = allowed.locate(name, "metrics", "metric")
        try:
            signature(function).bind(None, None)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"metrics: {name} must be a function of (logits, labels): {error}."
            ) from None


def advice(name: str) -> str:
    """Write which metrics there are, and which of them an unknown name may mean."""
    near = did_you_mean(name, [*BUILT_IN, "top5_accuracy"])
    if name in MEASURED or name == "top1_accuracy":
        return " accuracy, loss and shift_consistency are always measured."
    return (
        f"{near} There are: {LISTED}; and functions of your own, as package.function, which "
        "BISCUITS_ALLOW names."
    )


def refuse_unmeasurable(names: Sequence[str], labels: Labels, classes: int) -> None:
    """Refuse what could not be measured at the end of a run, before it begins.

    A function of the user's own is tried on some of the labels, with logits drawn at random.

    Args:
        names: The metrics.
        labels: [N], of the test split.
        classes: K.

    Raises:
        UserError: If a K of topK is too large, or a function fails.
    """
    for name in names:
        if (match := _TOP.fullmatch(name)) and int(match[1]) >= classes:
            remedy = f"Take top{classes - 1}_accuracy at most" if classes > 2 else "Drop it"
            raise UserError(
                f"metrics: {name} is 1 for {classes} classes, whatever is predicted. {remedy}."
            )
    some = labels[:: -(-len(labels) // TRIED)]
    logits = np.random.default_rng(0).standard_normal((len(some), classes), np.float32)
    measure([*own_metrics(names)], logits, some)
