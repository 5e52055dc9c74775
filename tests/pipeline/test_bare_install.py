"""A deployer's machine: `adaptory` alone pulls; `adaptory[predict]` answers; neither has the platform."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

from tests.pipeline.conftest import run
from tests.support import ROOT, checkout, tiny_base

pytestmark = pytest.mark.slow

PLATFORM = ("prefect", "mlflow", "dvc", "polars", "sklearn")
MODELS = ("torch", "transformers", "peft")


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    folder = checkout(tmp_path_factory.mktemp("bare") / "checkout")
    run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    return folder


def ask(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def install(python: Path, extra: str) -> None:
    """This project into an environment, as its user would install it."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    ask(ROOT, *pip, "-c", str(ROOT / "constraints.txt"), f"{ROOT}{extra}")


def missing(python: Path, *names: str) -> set[str]:
    code = f"import importlib.util as u; print(*[n for n in {names!r} if u.find_spec(n) is None])"
    return set(ask(Path("/"), str(python), "-c", code).stdout.split())


@pytest.mark.long
def test_the_core_pulls_and_the_predict_extra_answers_as_measured(promoted: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python, adaptory = tmp_path / "venv" / "bin" / "python", str(tmp_path / "venv" / "bin" / "adaptory")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    install(python, "")
    assert missing(python, *PLATFORM, *MODELS) == {*PLATFORM, *MODELS}
    pull = [adaptory, "pull", "tiny@champion", "model", "--store", str(promoted / ".adaptory" / "store")]
    assert "tiny v1 is in model/current" in ask(elsewhere, *pull).stdout
    assert "unchanged, nothing moved" in ask(elsewhere, *pull).stdout
    refused = ask(elsewhere, adaptory, "predict", "model", "text", code=2).stderr
    assert "pip install 'adaptory[predict]'" in refused
    assert "Traceback" not in refused

    install(python, "[predict]")
    assert missing(python, *PLATFORM) == set(PLATFORM)
    tiny_base(elsewhere / "tiny-base")
    example = json.loads((elsewhere / "model" / "current" / "example.json").read_text())
    done = ask(elsewhere, adaptory, "predict", "model", "--json", *[row["asked"]["text"] for row in example])
    assert done.stderr == ""
    for told, expected in zip(map(json.loads, done.stdout.splitlines()), example, strict=True):
        assert told["chances"] == pytest.approx(expected["told"]["chances"], abs=1e-5)
