"""Shared fixtures: nothing in a test reaches the network, the user's state, or another test's."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

_SHOWN = ("prefect", "mlflow", "dvc", "torch", "transformers", "peft", "polars")


def pytest_report_header() -> str:
    found = []
    for name in _SHOWN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return f"{platform.system()} {platform.machine()}: {', '.join(found)}"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADAPTORY_HOME", "ADAPTORY_STORE", "ADAPTORY_CACHE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
