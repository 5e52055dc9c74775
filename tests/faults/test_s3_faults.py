"""F24-F29: a source and a DVC remote on a real S3 server behind a bad line."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptory import fingerprint
from adaptory.errors import DataError, ServerError
from adaptory.storage import open_store, transfer
from adaptory.storage.objects import s3_client
from tests.faulty_s3 import Line, bad_line
from tests.pipeline.conftest import run
from tests.s3_server import s3_server
from tests.support import checkout, parts, rows, staged

pytestmark = pytest.mark.slow
COLUMNS = {"format": "tsv", "columns": ["id", "rating", "text"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Line]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as environment, bad_line(environment["AWS_ENDPOINT_URL"]) as line:
        yield environment, line


@pytest.fixture
def line(server: tuple[dict[str, str], Line], monkeypatch: pytest.MonkeyPatch) -> Line:
    environment, line = server
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    monkeypatch.setattr(transfer, "BACKOFF", 0.01)
    line.fail = line.cut = line.alter = 0
    line.delay = 0.0
    line.passed.clear()
    return line


@pytest.fixture
def bucket(line: Line, request: pytest.FixtureRequest) -> str:
    name = f"d{abs(hash(request.node.nodeid)) % 10**12}"
    s3_client().create_bucket(Bucket=name)
    return name


def put(bucket: str, name: str, table: list[tuple[str, str, str]]) -> None:
    content = "".join("\t".join(row) + "\n" for row in table).encode()
    s3_client().put_object(Bucket=bucket, Key=f"in/{name}", Body=content)


def prepared(folder: Path, bucket: str) -> dict[str, Any]:
    return parts(staged(folder, **{"data.sources": {"feed": {"uri": f"s3://{bucket}/in", **COLUMNS}}}))


def test_a_prefix_is_a_source_and_only_new_objects_are_fetched_again(line: Line, bucket: str, tmp_path: Path) -> None:
    table = rows(300)
    for number in range(3):
        put(bucket, f"day-{number}.tsv", table[number * 60 : number * 60 + 60])
    s3_client().put_object(Bucket=bucket, Key="inside/other.tsv", Body=b"not below the prefix\n")
    found = prepared(tmp_path, bucket)
    assert set(found["train"]["file"]) == {"day-0.tsv", "day-1.tsv", "day-2.tsv"}
    line.passed.clear()
    put(bucket, "day-3.tsv", table[180:240])
    put(bucket, "day-1.tsv", table[240:])
    found = prepared(tmp_path, bucket)
    assert sorted(path.rpartition("/")[2] for path in line.passed) == ["day-1.tsv", "day-3.tsv"]
    assert sum(map(len, found.values())) == 240


def test_one_object_can_be_a_source(bucket: str, tmp_path: Path) -> None:
    put(bucket, "all.tsv", rows(120))
    put(bucket, "all.tsv.old", [("bad", "x", "y")])
    found = parts(staged(tmp_path, **{"data.sources": {"feed": {"uri": f"s3://{bucket}/in/all.tsv", **COLUMNS}}}))
    assert sum(map(len, found.values())) == 120


def test_f24_a_server_that_is_busy_is_asked_again(line: Line, bucket: str, tmp_path: Path) -> None:
    put(bucket, "all.tsv", rows(120))
    line.fail = 3
    assert sum(map(len, prepared(tmp_path, bucket).values())) == 120
    assert len(line.passed) == 4


def test_f24_a_server_that_stays_busy_is_a_failure_worth_another_try_that_names_the_object(
    line: Line, bucket: str, tmp_path: Path
) -> None:
    put(bucket, "all.tsv", rows(120))
    prepared(tmp_path, bucket)
    before = fingerprint.of_folder(tmp_path / "data" / "tiny")
    put(bucket, "all.tsv", rows(100))
    line.fail = 1000
    line.passed.clear()
    with pytest.raises(ServerError, match=rf"s3://{bucket}/in/all\.tsv cannot be fetched \(6 attempts\): 503"):
        prepared(tmp_path, bucket)
    assert len(line.passed) == 6
    assert fingerprint.of_folder(tmp_path / "data" / "tiny") == before, "the last good data stays"


@pytest.mark.parametrize("verb", ["get", "put", "create", "keys", "download", "read", "upload"])
def test_f24_a_store_that_is_away_is_a_fault_worth_another_try(
    verb: str, line: Line, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    words = {"get": ("a",), "put": ("a", b"x"), "create": ("a", b"x"), "keys": ("a",), "download": ("a", file)}
    words |= {"read": ("a", 0, 1), "upload": (file, "a")}
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setattr("adaptory.storage.objects.s3_client", lambda: s3_client(attempts=1))
        store = open_store(f"s3://{bucket}/prefix")
        with pytest.raises(ServerError, match=f"s3://{bucket}/prefix/a: the store does not answer"):
            getattr(store, verb)(*words[verb])


def test_f25_a_slow_server_is_given_up_at_the_deadline_of_the_whole_transfer(
    line: Line, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "all.tsv", rows(4000))
    line.delay = 0.3
    monkeypatch.setenv("ADAPTORY_S3_DEADLINE", "0.5")
    with pytest.raises(ServerError, match="not here within the deadline"):
        prepared(tmp_path, bucket)
    assert not list((tmp_path / "data" / "tiny").rglob("*.part"))


@pytest.mark.parametrize("verb", ["get", "read", "download"])
def test_f25_a_release_that_trickles_is_given_up_at_the_deadline_of_the_whole_object(
    verb: str, line: Line, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"s3://{bucket}/prefix")
    store.put("adapter", bytes(400_000))
    words: dict[str, Any] = {"get": (), "read": (0, 400_000), "download": (tmp_path / "adapter",)}
    line.delay = 0.1  # for every 16 KiB: two and a half seconds in all
    monkeypatch.setenv("ADAPTORY_S3_DEADLINE", "0.5")
    with pytest.raises(ServerError, match=f"s3://{bucket}/prefix/adapter: not here within the deadline"):
        getattr(store, verb)("adapter", *words[verb])
    monkeypatch.setenv("ADAPTORY_S3_DEADLINE", "60")
    getattr(store, verb)("adapter", *words[verb])  # it would have come


def test_f27_a_download_that_is_cut_is_made_again_and_never_left_half(line: Line, bucket: str, tmp_path: Path) -> None:
    put(bucket, "all.tsv", rows(120))
    line.cut = 2
    assert sum(map(len, prepared(tmp_path, bucket).values())) == 120
    line.cut = 1000
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ServerError, match=r"all\.tsv cannot be fetched \(6 attempts\)"):
        prepared(tmp_path, bucket)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_f27_an_altered_byte_is_noticed(line: Line, bucket: str, tmp_path: Path) -> None:
    put(bucket, "all.tsv", rows(120))
    line.alter = 1
    assert sum(map(len, prepared(tmp_path, bucket).values())) == 120
    assert len(line.passed) == 2, "the digest of the object did not agree, so it was fetched again"


def test_an_object_whose_name_leaves_the_folder_is_refused(
    line: Line, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real bucket may hold such a key; this server tidies it away, so the listing is made to tell of one.
    listed = {"../../../gone.tsv": f"etag:{'0' * 32} size:1 key:in/../../../gone.tsv"}
    monkeypatch.setattr(transfer, "listing", lambda place: listed)
    with pytest.raises(DataError, match="leaves its folder; it is refused"):
        prepared(tmp_path, bucket)
    assert not line.passed


def test_a_bucket_that_is_not_there_is_told(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such object or bucket"):
        prepared(tmp_path, "nowhere-to-be-found")


@pytest.fixture(scope="module")
def pushed(server: tuple[dict[str, str], Line], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, str]]:
    """A checkout whose data is in a DVC remote on S3: its folder, the bucket, and the environment."""
    environment, line = server
    environment = {**environment, "AWS_ENDPOINT_URL": line.url}
    folder = checkout(tmp_path_factory.mktemp("pushed") / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        s3_client().create_bucket(Bucket="dvc-remote")
    config = (folder / ".dvc" / "config").read_text().replace("../.adaptory/dvc-remote", "s3://dvc-remote/data")
    (folder / ".dvc" / "config").write_text(config)
    run(folder, "prepare", "tiny", **environment)
    return folder, "dvc-remote", environment


def worker(pushed: tuple[Path, str, dict[str, str]], folder: Path) -> Path:
    """Another checkout of the same commit and dvc.lock, with nothing in its cache and no sources."""
    shutil.copytree(pushed[0], folder, ignore=shutil.ignore_patterns("data", "incoming", ".adaptory", "cache", "tmp"))
    return folder


def test_a_worker_with_an_empty_cache_gets_the_same_bytes(
    line: Line, pushed: tuple[Path, str, dict[str, str]], tmp_path: Path
) -> None:
    there = worker(pushed, tmp_path / "worker")
    said = run(there, "prepare", "tiny", "--pull", **pushed[2]).stdout
    for stage in ("raw", "splits", "base", "profile"):
        one, other = (fingerprint.of_folder(folder / "data" / "tiny" / stage) for folder in (pushed[0], there))
        assert one == other, stage
    assert said.splitlines()[-1] == run(pushed[0], "prepare", "tiny", **pushed[2]).stdout.splitlines()[-1]


def objects(bucket: str) -> dict[str, int]:
    found = s3_client().list_objects_v2(Bucket=bucket)["Contents"]
    return {item["Key"]: item["Size"] for item in found}


def md5_of(folder: Path, name: str) -> str:
    import hashlib

    return hashlib.md5((folder / "data" / "tiny" / name).read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def spoiled(pushed: tuple[Path, str, dict[str, str]], name: str, change: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """The remote while one object in it is changed or (None) gone; yields its md5 and name as the error tells them."""
    folder, bucket, _ = pushed
    md5 = md5_of(folder, name)
    key = next(key for key in objects(bucket) if key.endswith(f"{md5[:2]}/{md5[2:]}"))
    content: bytes = s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()
    changed = change(content)
    if changed is None:
        s3_client().delete_object(Bucket=bucket, Key=key)
    else:
        s3_client().put_object(Bucket=bucket, Key=key, Body=changed)
    try:
        yield f"{md5} is data/tiny/{name}"
    finally:
        s3_client().put_object(Bucket=bucket, Key=key, Body=content)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("splits/train-00000.parquet", lambda content: None),
        ("splits/test-00000.parquet", lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:]),
    ],
    ids=["f28-lacks-an-object", "f29-holds-an-altered-one"],
)
def test_a_remote_that_cannot_give_the_promised_bytes_is_told_with_md5_and_name_and_leaves_nothing_half(
    line: Line,
    pushed: tuple[Path, str, dict[str, str]],
    tmp_path: Path,
    name: str,
    change: Callable[[bytes], bytes | None],
) -> None:
    there = worker(pushed, tmp_path / "worker")
    with spoiled(pushed, name, change) as told:
        assert told in run(there, "prepare", "tiny", "--pull", code=2, **pushed[2]).stderr
        assert not (there / "data" / "tiny" / "splits" / "dataset.json").exists()
    run(there, "prepare", "tiny", "--pull", **pushed[2])  # L1: after the fault is healed the same command finishes


def test_the_environment_of_these_tests_names_no_real_server(line: Line) -> None:
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
