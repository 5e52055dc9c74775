"""F12, F15-F18, F43, F48 and the campaign: every change that a promotion makes fails once, and the same command finishes it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from adaptory import release
from adaptory.errors import IntegrityError, ServerError, UserError
from adaptory.evaluation import changes
from adaptory.registry import head, history, promotion
from adaptory.registry.promotion import override, retire, rollback
from adaptory.storage import ObjectStore, open_store
from adaptory.training.adapter import WEIGHTS
from tests.promotions import FaultyStore, Judged, promoted
from tests.support import key_pair

ROUNDS, PROCESSES = 50, 8


def changes_of_a_promotion(folder: Path) -> int:
    counting: Any = FaultyStore(open_store(str(folder / "counted")), 0, "never")
    assert Judged(folder, 1, None).promote(counting) is not None
    return int(counting.changes)


def test_f12_a_clock_that_jumps_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is that of the numbers; times are for people. NTP, a restored machine and daylight saving move clocks."""
    store, hours = open_store(str(tmp_path / "store")), iter(["12", "11", "13", "02"])
    monkeypatch.setattr(promotion, "_now", lambda: f"2026-03-29T{next(hours)}:00:00+00:00")
    records = [promoted(store, tmp_path, number) for number in (1, 2, 3)]
    assert [record.time[11:13] for record in records] == ["12", "11", "13"]
    assert history(store, "tiny") == records and head(store, "tiny") == records[2]
    back = rollback(store, "tiny", None, by="Ada", reason="worse")
    assert back.candidate == records[1].candidate, "the one before by number, though the oldest by its clock"
    assert release.pull(store, "tiny@champion", tmp_path / "pulled").digest == records[1].release


@pytest.mark.parametrize("how", ["lost", "unanswered"])
def test_f15_f16_f18_whichever_change_fails_the_same_command_promotes_exactly_once(tmp_path: Path, how: str) -> None:
    count = changes_of_a_promotion(tmp_path)
    assert count > 10
    for at in range(1, count + 1):
        store = open_store(str(tmp_path / f"store-{how}-{at}"))
        first = promoted(store, tmp_path, 1)
        one = Judged(tmp_path, 2, first)
        faulty: Any = FaultyStore(store, at, how)
        with pytest.raises(ServerError):
            one.promote(faulty)
        seen = head(store, "tiny")
        assert seen is not None and seen.candidate in (first.candidate, one.candidate.digest), "the old one whole, or the new one"
        release.pull(store, "tiny", tmp_path / f"pulled-{how}-{at}")
        record = one.promote(store)
        assert record is not None
        assert [r.candidate for r in history(store, "tiny")] == [first.candidate, one.candidate.digest]
        assert release.pull(store, "tiny", tmp_path / f"pulled-{how}-{at}").digest == record.release


def _dies(folder: str, at: int, how: str) -> None:
    store = open_store(f"{folder}/store")
    one = Judged(Path(folder) / "run", 2, head(store, "tiny"))
    one.promote(FaultyStore(store, at, how))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed before", "killed after"])
def test_f15_f18_killed_at_any_change_the_same_command_promotes_exactly_once(tmp_path: Path, how: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.promotions"])
    for at in range(1, changes_of_a_promotion(tmp_path) + 1):
        folder = tmp_path / str(at)
        store = open_store(str(folder / "store"))
        first = promoted(store, folder, 1)
        process = context.Process(target=_dies, args=(str(folder), at, how))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        seen = head(store, "tiny")
        one = Judged(folder / "run", 2, first)
        assert seen is not None and seen.candidate in (first.candidate, one.candidate.digest), "the old one whole, or the new one"
        release.pull(store, "tiny", folder / "pulled")
        assert one.promote(store) is not None
        assert [r.candidate for r in history(store, "tiny")] == [first.candidate, one.candidate.digest]
        assert release.pull(store, "tiny", folder / "pulled", strict=True).version == 2


def test_s1_bytes_that_were_changed_after_the_evaluation_are_not_promoted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    first = promoted(store, tmp_path, 1)
    one = Judged(tmp_path, 2, first)
    weights = one.run.candidate_folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="altered after its training"):
        one.promote(store)
    assert head(store, "tiny") == first


