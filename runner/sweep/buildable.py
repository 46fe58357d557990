"""Whether what the variants of a plan name can be built, before a run is begun."""

import dataclasses
import time

from omegaconf import OmegaConf

from runner.ablation.plan import Plan
from runner.begin import build_model
from runner.build import build, build_data, build_optimizer, build_tricks
from runner.config import check
from runner.errors import UserError

BUILDING = 20.0  # seconds spent on trying, at most


def refuse_unbuildable(plan: Plan) -> None:
    """Build each variant once, as far as time allows, so that a mistake does not cost a night.

    The first one of each setting is always built.

    Raises:
        UserError: If one cannot be built, with what is wrong with it.
    """
    start, data = time.monotonic(), None
    first_ones = {variants[0] for variants in plan.settings().values()}
    for variant in plan.variants:
        if time.monotonic() - start > BUILDING and variant not in first_ones:
            continue
        settings = check(OmegaConf.create(plan.config_of(variant, plan.seeds[0])))
        try:
            if data is None or settings.data != data[0]:
                data = settings.data, build_data(settings)
            if settings.model["_target_"].startswith("runner."):
                here = dataclasses.replace(
                    settings,
                    device="cpu",
                    precision="float32",
                    memory_format="contiguous",
                    compile=False,
                    tf32="convolutions",
                )
                build(here, data[1])
            else:  # a user's own model may need the device of the runs, which need not be here
                build_optimizer(settings, build_model(settings, data[1], build_tricks(settings)))
        except UserError as error:
            raise UserError(f"{variant} cannot be built: {error}") from error
