"""Golden tests need ../shared/golden; they skip where it is not there, and `tests/fixtures` keeps the check alive."""

import pytest

from tests.golden.comparison import FOLDER


@pytest.fixture(autouse=True)
def _needs_golden_files() -> None:
    if not FOLDER.is_dir():
        pytest.skip("needs the golden files in ../shared/golden, which is not there")
