"""Everything lives in one folder and talks to nobody, unless the environment says otherwise."""

import os
from functools import partial
from pathlib import Path

import pytest

from adaptory import prefect_api, reach, workspace
from adaptory.errors import ServerError


def test_the_workspace_is_the_nearest_folder_upwards_with_recipes(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    found = workspace.find(tmp_path / "deep" / "er")
    assert (found.root, found.home) == (tmp_path, tmp_path / ".adaptory")
    assert found.tracking_uri == f"sqlite:///{tmp_path}/.adaptory/mlflow/mlflow.db"


def test_what_the_user_has_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {
        "ADAPTORY_HOME": str(tmp_path / "home"),
        "ADAPTORY_STORE": "s3://bucket/prefix",
        "ADAPTORY_CACHE": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "true",
    }
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    place = workspace.find(tmp_path)
    assert (str(place.home), place.store, str(place.cache)) == tuple(list(chosen.values())[:3])
    assert chosen.items() <= place.environment().items()


def test_telemetry_of_every_library_is_off_by_default(tmp_path: Path) -> None:
    environment = workspace.find(tmp_path).environment()
    off = {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    assert off.items() <= environment.items()


def test_looking_for_the_workspace_touches_nothing(tmp_path: Path) -> None:
    before = dict(os.environ)
    workspace.find(tmp_path).environment()
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


def test_a_dead_server_is_named_with_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServerError, match=r"no MLflow server answers at http://127\.0\.0\.1:9 .* correct MLFLOW_TRACKING_URI"):
        reach.check_tracking(workspace.find(tmp_path))
    reach.check_prefect(workspace.find(tmp_path))  # none is configured, so none is asked


@pytest.mark.parametrize("url", ["http://me:S3CRET@127.0.0.1:1/api", "http://me:S3CRET@127.0.0.1/api/x"])
def test_a_password_in_an_address_is_never_repeated(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    place = workspace.find(tmp_path)
    asked = partial(prefect_api.get, place, "/health"), partial(reach.check_tracking, place), partial(reach.check_prefect, place)
    for ask in asked:
        with pytest.raises(ServerError, match=r"127\.0\.0\.1") as found:
            ask()
        assert "S3CRET" not in str(found.value)
