"""S1-S4, S11: the mirror in MLflow as a state machine: it always comes right, and what is wrong with it is never unseen."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from adaptory import fingerprint, release
from adaptory.errors import ReleaseError
from adaptory.registry import Record, head, history, projection, proposals, tracking
from adaptory.registry.audit import audit
from adaptory.registry.promotion import rollback
from adaptory.storage import open_store
from tests.mirror import FaultyClient, disagreements, shown, workspace
from tests.promotions import Judged, promoted

pytestmark = pytest.mark.slow


class Mirror(RuleBasedStateMachine):
    """Promote, go back, propose, decide, pull; lose replies; delete, move, tag and alter by hand; reconcile."""

    migrated: Path
    folder: Path
    count = 0

    def __init__(self) -> None:
        super().__init__()
        Mirror.count += 1
        self.place = workspace(self.folder / f"example-{Mirror.count}")
        shutil.copyfile(self.migrated, self.place.root / "mlflow.db")
        self.store = open_store(self.place.store)
        self.number, self.behind = 0, False  # behind: the ledger moved, or a hand did, and nobody mirrored it yet
        self.mlflow = tracking.client(self.place)

    def _next(self) -> int:
        self.number, self.behind = self.number + 1, True
        return self.number

    def _records(self) -> list[Record]:
        return history(self.store, "tiny")

    @rule()
    def promote(self) -> None:
        promoted(self.store, self.place.root, self._next())

    @rule()
    def two_at_once(self) -> None:
        """Both were compared with the champion of now; the second one to come is told so, and nothing else happens."""
        mine = Judged(self.place.root, self._next(), head(self.store, "tiny"))
        other = Judged(self.place.root, self._next(), head(self.store, "tiny"))
        assert other.promote(self.store) is not None
        assert mine.promote(self.store) is None

    @rule(word=st.sampled_from(["approve", "reject", None]))
    def propose(self, word: proposals.Word | None) -> None:
        made = Judged(self.place.root, self._next(), head(self.store, "tiny"))
        proposal = proposals.propose(made.run, self.store, made.candidate, made.evidence, made.verdict)
        if word:
            said = proposals.decide(self.store, proposal, word, by="Ada", reason="because")
            if said.word == "approve":
                proposals.promote_approved(self.store, proposal, said)

    @precondition(lambda self: len({one.candidate for one in self._records()}) > 1)
    @rule()
    def go_back(self) -> None:
        with suppress(ReleaseError):  # the first champion is champion again
            rollback(self.store, "tiny", None, by="Ada", reason="")
        self.behind = True

    @precondition(lambda self: self._records())
    @rule()
    def pull(self) -> None:
        """Whatever MLflow shows, who pulls gets the ledger's champion, each byte as it was judged."""
        done = release.pull(self.store, "tiny", self.place.root / "pulled", strict=True)
        now = head(self.store, "tiny")
        assert now is not None and done.digest == now.release
        weights = fingerprint.of_file(done.folder / "adapter_model.safetensors")
        assert fingerprint.of_json({"adapter_model.safetensors": weights}) == now.candidate

    @precondition(lambda self: self.mirrored)
    @rule(data=st.data())
    def delete_a_version_by_hand(self, data: st.DataObject) -> None:
        if versions := sorted(shown(self.place)[1]):
            self.mlflow.delete_model_version("tiny", data.draw(st.sampled_from(versions)))
            self.behind = True

    @precondition(lambda self: self.mirrored)
    @rule(data=st.data(), alias=st.sampled_from(["champion", "previous", "candidate"]))
    def move_an_alias_by_hand(self, data: st.DataObject, alias: str) -> None:
        if versions := sorted(shown(self.place)[1]):
            self.mlflow.set_registered_model_alias("tiny", alias, data.draw(st.sampled_from(versions)))
            self.behind = True

    @precondition(lambda self: self.mirrored)
    @rule(data=st.data(), tag=st.sampled_from(["adaptory.ledger", "adaptory.version", "adaptory.verdict"]))
    def alter_a_tag_by_hand(self, data: st.DataObject, tag: str) -> None:
        if versions := sorted(shown(self.place)[1]):
            self.mlflow.set_model_version_tag("tiny", data.draw(st.sampled_from(versions)), tag, "forged")
            self.behind = True

    @precondition(lambda self: self.mirrored)
    @rule(data=st.data())
    def create_a_version_again(self, data: st.DataObject) -> None:
        """What MLflow's client does when an answer is lost."""
        if versions := sorted(shown(self.place)[1]):
            there = self.mlflow.get_model_version("tiny", data.draw(st.sampled_from(versions)))
            self.mlflow.create_model_version("tiny", source=there.source, tags=there.tags)
            self.behind = True

    @precondition(lambda self: self.mirrored and not self.behind)
    @rule(data=st.data(), name=st.sampled_from(["adapter_model.safetensors", "verdict.json", "pyfunc_model.py"]))
    def alter_what_mlflow_stores(self, data: st.DataObject, name: str) -> None:
        """The audit names the version; deleting it is the remedy."""
        released = {one.candidate for one in self._records()}
        if versions := sorted(number for number, made in shown(self.place)[1].items() if made in released):
            version = data.draw(st.sampled_from(versions))
            stored = Path(self.mlflow.get_model_version("tiny", version).source.removeprefix("file://"))
            file = next(stored.rglob(name))
            file.write_bytes(file.read_bytes()[:-1] + b"#")
            assert any(f"version {version} in MLflow" in told or f"version {version} is" in told for told in self._audit())
            self.mlflow.delete_model_version("tiny", version)
            self.behind = True

    @precondition(lambda self: self.number)
    @rule(at=st.integers(1, 20), how=st.sampled_from(["lost", "unanswered"]))
    def mirror_and_fail(self, at: int, how: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracking, "client", lambda place: FaultyClient(self.mlflow, at, how))
            try:
                projection.project(self.place, self.store, "tiny")
                self.behind = False
            except ConnectionError:
                self.behind = True

    @precondition(lambda self: self.number)
    @rule()
    def reconcile(self) -> None:
        """What is wrong is seen by the audit before, and gone after."""
        if self.mirrored and self._records() and disagreements(self.place, self.store):
            assert self._audit()
        projection.project(self.place, self.store, "tiny")
        self.behind = False
        assert projection.project(self.place, self.store, "tiny").changes == []

    @property
    def mirrored(self) -> bool:
        return bool(self.mlflow.search_registered_models("name = 'tiny'"))

    def _audit(self) -> list[str]:
        return list(audit(self.place, self.store, "tiny"))

    @invariant()
    def what_was_mirrored_is_what_the_ledger_says(self) -> None:
        if self.number and not self.behind:
            assert disagreements(self.place, self.store) == []

    def teardown(self) -> None:
        if self.number:
            self.reconcile()
            self.what_was_mirrored_is_what_the_ledger_says()
            assert not self._records() or self._audit() == []


def test_s1_s4_the_mirror_comes_right_after_whatever_was_done_to_it(migrated: Path, tmp_path: Path) -> None:
    _run(migrated, tmp_path, examples=6)


@pytest.mark.long
def test_s1_s4_the_mirror_comes_right_a_hundred_times(migrated: Path, tmp_path: Path) -> None:
    _run(migrated, tmp_path, examples=100)


def _run(migrated: Path, folder: Path, examples: int) -> None:
    Mirror.migrated, Mirror.folder = migrated, folder
    quick = settings(
        max_examples=examples, stateful_step_count=12, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # shrinking would take minutes
    )  # fmt: skip
    run_state_machine_as_test(Mirror, settings=quick)
