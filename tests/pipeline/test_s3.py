"""The store, a base and the line on a real S3 server."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from adaptory import bases
from adaptory.errors import BaseModelError, ServerError, UserError
from adaptory.registry import history
from adaptory.storage import ObjectStore, open_store
from adaptory.storage.objects import s3_client
from tests.faults.test_promotion_faults import race
from tests.faulty_s3 import bad_line
from tests.pipeline.conftest import run
from tests.s3_server import s3_server
from tests.store_contract import StoreContract
from tests.support import checkout, rows, tiny_base, write_recipe, write_tsv
from tests.unit.test_ledger_machine import Machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3(server: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of an empty bucket."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    bucket = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    s3_client().create_bucket(Bucket=bucket)
    return bucket


class TestS3(StoreContract):
    @pytest.fixture
    def store(self, s3: str) -> ObjectStore:
        return open_store(f"s3://{s3}/some/prefix")

    def test_wrong_keys_are_refused_with_the_stores_address(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        other = open_store(store.url)
        with pytest.raises(UserError, match="the store refuses to get it") as caught:
            other.get("a")
        assert "wrong" not in str(caught.value)


class BucketMachine(Machine):
    """A model's life in any order of events, each example under a prefix of its own."""

    bucket: str
    begun = 0

    def empty_store(self) -> ObjectStore:
        BucketMachine.begun += 1
        return open_store(f"s3://{self.bucket}/life-{BucketMachine.begun}")


def test_s1_s4_s11_s14_whatever_happens_to_a_model_its_ledger_in_a_bucket_is_what_happened(s3: str) -> None:
    BucketMachine.bucket = s3
    few = settings(
        max_examples=4,
        stateful_step_count=20,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(BucketMachine, settings=few)
    assert BucketMachine.begun >= 4


@pytest.mark.long
def test_f17_of_eight_promotions_into_a_bucket_at_once_one_wins(s3: str, tmp_path: Path) -> None:
    race(tmp_path, f"s3://{s3}/race", 5)


def test_a_base_is_brought_from_a_prefix_and_pinned_by_its_digest(s3: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for path in base.iterdir():
        s3_client().put_object(Bucket=s3, Key=f"models/tiny/{path.name}", Body=path.read_bytes())
    s3_client().put_object(Bucket=s3, Key="models/tiny/pytorch_model.bin", Body=b"a pickle")
    reference = f"s3://{s3}/models/tiny"
    digest = bases.fetch(reference, tmp_path / "fetched", tmp_path, tmp_path / "cache")
    assert digest == bases.digest_of(base)
    assert not (tmp_path / "fetched" / "pytorch_model.bin").exists()
    bases.cached(reference, digest, tmp_path, tmp_path / "cache")
    s3_client().put_object(Bucket=s3, Key="models/tiny/config.json", Body=b"{}")
    kept = bases.cached(reference, digest, tmp_path, tmp_path / "cache")
    with pytest.raises(BaseModelError, match="was pinned"):
        bases.cached(reference, digest, tmp_path, tmp_path / "another-cache")
    (kept / "config.json").write_text("{")  # a disk, a crash
    s3_client().put_object(Bucket=s3, Key="models/tiny/config.json", Body=(base / "config.json").read_bytes())
    assert bases.digest_of(bases.cached(reference, digest, tmp_path, tmp_path / "cache")) == digest


def test_the_line_promotes_into_a_bucket_and_another_machine_pulls_from_it(s3: str, tmp_path: Path, prefect_api: str) -> None:
    folder = checkout(tmp_path / "checkout")
    store = {"ADAPTORY_STORE": f"s3://{s3}/adaptory"}
    assert "PASS" in run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api, **store).stdout
    assert not (folder / ".adaptory" / "store").exists()
    assert history(open_store(store["ADAPTORY_STORE"]), "tiny")[0].version == 1
    assert "nothing new since v1" in run(folder, "retrain", "tiny", **store).stdout
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(elsewhere, "pull", "tiny@champion", "model", "--store", store["ADAPTORY_STORE"])
    assert "unchanged" in run(elsewhere, "pull", "tiny@champion", "model", "--store", store["ADAPTORY_STORE"]).stdout


@pytest.mark.long
def test_f16_f24_a_store_that_is_busy_all_the_time_and_loses_answers_costs_nothing_but_time(
    s3: str, server: dict[str, str], tmp_path: Path, prefect_api: str
) -> None:
    """Every fourth request is answered 503, half of these after the server has done it: also the ones that create."""
    folder = checkout(tmp_path / "checkout")
    with bad_line(server["AWS_ENDPOINT_URL"]) as line:
        line.busy = 4
        store = {"ADAPTORY_STORE": f"s3://{s3}/adaptory", "AWS_ENDPOINT_URL": line.url, "PREFECT_API_URL": prefect_api}
        assert "PASS" in run(folder, "retrain", "tiny", **store).stdout
        assert "nothing new since v1" in run(folder, "retrain", "tiny", **store).stdout
        run(folder, "pull", "tiny@champion", "model", **store)
        run(folder, "audit", "tiny", **store)
        write_tsv(folder / "incoming" / "rows.tsv", rows(800, noise=0.02))
        write_recipe(folder, **{"training.epochs": 8})
        assert "PASS" in run(folder, "retrain", "tiny", **store).stdout
        run(folder, "rollback", "tiny", "--reason", "to see it", **store)
        assert line.answered > 20
    told = history(open_store(f"s3://{s3}/adaptory"), "tiny")
    assert [(record.kind, record.version) for record in told] == [("promote", 1), ("promote", 2), ("rollback", 1)]


def test_f26_bytes_that_change_on_their_way_up_are_no_object(s3: str, tmp_path: Path) -> None:
    """Every upload carries the checksum of what was meant, and the server compares."""
    store, wire = open_store(f"s3://{s3}/prefix"), s3_client().meta.events
    (tmp_path / "adapter").write_bytes(b"as it was judged")
    seen: list[Any] = []

    def altered(request: Any, **_: Any) -> None:
        seen.append(request.headers)
        request.body = b"as it was forged" if isinstance(request.body, bytes) else io.BytesIO(b"as it was forged")

    wire.register("before-send.s3.PutObject", altered)
    try:
        for upload in (
            lambda: store.upload(tmp_path / "adapter", "releases/tiny/adapter"),
            lambda: store.create("ledger/tiny/000001.json", b"as it was judged"),
        ):
            with pytest.raises((UserError, ServerError), match="refuses to"):
                upload()
    finally:
        wire.unregister("before-send.s3.PutObject", altered)
    assert seen and store.keys("") == []


def test_f26_an_upload_that_was_cut_is_no_object_and_the_doctor_ends_it(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from adaptory import doctor

    store = open_store(f"s3://{s3}/prefix")
    began = s3_client().create_multipart_upload(Bucket=s3, Key="prefix/releases/tiny/half")
    s3_client().upload_part(
        Bucket=s3, Key="prefix/releases/tiny/half", UploadId=began["UploadId"], PartNumber=1, Body=b"x" * (5 << 20)
    )
    assert store.keys("releases/") == [], "half an upload is no object"
    assert list(doctor._uploads(store, abort=False)) == [], "it may still be going on"
    monkeypatch.setattr(doctor, "_OLD", timedelta(0))
    [(said, remedy)] = doctor._uploads(store, abort=False)
    assert "releases/tiny/half" in said and remedy == "adaptory doctor --abort-uploads"
    assert list(doctor._uploads(store, abort=True)) == []
    assert not s3_client().list_multipart_uploads(Bucket=s3).get("Uploads")
