"""Who promoted what from which commit: looked up where the clone knows it."""

import subprocess
from pathlib import Path

from adaptory import workspace
from adaptory.registry.why import _commit
from adaptory.storage import open_store
from tests.promotions import promoted

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]


def test_a_commit_counts_as_verified_only_if_the_clone_has_it_and_nothing_lay_beside_it(tmp_path: Path) -> None:
    record = promoted(open_store(str(tmp_path / "store")), tmp_path, 1)
    place = workspace.find(tmp_path)
    subprocess.run([*GIT, "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*GIT, "commit", "--allow-empty", "--quiet", "-m", "one"], cwd=tmp_path, check=True)
    said = subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    commit = said.stdout.strip()

    def told(named: str | None) -> tuple[str, bool | None]:
        return _commit(place, record.model_copy(update={"git_commit": named}))

    assert told(commit) == (commit, True)
    assert told(f"{commit}+changes") == (f"{commit}, with changes that no commit holds", None)
    assert told("1" * 40) == (f"{'1' * 40}, which is not in this clone", None)
    assert told(None) == ("outside git", None)
