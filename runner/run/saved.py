"""The settings of a run that is there, from its config.yaml."""

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import Settings, check
from runner.errors import UserError
from runner.names import label
from runner.store.files import Damaged, checked
from runner.store.values import Limits, read_values


def read_settings(path: Path) -> Settings:
    """Read config.yaml as data: nothing of Hydra's or OmegaConf's own is followed in it.

    Raises:
        UserError: If it cannot be read, or is no config of a run.
    """
    where = label(path)
    try:
        return check(OmegaConf.create(checked(read_values(path, Limits(interpolations=False)))))
    except Damaged as error:
        raise UserError(f"{where} {error}. Put it back as it was.") from None
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(f"{where}: {error}. Put it back as it was.") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
