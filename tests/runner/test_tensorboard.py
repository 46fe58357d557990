"""TensorBoard's view of an ablation, read back as TensorBoard reads it."""

import html
import io
import json
import os
import statistics
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment
from tensorboard.plugins.hparams.list_session_groups import Handler

from runner.ablation.calibrate import Calibration
from runner.ablation.decide import Verdict
from runner.ablation.designs import Contrast, Factor
from runner.ablation.plan import save_plan
from runner.build import build
from runner.errors import UserError
from runner.report import tensorboard
from runner.report.__main__ import main as report
from runner.report.tensorboard import write_views
from runner.run.attempt import attempt
from runner.run.log import RunLog
from runner.store.lock import lock_folder
from runner.store.runs import read_run
from runner.train import Training
from tests import builders
from tests.builders import make_finding, make_findings, write_files, write_status
from tests.conftest import settings

FACTORS = (
    Factor("clipping", ("off", "clipping")),
    Factor("optimizer", ("optimizer=sgd", "optimizer=adam", "optimizer=lion")),
)
COMMAND = "python -m runner ablation=one_at_a_time"
VARIANTS = ("baseline", "clipping", "optimizer=adam", "optimizer=lion")


def make_plan(seeds=2, **question):
    return builders.make_plan(FACTORS, seeds=seeds, **question)


def score(variant, seed, epoch):
    return 0.5 + 0.1 * VARIANTS.index(variant) + 0.01 * seed**2 + 0.001 * epoch


def go_on(folder, updates):
    """Log as a run does that goes on after so many updates, ten an epoch."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)[: updates // 10] if updates else ()
    return RunLog(folder, lines, updates)


def make_run(root, variant, seed, state="done", epochs=(1, 2), began=0, minute=0):
    """Write a run as it writes itself, of ten updates an epoch; as if it took half a minute."""
    folder = root / variant / f"seed={seed}"
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    with go_on(folder, began) as log:
        for epoch in epochs:
            value = score(variant, seed, epoch)
            log.write(epoch, 10 * epoch, {"train/loss": 1 - value, "validation/accuracy": value})
        if state == "done":
            result = {"test/accuracy": score(variant, seed, 0), "test/loss": 0.25}
            log.scalars(10 * epochs[-1], result)
            write_files(folder, result=result)
    (events,) = set(folder.glob("events*")) - before
    events.rename(folder / f"events.out.tfevents.{START + 60 * minute}.host.1.0")
    set_state(folder, state, minute)
    return folder


START = 1_700_000_000


def set_state(folder, state, minute=0):
    write_status(folder, state, attempts=1, seconds=30.0)
    os.utime(folder / "status.json", (START + 60 * minute + 30,) * 2)


def find(root, plan, effects=(), **more):
    save_plan(root, plan)
    runs = {
        (variant, seed): read_run(plan.folder(root, variant, seed), variant)
        for seed, variant in plan.runs()
        if (plan.folder(root, variant, seed) / "status.json").exists()
    }
    return make_findings(root, {}, plan, effects=tuple(effects), runs=runs, **more)


def finding(name, verdict=Verdict.HELPS, differences=(), **more):
    contrast = Contrast(name, "effect", ("clipping",), {"clipping": 1.0, "baseline": -1.0})
    return make_finding(
        contrast, verdict, differences, **{"reason": "", "time_ratio": None, **more}
    )


@pytest.fixture
def ablation(tmp_path):
    """Four variants under two seeds: all done, but for one that diverged and one that runs."""
    plan = make_plan()
    for seed, variant in plan.runs():
        state = "diverged" if (variant, seed) == ("optimizer=lion", 0) else "done"
        state = "running" if (variant, seed) == ("optimizer=lion", 1) else state
        make_run(tmp_path, variant, seed, state)
    return find(tmp_path, plan, [finding("clipping", differences=(0.1,))])


def events_of(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def points(events, tag):
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def views(root):
    found = sorted(root.rglob("events.out.tfevents.*.view"))
    return [path for path in found if path.stat().st_size > 0]


def served(root):
    """The runs that TensorBoard finds, and the context of its HParams plugin."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(root))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(root))
    context = backend_context.Context(TBContext(data_provider=provider))
    return set(multiplexer.Runs()), context


