"""What several files of faults share."""

from pathlib import Path

import pytest

from adaptory.registry import tracking
from tests.mirror import workspace


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without anything in it: its first start takes ten seconds."""
    place = workspace(tmp_path_factory.mktemp("mlflow"))
    tracking.client(place).search_registered_models()
    return place.root / "mlflow.db"
