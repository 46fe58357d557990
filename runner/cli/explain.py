"""Hydra's and OmegaConf's complaints about a command line, each as one line with the remedy."""

import re
from collections.abc import Iterator

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.errors import UserError, did_you_mean
from runner.names import CONF
from runner.texts import printable

LONGEST = 2000  # characters of a line


def explain(error: Exception) -> str | None:
    """Give back one line about a mistake in the configuration; None if the error is another."""
    line = _explain(error)
    return line and printable(" ".join(line.split()), LONGEST)


def _explain(error: Exception) -> str | None:
    if "Config group override must be" in str(error):
        return "A group must be given one of its options, got none. Write GROUP=OPTION."
    for link in _causes(error):
        if isinstance(link, UserError):
            return str(link)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used: {error.strerror}. Mend that, or its name."
    if not isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return None
    text = "\n".join(str(link) for link in (error, error.__cause__) if link and str(link))
    for pattern, answer in (
        (r"Could not override '([^']+)'", _unknown_key),
        (r"Could not (?:find|load) '([^']+)/([^'/]+)'", _unknown_option),
        (r"Ambiguous value for argument '([^'=]+)=(.+)'\n", _several_values),
    ):
        if match := re.search(pattern, text):
            return answer(match, text)
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} must be given: {match[1]}=VALUE."
    line = " ".join(text.split())
    if "override_grammar" in line:
        return (
            f"An override must be KEY=VALUE, quoted where it has brackets: 'tricks=[a,b]'; {line}"
        )
    return line


def _unknown_key(match: re.Match[str], _: str) -> str:
    key = match[1]
    if key.partition(".")[0] == "ablation":
        return _unknown_ablation_key(key)
    return (
        f"{key} is not a setting.{did_you_mean(key, _known_keys())} See python -m runner --cfg job."
    )


def _unknown_ablation_key(key: str) -> str:
    node = OmegaConf.load(CONF / "ablation_settings.yaml").ablation
    known = [f"ablation.{name}" for name in node]
    if key in known:
        designs = ", ".join(sorted(file.stem for file in CONF.glob("ablation/*.yaml")))
        return f"{key} needs a design, got none. Write ablation=DESIGN, one of {designs}."
    return f"{key} is not a setting.{did_you_mean(key, known)} See conf/ablation_settings.yaml."


def _several_values(match: re.Match[str], _: str) -> str:
    key, values = match[1], match[2]
    return (
        f"{key} must have one value, got {values}. Sweep over them with -m; in an ablation make it "
        f"a factor: 'ablation.factors={{{key}:[{values}]}}'."
    )


def _unknown_option(match: re.Match[str], text: str) -> str:
    group, option = match[1], match[2]
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    listed = f" There are: {', '.join(options)}." if options else " " + " ".join(text.split())
    return f"{group}={option} is not an option.{did_you_mean(option, options)}{listed}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Run through an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _known_keys() -> list[str]:
    """The dotted keys of the default config, nodes included."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config")
    keys = [str(key) for key in config]
    for key in keys:  # grows as it goes
        if OmegaConf.is_config(
            node := OmegaConf.select(config, key, throw_on_resolution_failure=False)
        ):
            keys += [f"{key}.{name}" for name in node] if OmegaConf.is_dict(node) else []
    return [*keys, "experiment"]