def sessions(root):
    """The groups of sessions, as the page of HParams asks for them."""
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=api_pb2.Status.values(),
        aggregation_type=api_pb2.AGGREGATION_AVG,
        slice_size=100,
    )
    groups = Handler(RequestContext(), served(root)[1], "", request).run().session_groups
    return {group.name: group for group in groups}


def status(root, row):
    (session,) = sessions(root)[f"{root.name}/{row}"].sessions
    return api_pb2.Status.Name(session.status).removeprefix("STATUS_")


def test_hparams_has_the_factors_as_columns_and_switches_among_them_are_booleans(ablation):
    write_views(ablation)
    _, context = served(ablation.root)
    request = api_pb2.GetExperimentRequest()
    experiment = get_experiment.Handler(RequestContext(), context, "", request).run()
    columns = {info.name: info for info in experiment.hparam_infos}
    assert set(columns) == {"clipping", "optimizer"}
    assert columns["clipping"].type == api_pb2.DATA_TYPE_BOOL
    assert set(columns["clipping"].domain_discrete) == {True, False}
    assert columns["optimizer"].type == api_pb2.DATA_TYPE_STRING
    assert sorted(columns["optimizer"].domain_discrete) == sorted(FACTORS[1].levels)
    assert [i.name.tag for i in experiment.metric_infos] == ["test/accuracy", "test/loss"]


def test_a_row_is_a_variant_with_the_mean_result_of_its_seeds_and_how_they_ended(ablation):
    write_views(ablation)
    groups, name = sessions(ablation.root), ablation.root.name
    done = {"baseline", "clipping", "optimizer=adam"}
    assert set(groups) == {f"{name}/{v}" for v in (*done, "optimizer=lion (diverged)")}
    values = {row.partition("/")[2]: dict(group.hparams) for row, group in groups.items()}
    for row, found in values.items():
        assert found["clipping"].WhichOneof("kind") == "bool_value"
        assert found["clipping"].bool_value is (row == "clipping")
    assert {row: found["optimizer"].string_value for row, found in values.items()} == {
        "baseline": "optimizer=sgd",
        "clipping": "optimizer=sgd",
        "optimizer=adam": "optimizer=adam",
        "optimizer=lion (diverged)": "optimizer=lion",
    }
    numbers = {m.name.tag: m.value for m in groups[f"{name}/clipping"].metric_values}
    mean = (score("clipping", 0, 0) + score("clipping", 1, 0)) / 2
    assert numbers == pytest.approx({"test/accuracy": mean, "test/loss": 0.25})
    assert not groups[f"{name}/optimizer=lion (diverged)"].metric_values
    assert status(ablation.root, "clipping") == "SUCCESS"
    assert status(ablation.root, "optimizer=lion (diverged)") == "FAILURE"


def test_there_are_no_runs_but_the_runs_and_the_means(ablation):
    write_views(ablation)
    runs, _ = served(ablation.root)
    own = {f"{variant}/seed={seed}" for variant in VARIANTS for seed in (0, 1)}
    means = {f"means/{variant}" for variant in VARIANTS[:3]}  # of the fourth none is done
    rows = {f"{mean}/hparams" for mean in means} | {"means/optimizer=lion/diverged"}
    assert runs == {"means"} | means | own | rows


