"""S1-S4, S11, S14 in any order of events: promotions that interleave, crash or lose replies, tampering, pulls, ways back."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adaptory import fingerprint, release
from adaptory.errors import IntegrityError, ReleaseError, ServerError
from adaptory.registry import Record, head, history
from adaptory.registry.ledger import retired
from adaptory.registry.promotion import override, retire, rollback
from adaptory.storage import ObjectStore, open_store
from tests.promotions import FaultyStore, Judged, MemoryStore
from tests.store_contract import StoreContract


class TestMemory(StoreContract):
    """The store that the machine runs on keeps the same contract as the real ones."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class Machine(RuleBasedStateMachine):
    """A model's life; `kept` is what a person would remember of it."""

    def empty_store(self) -> ObjectStore:
        return MemoryStore()

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.empty_store()
        self.count = 0
        self.kept: list[Record] = []
        self.waiting: list[Judged] = []
        self.served = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def judged(self, *, good: bool = True) -> Judged:
        self.count += 1
        return Judged(self.folder, self.count, head(self.store, "tiny"), good=good)

    @rule()
    def promote(self) -> None:
        record = self.judged().promote(self.store)
        assert record is not None and record.outcome == "PASS"
        self.kept.append(record)

    @rule()
    def a_comparison_waits(self) -> None:
        self.waiting.append(self.judged())

    @precondition(lambda self: self.waiting)
    @rule()
    def a_waiting_one_promotes_only_against_the_champion_it_knows(self) -> None:
        one, before = self.waiting.pop(), head(self.store, "tiny")
        record = one.promote(self.store)
        known = one.evidence.champion == (before.candidate if before else None)
        assert (record is not None) == known
        if record:
            self.kept.append(record)

    @rule()
    def a_refused_one_never_promotes(self) -> None:
        with pytest.raises(IntegrityError):
            self.judged(good=False).promote(self.store)

    @rule(at=st.integers(1, 16), how=st.sampled_from(["lost", "unanswered"]))
    def a_promotion_fails_anywhere_and_the_same_command_finishes_it(self, at: int, how: str) -> None:
        one, before = self.judged(), head(self.store, "tiny")
        faulty: Any = FaultyStore(self.store, at, how)
        try:
            one.promote(faulty)
        except ServerError:
            seen = head(self.store, "tiny")
            assert seen == before or (seen and seen.candidate == one.candidate.digest), "S3: the old one whole, or the new one"
            release.pull(self.store, "tiny", self.folder / "between") if seen else None
        record = one.promote(self.store)
        assert record is not None and record.candidate == one.candidate.digest
        self.kept.append(record)

    @precondition(lambda self: len({record.candidate for record in self.kept}) > 1)
    @rule()
    def go_back(self) -> None:
        before = history(self.store, "tiny")
        barred = retired(before)
        first = next(place for place, record in enumerate(before) if record.candidate == before[-1].candidate)
        open_ways = [record for record in before[:first] if record.version not in barred]
        if not open_ways:
            with pytest.raises(ReleaseError, match="no other champion stands before it"):
                rollback(self.store, "tiny", None, by="me", reason="")
            return
        record = rollback(self.store, "tiny", None, by="me", reason="it was worse")
        assert record.candidate in {one.candidate for one in before}, "S14"
        assert (record.candidate, record.version) == (open_ways[-1].candidate, open_ways[-1].version)
        self.kept.append(record)

    @precondition(lambda self: len(self.kept) > 1)
    @rule(data=st.data())
    def retire_a_version(self, data: st.DataObject) -> None:
        now = history(self.store, "tiny")
        version = data.draw(st.sampled_from(sorted({record.version for record in now})))
        if version == now[-1].version:
            with pytest.raises(ReleaseError, match="is champion"):
                retire(self.store, "tiny", version, by="me", reason="licence")
            return
        self.kept.append(retire(self.store, "tiny", version, by="me", reason="licence"))
        with pytest.raises(ReleaseError, match="retired"):
            release.pull(self.store, f"tiny@v{version}", self.folder / "pulled")

    @rule()
    def override_a_refusal(self) -> None:
        one = self.judged(good=False)
        with pytest.raises(ReleaseError, match="needs a reason"):
            override(one.run, self.store, one.candidate, one.evidence, one.verdict, by="me", reason=" ", expires="2027-01-01")
        record = override(
            one.run,
            self.store,
            one.candidate,
            one.evidence,
            one.verdict,
            by="me",
            reason="the old one is harmful",
            expires="2027-01-01",
        )
        assert record is not None and record.kind == ("override" if self.kept else "bootstrap") and record.outcome == "FAIL"
        self.kept.append(record)

    @precondition(lambda self: self.kept)
    @rule()
    def pull(self) -> None:
        done = release.pull(self.store, "tiny@champion", self.folder / "pulled")
        assert done.digest == self.kept[-1].release
        self.served = True

    @precondition(lambda self: self.kept)
    @rule()
    def tampered_bytes_are_never_served(self) -> None:
        now = head(self.store, "tiny")
        assert now is not None
        place = f"releases/tiny/{fingerprint.hex_of(now.release)}/adapter_model.safetensors"
        whole = self.store.get(place)
        self.store.put(place, whole[:-1] + b"!")
        elsewhere = self.folder / f"elsewhere-{self.count}"
        with pytest.raises(IntegrityError):
            release.pull(self.store, "tiny@champion", elsewhere)
        assert not (elsewhere / "current").exists()
        self.store.put(place, whole)

    @invariant()
    def the_ledger_is_what_happened(self) -> None:
        if not hasattr(self, "kept"):
            return
        records = history(self.store, "tiny")
        assert records == self.kept, "S2, S3"
        assert all(record.outcome == "PASS" for record in records if record.kind == "promote"), "S1"
        versions = {(record.candidate, record.version) for record in records}
        assert len({candidate for candidate, _ in versions}) == len(versions) == len({version for _, version in versions}), "S4"

    @invariant()
    def what_was_served_is_still_served(self) -> None:
        if getattr(self, "served", False):
            assert (self.folder / "pulled" / "current" / "manifest.json").is_file(), "S11"


class FolderMachine(Machine):
    """The same on a folder; on a bucket: tests/pipeline/test_s3.py."""

    def empty_store(self) -> ObjectStore:
        return open_store(str(self.folder / "store"))


slow = [HealthCheck.too_slow]
TestMachine = pytest.mark.slow(Machine.TestCase)
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=slow)
TestFolderMachine = FolderMachine.TestCase
TestFolderMachine.settings = settings(max_examples=6, stateful_step_count=20, deadline=None, suppress_health_check=slow)
