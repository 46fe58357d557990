"""What the launchers of clusters have in common: send shares of the runs, and wait for their ends.

A job of a cluster does a share of the runs. What becomes of each run is read from its folder; the
scheduler is only asked which jobs there still are. A job that is gone without a word is given up
after `GRACE`, and its runs are recorded as failed; so nothing is waited for without a limit but
the queue itself.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn

from runner.errors import UserError
from runner.names import label
from runner.run.status import conclude
from runner.signals import Stopped, announce_stop
from runner.store.runs import read_status
from runner.sweep import sent
from runner.sweep.composed import ComposedLauncher
from runner.sweep.ends import end_of, has_ended, is_done, record_ends, refuse_other
from runner.sweep.numbers import require_whole
from runner.sweep.share import Share
from runner.sweep.side_by_side import Limits
from runner.texts import listed, same_command, say

GRACE = 60.0  # seconds after which a job that is gone, and has not reported, is given up
SAVING = 45.0  # seconds for all jobs to save in, when they are stopped
SILENCE = 1800.0  # seconds for which the scheduler may give no answer
LONGEST = 20.0  # seconds between two looks


class Job(NamedTuple):
    """A job that the scheduler has not ended."""

    waits: bool = False
    """Whether it has not begun, or will begin again."""
    note: str = ""
    """What the user may want to know of it, such as why it waits."""


class NoAnswer(Exception):
    """The scheduler did not say which jobs there are."""


class ClusterLauncher(ComposedLauncher):
    """A launcher that sends shares of the runs to a scheduler; an engine fills the methods.

    Args:
        runs_per_job: How many runs a job does; `auto` for as the engine chooses.
        limits: What the runs of one job may take.
        prepare: Called in each process before it does anything.
    """

    def __init__(
        self, runs_per_job: int | str, limits: Limits, prepare: Callable[[], None]
    ) -> None:
        self.runs_per_job, self.limits, self.prepare = runs_per_job, limits, prepare

    def check(self) -> None:
        """Refuse what cannot be, before anything is planned or sent; an engine adds its own."""
        require_whole("runs_per_job", self.runs_per_job, 1, others=["auto"])

    def usual_share(self, runs: int) -> int:
        """How many runs, of so many, a job does where that is left open."""
        raise NotImplementedError

    def send(self, shares: Sequence[Share]) -> list[str]:
        """Send the shares; give back the job of each."""
        raise NotImplementedError

    def look(self, jobs: Collection[str]) -> Mapping[str, Job]:
        """Give back those of the jobs that have not ended.

        Raises:
            NoAnswer: If the scheduler does not say.
        """
        raise NotImplementedError

    def complaint(self, job: str) -> str | None:
        """What a job that has ended gave back: why its machine can do no run; None if it could."""
        raise NotImplementedError

    def why(self, job: str) -> str:
        """Say in a sentence how a job ended, which did not say so itself."""
        raise NotImplementedError

    def stop(self, jobs: Collection[str]) -> None:
        """Have the jobs save their runs and end; those that have not begun are cancelled."""
        raise NotImplementedError

    def cancel(self, jobs: Collection[str]) -> None:
        """End the jobs at once, as far as they are still there."""
        raise NotImplementedError

    lasting = False
    """Whether the jobs go on when the process that sent them is gone."""

    def _launch(self) -> Sequence[JobReturn]:
        self.check()
        self.again = any(run.again for run in self.runs)
        self.before = [read_status(run.folder) for run in self.runs]
        self.ends: dict[int, JobReturn] = {}
        left = []
        for number, run in enumerate(self.runs):
            if is_done(run):
                self._take(number)
            else:
                left.append(number)
        jobs = self._known(left)
        known = {number for numbers in jobs.values() for number in numbers}
        record = sent.new_record()
        mark = sent.mark_of(record)
        try:
            if new := [number for number in left if number not in known]:
                mark.parent.mkdir(exist_ok=True)
                mark.touch()
                jobs |= self._send(new, mark, record)
            self._wait(dict(jobs))
        except (KeyboardInterrupt, Stopped):
            self._stop_all(jobs)
            raise
        mark.unlink(missing_ok=True)  # where an error ends the sweep, the jobs still need it
        self._living()  # which removes what is kept of the others
        for number in known:  # with which config they were begun is not known
            refuse_other(self.ends[number], self.runs[number])
        return [self.ends[number] for number in range(len(self.runs))]

    def _send(self, numbers: Sequence[int], mark: Path, record: Path) -> dict[str, list[int]]:
        """Send runs; give back those of each job."""
        size = self.runs_per_job
        size = size if isinstance(size, int) else self.usual_share(len(numbers))
        cut = [list(numbers[at : at + size]) for at in range(0, len(numbers), size)]
        made = (
            Share.make(
                [self.runs[n] for n in part],
                *(self.task, self.context, mark, self.limits, self.prepare),
            )
            for part in cut
        )
        jobs = dict(zip(self.send(list(made)), cut, strict=True))
        if self.lasting:
            folders = [str(run.folder) for run in self.runs]
            kept = {j: {folders[n]: self.before[n] for n in part} for j, part in jobs.items()}
            sent.keep(record, kept)
        say(f"{_runs(len(numbers))} in {_jobs(jobs)}")
        return jobs

    def _known(self, numbers: Iterable[int]) -> dict[str, list[int]]:
        """Give back the jobs that an earlier command sent, which has ended, and the runs of each.

        Raises:
            UserError: If there are some, and the runs are to be done anew.
        """
        by_folder = {str(self.runs[n].folder): n for n in numbers}
        found: dict[str, list[int]] = {}
        for job, runs in self._living().items():
            for folder, before in runs.items():
                if (number := by_folder.get(folder)) is not None:
                    found.setdefault(job, []).append(number)
                    self.before[number] = before
        if found and self.again:
            raise UserError(
                f"An earlier command's jobs still do these runs: {_jobs(found)}. Cancel them, or "
                f"give {same_command(self.again)} to wait for them."
            )
        if found:
            count = sum(map(len, found.values()))
            say(f"{_runs(count)} in {_jobs(found)} of an earlier command")
        return found

    def _living(self) -> Mapping[str, Mapping[str, Any]]:
        """Give back the jobs that commands given here have sent, with the runs of each."""
        return sent.living(self._look) if self.lasting else {}

    def _look(self, jobs: Collection[str]) -> Mapping[str, Job]:
        """Look at jobs until there is an answer."""
        deadline = time.monotonic() + SILENCE
        while True:
            try:
                return self.look(jobs)
            except NoAnswer as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"The scheduler has not answered for {SILENCE / 60:.0f} minutes: {error}. "
                        "The jobs were left as they are. Give the same command to wait for them."
                    ) from None
                time.sleep(LONGEST)

    def _wait(self, jobs: dict[str, list[int]]) -> None:
        """Wait until all jobs have ended, and take what became of their runs."""
        gone: dict[str, float] = {}
        told = ""
        begun = time.monotonic()
        while jobs:
            alive = self._look(jobs)
            now = time.monotonic()
            for job, numbers in list(jobs.items()):
                for number in numbers:
                    run, before = self.runs[number], self.before[number]
                    if number not in self.ends and has_ended(run, before):
                        self._take(number)
                left = [number for number in numbers if number not in self.ends]
                if job in alive:
                    gone.pop(job, None)
                elif left and (complaint := self.complaint(job)):
                    self.cancel(jobs)
                    raise UserError(complaint)
                elif not left or now - gone.setdefault(job, now) >= GRACE:
                    self._give_up(job, left)
                    del jobs[job]
            notes = _notes(alive)
            if notes != told and (told := notes):
                say(told)
            if jobs:
                time.sleep(min(LONGEST, max(1.0, (now - begun) / 20)))

    def _give_up(self, job: str, left: Sequence[int]) -> None:
        """Record the ends of runs whose job is gone."""
        if left:
            reason = f"{self.why(job)} Give {same_command(self.again)} to go on."
            self.cancel([job])
            record_ends([(self.runs[n], self.before[n]) for n in left], reason)
            for number in left:
                self._take(number, reason)

    def _take(self, number: int, reason: str = "") -> None:
        """Take what became of a run; where it recorded nothing, the reason is recorded."""
        run = self.runs[number]
        self.ends[number], line = end_of(run, self.before[number], reason)
        self._show(f"{label(run.folder)}  {line}", len(self.ends))

    def _stop_all(self, jobs: Mapping[str, Sequence[int]]) -> None:
        """Have all jobs save their runs and end; the same command resumes them."""
        announce_stop(ctrl_c=True)
        deadline = time.monotonic() + SAVING
        try:
            self.stop(jobs)
            while time.monotonic() < deadline:
                with suppress(NoAnswer):
                    if not self.look(jobs):
                        break
                time.sleep(1.0)
        finally:
            self.cancel(jobs)
            for numbers in jobs.values():
                for number in numbers:
                    folder = self.runs[number].folder
                    if read_status(folder).get("status") == "running":
                        conclude(folder, "stopped", before=self.before[number])


def _runs(count: int) -> str:
    return "One run is" if count == 1 else f"{count} runs are"


def _jobs(jobs: Collection[str]) -> str:
    """Write how many jobs there are, and name some."""
    names = listed(list(jobs), most=5)
    return f"job {names}" if len(jobs) == 1 else f"{len(jobs)} jobs ({names})"


def _notes(jobs: Mapping[str, Job]) -> str:
    """Write what is to be known of jobs, each note once."""
    found: dict[str, list[str]] = {}
    for name, job in jobs.items():
        if job.note:
            found.setdefault(job.note, []).append(name)
    return "; ".join(f"{_jobs(names)}: {note}" for note, names in found.items())