def test_done_again_it_leaves_every_file_as_it_was(ablation):
    write_views(ablation)
    before = {path: path.stat().st_ino for path in ablation.root.rglob("*")}
    write_views(find(ablation.root, ablation.plan, ablation.effects))
    (ablation.root / "sweep.yaml").touch()
    write_views(ablation)
    after = {path: path.stat().st_ino for path in ablation.root.rglob("*")}
    assert set(after) == set(before)
    assert {p.name for p, inode in after.items() if before[p] != inode} == {"sweep.yaml"}


def test_views_that_changed_do_not_pile_up(tmp_path):
    counts = []
    for seed in range(5):
        make_run(tmp_path, "clipping", seed, minute=seed)
        os.utime(tmp_path / f"clipping/seed={seed}/metrics.jsonl", (START + 60 * seed,) * 2)
        make_run(tmp_path, "baseline", 0, "failed", minute=seed)
        write_views(find(tmp_path, make_plan(5)))
        counts.append(len(list(tmp_path.rglob("*.view"))))
    assert counts[1:] == [counts[1]] * 4
    # one each of means, means/clipping and its row, the row of the failed run
    assert len(views(tmp_path)) == 1 + 1 + 1 + 1


def test_a_view_that_was_lost_or_spoiled_is_as_it_was(ablation):
    write_views(ablation)
    whole = {path: path.read_bytes() for path in views(ablation.root)}
    for number, path in enumerate(whole):
        if number % 2:
            path.write_bytes(whole[path][:40])
        else:
            path.unlink()
    write_views(ablation)
    assert {path: path.read_bytes() for path in views(ablation.root)} == whole


def test_a_run_that_goes_on_stays_in_sight_of_a_tensorboard_that_is_open(tmp_path):
    folder = tmp_path / "clipping" / "seed=0"
    make_run(tmp_path, "clipping", 0, "running")
    with go_on(folder, 20) as log:
        reader = events_of(folder)
        write_views(find(tmp_path, make_plan()))
        assert [event.step for event in reader.Reload().Scalars("train/loss")] == [10, 20]
        log.write(3, 30, {"train/loss": 0.1})
    assert [event.step for event in reader.Reload().Scalars("train/loss")] == [10, 20, 30]
    assert views(folder) == []
    assert sessions(tmp_path) == {}


@pytest.mark.parametrize(
    ("ending", "shown"), [("stopped", "UNKNOWN"), ("failed", "FAILURE"), ("diverged", "FAILURE")]
)
def test_a_run_that_is_gone_on_with_shows_its_numbers_and_its_new_ending(tmp_path, ending, shown):
    folder = make_run(tmp_path, "clipping", 0, ending)
    write_views(find(tmp_path, make_plan()))
    assert status(tmp_path, f"clipping ({ending})") == shown
    reader = events_of(folder)

    set_state(folder, "running")
    write_views(find(tmp_path, make_plan()))
    assert sessions(tmp_path) == {}
    make_run(tmp_path, "clipping", 0, "running", epochs=(2, 3), began=10, minute=1)
    expected = [(10 * e, 1 - score("clipping", 0, e)) for e in (1, 2, 3)]
    assert points(reader.Reload(), "train/loss") == expected
    set_state(folder, "done", minute=1)
    write_files(folder, result={})
    write_views(find(tmp_path, make_plan()))
    assert set(sessions(tmp_path)) == {f"{tmp_path.name}/clipping"}
    assert status(tmp_path, "clipping") == "SUCCESS"
    assert views(folder) == []
    assert points(events_of(folder), "train/loss") == expected


def test_what_earlier_versions_wrote_beside_a_run_and_at_the_root_is_emptied(ablation):
    folder = ablation.root / "clipping/seed=0"
    for place in (ablation.root, folder):
        (place / "events.out.tfevents.0000000000.000000.view").write_bytes(b"old")
    write_views(ablation)
    assert not {ablation.root, folder} & {path.parent for path in views(ablation.root)}
    assert set(sessions(ablation.root)) >= {f"{ablation.root.name}/clipping"}


