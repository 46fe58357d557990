"""Which jobs were sent to a scheduler from here, as long as it has them.

They outlast a command that is killed; the next one finds them by what is kept here, in the cache
folder, where nobody else writes.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from runner.data.cache import default_folder
from runner.names import OUTPUTS
from runner.store.files import read_json, write_json

Jobs = Mapping[str, Mapping[str, Any]]
"""For each job the folders of its runs, with the status of each before it was sent."""


def folder() -> Path:
    """Where this is kept."""
    return default_folder() / "jobs"


def new_record() -> Path:
    """Name a file for jobs that are about to be sent."""
    return folder() / f"{_place()}-{uuid.uuid4().hex[:8]}.json"


def mark_of(record: Path) -> Path:
    """Name the file among the outputs by which jobs find that their machine sees them."""
    return Path(OUTPUTS, f".{record.stem}")


def keep(record: Path, jobs: Jobs) -> None:
    """Keep which jobs were sent."""
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, {"jobs": jobs})


def living(look: Callable[[Collection[str]], Collection[str]]) -> Jobs:
    """Give back the jobs that were sent from here and that there still are; forget the others.

    Args:
        look: Gives back those of the jobs that there are.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for record in folder().glob(f"{_place()}-*.json"):
        jobs = (read_json(record)[0] or {}).get("jobs", {})
        alive = look(jobs) if jobs else ()
        found |= {job: jobs[job] for job in alive}
        if not alive:
            record.unlink(missing_ok=True)
            mark_of(record).unlink(missing_ok=True)
    return found


def _place() -> str:
    """Name the outputs of the folder where the command is given."""
    return hashlib.sha256(os.fsencode(os.path.abspath(OUTPUTS))).hexdigest()[:16]
