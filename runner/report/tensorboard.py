"""TensorBoard as a view of an ablation or a sweep, which can be rebuilt from its other files.

Besides the events that each run writes itself, there is one file in each of these folders:

    means/                  the charts of the means, and the report: its Markdown, the forest plot
    means/VARIANT/          mean, lower and upper over the seeds that are done
    means/VARIANT/hparams/  a row of HParams: the settings, and the mean result of these seeds
    means/VARIANT/STATE/    a row of HParams for the runs that ended otherwise, such as `diverged`

A row is called NAME/VARIANT, so that a TensorBoard over all of `outputs` mixes no two sweeps. No
file defines the columns, since TensorBoard would use the first definition for every sweep that it
shows; without one it gathers the columns from the rows. Nothing is written into a run's own folder:
a reader would move on to the new file, and miss what the run writes later.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard.summary import custom_scalars, text

from runner import tiles
from runner.ablation.designs import Factor
from runner.ablation.find import names_of
from runner.ablation.statistics import moments, t_test
from runner.ablation.verdicts import Findings
from runner.errors import UserError
from runner.names import shorten
from runner.report import markdown, multirun
from runner.report.events import VIEWS, Logged, is_step, modified, replace_view
from runner.report.multirun import Multirun
from runner.report.plots import forest
from runner.store.parameters import NONE, Settings, differing, heading, plain, tricks_on
from runner.store.runs import METRICS, STATUS, Run, evaluations, number
from runner.texts import printable

MEANS = "means"
CURVES = ("validation/accuracy", "validation/loss", "train/loss")
MOST_VARIANTS = 100  # with curves of the mean; TensorBoard grows slow with the number of its runs
USUAL_ALPHA = 0.05  # of the intervals where no question says another
Values = Mapping[str, bool | float | str]
"""The settings of a row of HParams, by column."""
MEASURED = ("test/", "validation/")
ENDINGS = {
    "done": STATUS_SUCCESS,
    "failed": STATUS_FAILURE,
    "diverged": STATUS_FAILURE,
    "stopped": STATUS_UNKNOWN,
}
"""The states that have a row."""


def write_views(found: Findings | Multirun, name: str | None = None) -> None:
    """Write what TensorBoard shows of an ablation or a sweep, replacing what an earlier call wrote.

    Of a folder that holds several sweeps, each gets its own. An open TensorBoard keeps the first
    ending of a run that it read; that of a second try is shown when it is restarted.

    Args:
        found: The findings so far, or runs without a plan.
        name: What an ablation is called beside others; the name of its folder if None.

    Raises:
        UserError: If the plan or a link leads outside the ablation's folder, or the folder cannot
            be written to.
    """
    try:
        if isinstance(found, Findings):
            _write(found.root, name, _of_plan(found), found.plan.question.alpha, found)
        else:
            for sweep in _sweeps(found):
                _write(sweep.root, None, _of_sweep(sweep), USUAL_ALPHA, sweep)
    except OSError as error:
        raise UserError(
            f"TensorBoard's views cannot be written into {found.root}: {error}. "
            "Remove what is in the way."
        ) from error


def _write(
    root: Path,
    name: str | None,
    rows: Mapping[str, tuple[Sequence[Run], Values]],
    alpha: float,
    found: Findings | Multirun,
) -> None:
    """Write the views of one folder: the runs and the values of each row of HParams, the means."""
    known = name or names_of([root])[root]
    every = [run for runs, _ in rows.values() for run in runs]
    for folder in (root, *(run.folder for run in every)):  # where earlier versions wrote some
        replace_view(root, folder, 0.0, ())
    newest = max((modified(run.folder / STATUS) for run in every), default=0.0)
    views = {root / MEANS: (newest, list(_summary(found, every)))}
    for index, (row, (runs, values)) in enumerate(rows.items()):
        done = [run for run in runs if run.state == "done"]
        newest = max((modified(run.folder / METRICS) for run in done), default=0.0)
        curves = list(_means(done, alpha)) if index < MOST_VARIANTS else []
        views[root / MEANS / row] = newest, curves
        for state in dict.fromkeys(run.state for run in runs if run.state in ENDINGS):
            some = [run for run in runs if run.state == state]
            newest = max(modified(run.folder / STATUS) for run in some)
            place = root / MEANS / row / ("hparams" if state == "done" else state)
            views[place] = newest, [*_session(f"{known}/{row}", values, some)]
    for folder, (when, logged) in views.items():
        replace_view(root, folder, when, logged, restart=True)
    deepest_first = sorted((root / MEANS).rglob(VIEWS), key=lambda path: -len(path.parts))
    for path in deepest_first:
        if path.parent not in views and not path.is_dir():  # of a variant that no longer exists
            path.unlink()
            with suppress(OSError):  # they stay if anything else is in them
                for place in path.parents[: len(path.relative_to(root / MEANS).parts) - 1]:
                    place.rmdir()


def _of_plan(findings: Findings) -> dict[str, tuple[Sequence[Run], Values]]:
    """The variants of an ablation, each with its level of each factor."""
    plan = findings.plan
    settled: dict[str, Values] = {}
    for variant, levels in plan.variants.items():
        config = {**plan.config, **plan.changes.get(variant, {})}
        values: dict[str, bool | float | str] = {}
        for f, level in zip(plan.factors, levels, strict=True):
            value = plain(f.name, config) if f.name in config else printable(level)
            if (shown := level == f.name if _is_switch(f) else value) is not None:
                values[printable(f.name)] = shown
        settled[variant] = values
    runs: dict[str, list[Run]] = {variant: [] for variant in settled}
    for (variant, _), run in findings.runs.items():
        runs[variant].append(run)
    return {variant: (runs[variant], values) for variant, values in settled.items()}


def _is_switch(factor: Factor) -> bool:
    """Whether it is a trick that is on or off; one that is on has the trick's name."""
    return len(factor.levels) == 2 and factor.name in factor.levels


