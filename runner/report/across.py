"""Effects over several settings: their verdicts side by side, and what so few cannot show."""

from collections import Counter

from runner.ablation.agreement import Agreement
from runner.ablation.plan import Plan
from runner.ablation.verdicts import Findings
from runner.report import format as fmt
from runner.report.tables import Table
from runner.texts import printable

SIDE_BY_SIDE = 4  # settings that have a column each


def table(findings: Findings, narrow: bool = False) -> Table:
    """List each effect over the settings: the verdicts, mean and range, and whether they differ.

    Args:
        findings: The findings.
        narrow: Whether there is no room for a column for each setting.
    """
    metric, settings = findings.plan.question.metric, [*findings.plan.settings()]
    columns = [] if narrow or len(settings) > SIDE_BY_SIDE else settings
    rows = []
    for each in findings.agreement:
        means = [mean for mean in each.means.values() if mean is not None]
        ends = (min(means), max(means)) if means else ()
        reach = " to ".join(fmt.difference(end, metric) for end in ends)
        counts = Counter(each.verdicts.values())
        several = ", ".join(f"{verdict} in {n}" for verdict, n in counts.most_common())
        rows.append(
            [
                printable(each.effect),
                *(f"{fmt.difference(each.means[s], metric)} {each.verdicts[s]}" for s in columns),
                *([] if columns else [several]),
                fmt.difference(each.mean, metric) + (f" ({reach})" if means else ""),
                f"{each.positive} of {len(means)}",
                _apart(each, metric),
            ]
        )
    heads = ["Effect", *map(printable, columns or ["Verdicts"]), "Mean (range)", "Above 0"]
    return [[*heads, "The settings compared"], *rows] if rows else []


def _apart(agreement: Agreement, metric: str) -> str:
    """Say in which settings an effect is another one than in the others."""
    if not agreement.compared:
        return "not compared"
    two = len(agreement.means) == 2
    words = []
    for setting, by in agreement.apart.items():
        other = next(s for s in agreement.means if s != setting) if two else "the others"
        words.append(f"{fmt.difference(by, metric)} in {setting} against {other}")
    return printable("; ".join(words)) or "no more apart than by chance"


def generality(plan: Plan) -> str:
    """Say what so few settings cannot show."""
    count = len(plan.settings())
    means = "both means" if count == 2 else f"all {count} means"
    fewest = "" if count >= 6 else " It takes 6 settings for less than 5."
    return (
        "Each verdict is about its own setting; all of them together have the error rate. Settings "
        "that were chosen, not drawn by chance, do not show that an effect holds in others: if "
        f"nothing had an effect, {means} would still be above 0, or "
        f"{'both' if count == 2 else 'all'} "
        f"below, in at least {100 * 2 ** (1 - count):.2g} of 100 ablations.{fewest} Whether the "
        "effect differs between settings is tested over the shared seeds, as a family of its own; "
        "that it does not is never concluded."
    )
