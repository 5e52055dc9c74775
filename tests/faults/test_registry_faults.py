"""MLflow as the mirror under faults: F16, F18, F19, F23, and every change failing once, before it is made or after (S3, S4)."""

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest

from adaptory.registry import head, history, projection, tracking
from adaptory.registry.audit import audit
from adaptory.registry.promotion import override
from adaptory.release import fetch_release, manifest
from adaptory.release.build import store_release
from adaptory.storage import ObjectStore, open_store
from adaptory.training.adapter import WEIGHTS
from adaptory.workspace import Workspace
from tests.mirror import FaultyClient, die_at_write, disagreements, shown, workspace
from tests.promotions import BASE, Judged, promoted
from tests.support import key_pair

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", ["lost", "unanswered"])
def test_f15_f16_f18_whichever_change_in_mlflow_fails_running_again_finishes_it_once(
    migrated: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, at, campaign = tracking.client, 0, 0
    while True:
        at += 1
        place = workspace(tmp_path / f"{how}-{at}")
        shutil.copyfile(migrated, place.root / "mlflow.db")
        store = open_store(place.store)
        promoted(store, place.root, 1)
        projection.project(place, store, "tiny")
        promoted(store, place.root, 2)
        faulty = FaultyClient(original(place), at, how)
        monkeypatch.setattr(tracking, "client", lambda place, faulty=faulty: faulty)
        try:
            projection.project(place, store, "tiny")
            failed = False
        except ConnectionError:
            failed = True
        monkeypatch.setattr(tracking, "client", original)
        if not failed:
            break
        campaign += 1
        aliases, versions = shown(place)
        assert aliases["champion"] in versions.values(), "a reader sees the old champion whole or the new one whole"
        projection.project(place, store, "tiny")
        assert disagreements(place, store) == []
        assert projection.project(place, store, "tiny").changes == []
    assert campaign >= 6, f"only {campaign} changes were tried"


def _mirrors(root: str, at: int) -> None:
    place = workspace(Path(root))
    die_at_write(at)
    projection.project(place, open_store(place.store), "tiny")


def killed_at(migrated: Path, folder: Path, at: int) -> bool:
    """Kills the mirroring of a second champion inside MLflow, at its n-th write, and mends it; whether there were so many."""
    place = workspace(folder)
    shutil.copyfile(migrated, place.root / "mlflow.db")
    store = open_store(place.store)
    promoted(store, place.root, 1)
    projection.project(place, store, "tiny")
    promoted(store, place.root, 2)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.promotions", "tests.mirror", "mlflow", "pandas"])
    process = context.Process(target=_mirrors, args=(str(folder), at))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    aliases, versions = shown(place)
    assert aliases["champion"] in versions.values(), "a reader sees the old champion whole or the new one whole"
    projection.project(place, store, "tiny")
    assert disagreements(place, store) == [] and list(audit(place, store, "tiny")) == []
    assert projection.project(place, store, "tiny").changes == []
    return process.exitcode != 0


@pytest.mark.parametrize("at", range(1, 100, 14))
def test_f15_f18_killed_inside_mlflow_the_mirror_comes_right(migrated: Path, tmp_path: Path, at: int) -> None:
    killed_at(migrated, tmp_path, at)


@pytest.mark.long
def test_f15_f18_killed_at_any_write_inside_mlflow_the_mirror_comes_right(migrated: Path, tmp_path: Path) -> None:
    at = 1
    while killed_at(migrated, tmp_path / str(at), at):
        at += 1
    assert at > 50, f"only {at} writes were tried"


@pytest.fixture
def promoted_twice(migrated: Path, tmp_path: Path) -> tuple[Workspace, ObjectStore]:
    place = workspace(tmp_path / "place")
    shutil.copyfile(migrated, place.root / "mlflow.db")
    store = open_store(place.store)
    for number in (1, 2):
        promoted(store, place.root, number)
    projection.project(place, store, "tiny")
    assert list(audit(place, store, "tiny")) == []
    return place, store


def test_f16_a_create_that_was_made_twice_leaves_one_version(promoted_twice: tuple[Workspace, ObjectStore]) -> None:
    """MLflow's client repeats a create whose answer is lost, also behind our back."""
    place, store = promoted_twice
    mlflow = tracking.client(place)
    first = mlflow.get_model_version_by_alias("tiny", "champion")
    again = mlflow.create_model_version("tiny", source=first.source, tags=first.tags)
    assert list(audit(place, store, "tiny")) == [f"version {again.version} in MLflow is a second one of the same candidate"]
    assert projection.project(place, store, "tiny").changes == [f"version {again.version}, a copy of another, is gone"]
    assert disagreements(place, store) == []
    assert mlflow.get_model_version_by_alias("tiny", "champion").version == first.version
    assert list(audit(place, store, "tiny")) == []


def test_f20_the_audit_finds_bytes_that_were_altered_in_mlflow(promoted_twice: tuple[Workspace, ObjectStore]) -> None:
    place, store = promoted_twice
    version = tracking.client(place).get_model_version_by_alias("tiny", "champion")
    stored = Path(version.source.removeprefix("file://"))
    assert stored.is_dir(), version.source
    weights = next(stored.rglob("adapter_model.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    told = " ".join(audit(place, store, "tiny"))
    assert "the artifacts of version 2 in MLflow" in told and "does not have the bytes" in told
    weights.write_bytes(whole)
    code = next(stored.rglob("pyfunc_model.py"))
    code.write_text(code.read_text() + "# and something else\n")
    found = list(audit(place, store, "tiny"))
    assert found == [
        "what MLflow would run of version 2 is not what was stored: delete that version, and run: adaptory reconcile"
    ]


def test_f23_the_audit_finds_a_record_whose_release_holds_another_verdict(promoted_twice: tuple[Workspace, ObjectStore]) -> None:
    place, store = promoted_twice
    last = history(store, "tiny")[-1]
    forged = last.model_copy(update={"number": 3, "previous": last.digest, "verdict": BASE, "version": 2})
    store.create("ledger/tiny/000003.json", forged.to_bytes())
    assert "record 3: its release holds another evidence or verdict than it names" in list(audit(place, store, "tiny"))


def test_s1_the_audit_finds_a_release_with_another_adapter_than_was_judged(
    promoted_twice: tuple[Workspace, ObjectStore], tmp_path: Path
) -> None:
    """Whole, and named by a record: but its weights are not those that the evidence and the verdict are of."""
    place, store = promoted_twice
    last = history(store, "tiny")[-1]
    folder = shutil.copytree(fetch_release(store, last, place.cache), tmp_path / "forged")
    (folder / WEIGHTS).write_bytes(b"others")
    (folder / "manifest.json").write_text(manifest.of_folder("tiny", folder).model_dump_json(indent=1) + "\n")
    forged = {"number": 3, "previous": last.digest, "release": store_release(store, "tiny", folder)}
    store.create("ledger/tiny/000003.json", last.model_copy(update=forged).to_bytes())
    told = [one for one in audit(place, store, "tiny") if "another adapter" in one]
    assert told == ["record 3: its release holds another adapter than the one that was judged"]


def test_the_audit_tells_of_an_override_that_ended(promoted_twice: tuple[Workspace, ObjectStore]) -> None:
    place, store = promoted_twice
    one = Judged(place.root, 3, head(store, "tiny"), good=False)
    made = override(one.run, store, one.candidate, one.evidence, one.verdict, by="Ada", reason="urgent", expires="2026-01-01")
    assert made is not None
    assert "v3 is champion by an override that ended on 2026-01-01: urgent" in list(audit(place, store, "tiny"))


def test_the_audit_tells_of_a_record_that_the_trusted_key_did_not_sign(
    promoted_twice: tuple[Workspace, ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, store = promoted_twice
    _, public = key_pair(tmp_path)
    monkeypatch.setenv("ADAPTORY_TRUSTED_KEY", str(public))
    assert [told for told in audit(place, store, "tiny") if "000001.json is not signed" in told]
