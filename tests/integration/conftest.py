"""A small dataset that every integration test trains on."""

from pathlib import Path

import pytest

from tests.support import shared
from trainer.data import sources


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 2,000 drawn digits to train on and 500 to test on."""
    return shared.once(
        tmp_path_factory,
        "digits",
        lambda folder: sources.put("digits", str(folder), train_count=2000, test_count=500),
    )
