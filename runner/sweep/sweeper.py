"""Hydra's sweeper of ablations: freeze the plan, do the runs that are left, judge, report.

The same command goes on where it stopped: done runs are kept, stopped ones go on, failed ones are
tried again.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.ablation.plan import Plan, load_plan, save_plan
from runner.ablation.verdicts import Findings, judge
from runner.config import NOT_IN_CONFIG_HASH
from runner.data.cache import default_folder
from runner.errors import UserError
from runner.run.status import conclude
from runner.store.lock import Locked, lock_folder
from runner.store.runs import STATUS, read_run
from runner.sweep.dry_run import describe
from runner.sweep.freeze import (
    Frozen,
    make_plan,
    refuse_foreign_runs,
    refuse_other,
    refuse_unbuildable,
)
from runner.sweep.local_launcher import LocalLauncher, available_cores, slots, visible_cards
from runner.sweep.progress import Progress
from runner.sweep.settings import check_settings


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
                "hydra/sweeper=ablation is chosen by a design, got none. "
                "Write ablation=one_at_a_time, or another of its options."
            )
        node = OmegaConf.to_container(self.config.ablation, resolve=True)
        assert isinstance(node, dict)
        settings = check_settings({str(key): value for key, value in node.items()})
        root = Path(str(self.config.hydra.sweep.dir))
        before = load_plan(root)
        threads = int(before.config["threads"]) if before else self._threads()
        plan = make_plan(
            settings, self.config, self.context.config_loader, arguments, threads, _command()
        )
        if before:
            plan = refuse_other(root, before, plan)
        if settings.dry_run:
            workers = self._at_once(len(plan.seeds) * len(plan.variants))
            print("\n".join(describe(root, plan, workers)))
            return
        refuse_foreign_runs(root, plan)
        if before is None:
            refuse_unbuildable(plan)
        root.mkdir(parents=True, exist_ok=True)
        with lock_folder(root):
            first = settings.numbers(int(self.config.seed))
            findings = self._run(root, plan, first, again=bool(self.config.again))
        bad = [run for run in findings.runs.values() if run.state in ("failed", "damaged")]
        if bad:
            told = bad[0].damage or "its status.json has the error"
            sys.exit(
                f"{len(bad)} of the runs failed, such as {bad[0].folder}: {told}. "
                "The same command tries them again."
            )

    def _run(self, root: Path, plan: Plan, first: Sequence[int], again: bool) -> Findings:
        """Do what is left of the plan, and add seeds to it as long as that is called for.

        Every variant has the seeds that it began with; of those that are added, the ones alone
        that a question still needs.
        """
        save_plan(root, plan)
        how = {key: self.config[key] for key in NOT_IN_CONFIG_HASH if key in self.config}
        frozen, grows = Frozen(plan, again, how), plan.question.until == "decided"
        context = HydraContext(
            config_loader=frozen,  # type: ignore[arg-type]
            callbacks=self.context.callbacks,
        )
        self._keep_pickles_out(root)
        launcher = Plugins.instance().instantiate_launcher(context, self.task, self.config)
        with Progress(root, plan, lively=isinstance(launcher, LocalLauncher)) as progress:
            if isinstance(launcher, LocalLauncher):
                launcher.show = progress.line
            findings = judge(root, plan)
            while True:
                needed = _open_variants(findings)
                jobs = [
                    (variant, seed)
                    for seed, variant in plan.runs()
                    if seed in first or variant in needed
                    if again or not _settled(root, plan, variant, seed)
                ]
                progress.begin(plan, jobs)
                self._launch(launcher, root, plan, jobs)
                again = frozen.again = False  # once is enough
                findings = judge(root, plan)
                if not grows or not _open_variants(findings):
                    break
                if len(plan.seeds) >= plan.question.most_seeds or _has_gaps(findings):
                    break
                plan = dataclasses.replace(plan, seeds=(*plan.seeds, plan.seeds[-1] + 1))
                refuse_foreign_runs(root, plan)
                save_plan(root, plan)
            progress.end(findings)
        return findings

    def _launch(
        self, launcher: Launcher, root: Path, plan: Plan, jobs: Sequence[tuple[str, int]]
    ) -> None:
        """Do the jobs, also those that a launcher lets fall because of another one's end.

        Joblib ends all its workers when one is killed, and submitit tells the first bad end alone.
        Whoever was under way then is done again by itself, to see whose fault it was.
        """
        left = list(jobs)
        while left:
            start = time.time()
            error = _try(launcher, left)
            for job in left:
                _wait_until_free(plan.folder(root, *job))
            began = [job for job in left if _written(root, plan, *job) >= start]
            for job in began if error else ():
                if len(left) > 1 and _state(root, plan, *job) == "running":
                    began_alone = time.time()
                    reason = _try(launcher, [job])
                    _conclude(plan.folder(root, *job), reason, began_alone)
                _conclude(plan.folder(root, *job), error, start)
            if error is None or not began:
                for job in left:
                    _conclude(plan.folder(root, *job), error, start)
                return
            left = [job for job in left if job not in began]

    def _keep_pickles_out(self, root: Path) -> None:
        """Submitit would write pickles into the ablation's folder, and read them from there."""
        node = self.config.hydra.launcher
        folder = node.get("submitit_folder")
        if folder and Path(str(folder)).is_relative_to(root):
            with open_dict(node):
                node.submitit_folder = str(default_folder() / "submitit" / "%j")

    def _at_once(self, runs: int) -> int:
        """How many of so many runs there will be at once on this machine."""
        node = self.config.hydra.launcher
        if node._target_.endswith("LocalLauncher"):
            cards = visible_cards(str(self.config.device))
            return len(slots(node.workers, node.per_card, runs, cards))
        jobs = int(node.get("n_jobs") or 1)  # joblib's: -1 is one a core, -2 one less
        return min(runs, jobs if jobs > 0 else max(1, len(available_cores()) + 1 + jobs))

    def _threads(self) -> int:
        """The CPU threads of a run where the config leaves them open: its share of the cores."""
        node = self.config.hydra.launcher
        if "submitit_folder" in node:
            return int(node.get("cpus_per_task") or 1)
        return max(1, len(available_cores()) // self._at_once(sys.maxsize))


def _settled(root: Path, plan: Plan, variant: str, seed: int) -> bool:
    """Whether a run is done; one that diverged would do so again."""
    return _state(root, plan, variant, seed) in ("done", "diverged")


def _written(root: Path, plan: Plan, variant: str, seed: int) -> float:
    """When a run last told of itself; 0 if it never did."""
    try:
        return (plan.folder(root, variant, seed) / STATUS).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _state(root: Path, plan: Plan, variant: str, seed: int) -> str:
    return read_run(plan.folder(root, variant, seed), variant).state


def _try(launcher: Launcher, jobs: Sequence[tuple[str, int]]) -> Exception | None:
    """Launch; give back what the launcher itself raised."""
    try:
        launcher.launch([[f"variant={v}", f"seed={s}"] for v, s in jobs], 0)
    except UserError:
        raise  # the launcher's settings are wrong
    except Exception as error:
        return error
    return None


def _wait_until_free(folder: Path) -> None:
    """Wait for a run that its launcher has given up, but that is still being done."""
    while folder.exists():
        try:
            with lock_folder(folder):
                return
        except Locked:
            time.sleep(1.0)
        except UserError:  # it cannot be written to; the run itself told why
            return


def _conclude(folder: Path, error: Exception | None, since: float) -> None:
    """Record the end of a run whose process is gone; others told theirs."""
    end = "Its process is gone, and left no word. Was there enough memory?"
    conclude(folder, "failed", f"{error or ''}\n{end}".strip(), since)


def _open_variants(findings: Findings) -> set[str]:
    """The variants of the questions that are still open."""
    return {
        variant
        for finding in findings.effects
        if finding.open
        for variant in finding.contrast.weights
    }


def _has_gaps(findings: Findings) -> bool:
    """Whether a run of the plan cannot be read: a sequence ends there, whatever is added."""
    return any(run.state == "damaged" for run in findings.runs.values())


def _command() -> str:
    """Write what was typed, to be typed again."""
    return shlex.join(["python", "-m", "runner", *sys.argv[1:]])
