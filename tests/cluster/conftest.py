"""A Slurm for the tests, or the reason why there is none."""

import pytest

from tests.cluster.slurm import missing, slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm of one node with two cores, whose arrays may have four jobs."""
    if reason := missing():
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm"), longest_array=4) as found:
        yield found


@pytest.fixture
def command(cluster, tmp_path):
    """The arguments and the environment of a command that uses it."""
    variables = {**cluster.variables, "BISCUITS_CACHE": str(tmp_path / "cache")}
    return ("hydra/launcher=submitit_slurm", "threads=1"), variables
