"""Objects are whole or absent, `create` has one winner, and an archive cannot reach outside its folder."""

import io
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptory import storage
from adaptory.errors import DataError, RecipeError, ServerError, UserError
from adaptory.storage import S3, ObjectStore, open_store, transfer
from tests.store_contract import StoreContract


class TestFolder(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return storage.open_store(str(tmp_path / "store"))

    def test_a_key_cannot_leave_the_store(self, store: ObjectStore) -> None:
        with pytest.raises(UserError, match="leaves the store"):
            store.put("../outside", b"")

    def test_no_temporary_file_is_left_or_listed(self, store: ObjectStore) -> None:
        store.create("a/b", b"1")
        store.put("a/c", b"2")
        assert sorted(path.name for path in Path(store.url).rglob("*") if path.is_file()) == ["b", "c"]


def test_a_store_behind_a_link_is_a_store(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = open_store(str(tmp_path / "link" / "store"))
    store.put("ledger/tiny/000001.json", b"{}")
    assert store.keys("ledger/") == ["ledger/tiny/000001.json"]


def test_an_etag_of_an_object_under_a_key_of_the_users_is_no_md5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: dict[str, Any] = {}

    class Bucket:
        def get_object(self, **words: Any) -> dict[str, Any]:
            return {"Body": SimpleNamespace(iter_chunks=lambda size: iter([b"rows"])), **answer}

    monkeypatch.setattr(transfer, "s3_client", lambda **how: Bucket())
    monkeypatch.setattr(transfer, "BACKOFF", 0)
    place, state = S3("bucket", "rows.tsv"), f"etag:{'0' * 32} size:4 key:rows.tsv"
    with pytest.raises(ServerError, match="the store says 0000"):
        transfer.download(place, state, tmp_path / "rows.tsv")
    for encrypted in ({"ServerSideEncryption": "aws:kms"}, {"SSECustomerAlgorithm": "AES256"}):
        answer.update(encrypted)
        transfer.download(place, state, tmp_path / "rows.tsv")
        assert (tmp_path / "rows.tsv").read_bytes() == b"rows"
        (tmp_path / "rows.tsv").unlink()
        answer.clear()


def test_an_address_that_is_no_store_is_refused() -> None:
    with pytest.raises(UserError, match="only a folder or s3://"):
        storage.open_store("gs://bucket")


def tar(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_file_in_a_nested_archive_is_found(tmp_path: Path) -> None:
    inner = tar(tmp_path / "inner.tar.gz", data__rows=b"rows").read_bytes()
    with zipfile.ZipFile(tmp_path / "outer.whl", "w") as outer:
        outer.writestr("package/inner.tar.gz", inner)
    files = storage.extract(tmp_path / "outer.whl", ("package/inner.tar.gz", "data/rows"), tmp_path / "out")
    assert [file.read_bytes() for file in files] == [b"rows"]


def test_a_folder_is_taken_with_its_structure(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", top__model__config=b"1", top__model__deep__vocab=b"2", top__other=b"3")
    files = storage.extract(archive, ("top/model",), tmp_path / "out")
    assert sorted(file.relative_to(tmp_path / "out").as_posix() for file in files) == ["config", "deep/vocab"]


def test_a_member_that_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no 'b'; it holds 1 files: a"):
        storage.extract(tar(tmp_path / "a.tar.gz", a=b""), ("b",), tmp_path / "out")


def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", **{"top/../../escaped": b"x"})
    with pytest.raises(DataError, match="leaves its folder"):
        storage.extract(archive, ("top",), tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("escaped"))


def test_links_are_not_followed_and_not_made(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="has no"):
        storage.extract(tmp_path / "a.tar", ("top",), tmp_path / "out")


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", big=b"\0" * 5_000_000)
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataError, match="grows beyond 1000000 bytes"):
        storage.extract(archive, ("big",), tmp_path / "out", limit=1_000_000)


def test_an_archive_with_a_damaged_member_is_told(tmp_path: Path) -> None:
    place = tmp_path / "a.zip"
    with zipfile.ZipFile(place, "w") as packed:
        packed.writestr("rows.tsv", "1_1\t2.0\ta sentence\n" * 50)
    data = bytearray(place.read_bytes())
    data[60] ^= 1
    place.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"rows\.tsv: the archive is damaged .* fetch it again"):
        storage.extract(place, ("rows.tsv",), tmp_path / "out")


def test_something_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    with pytest.raises(DataError, match="neither a zip nor a tar"):
        storage.extract(tmp_path / "a", ("b",), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("pypi:a-b==1.0!x/y.tar.gz!z", storage.PyPI("a-b", "1.0", ("x/y.tar.gz", "z"))),
        ("s3://bucket/some/prefix/", storage.S3("bucket", "some/prefix")),
        ("org/name@main", storage.Hub("org/name", "main")),
        ("./data/x", storage.Local(Path("/root/data/x"))),
        ("/abs", storage.Local(Path("/abs"))),
    ],
)
def test_each_kind_of_reference_is_understood(text: str, place: storage.Reference) -> None:
    assert storage.parse(text, Path("/root")) == place


@pytest.mark.parametrize("text", ["name", "org/name", "pypi:a!x", "pypi:a==1", "http://host/x", "pypi:a==1; rm!x", ""])
def test_anything_else_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a reference; write pypi:"):
        storage.parse(text, Path("/root"))