def test_the_means_are_those_of_the_seeds_that_are_done_with_the_t_interval(tmp_path):
    seeds = (0, 1, 2)
    for seed in seeds:
        make_run(tmp_path, "clipping", seed)
    make_run(tmp_path, "clipping", 3, "diverged")
    make_run(tmp_path, "clipping", 4, "running")
    make_run(tmp_path, "baseline", 0)
    write_views(find(tmp_path, make_plan(5)))
    shown = events_of(tmp_path / "means" / "clipping")
    for epoch in (1, 2):
        values = [score("clipping", seed, epoch) for seed in seeds]
        mean = sum(values) / 3
        half = student.ppf(0.975, 2) * statistics.stdev(values) / 3**0.5
        for name, number in {"mean": mean, "lower": mean - half, "upper": mean + half}.items():
            told = points(shown, f"means/validation/accuracy/{name}")
            assert told[epoch - 1] == (10 * epoch, number), name
    single = events_of(tmp_path / "means" / "baseline").Tags()["scalars"]
    assert set(single) == {"means/validation/accuracy/mean", "means/train/loss/mean"}


def test_numbers_that_are_not_finite_are_left_out_and_a_damaged_log_is_passed_over(tmp_path):
    for seed, loss in enumerate((0.5, float("nan"), 1e39)):
        folder = make_run(tmp_path, "clipping", seed)
        with go_on(folder, 20) as log:
            log.write(3, 30, {"train/loss": loss})
    (make_run(tmp_path, "clipping", 3) / "metrics.jsonl").write_text('{"update": \n')
    (make_run(tmp_path, "clipping", 4) / "metrics.jsonl").write_text('["update"]\n')
    write_views(find(tmp_path, make_plan(5)))
    shown = events_of(tmp_path / "means" / "clipping")
    for name in ("mean", "upper"):  # of the third evaluation one seed alone has a number
        assert [event.step for event in shown.Scalars(f"means/train/loss/{name}")] == [10, 20]


def test_a_reader_that_is_open_sees_the_new_means_in_the_place_of_the_old(tmp_path):
    plan = make_plan()
    make_run(tmp_path, "clipping", 0)
    write_views(find(tmp_path, plan))
    reader, count = events_of(tmp_path / "means" / "clipping"), len(views(tmp_path))
    time.sleep(0.01)
    make_run(tmp_path, "clipping", 1)
    write_views(find(tmp_path, plan))
    assert len(views(tmp_path)) == count
    both = [(score("clipping", 0, e) + score("clipping", 1, e)) / 2 for e in (1, 2)]
    reader.Reload()
    assert points(reader, "means/validation/accuracy/mean") == [(10, both[0]), (20, both[1])]


def test_the_margin_charts_draw_what_the_means_hold(ablation):
    write_views(ablation)
    (event,) = events_of(ablation.root / "means").Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    series = [s for chart in layout.category[0].chart for s in chart.margin.series]
    assert len(series) == 3
    drawn = {tag for s in series for tag in (s.value, s.lower, s.upper)}
    held = events_of(ablation.root / "means" / "clipping").Tags()["scalars"]
    assert set(held) == {tag for tag in drawn if "validation/loss" not in tag}


def shown_text(root):
    with warnings.catch_warnings(action="ignore"):  # of what TensorBoard cleans HTML with
        from tensorboard.plugin_util import markdown_to_safe_html
    (event,) = events_of(root / "means").Tensors("verdicts/text_summary")
    return markdown_to_safe_html(event.tensor_proto.string_val[0].decode())


