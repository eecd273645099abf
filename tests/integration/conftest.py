"""A small dataset that every integration test trains on."""

from pathlib import Path

import pytest

from trainer.data import sources


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 2,000 drawn digits to train on and 500 to test on."""
    folder = tmp_path_factory.mktemp("digits")
    sources.put("digits", str(folder), train_count=2000, test_count=500)
    return folder
