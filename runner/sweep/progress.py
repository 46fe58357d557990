"""The progress of an ablation: a live display on a terminal, a line for each run elsewhere.

It watches the files of the runs, and so knows as much of a cluster's as of this machine's.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.ablation.plan import Plan
from runner.ablation.tuning import TUNING
from runner.ablation.verdicts import Findings, judge
from runner.report import verdict_table, verdicts
from runner.report.end import say_where
from runner.report.events import modified
from runner.signals import Stopped
from runner.store.runs import STATUS, Run, read_metrics, read_run
from runner.texts import printable, printable_lines, say, typeable

REFRESH = 1.0  # seconds between two looks at the files
ENDED = ("done", "failed", "diverged", "damaged")


class Progress:
    """A context around the runs of an ablation.

    Args:
        root: The ablation's folder.
        plan: Its plan.
        lively: Whether the runs print nothing themselves, so that the terminal can be redrawn.
        command: What goes on with it once it was stopped.
    """

    def __init__(self, root: Path, plan: Plan, lively: bool, command: str) -> None:
        self.root, self.plan, self.command = root, plan, command
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.jobs: Sequence[tuple[str, int]] = ()
        self.ended: dict[tuple[str, int], Run] = {}
        self.before: dict[tuple[str, int], float] = {}
        self.lines, self.due = 0, 0.0  # that were printed, when to look at the files again
        self.start = time.monotonic()
        self.verdicts: RenderableType | None = None
        self.shares: dict[tuple[str, int], float] = {}
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.live: Live | None = None
        if lively and sys.stdout.isatty():  # transient, since the verdicts follow
            self.live = Live(console=self.console, get_renderable=self._draw, transient=True)

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
            self.watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        if self.live:
            self.live.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt | Stopped):
            say(f"\n{self.root} is stopped. Give {self.command} to go on.")

    def begin(self, plan: Plan, jobs: Sequence[tuple[str, int]]) -> None:
        """Print what will be done."""
        self.plan, self.jobs, self.ended, self.shares = plan, jobs, {}, {}
        self.before = {job: self._written(job) for job in jobs}
        self.lines, self.due = 0, 0.0
        self.start = time.monotonic()
        total = sum(1 for _ in plan.runs())
        kept = f", {total - len(jobs)} of {total} are done already" if len(jobs) < total else ""
        seeds = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "one seed"
        if jobs:
            self._say(
                f"{self.root}: {len(plan.variants)} variants, {seeds}: {len(jobs)} runs{kept}"
            )

    def line(self, text: str) -> None:
        """Print the line of a run that has ended."""
        self.lines += 1
        if not self.live:
            self._look_again()
            left, ended = self._left(), max(len(self.ended), min(self.lines, len(self.jobs)))
            text = f"[{ended}/{len(self.jobs)}{left and ', '}{left}] {text}"
        self._say("\n".join(printable_lines(text)))

    def _say(self, text: str) -> None:
        """Print above the live display, if there is one."""
        if self.live:
            self.console.print(Text(typeable("\n".join(map(printable, text.split("\n"))))))
        else:
            say(text)

    def end(self, findings: Findings) -> None:
        """Show the verdicts, and write the reports and TensorBoard's views; of trials nothing."""
        if self.live:
            self.live.stop()
        if self.plan.question.design == TUNING:
            return
        say("", *verdict_table(findings), "", coloured=True)
        say_where(findings)

    def _watch(self) -> None:
        """Look at the files until all is over; judge again when a run has ended."""
        seen, pause = -1, REFRESH
        while not self.over.wait(pause):
            self._look()
            if len(self.ended) != seen:
                seen, start = len(self.ended), time.monotonic()
                self.verdicts = self._verdicts()
                pause = max(REFRESH, 20 * (time.monotonic() - start))  # a twentieth of a core

    def _look_again(self) -> None:
        """Look at the files, unless that would take more than a twentieth of the time."""
        if (start := time.monotonic()) >= self.due:
            self._look()
            self.due = time.monotonic() + 20 * (time.monotonic() - start)

    def _look(self) -> None:
        for variant, seed in self.jobs:
            if (variant, seed) in self.ended:
                continue
            run = read_run(self.plan.folder(self.root, variant, seed), variant)
            # an older failure will be tried again; ages would mix the clocks of two machines
            is_new = self._written((variant, seed)) != self.before[variant, seed]
            if run.state in ENDED and is_new:
                self.ended[variant, seed] = run
                self.shares[variant, seed] = 1.0
            elif run.state == "running":
                self.shares[variant, seed] = self._share(run)

    def _written(self, job: tuple[str, int]) -> float:
        """When the status of a run was written last, by the clock of whoever wrote it."""
        return modified(self.plan.folder(self.root, *job) / STATUS)

    def _share(self, run: Run) -> float:
        """How much of a run is done, by its last evaluation."""
        try:
            lines = read_metrics(run.folder)
            config = {**self.plan.config, **self.plan.changes[run.variant]}
            return float(lines[-1]["epoch"] / config["epochs"]) if lines else 0.0
        except (ValueError, OSError, LookupError, TypeError):  # damaged; the report names it
            return 0.0

    def _verdicts(self) -> RenderableType | None:
        if self.plan.question.design == TUNING:
            return None
        try:
            return verdicts(judge(self.root, self.plan))
        except Exception:  # a display must never end the runs; the report will raise
            return None

    def _left(self) -> str:
        """Estimate how long the rest will take, by what has been done since the start."""
        done = sum(self.shares.values())
        if done < 0.5:
            return ""
        seconds = (time.monotonic() - self.start) * (len(self.jobs) - done) / done
        minutes, rest = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"

    def _draw(self) -> RenderableType:
        states = Counter(run.state for run in self.ended.values())
        running = [key for key in self.shares if key not in self.ended]
        words = [f"{states['done']} of {len(self.jobs)} done", f"{len(running)} running"]
        words += [f"{states[s]} {s}" for s in ENDED[1:] if states[s]]
        bar = Table.grid(padding=(0, 2))
        done = sum(self.shares.values())
        drawn = ProgressBar(total=max(1, len(self.jobs)), completed=done, width=30)
        bar.add_row(drawn, ", ".join(words), self._left())
        now = [printable(f"{v} seed={seed} {self.shares[v, seed]:4.0%}") for v, seed in running[:4]]
        names = Text("  ".join(now), style="dim", overflow="ellipsis", no_wrap=True)
        return Group(*([self.verdicts] if self.verdicts else []), bar, names)