def test_the_verdicts_are_a_table_in_which_names_are_no_markup(tmp_path):
    name = "<b>a</b> | `b` ![i](http://x.y/z.png) *c* _d_ \\ &amp;"
    effects = [
        finding(name, mean=0.0123, interval=(-0.001, 0.02), differences=(0.1, 0.2)),
        finding("second", verdict=Verdict.UNDECIDED, reason="about 6 more seeds"),
    ]
    write_views(find(tmp_path, make_plan(), effects, warnings=["made with <i>other code</i>"]))
    page = shown_text(tmp_path)
    assert page.count("<tr>") == 3
    assert page.count("<td>") == 14
    for tag in ("<b>", "<img", "<a", "<em>", "<i>"):
        assert tag not in page
    cells = [html.unescape(cell.partition("</td>")[0]) for cell in page.split("<td>")[1:]]
    assert cells[0] == name
    assert cells[1:4] == ["HELPS", "+1.23 (-0.10 to +2.00)", "2 of 2"]
    assert cells[7:10] == ["second", "UNDECIDED", "-"]
    assert cells[13] == "about 6 more seeds"
    assert "made with <i>other code</i>" in html.unescape(page)
    assert f"<pre><code>{COMMAND}" in page  # which alone is code
    assert page.count("<code>") == 1


def test_a_calibration_tells_its_rates(tmp_path):
    told = Calibration(seeds=5, draws=1000, false=0.048, negligible=0.2)
    write_views(find(tmp_path, make_plan(), calibration=[told]))
    assert "<td>4.8 %</td>\n<td>20.0 %</td>" in shown_text(tmp_path)


def test_the_effects_are_a_picture_whatever_their_names_and_numbers(tmp_path):
    effects = [
        finding(
            "$\\frac{$", mean=0.1, interval=(float("-inf"), float("inf")), differences={0: 0.1}
        ),
        finding("none yet", verdict=Verdict.NONE),
    ]
    write_views(find(tmp_path, make_plan(metric="$\\frac{$"), effects))
    (event,) = events_of(tmp_path / "means").Images("effects")
    picture = Image.open(io.BytesIO(event.encoded_image_string))
    assert picture.size == (event.width, event.height)
    assert np.asarray(picture.convert("L")).std() > 5


def test_the_means_of_a_variant_that_is_no_more_go_and_what_a_user_put_there_stays(ablation):
    write_views(ablation)
    (ablation.root / "means" / "optimizer=adam" / "mine.txt").write_text("a file of the user's")
    fewer = {v: ablation.plan.variants[v] for v in ("baseline",)}
    write_views(find(ablation.root, replace(make_plan(), variants=fewer)))
    left = [path.name for path in (ablation.root / "means").iterdir() if path.is_dir()]
    assert sorted(left) == ["baseline", "optimizer=adam"]
    assert [p.name for p in (ablation.root / "means/optimizer=adam").iterdir()] == ["mine.txt"]


def test_only_so_many_variants_have_means(ablation, monkeypatch):
    monkeypatch.setattr(tensorboard, "MOST_VARIANTS", 2)
    write_views(ablation)
    found = {path.parent.name for path in views(ablation.root / "means")}
    assert found == {"means", "baseline", "clipping", "hparams", "diverged"}
    assert len(sessions(ablation.root)) == 4  # all of them have a row


@pytest.mark.parametrize("way", ["name", "link"])
def test_nothing_is_written_outside_the_ablations_folder(tmp_path, way):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    name = "../outside" if way == "name" else "clipping"
    write_status(outside / "seed=0", "failed")
    if way == "link":
        (root / "clipping").symlink_to(outside)
    plan = replace(make_plan(1), variants={name: ("clipping", "optimizer=sgd")})
    with pytest.raises(UserError, match=r"leads to .*outside.*, outside of .*root"):
        write_views(find(root, plan))
    assert {path.name for path in outside.rglob("*")} == {"seed=0", "status.json"}


