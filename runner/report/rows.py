"""The rows of a sweep: runs that differ in their seeds alone, whatever their folders are called."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner.store.parameters import MACHINE, Settings, cell, differing, heading, parameters
from runner.store.runs import Run


@dataclass(frozen=True)
class Row:
    """The runs of one setting, which differ in their seeds."""

    name: str
    """The variant; of a variant with several settings also what sets this one apart."""
    label: str
    """The same in short: without what all variants have."""
    runs: Sequence[Run]
    settings: Settings
    """Of one of its runs; {} if none is known."""

    @property
    def place(self) -> str:
        """The folder above the variant's, where the runs of several are listed together."""
        return self.runs[0].variant.rpartition("/")[0]

    @property
    def is_baseline(self) -> bool:
        """Whether nothing but what all have sets it apart from the defaults."""
        return self.label in ("baseline", f"{self.place}/baseline")


def group(runs: Sequence[Run]) -> list[Row]:
    """Group runs by variant and by setting, since a name that was given may hide several."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        settings = parameters(run.config)
        compared = {key: value for key, value in settings.items() if key not in MACHINE}
        key = json.dumps(compared, sort_keys=True) if settings else ""
        groups.setdefault(run.variant, {}).setdefault(key, []).append(run)
    shared, rows = shared_words(groups), dict[str, Row]()
    for variant, parts in groups.items():
        if len(parts) == 2 and "" in parts:  # of a run whose config cannot be read
            lost = parts.pop("")
            next(iter(parts.values())).extend(lost)
        known = [parameters(some[0].config) for some in parts.values()]
        keys = differing(known)
        place, slash, last = variant.rpartition("/")
        kept = "+".join(word for word in last.split("+") if word not in shared[place])
        for settings, some in zip(known, parts.values(), strict=True):
            differ = [f"{heading(key)}={cell(key, settings)}" for key in keys if key in settings]
            apart = f" ({', '.join(differ) or 'unknown settings'})" if len(parts) > 1 else ""
            name, label = variant + apart, place + slash + kept + apart
            again = f" #{len(rows)}" if name in rows else ""  # long values are cut
            rows[name + again] = Row(name + again, label + again, some, settings)
    return list(rows.values())


def shared_words(names: Iterable[str]) -> dict[str, list[str]]:
    """Give back for each folder of variants the settings that all of them have in their names."""
    places: dict[str, list[list[str]]] = {}
    for place, _, last in (name.rpartition("/") for name in dict.fromkeys(names)):
        places.setdefault(place, []).append(last.split("+"))
    return {
        place: [
            word
            for word in words[0]
            if "=" in word and len(words) > 1 and all(word in other[1:] for other in words)
        ]
        for place, words in places.items()
    }
