"""S2: the ledger is a chain without gap or fork, whoever races and whatever replies are lost."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from adaptory.errors import AlreadyExists, IntegrityError
from adaptory.registry import Record, append, head, history
from adaptory.storage import ObjectStore, open_store


def record(number: int, previous: Record | None, **changes: Any) -> Record:
    facts: dict[str, Any] = {
        "model": "tiny", "number": number, "previous": previous and previous.digest, "kind": "promote", "version": number,
        "candidate": f"c{number}", "release": "r", "evidence": "e", "verdict": "v", "outcome": "PASS", "key": "k", "data": "d",
        "base": "b", "recipe": "p", "git_commit": None, "flow_run": None, "approved_by": "gate", "reason": "", "time": "t",
    }  # fmt: skip
    return Record(**(facts | changes))


def filled(store: ObjectStore, count: int) -> list[Record]:
    records: list[Record] = []
    for number in range(1, count + 1):
        records.append(record(number, records[-1] if records else None))
        assert append(store, records[-1])
    return records


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def test_an_empty_ledger_has_no_head(store: ObjectStore) -> None:
    assert head(store, "tiny") is None
    assert history(store, "tiny") == []


def test_records_are_read_back_in_order_and_the_last_is_the_head(store: ObjectStore) -> None:
    records = filled(store, 12)
    assert history(store, "tiny") == records
    assert head(store, "tiny") == records[-1]


def test_models_do_not_see_each_other(store: ObjectStore) -> None:
    filled(store, 2)
    append(store, record(1, None, model="tiny-too"))
    assert len(history(store, "tiny")) == 2


def test_the_number_of_a_record_can_be_taken_once(store: ObjectStore) -> None:
    filled(store, 1)
    assert not append(store, record(1, None, candidate="other"))
    assert history(store, "tiny")[0].candidate == "c1"


def test_a_lost_reply_is_no_loss(store: ObjectStore) -> None:
    class LosesReplies:
        url = store.url
        get = store.get

        def create(self, key: str, data: bytes) -> None:
            store.create(key, data)
            store.create(key, data)  # the client repeats what it believes was lost

    first = record(1, None)
    with pytest.raises(AlreadyExists):
        LosesReplies().create("other", b"")
    assert append(LosesReplies(), first)
    assert history(store, "tiny") == [first]


@pytest.mark.parametrize("what", ["altered", "removed", "renumbered"])
def test_a_ledger_that_was_altered_is_refused(store: ObjectStore, what: str) -> None:
    filled(store, 3)
    path = Path(store.url) / "ledger" / "tiny" / "000002.json"
    if what == "altered":
        path.write_text(path.read_text().replace('"c2"', '"evil"'))
    elif what == "removed":
        path.unlink()
    else:
        path.rename(path.with_name("000009.json"))
    with pytest.raises(IntegrityError, match="the ledger was altered"):
        history(store, "tiny")


@pytest.mark.parametrize("place", ["ledger/other/000001.json", "ledger/tiny/000009.json"])
def test_a_record_that_was_copied_elsewhere_makes_nobody_champion_there(store: ObjectStore, place: str) -> None:
    filled(store, 2)
    store.put(place, store.get("ledger/tiny/000001.json"))
    with pytest.raises(IntegrityError, match="the ledger was altered"):
        head(store, place.split("/")[1])


def _promote(url: str, name: str, rounds: int, won: Any) -> None:
    store = open_store(url)
    for turn in range(rounds):
        records = history(store, "tiny")
        last = records[-1] if records else None
        if append(store, record(len(records) + 1, last, candidate=f"{name}-{turn}")):
            won.append(f"{name}-{turn}")


def test_eight_processes_at_once_make_one_chain_and_lose_no_record(store: ObjectStore) -> None:
    context = multiprocessing.get_context("forkserver")  # a fork of this process would have the threads of other tests in it
    with context.Manager() as manager:
        won = manager.list()
        crowd = [context.Process(target=_promote, args=(store.url, f"p{n}", 10, won)) for n in range(8)]
        for process in crowd:
            process.start()
        for process in crowd:
            process.join()
        assert all(process.exitcode == 0 for process in crowd)
        assert [r.candidate for r in history(store, "tiny")] != []
        assert sorted(r.candidate for r in history(store, "tiny")) == sorted(won)
