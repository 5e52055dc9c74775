"""Shared fixtures: nothing in a test reaches the network, the user's state, or another test's."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from hypothesis import settings

_SHOWN = ("prefect", "mlflow", "dvc", "torch", "transformers", "peft", "polars")

if "PYTEST_XDIST_WORKER" in os.environ:  # several side by side: each on one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asserts on time: the machine may be busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, a file's tests stay together; those that share the one stack stay together too."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group("stack" if folder in ("stack", "browser") else str(item.path)))
