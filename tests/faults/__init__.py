import pytest

pytest.register_assert_rewrite("tests.faults.images", "tests.faults.run_folders")
