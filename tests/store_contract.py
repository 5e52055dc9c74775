"""What every ObjectStore guarantees: the same tests for the folder and for S3."""

import threading
from pathlib import Path

import pytest

from adaptory.errors import AlreadyExists, NotFound
from adaptory.registry import append, history
from adaptory.storage import ObjectStore


class StoreContract:
    """Subclasses give the fixture `store`: an empty store."""

    def test_what_was_put_can_be_got_listed_and_downloaded(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("a/b", b"1")
        store.put("a/b", b"2")
        (tmp_path / "file").write_bytes(b"3")
        store.upload(tmp_path / "file", "a/c")
        store.download("a/c", tmp_path / "again")
        assert store.get("a/b") == b"2"
        assert (tmp_path / "again").read_bytes() == b"3"
        assert store.keys("a/") == ["a/b", "a/c"]
        assert store.keys("nothing/") == []

    def test_any_part_of_an_object_can_be_read(self, store: ObjectStore) -> None:
        store.put("a", b"0123456789")
        assert (store.read("a", 0, 4), store.read("a", 4, 4), store.read("a", 8, 4)) == (b"0123", b"4567", b"89")
        with pytest.raises(NotFound):
            store.read("b", 0, 1)

    def test_what_is_not_there_is_not_found(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            store.get("a")
        with pytest.raises(NotFound):
            store.download("a", tmp_path / "file")

    def test_create_refuses_to_replace(self, store: ObjectStore) -> None:
        store.create("a", b"first")
        with pytest.raises(AlreadyExists):
            store.create("a", b"second")
        assert store.get("a") == b"first"

    def test_of_many_creators_exactly_one_wins(self, store: ObjectStore) -> None:
        won: list[int] = []
        start = threading.Barrier(8)

        def run(number: int) -> None:
            start.wait()
            try:
                store.create("prize", str(number).encode())
                won.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("prize") == str(won[0]).encode()

    def test_of_many_promoters_at_once_each_number_has_one(self, store: ObjectStore) -> None:
        from tests.unit.test_ledger import record

        won: list[str] = []

        def run(name: str) -> None:
            for turn in range(3):
                records = history(store, "tiny")
                last = records[-1] if records else None
                if append(store, record(len(records) + 1, last, candidate=f"{name}-{turn}")):
                    won.append(f"{name}-{turn}")

        threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(r.candidate for r in history(store, "tiny")) == sorted(won) != []