def scalars(folder):
    """Read all that a run's events show: for each tag its steps and numbers."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = reader.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in tags}


@pytest.fixture
def real(tmp_path):
    """A run that was killed in its third epoch, and gone on with."""
    folder = tmp_path / "mine/baseline/seed=0"
    folder.mkdir(parents=True)
    given = settings("epochs=4", "batch_size=256", "model.width=4", "tricks=[clipping]")
    bench, step, done = build(given), Training.step, []

    def dies(training, *given):
        done.append(1)
        if len(done) == 15:
            raise KeyboardInterrupt
        return step(training, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            attempt(folder, given, bench, quiet=True)
    (events,) = folder.glob("events*")  # two of one second and one process are of no order
    events.rename(folder / f"events.out.tfevents.{START}.host.1.0")
    attempt(folder, given, build(given), quiet=True)
    return folder


def test_events_are_rebuilt_from_the_metrics_as_they_were(real, tmp_path, capsys):
    before = scalars(real)
    assert {"train/loss", "validation/accuracy", "test/accuracy", "time/seconds"} <= set(before)
    for tag, found in before.items():  # one line, with no zigzag
        steps = [step for step, _ in found]
        assert steps == sorted(set(steps)), tag
        assert len(steps) == (1 if tag.startswith("test/") else 4)
    spoils = (
        os.remove,
        lambda file: file.write_bytes(b"x"),
        lambda file: file.write_bytes(flipped(file.read_bytes())),
        lambda file: file.rename(f"{file}.1"),
    )
    for spoil in spoils:
        for file in real.glob("events*"):
            spoil(file)
        report([str(tmp_path), "--rebuild-events"])
        assert "TensorBoard: the events of 1 run rewritten" in capsys.readouterr().out
        assert scalars(real) == before
        (file,) = real.glob("events*")
    reader = EventAccumulator(str(real)).Reload()
    times = [event.wall_time for event in reader.Scalars("train/loss")]
    assert times[-1] == pytest.approx((real / "metrics.jsonl").stat().st_mtime)
    taken = [value for _, value in before["time/seconds"]]
    assert np.diff(times) == pytest.approx(taken[1:], abs=1e-5)


def flipped(content):
    spoiled = bytearray(content)
    spoiled[len(content) // 2] ^= 1
    return bytes(spoiled)


def test_a_run_that_is_being_done_or_has_damaged_metrics_keeps_its_events(real, tmp_path):
    before = {file.name: file.read_bytes() for file in real.glob("events*")}
    with lock_folder(real), pytest.raises(SystemExit) as told:
        report([str(tmp_path), "--rebuild-events"])
    assert "is locked by process" in str(told.value)
    text = (real / "metrics.jsonl").read_text()
    (real / "metrics.jsonl").write_text(text.replace("0", "1", 3))
    with pytest.raises(SystemExit, match=r"metrics.jsonl is damaged .* events are unchanged"):
        report([str(tmp_path), "--rebuild-events"])
    assert {file.name: file.read_bytes() for file in real.glob("events*")} == before


def test_a_rebuilt_file_shows_what_is_not_finite_as_no_number_and_spares_the_view(tmp_path):
    folder = make_run(tmp_path, "clipping", 0)
    view = folder / "events.out.tfevents.0000000000.000000.view"
    view.write_bytes(b"")
    with go_on(folder, 20) as log:
        log.write(3, 30, {"train/loss": float("nan"), "x": 1e39, "y" * 500: 1.0})
    with open(folder / "metrics.jsonl", "a") as file:
        odd = {"z": 10**400, "list": [1], "text": "a", "train/loss": 0.5, "time/seconds": -1}
        file.write(json.dumps({"epoch": 4, "update": 40, **odd}) + "\n")
    (folder / "events.out.tfevents.link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("kept")
    report([str(tmp_path / "clipping"), "--rebuild-events"])
    assert (tmp_path / "outside").read_text() == "kept"
    assert len(list(folder.glob("events*"))) == 2
    assert view.exists()
    found = scalars(folder)
    assert [step for step, _ in found["train/loss"]] == [10, 20, 30, 40]
    assert np.isnan(found["train/loss"][2][1])
    assert {"z", "list", "text"}.isdisjoint(found)
