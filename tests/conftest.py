"""Shared fixtures: nothing in a test reaches the network, the user's state, or another test's."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from adaptory.garbage import collect_seldom

_FIRST = set(os.environ)
_SHOWN = ("prefect", "mlflow", "dvc", "torch", "transformers", "peft", "polars")

if "PYTEST_XDIST_WORKER" in os.environ:  # several side by side: each on one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
collect_seldom()
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
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    _forget_servers()  # before monkeypatch sees them: it would put them back
    for name in ("ADAPTORY_HOME", "ADAPTORY_STORE", "ADAPTORY_CACHE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    yield
    _forget_servers()


def _forget_servers() -> None:
    """Takes out of the environment what a test or a fixture put there, or the next file would find another's servers."""
    for name in set(os.environ) - _FIRST:
        if name.startswith(("ADAPTORY_", "AWS_", "MLFLOW_", "PREFECT_API")):
            del os.environ[name]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, a file's tests stay together, and those that share the one stack; not in `make test-fast`."""
    if config.getoption("dist") == "worksteal":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "stack" if nodeid.startswith(("tests/stack/", "tests/browser/")) else str(super()._split_scope(nodeid))

    return ByFile(config, log)