def _sweeps(multirun: Multirun) -> Iterator[Multirun]:
    """The sweeps that lie whole in a folder of runs."""
    places: dict[Path, list[Run]] = {}
    for run in multirun.runs:
        own = replace(run, variant=run.folder.parent.name)
        places.setdefault(run.folder.parent.parent, []).append(own)
    for place, runs in places.items():
        if place.is_relative_to(multirun.root):
            yield Multirun(place, runs)


def _of_sweep(sweep: Multirun) -> dict[str, tuple[Sequence[Run], Values]]:
    """The rows of a sweep, each with the settings that differ, and the tricks that are on."""
    several = [row.settings for row in sweep.rows]
    keys = dict.fromkeys([*tricks_on(several), *differing(several)])
    with_numbers = {k for k in keys for s in several if isinstance(plain(k, s), float)}

    def values(settings: Settings) -> Values:
        pairs = ((key, plain(key, settings)) for key in keys)
        known = ((k, v) for k, v in pairs if v != NONE or k not in with_numbers)
        return {heading(k): v for k, v in known if v is not None}

    return {shorten(row.name): (row.runs, values(row.settings)) for row in sweep.rows}


def _session(row: str, values: Values, runs: Sequence[Run]) -> Iterator[Logged]:
    """The settings of runs that ended alike, how they did, and the means of their results."""
    state = runs[0].state
    results = [run.result or {} for run in runs]
    step = max(int(each["updates"]) if is_step(each.get("updates")) else 0 for each in results)
    group = printable(row if state == "done" else f"{row} ({state})")
    yield 0, hparams.hparams_pb(dict(values), trial_id=group, start_time_secs=0.0)
    end = HParamsPluginData(session_end_info=SessionEndInfo(status=ENDINGS[state]))
    about, tag = metadata.create_summary_metadata(end), metadata.SESSION_END_INFO_TAG
    yield 0, Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
    for tag in dict.fromkeys(tag for result in results for tag in result):
        found = [known for each in results if (known := number(each.get(tag))) is not None]
        if found and tag.startswith(MEASURED):
            mean = Summary.Value(tag=printable(tag), simple_value=fmean(found))
            yield step, Summary(value=[mean])


def _means(runs: Iterable[Run], alpha: float) -> Iterator[Logged]:
    """Mean and t interval of the mean at each evaluation that all the runs with any have."""
    lines = [found for run in runs if (found := evaluations(run))]
    for tag in CURVES:
        curves = [
            {
                line["update"]: known
                for line in each
                if (known := number(line.get(tag))) is not None and is_step(line["update"])
            }
            for each in lines
        ]
        curves = list(filter(None, curves))
        for update in sorted(set.intersection(*map(set, curves))) if curves else ():
            values = [curve[update] for curve in curves]
            numbers = {"mean": fmean(values)}
            if len(values) > 1:
                test = t_test(moments(values), alpha)
                numbers |= {"lower": float(test.low), "upper": float(test.high)}
            for name, value in numbers.items():
                if number(value) is not None:
                    scalar = Summary.Value(tag=f"{MEANS}/{tag}/{name}", simple_value=value)
                    yield update, Summary(value=[scalar])


def _summary(found: Findings | Multirun, runs: Sequence[Run]) -> Iterator[Logged]:
    """The charts of the means, and the report: its table, and of an ablation the effects."""
    done = sum(run.state == "done" for run in runs)
    charts = {
        tag: ["Margin", [f"{MEANS}/{tag}/{name}" for name in ("mean", "lower", "upper")]]
        for tag in reversed(CURVES)  # TensorBoard shows the last one first
    }
    yield 0, custom_scalars({"mean and interval over the seeds": charts})
    if isinstance(found, Multirun):
        yield done, text("sweep", multirun.markdown_page(found))
        return
    yield done, text("verdicts", markdown.page(found))
    if picture := forest(found):
        yield done, tiles.summary("effects", picture.png())
