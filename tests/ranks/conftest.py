"""What several files of these tests compare with."""

import pytest

from tests.ranks.start import run_ranks
from tests.ranks.test_run import result


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run over two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    found = run_ranks(folder, "epochs=8", "tricks=core")
    assert found.codes == [0, 0], found.err
    return result(folder)
