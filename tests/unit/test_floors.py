"""The floors of the house: nobody imports upwards, and light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

HEAVY = ("torch", "transformers", "peft", "prefect", "mlflow", "dvc", "polars", "pandas", "numpy", "sklearn")


def imported(file: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written out"
            found.add((node.module or "").split(".")[0])
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_the_library_knows_neither_prefect_nor_the_floors_above() -> None:
    for file in sources("adaptory"):
        assert not imported(file) & {"prefect", "tasks", "flows", "tests"}, file


def test_tasks_do_not_know_flows() -> None:
    for file in sources("tasks"):
        assert "flows" not in imported(file), file


def test_flows_only_wire() -> None:
    for file in sources("flows"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 100, file
        assert not imported(file) & {"mlflow", "torch", "polars", "boto3"}, file


def test_every_file_can_be_read_in_one_sitting() -> None:
    for file in [*sources("adaptory"), *sources("tasks"), *sources("flows")]:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, file


@pytest.mark.parametrize(
    "statement",
    ["import adaptory.cli; adaptory.cli._parser()", "import adaptory.release, adaptory.storage.objects", "import adaptory.gate"],
)
def test_light_commands_import_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_a_pull_imports_neither_recipes_nor_boto3(tmp_path: Path) -> None:
    code = (
        "import sys; from adaptory.cli import main; code = main(); "
        "assert code and 'adaptory.release.pull' in sys.modules; print(*{'adaptory.recipe', 'boto3', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "pull", "tiny@champion", str(tmp_path), "--store", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "" and "tiny@champion" in done.stderr


def test_importing_a_module_changes_nothing_on_disk(tmp_path: Path) -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sources("adaptory")
        if file.name != "pyfunc_model.py"  # MLflow's models from code: run by MLflow alone
    ]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({module!r})" for module in modules)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
    assert list(tmp_path.iterdir()) == []