def test_an_override_that_a_gate_let_pass_later_is_none_any_more(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    promoted(store, tmp_path, 1)
    one = Judged(tmp_path, 2, head(store, "tiny"), good=False)
    assert override(one.run, store, one.candidate, one.evidence, one.verdict, by="Ada", reason="urgent", expires="2027-01-01")
    with pytest.raises(UserError, match="is champion by override"):
        release.pull(store, "tiny", tmp_path / "model", strict=True)
    rollback(store, "tiny", None, by="Ada", reason="worse")
    assert Judged(tmp_path, 2, head(store, "tiny")).promote(store) is not None
    assert release.pull(store, "tiny", tmp_path / "model", strict=True).version == 2


def _racer(
    folder: str, url: str, environment: dict[str, str], me: int, rounds: int,
    barrier: "Barrier", won: "multiprocessing.Queue[Any]",
) -> None:  # fmt: skip
    os.environ.update(environment)  # the server that forks was started with an older one
    store = open_store(url)
    for round_ in range(rounds):
        champion = head(store, "tiny")
        one = Judged(Path(folder) / f"p{me}", round_ * PROCESSES + me + 1, champion)
        barrier.wait(60)
        record = one.promote(store)
        won.put((round_, me, record is not None))
        barrier.wait(60)


def race(folder: Path, url: str, rounds: int) -> None:
    """Eight processes promote at once, so many times: one wins each time, nobody is lost, nobody is in twice."""
    context = multiprocessing.get_context("forkserver")  # a fork of this process would have the threads of other tests in it
    barrier, won = context.Barrier(PROCESSES), context.Queue()
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    shared = (rounds, barrier, won)
    racers = [context.Process(target=_racer, args=(str(folder), url, environment, me, *shared)) for me in range(PROCESSES)]
    for racer in racers:
        racer.start()
    told = [won.get(timeout=120) for _ in range(rounds * PROCESSES)]
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    assert len(history(open_store(url), "tiny")) == rounds, "one chain: nobody lost, nobody twice"
    for round_ in range(rounds):
        winners = [me for number, me, first in told if number == round_ and first]
        assert len(winners) == 1, f"round {round_}: {winners}"


@pytest.mark.slow
def test_f17_of_eight_promotions_at_once_one_wins_fifty_times(tmp_path: Path) -> None:
    race(tmp_path, f"{tmp_path}/store", ROUNDS)
    records = history(open_store(f"{tmp_path}/store"), "tiny")
    stale = Judged(tmp_path / "late", 10_000, records[-2])
    assert stale.promote(open_store(f"{tmp_path}/store")) is None, "a loser is told that its comparison is stale"
    again = Judged(tmp_path / "late", 10_000, records[-1])
    assert again.promote(open_store(f"{tmp_path}/store")) is not None, "and is judged again against the new champion"


def test_f48_a_champion_that_changes_during_a_pull_does_not_mix_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "store"))
    first = promoted(store, tmp_path, 1)
    read, once = type(store).read, threading.Lock()

    def late(self: ObjectStore, key: str, start: int, length: int) -> bytes:
        if once.acquire(blocking=False):
            promoted(store, tmp_path, 2)
        return read(self, key, start, length)

    monkeypatch.setattr(type(store), "read", late)
    assert release.pull(store, "tiny", tmp_path / "model").digest == first.release, "the one that was resolved, whole"
    assert release.pull(store, "tiny", tmp_path / "model").version == 2, "the next pull takes the new one"


def test_a_way_back_to_a_release_that_is_no_longer_whole_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    first = promoted(store, tmp_path, 1)
    second = promoted(store, tmp_path, 2)
    path = next((tmp_path / "store" / "releases" / "tiny" / first.release[7:]).glob("adapter*"))
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"lacks adapter_model\.safetensors"):
        rollback(store, "tiny", 1, by="me", reason="")
    assert head(store, "tiny") == second
    path.write_bytes(whole)
    assert rollback(store, "tiny", 1, by="me", reason="").version == 1


def test_where_a_key_is_trusted_only_its_records_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ours", "theirs"):
        key_pair(tmp_path, name)
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setenv("ADAPTORY_SIGNING_KEY", str(tmp_path / "ours.pem"))
    promoted(store, tmp_path, 1)
    monkeypatch.setenv("ADAPTORY_TRUSTED_KEY", str(tmp_path / "ours.pub"))
    assert release.pull(store, "tiny", tmp_path / "model").version == 1
    monkeypatch.setenv("ADAPTORY_SIGNING_KEY", str(tmp_path / "theirs.pem"))
    promoted(store, tmp_path, 2)
    with pytest.raises(IntegrityError, match="not signed by the key"):
        release.pull(store, "tiny", tmp_path / "model")
    monkeypatch.delenv("ADAPTORY_SIGNING_KEY")
    unsigned = open_store(str(tmp_path / "other"))
    monkeypatch.delenv("ADAPTORY_TRUSTED_KEY")
    promoted(unsigned, tmp_path, 3)
    monkeypatch.setenv("ADAPTORY_TRUSTED_KEY", str(tmp_path / "ours.pub"))
    with pytest.raises(IntegrityError, match="is not signed"):
        release.pull(unsigned, "tiny", tmp_path / "model")
    assert (tmp_path / "model" / "current").exists(), "what was served is served"


def test_nobody_goes_back_to_a_retired_version_not_even_by_its_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for number in (1, 2, 3):
        promoted(store, tmp_path, number)
    retire(store, "tiny", 2, by="me", reason="licence")
    with pytest.raises(UserError, match="v2 was retired"):
        rollback(store, "tiny", 2, by="me", reason="")
    assert rollback(store, "tiny", None, by="me", reason="").version == 1, "the one before that"


def test_an_override_is_told_in_every_report_until_it_is_superseded(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    promoted(store, tmp_path, 1)
    bad = Judged(tmp_path, 2, head(store, "tiny"), good=False)
    words = {"by": "me", "reason": "the old one insults people", "expires": "2027-01-01"}
    assert override(bad.run, store, bad.candidate, bad.evidence, bad.verdict, **words) is not None
    told = changes.since(Judged(tmp_path, 3, head(store, "tiny")).run, store, head(store, "tiny"))
    assert told[0] == "v2 is champion by override of FAIL until 2027-01-01: the old one insults people"
    assert any(line.startswith("train rows: 2 became 3") for line in told)
    promoted(store, tmp_path, 3)
    later = changes.since(Judged(tmp_path, 4, head(store, "tiny")).run, store, head(store, "tiny"))
    assert not any("override" in line for line in later)
