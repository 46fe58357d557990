"""Hydra's sweeper of ablations: freeze the plan, do the runs that are left, judge, report.

The same command resumes a sweep: done runs are kept, stopped ones resume, failed ones are tried
again.
"""

import dataclasses
import gc
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from runner.ablation.plan import Plan, load_plan, save_plan
from runner.ablation.table import is_evidence, unfair_metric
from runner.ablation.tuning import TUNING, Tuned
from runner.ablation.verdicts import Findings, judge
from runner.auto import OPEN
from runner.errors import UserError, cause_of
from runner.heap import release
from runner.names import label
from runner.report import tuning_lines
from runner.report.sentences import compared_at
from runner.run.process import isolated
from runner.run.status import conclude, tidy
from runner.store.identity import NOT_IN_CONFIG_HASH
from runner.store.lock import lock_folder
from runner.store.runs import Run, read_status
from runner.sweep.budget import at_equal_cost
from runner.sweep.buildable import refuse_unbuildable
from runner.sweep.composed import ComposedLauncher
from runner.sweep.draft import Composer, Draft
from runner.sweep.dry_run import describe, runs_left
from runner.sweep.earlier import look_back
from runner.sweep.failures import cause_in_words, exit_with_failures
from runner.sweep.freeze import Frozen, refuse_foreign_runs, refuse_other
from runner.sweep.metrics import listed_metrics
from runner.sweep.origin import find_origin, seal
from runner.sweep.progress import Progress
from runner.sweep.settings import AblationSettings, check_settings
from runner.sweep.tuning import find_trials, read_trials
from runner.sweep.where import cores_of_a_run, may_have_cards, runs_at_once
from runner.texts import same_command, say


