"""TensorBoard as a view of an ablation, which can be rebuilt from its other files at any time.

Besides the events that each run writes itself, there is one file in each of these folders:

    .                 the experiment of the HParams plugin: the factors and the metrics as columns
    VARIANT/seed=S/   a run that has ended: its levels, and how it ended; grouped by variant
    means/            the charts of the means, and the report: its Markdown, and the forest plot
    means/VARIANT/    mean, lower and upper over the seeds that are done

A run that has not ended has none: a reader that goes through a folder file by file would move on to
it, and not see what the run writes later. With more than 40 runs TensorBoard's older pages draw
none of them until asked: `#custom_scalars&regexInput=means`, or `--logdir NAME/means`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from statistics import fmean

from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard.summary import custom_scalars, text

from runner.ablation.designs import Factor
from runner.ablation.plan import Plan
from runner.ablation.statistics import t_test
from runner.ablation.verdicts import Findings
from runner.errors import UserError
from runner.report import markdown
from runner.report.events import VIEWS, Logged, is_step, modified, replace_view
from runner.report.plots import forest
from runner.store.runs import METRICS, STATUS, Run, evaluations, number
from runner.texts import printable

MEANS = "means"
CURVES = ("validation/accuracy", "validation/loss", "train/loss")
MOST_VARIANTS = 100  # with a mean; TensorBoard grows slow with the number of its runs
COLUMNS = ("test/accuracy", "test/loss", "test/shift_consistency", "validation/accuracy")
ENDINGS = {"done": STATUS_SUCCESS, "failed": STATUS_FAILURE, "diverged": STATUS_FAILURE}


def write_views(findings: Findings) -> None:
    """Write what TensorBoard shows of an ablation, replacing what an earlier call wrote.

    An open TensorBoard keeps the first ending of a run that it read; that of a second try is shown
    when it is restarted.

    Args:
        findings: The findings so far.

    Raises:
        UserError: If the plan or a link leads outside the ablation's folder, or the folder cannot
            be written to.
    """
    try:
        _write_views(findings)
    except OSError as error:
        raise UserError(
            f"TensorBoard's views cannot be written into {findings.root}: {error}. "
            "Remove what is in the way."
        ) from error


def _write_views(findings: Findings) -> None:
    root, plan = findings.root, findings.plan
    replace_view(root, root, 0.0, [(0, _experiment(plan))])  # always the same, so without a time
    done: dict[str, list[Run]] = {variant: [] for variant in list(plan.variants)[:MOST_VARIANTS]}
    for (variant, _), run in findings.runs.items():
        ended = modified(run.folder / STATUS)
        session = _session(plan, variant, run, ended) if run.state != "running" else ()
        replace_view(root, run.folder, ended, [(0, part) for part in session])
        if run.state == "done" and variant in done:
            done[variant].append(run)
    newest = max((modified(run.folder / STATUS) for run in findings.runs.values()), default=0.0)
    replace_view(root, root / MEANS, newest, _summary(findings), restart=True)
    for variant, runs in done.items():
        newest = max((modified(run.folder / METRICS) for run in runs), default=0.0)
        means = list(_means(runs, plan.question.alpha))
        replace_view(root, root / MEANS / variant, newest, means, restart=True)
    kept = [root / MEANS, *(root / MEANS / variant for variant in done)]
    for path in list((root / MEANS).rglob(VIEWS)):
        if path.parent not in kept and not path.is_dir():  # of a variant that no longer exists
            path.unlink()
            with suppress(OSError):  # it stays if anything else is in it
                path.parent.rmdir()


def _experiment(plan: Plan) -> Summary:
    """The columns of HParams, written once; if each run wrote its own, only one would count."""
    factors = []
    for f in plan.factors:
        values = [True, False] if _is_switch(f) else [*map(printable, f.levels)]
        factors.append(hparams.HParam(printable(f.name), hparams.Discrete(values)))
    tags = dict.fromkeys((printable(plan.question.metric), *COLUMNS))
    return hparams.hparams_config_pb(factors, [hparams.Metric(tag) for tag in tags], 0.0)


def _is_switch(factor: Factor) -> bool:
    """Whether it is a trick that is on or off; one that is on has the trick's name."""
    return len(factor.levels) == 2 and factor.name in factor.levels


def _session(plan: Plan, variant: str, run: Run, ended: float) -> Iterator[Summary]:
    """The levels of a run, and how it ended; without an ending if it may be resumed.

    The seed is in the run's name only: HParams shows the values of one session for a whole group,
    so that a column of seeds would show one arbitrary seed for all of them.
    """
    levels = zip(plan.factors, plan.variants[variant], strict=True)
    values = {
        printable(f.name): level == f.name if _is_switch(f) else printable(level)
        for f, level in levels
    }
    began = ended - (number(run.status.get("seconds")) or 0.0)
    yield hparams.hparams_pb(values, trial_id=printable(variant), start_time_secs=began)
    if (status := ENDINGS.get(run.state, STATUS_UNKNOWN)) != STATUS_UNKNOWN:
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=ended))
        about, tag = metadata.create_summary_metadata(end), metadata.SESSION_END_INFO_TAG
        value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
        yield Summary(value=[value])


def _means(runs: Iterable[Run], alpha: float) -> Iterator[Logged]:
    """Mean and t interval of the mean at each evaluation, over the runs with a number there."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for run in runs:
        for line in evaluations(run):
            for tag in CURVES:
                known = number(line.get(tag))
                if known is not None and is_step(line["update"]):
                    found[line["update"], tag].append(known)
    for (update, tag), values in sorted(found.items()):
        numbers = {"mean": fmean(values)}
        if len(values) > 1:
            test = t_test(values, alpha)
            numbers |= {"lower": float(test.low), "upper": float(test.high)}
        for name, value in numbers.items():
            if number(value) is not None:
                scalar = Summary.Value(tag=f"{MEANS}/{tag}/{name}", simple_value=value)
                yield update, Summary(value=[scalar])


def _summary(findings: Findings) -> Iterator[Logged]:
    """The charts of the means, and the report: its table and its picture of the effects."""
    done = sum(run.state == "done" for run in findings.runs.values())
    charts = {
        tag: ["Margin", [f"{MEANS}/{tag}/{name}" for name in ("mean", "lower", "upper")]]
        for tag in reversed(CURVES)  # TensorBoard shows the last one first
    }
    yield 0, custom_scalars({"mean and interval over the seeds": charts})
    yield done, text("verdicts", markdown.page(findings))
    if picture := forest(findings):
        content = picture.png()
        width, height = Image.open(BytesIO(content)).size
        size = {"width": width, "height": height, "colorspace": 4}
        shown = Summary.Image(**size, encoded_image_string=content)
        yield done, Summary(value=[Summary.Value(tag="effects", image=shown)])
