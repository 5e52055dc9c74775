"""MLflow as the mirror under faults: F16, F18, F19, F23, and every change failing once, before it is made or after (S3, S4)."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adaptory.registry import head, history, projection, proposals, tracking
from adaptory.registry.audit import audit
from adaptory.registry.promotion import override, rollback
from adaptory.release import fetch_release, manifest
from adaptory.release.build import store_release
from adaptory.storage import ObjectStore, open_store
from adaptory.training.adapter import WEIGHTS
from adaptory.workspace import Workspace
from tests.promotions import BASE, Judged, promoted
from tests.support import key_pair

pytestmark = pytest.mark.slow
CHANGES = (
    "create_registered_model", "create_experiment", "create_logged_model", "log_model_artifacts", "finalize_logged_model",
    "create_model_version", "set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias",
)  # fmt: skip


def workspace(folder: Path) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri  # MLflow's registry asks its default tracking store, whatever its client was told
    return Workspace(root=folder, home=folder / "home", store=str(folder / "store"), cache=folder / "cache", tracking_uri=uri)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without anything in it: its first start takes ten seconds."""
    place = workspace(tmp_path_factory.mktemp("mlflow"))
    tracking.client(place).search_registered_models()
    return place.root / "mlflow.db"


class FaultyClient:
    """An MLflow client whose n-th change fails once: before it is made (`lost`), or after (`unanswered`)."""

    def __init__(self, inner: Any, at: int, how: str) -> None:
        self._inner, self._at, self._how, self.changes, self._tags = inner, at, how, 0, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in CHANGES:
            return found

        def call(*words: Any, **named: Any) -> Any:
            self._tags += name == "set_model_version_tag"
            if name == "set_model_version_tag" and self._tags % 6 != 1:  # one tag is like the next
                return found(*words, **named)
            self.changes += 1
            if self.changes == self._at and self._how == "lost":
                raise ConnectionError("MLflow is gone")
            answer = found(*words, **named)
            if self.changes == self._at:
                raise ConnectionError("the answer is lost")
            return answer

        return call


def shown(place: Workspace) -> tuple[dict[str, str], dict[str, str]]:
    """What MLflow shows: alias -> candidate, and version -> candidate."""
    client = tracking.client(place)
    versions = {str(one.version): one.tags["adaptory.candidate"] for one in client.search_model_versions("name = 'tiny'")}
    aliases = client.get_registered_model("tiny").aliases
    return {alias: versions[str(version)] for alias, version in aliases.items()}, versions


def agrees(place: Workspace, store: ObjectStore) -> None:
    """S4, and the projection: one version per candidate, tagged with its record; aliases as the ledger says."""
    aliases, versions = shown(place)
    records = history(store, "tiny")
    assert len(set(versions.values())) == len(versions), "two versions of one candidate"
    assert aliases == projection.wanted(records, proposals.waiting(store, "tiny"))
    for version in tracking.client(place).search_model_versions("name = 'tiny'"):
        record = next((one for one in records if one.candidate == version.tags["adaptory.candidate"]), None)
        assert record is None or version.tags["adaptory.ledger"] in {one.digest for one in records}


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
        agrees(place, store)
        assert projection.project(place, store, "tiny").changes == []
    assert campaign >= 6, f"only {campaign} changes were tried"


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
    agrees(place, store)
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
        "what MLflow would run of version 2 is not what was stored: delete that version, "
        "and run: adaptory reconcile"
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


class Mirror(RuleBasedStateMachine):
    """Promote, go back, propose, decide; delete versions and move aliases by hand; reconcile. The mirror always comes right."""

    migrated: Path
    folder: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        Mirror.count += 1
        self.place = workspace(self.folder / f"example-{Mirror.count}")
        shutil.copyfile(self.migrated, self.place.root / "mlflow.db")
        self.store = open_store(self.place.store)
        self.number = 0

    @rule()
    def promote(self) -> None:
        self.number += 1
        promoted(self.store, self.place.root, self.number)
        projection.project(self.place, self.store, "tiny")

    @rule(word=st.sampled_from(["approve", "reject", None]))
    def propose(self, word: proposals.Word | None) -> None:
        self.number += 1
        made = Judged(self.place.root, self.number, head(self.store, "tiny"))
        proposal = proposals.propose(made.run, self.store, made.candidate, made.evidence, made.verdict)
        projection.project(self.place, self.store, "tiny")
        if word:
            said = proposals.decide(self.store, proposal, word, by="Ada", reason="because")
            if said.word == "approve":
                proposals.promote_approved(self.store, proposal, said)
            projection.project(self.place, self.store, "tiny")

    @precondition(lambda self: len({one.candidate for one in history(self.store, "tiny")}) > 1)
    @rule()
    def go_back(self) -> None:
        rollback(self.store, "tiny", None, by="Ada", reason="")
        projection.project(self.place, self.store, "tiny")

    @precondition(lambda self: history(self.store, "tiny"))
    @rule(data=st.data())
    def delete_a_version_by_hand(self, data: st.DataObject) -> None:
        _, versions = shown(self.place)
        tracking.client(self.place).delete_model_version("tiny", data.draw(st.sampled_from(sorted(versions))))
        projection.project(self.place, self.store, "tiny")

    @precondition(lambda self: history(self.store, "tiny"))
    @rule(data=st.data(), alias=st.sampled_from(["champion", "previous", "candidate"]))
    def move_an_alias_by_hand(self, data: st.DataObject, alias: str) -> None:
        _, versions = shown(self.place)
        tracking.client(self.place).set_registered_model_alias("tiny", alias, data.draw(st.sampled_from(sorted(versions))))
        projection.project(self.place, self.store, "tiny")

    @invariant()
    def mlflow_shows_what_the_ledger_says(self) -> None:
        if self.number:
            agrees(self.place, self.store)


def test_s1_s4_the_mirror_comes_right_after_whatever_was_done_to_it(migrated: Path, tmp_path: Path) -> None:
    Mirror.migrated, Mirror.folder = migrated, tmp_path
    quick = settings(
        max_examples=5, stateful_step_count=8, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Mirror, settings=quick)
