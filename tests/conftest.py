"""Fixtures that tests of several folders share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real data that the environment variable UNVEIL_DATA names."""
    folder = os.environ.get("UNVEIL_DATA")
    if not folder:
        pytest.skip("UNVEIL_DATA is not set: tests on real data do not run")
    return Path(folder)
