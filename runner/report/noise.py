"""How much of the noise the test set makes, and what more test images would save, in words."""

from runner.ablation.verdicts import Findings

MORE = 4
"""So many times as many test images are considered."""


def noise_in_words(findings: Findings) -> str | None:
    """Say how much of the noise is the test set's, and what more of it would save; None if unknown.

    With M times as many test images a difference has 1 - share (1 - 1/M) of its variance over the
    seeds, and so many of the seeds give the same confidence.
    """
    found = findings.noise
    if found is None:
        return None
    low, high = (round(100 * end) for end in found.interval)
    if low == high:  # of so few seeds that nothing is known
        return None
    saved = 100 * found.share * (1 - 1 / MORE)
    images = f"{100 * found.share:.0f} % of the noise ({low} to {high} %) comes from the "
    images += f"{found.samples:,} test images"
    if found.share >= 1 / 2:
        return (
            f"{images}: four times as many would save about {saved:.0f} % of the seeds. What comes "
            "from training only more seeds reduce."
        )
    return (
        f"{images}, the rest from training, which only more seeds reduce: four times as many "
        f"images would save no more than about {saved:.0f} % of them."
    )