class AblationSweeper(Sweeper):
    """Chosen by every option of the group `ablation`."""

    config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands to a sweeper; the launcher is made when there is a plan for it."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Do the ablation.

        Raises:
            UserError: If the config is wrong, or the folder holds another ablation.
            SystemExit: With 1, if runs failed, which the same command would try again.
        """
        if "ablation" not in self.config:
            raise UserError(
                "hydra/sweeper=ablation needs a design. "
                "Write ablation=one_at_a_time, or another of its options."
            )
        node = OmegaConf.to_container(self.config.ablation, resolve=True)
        settings = check_settings(cast(dict[str, Any], node), listed_metrics(self.config))
        if not settings.dry_run:
            self._launcher(self.context)
        root = Path(str(self.config.hydra.sweep.dir))
        before = load_plan(root)
        loader = cast(Composer, self.context.config_loader)
        origin = find_origin(self.config, arguments, loader.folders())
        asked = before and dataclasses.replace(before, question=settings.question)
        if asked and asked.origin and asked.origin == seal(asked, origin):
            plan, trials, draft = asked, None, None
        else:
            plan, trials, draft = self._compose(root, settings, arguments, before)
            gc.collect()  # composed configs hold cycles; those of 1,000 variants take 130 MiB
            release()
        for warning in (*unfair_metric(plan), *(() if before else plan.notes)):
            say(f"Note: {warning}")
        if settings.dry_run:
            at_once = partial(runs_at_once, self.config.hydra.launcher, device=self.config.device)
            say(*describe(root, plan, at_once(len(plan.seeds) * len(plan.variants)), trials))
            return
        say(*compared_at(plan))
        refuse_foreign_runs(root, plan)
        if before is None:
            with isolated():
                for each in (plan, trials) if trials else (plan,):
                    refuse_unbuildable(each)
        root.mkdir(parents=True, exist_ok=True)
        again = bool(self.config.again)
        with lock_folder(root):
            if trials and draft:
                tuned = self._tune(root / TUNING, trials, again)
                judged = at_equal_cost(partial(draft.plan, plan.command, tuned), before=None)
                plan = dataclasses.replace(judged, notes=plan.notes)
                say("", *tuning_lines(plan), "", coloured=True)
            if plan.origin != (sealed := seal(plan, origin)):
                plan = dataclasses.replace(plan, origin=sealed)
            first = settings.numbers(int(self.config.seed))
            findings = self._run(root, plan, first, again)
        _exit_with(
            [run for run in findings.runs.values() if run.state not in ("done", "diverged")],
            len(findings.runs),
            again,
        )

    def _compose(
        self,
        root: Path,
        settings: AblationSettings,
        arguments: Sequence[str],
        before: Plan | None,
    ) -> tuple[Plan, Plan | None, Draft]:
        """Compose the plan, which has to be that of the folder if there is one, and its trials."""
        command = shlex.join(["python", "-m", "runner", *sys.argv[1:]])  # to be typed again
        draft = self._draft(settings, arguments, before)
        same = before and before.question.tune == settings.question.tune
        tuned = before.tuned if before and same else {}
        plan = at_equal_cost(partial(draft.plan, command, tuned), before)
        if before:
            return refuse_other(root, before, plan), None, draft
        trials = find_trials(root, draft, plan)
        listed = not isinstance(settings.seeds, int)
        return dataclasses.replace(plan, notes=look_back(root, plan, listed)), trials, draft

    def _draft(
        self, settings: AblationSettings, arguments: Sequence[str], before: Plan | None
    ) -> Draft:
        """Lay the ablation out; what the config leaves open is as in the plan of the folder."""
        chosen = (
            {key: before.config[key] for key in OPEN if key in before.config} if before else None
        )
        node, device = self.config.hydra.launcher, str(self.config.device)
        loader = cast(Composer, self.context.config_loader)
        cores, elsewhere = cores_of_a_run(node, device), may_have_cards(node)
        return Draft(settings, self.config, loader, arguments, cores, elsewhere, chosen)

    def _tune(self, root: Path, trials: Plan, again: bool) -> Mapping[str, Tuned]:
        """Do the trials that are left; give back what is chosen for each variant.

        Raises:
            SystemExit: If the machine ended some, which the same command would try again.
        """
        refuse_foreign_runs(root, trials)
        root.mkdir(exist_ok=True)
        runs = self._run(root, trials, trials.seeds, again).runs.values()
        undone = [run for run in runs if run.result is None and not is_evidence(run)]
        _exit_with(undone, len(runs), again)
        return read_trials(root, trials)

    def _launcher(self, context: HydraContext) -> Launcher:
        """Make the launcher that was chosen; it refuses what it cannot do."""
        launcher = Plugins.instance().instantiate_launcher(context, self.task, self.config)
        if isinstance(launcher, ComposedLauncher):
            launcher.check()
        return launcher

    def _run(self, root: Path, plan: Plan, first: Sequence[int], again: bool) -> Findings:
        """Do what is left of the plan, and add seeds to it as long as questions are open.

        Every variant gets the first seeds; of the added ones, only the variants of open questions.
        """
        save_plan(root, plan)
        for seed, variant in plan.runs():
            tidy(plan.folder(root, variant, seed), str(self.config.get("keep", "last")))
        options = {key: self.config[key] for key in NOT_IN_CONFIG_HASH if key in self.config}
        frozen = Frozen(plan, again, options)
        context = dataclasses.replace(self.context, config_loader=frozen)  # type: ignore[arg-type]
        launcher = self._launcher(context)
        lively = isinstance(launcher, ComposedLauncher)
        with Progress(root, plan, lively, same_command(again)) as progress:
            if isinstance(launcher, ComposedLauncher):
                launcher.show = progress.line
            findings, judged = judge(root, plan), plan
            tried: set[tuple[str, int]] = set()
            while True:
                needed = _open_variants(findings, stuck=not tried)
                left = set(runs_left(root, plan, findings.runs)) - tried
                jobs = [
                    (variant, seed)
                    for seed, variant in plan.runs()
                    if seed in first or variant in needed
                    if again or (variant, seed) in left
                ]
                tried.update(jobs)
                progress.begin(plan, jobs)
                if jobs:
                    self._launch(launcher, root, plan, jobs)
                    again = frozen.again = False  # once is enough
                if jobs or plan is not judged:
                    findings, judged = judge(root, plan), plan
                # a sequence ends at a run that cannot be read
                gaps = any(run.state == "damaged" for run in findings.runs.values())
                more = plan.more_seeds()
                if not more or gaps or not _open_variants(findings, stuck=False):
                    break
                plan = dataclasses.replace(plan, seeds=(*plan.seeds, *more))
                refuse_foreign_runs(root, plan)
                save_plan(root, plan)
            progress.end(findings)
        return findings

    def _launch(
        self, launcher: Launcher, root: Path, plan: Plan, jobs: Sequence[tuple[str, int]]
    ) -> None:
        """Do the jobs, and record the end of each run that could not do so itself.

        A launcher may raise because of one job, as submitit does when its process was killed. The
        runs that are still going then are waited for; jobs that had not begun are launched again.
        """
        longest = 60.0 * float(self.config.hydra.launcher.get("timeout_min") or 60)  # or an hour
        left = {job: plan.folder(root, *job) for job in jobs}
        while left:
            before = {job: read_status(folder) for job, folder in left.items()}
            errors, raised = _try(launcher, list(left))
            end = time.monotonic() + longest
            for folder in left.values():  # still going, though the launcher has returned
                if folder.exists():
                    with suppress(UserError), lock_folder(folder, max(0.0, end - time.monotonic())):
                        pass
            begun = {job for job, folder in left.items() if read_status(folder) != before[job]}
            over = begun if raised and begun else set(left)
            for job in over:
                text, cause = errors[job]
                conclude(left.pop(job), "failed", text, before[job], cause=cause)


def _try(
    launcher: Launcher, jobs: Sequence[tuple[str, int]]
) -> tuple[dict[tuple[str, int], tuple[str, str]], bool]:
    """Launch the jobs; give back why each would have failed, and whether the launcher raised."""
    try:
        ends = launcher.launch([[f"variant={v}", f"seed={s}"] for v, s in jobs], 0)
    except UserError:
        raise  # the launcher's settings are wrong
    except Exception as error:
        return dict.fromkeys(jobs, (f"{error}\n{DIED}", "killed")), True
    failed = [end._return_value if end.status is JobStatus.FAILED else None for end in ends]
    reasons = [(str(e), cause_of(e)) if e is not None else (DIED, "killed") for e in failed]
    return dict(zip(jobs, reasons, strict=True)), False


def _exit_with(bad: Sequence[Run], total: int, again: bool) -> None:
    """End the command with the reasons, if runs are not done."""
    exit_with_failures([f"{label(run.folder)}: {_why(run)}" for run in bad], total, again)


def _why(run: Run) -> str:
    """Write why a run is not done."""
    reasons = {"stopped": "it was stopped", "running": "its process has not ended yet"}
    error = run.status.get("error")
    return run.damage or reasons.get(run.state) or cause_in_words("" if error is None else error)


DIED = "The worker process died without reporting (out of memory?)."


def _open_variants(findings: Findings, stuck: bool = True) -> set[str]:
    """The variants of the questions that are still open.

    Args:
        findings: The findings so far.
        stuck: Whether to count questions with a run that the machine ended: without that run,
            which the same command tries again, more seeds would not answer them.
    """
    asked = (f for f in findings.effects if f.open and (stuck or not f.ended_outside))
    return {variant for finding in asked for variant in finding.contrast.weights}
