"""S11: a puller activates only promoted bytes, all or none, and never goes from serving to nothing. S12, F20, F27, F43, F44."""

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adaptory import fingerprint, release
from adaptory.errors import IntegrityError, ReleaseError, ServerError
from adaptory.registry import append, history
from adaptory.release import download, manifest
from adaptory.release.build import build_release, store_release
from adaptory.storage import ObjectStore, open_store
from tests.promotions import Judged, promoted
from tests.support import key_pair
from tests.unit.test_ledger import record


def promote(store: ObjectStore, scratch: Path, text: str, verdict: str | None = None) -> Path:
    """Puts a release into the store and makes it champion; returns its folder there."""
    folder = scratch / "made"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(text.encode() * 1000)
    (folder / "model.json").write_text(json.dumps({"said": text}))
    (folder / "verdict.json").write_text(json.dumps({"outcome": "PASS", "of": text}))
    made = manifest.of_folder("tiny", folder)
    (folder / "manifest.json").write_text(made.model_dump_json())
    digest = store_release(store, "tiny", folder)
    records = history(store, "tiny")
    facts = {"release": digest, "candidate": text, "verdict": verdict or fingerprint.of_json({"outcome": "PASS", "of": text})}
    assert append(store, record(len(records) + 1, records[-1] if records else None, **facts))
    return Path(store.url) / "releases" / "tiny" / fingerprint.hex_of(digest)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def said(target: Path) -> str:
    text: str = json.loads((target / "current" / "model.json").read_text())["said"]
    return text


def test_a_pull_brings_the_champion_and_another_pull_moves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    first = release.pull(store, "tiny@champion", tmp_path / "model")
    assert said(tmp_path / "model") == "one"
    assert first.bytes_moved > 3000
    assert release.pull(store, "tiny@champion", tmp_path / "model").bytes_moved == 0


def test_a_new_champion_is_switched_to_and_the_old_one_is_kept(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    release.pull(store, "tiny", tmp_path / "model")
    promote(store, tmp_path, "two")
    assert release.pull(store, "tiny", tmp_path / "model").version == 2
    assert said(tmp_path / "model") == "two"
    assert release.pull(store, "tiny@v1", tmp_path / "model").bytes_moved == 0
    assert said(tmp_path / "model") == "one"


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "manifest", "remove manifest"])
def test_f27_bytes_that_were_not_promoted_are_refused_and_what_was_served_stays(
    store: ObjectStore, tmp_path: Path, harm: str
) -> None:
    promote(store, tmp_path, "one")
    release.pull(store, "tiny", tmp_path / "model")
    stored = promote(store, tmp_path, "two")
    weights, listed = stored / "adapter_model.safetensors", stored / "manifest.json"
    if harm == "flip":
        weights.write_bytes(b"X" + weights.read_bytes()[1:])
    elif harm == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif harm == "remove":
        weights.unlink()
    elif harm == "manifest":
        listed.write_text(listed.read_text().replace("sha256:", "sha256:0", 1))
    else:
        listed.unlink()
    with pytest.raises((IntegrityError, ReleaseError)):
        release.pull(store, "tiny", tmp_path / "model")
    assert said(tmp_path / "model") == "one"
    assert sorted(
        path.name for path in (tmp_path / "model").iterdir() if path.name != "current" and not path.name.endswith(".verified")
    ) == [fingerprint.hex_of(history(store, "tiny")[0].release)], "nothing half-pulled is left behind"


def test_a_release_rewritten_together_with_its_manifest_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    stored = promote(store, tmp_path, "one")
    (stored / "model.json").write_text('{"said": "evil"}')
    (stored / "manifest.json").unlink()
    (stored / "manifest.json").write_text(manifest.of_folder("tiny", stored).model_dump_json())
    with pytest.raises(IntegrityError, match="the ledger promises"):
        release.pull(store, "tiny", tmp_path / "model")
    assert not (tmp_path / "model" / "current").exists()


def test_a_pulled_release_that_was_altered_is_fetched_again(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    release.pull(store, "tiny", tmp_path / "model")
    (tmp_path / "model" / "current" / "model.json").write_text('{"said": "evil"}')
    assert release.pull(store, "tiny", tmp_path / "model").bytes_moved > 0
    assert said(tmp_path / "model") == "one"


@pytest.mark.parametrize("name", ["evil.py", "adapter_model.bin", "../escaped", "/tmp/escaped", "MLmodel", "a/b"])
def test_f44_a_manifest_may_not_name_anything_but_known_files(store: ObjectStore, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    evil = {"schema_version": "manifest/v1", "model": "tiny", "files": {name: {"sha256": "sha256:" + "0" * 64, "size": 1}}}
    (folder / "manifest.json").write_text(json.dumps(evil))
    digest = fingerprint.of_file(folder / "manifest.json")
    store.upload(folder / "manifest.json", f"releases/tiny/{fingerprint.hex_of(digest)}/manifest.json")
    assert append(store, record(1, None, release=digest))
    with pytest.raises(IntegrityError, match="may not hold"):
        release.pull(store, "tiny", tmp_path / "model")


def test_f43_a_pickle_in_the_store_is_neither_fetched_nor_opened(store: ObjectStore, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "exploded"), "w")

    stored = promote(store, tmp_path, "one")
    (stored / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    release.pull(store, "tiny", tmp_path / "model")
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "model" / "current" / "adapter_model.bin").exists()


@pytest.mark.parametrize("name", ["../tiny", "tiny@latest", "tiny@", "Tiny", "tiny\n", "tiny@v", "", "a/b", "$(id)"])
def test_a_name_that_is_not_a_models_is_refused(store: ObjectStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match="is not a model"):
        release.pull(store, name, tmp_path / "model")


def test_a_model_that_is_not_there_is_told_with_those_that_are(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    with pytest.raises(ReleaseError, match="models there: tiny"):
        release.pull(store, "sentiment", tmp_path / "model")
    with pytest.raises(ReleaseError, match="no tiny@v2"):
        release.pull(store, "tiny@v2", tmp_path / "model")


def test_a_folder_named_current_is_not_overwritten(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    (tmp_path / "model" / "current").mkdir(parents=True)
    (tmp_path / "model" / "current" / "mine").write_text("keep")
    with pytest.raises(ReleaseError, match="not a link that pull made"):
        release.pull(store, "tiny", tmp_path / "model")
    assert (tmp_path / "model" / "current" / "mine").read_text() == "keep"


def test_half_a_release_in_the_store_is_no_release(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(store, tmp_path, "one")
    uploads: list[str] = []
    whole = store.upload

    def upload(path: Path, key: str) -> None:
        uploads.append(key)
        whole(path, key)

    monkeypatch.setattr(store, "upload", upload)
    promote(store, tmp_path, "two")
    assert uploads[-1].endswith("manifest.json"), "the manifest is the commit, so it goes last"


def test_a_pull_that_was_cut_goes_on_where_it_was(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PART", 500)
    promote(store, tmp_path, "one")
    read, asked = store.read, []

    def failing(key: str, start: int, length: int) -> bytes:
        asked.append(start)
        if len(asked) == 4:
            raise ServerError("the network is gone")
        return read(key, start, length)

    monkeypatch.setattr(store, "read", failing)
    with pytest.raises(ServerError):
        release.pull(store, "tiny", tmp_path / "model")
    assert not (tmp_path / "model" / "current").exists()
    waiting = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(waiting) >= 2 and not any(path.suffix == ".part" for path in waiting)
    there = sum(path.stat().st_size for path in waiting)
    asked.clear()
    monkeypatch.setattr(store, "read", lambda key, start, length: asked.append(start) or read(key, start, length))
    done = release.pull(store, "tiny", tmp_path / "model")
    assert said(tmp_path / "model") == "one"
    assert len(asked) == 8 - len(waiting), "3,000 bytes of weights in six parts, and two small files"
    assert done.bytes_moved == sum(path.stat().st_size for path in done.folder.iterdir()) - there
    assert [path.name for path in (tmp_path / "model").iterdir() if path.name.startswith(".pull")] == []


def test_parts_that_were_altered_while_they_waited_are_not_taken(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, tmp_path, "one")
    record = history(store, "tiny")[0]
    waiting = tmp_path / "model" / f".pull-{fingerprint.hex_of(record.release)}"
    waiting.mkdir(parents=True)
    (waiting / "adapter_model.safetensors.0").write_bytes(b"evil" * 750)
    with pytest.raises(IntegrityError):
        release.pull(store, "tiny", tmp_path / "model")
    assert not (tmp_path / "model" / "current").exists() and not waiting.exists()
    release.pull(store, "tiny", tmp_path / "model")
    assert said(tmp_path / "model") == "one"


def model_digest(store: ObjectStore) -> str:
    return fingerprint.hex_of(history(store, "tiny")[-1].release)


@pytest.mark.slow
def test_of_two_pulls_at_once_neither_disturbs_the_other(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    for turn in range(40):  # who meets whom is chance
        model = tmp_path / f"model-{turn}"
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _, model=model: release.pull(store, "tiny", model), range(16)))
        assert {one.version for one in found} == {1}
        assert said(model) == "one"
        assert {path.name for path in model.iterdir() if not path.name.endswith(".verified")} == {"current", model_digest(store)}


def test_a_slow_pull_never_leads_to_a_release_that_a_faster_one_forgot(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    promote(store, tmp_path, "one")
    release.pull(store, "tiny", model)
    promote(store, tmp_path, "two")
    place = sys.modules["adaptory.release.pull"]  # the package has a function of this name
    check = place._check_signature

    def overtaken(*words: Any, **how: Any) -> None:
        monkeypatch.setattr(place, "_check_signature", check)
        for text in ("three", "four"):  # of which each forgets what is two before it
            promote(store, tmp_path, text)
            release.pull(store, "tiny", model)

    monkeypatch.setattr(place, "_check_signature", overtaken)
    assert release.pull(store, "tiny", model).bytes_moved > 0
    assert (model / "current" / "manifest.json").is_file()


def test_a_damaged_release_that_is_served_is_replaced_before_it_is_removed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, tmp_path, "one")
    release.pull(store, "tiny", tmp_path / "model")
    folder = (tmp_path / "model" / "current").resolve()
    (folder / "stranger").write_text("x")

    class KilledError(Exception):
        pass

    rmtree = shutil.rmtree

    def killed(path: Any, **how: Any) -> None:
        rmtree(path, **how)
        if Path(path) == folder:
            raise KilledError

    monkeypatch.setattr(shutil, "rmtree", killed)
    with contextlib.suppress(KilledError):
        release.pull(store, "tiny", tmp_path / "model")
    assert said(tmp_path / "model") == "one"


def test_the_release_before_stays_and_older_ones_go(store: ObjectStore, tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        promote(store, tmp_path, text)
        release.pull(store, "tiny", tmp_path / "model")
    kept = {path.name for path in (tmp_path / "model").iterdir() if not path.name.startswith(".") and path.name != "current"}
    assert kept == {fingerprint.hex_of(one.release) for one in history(store, "tiny")[1:]}


def test_whoever_watches_gets_the_next_champion_and_keeps_the_last_when_the_store_is_gone(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, tmp_path, "one")
    told: list[str] = []
    turns = iter(("same", "new", "gone", "back", "end"))

    def sleep(seconds: float) -> None:
        turn = next(turns)
        if turn == "new":
            promote(store, tmp_path, "two")
        elif turn == "gone":
            shutil.move(store.url, f"{store.url}-gone")
        elif turn == "back":
            assert said(tmp_path / "model") == "two", "served on"
            shutil.rmtree(store.url, ignore_errors=True)
            shutil.move(f"{store.url}-gone", store.url)
        elif turn == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        release.watch(store, "tiny", tmp_path / "model", 1, told.append)
    assert [line.split(" is in")[0] for line in told if "is in" in line] == ["tiny v1", "tiny v2"]
    assert any("could not be looked up or pulled" in line for line in told)


def test_a_signed_release_is_verified_by_openssf_and_an_altered_signature_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_pair(tmp_path)
    monkeypatch.setenv("ADAPTORY_SIGNING_KEY", str(private))
    monkeypatch.setenv("ADAPTORY_TRUSTED_KEY", str(public))
    store = open_store(str(tmp_path / "signed"))
    promoted(store, tmp_path, 1)
    release.pull(store, "tiny", tmp_path / "model", strict=True)
    current = tmp_path / "model" / "current"
    assert (current / "model.sig").is_file()
    whole, tool = current.resolve(), Path(sys.executable).parent / "model_signing"
    words = ["verify", "key", whole, "--signature", whole / "model.sig", "--ignore-paths", whole / "model.sig"]
    done = subprocess.run([tool, *words, "--public_key", public], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    good = (current / "model.sig").read_text()
    (current / "model.sig").write_text(good.replace("A", "B", 3))
    release.pull(store, "tiny", tmp_path / "model", strict=True)
    assert (current / "model.sig").read_text() == good, "the store's is another one, and holds"
    for place in (whole, next((tmp_path / "signed" / "releases" / "tiny").iterdir())):
        (place / "model.sig").write_text(good.replace("A", "B", 3))
    with pytest.raises(IntegrityError, match="its signature does not hold"):
        release.pull(store, "tiny", tmp_path / "model", strict=True)
    with pytest.raises(IntegrityError, match="its signature does not hold"):
        release.pull(store, "tiny", tmp_path / "model")


def test_where_a_key_is_trusted_a_release_without_its_signature_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_pair(tmp_path)
    monkeypatch.setenv("ADAPTORY_SIGNING_KEY", str(private))
    store = open_store(str(tmp_path / "store"))
    promoted(store, tmp_path, 1)
    next((tmp_path / "store" / "releases").rglob("model.sig")).unlink()
    monkeypatch.setenv("ADAPTORY_TRUSTED_KEY", str(public))
    for _ in range(2):  # the second time its files are there already
        with pytest.raises(IntegrityError, match=r"has no model\.sig"):
            release.pull(store, "tiny", tmp_path / "model")
        assert not (tmp_path / "model" / "current").exists()


def test_a_release_that_was_stored_before_there_was_a_key_gets_its_signature_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = key_pair(tmp_path)
    store = open_store(str(tmp_path / "store"))
    one = Judged(tmp_path, 1, None)
    stored = [store_release(store, "tiny", build_release(one.run, one.candidate, one.evidence, one.verdict))]
    monkeypatch.setenv("ADAPTORY_SIGNING_KEY", str(private))
    stored.append(store_release(store, "tiny", build_release(one.run, one.candidate, one.evidence, one.verdict)))
    assert stored[0] == stored[1]
    assert store.get(f"releases/tiny/{fingerprint.hex_of(stored[0])}/model.sig")


def test_a_strict_pull_refuses_a_release_whose_verdict_is_not_the_records(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one", verdict=fingerprint.of_json({"outcome": "FAIL"}))
    with pytest.raises(IntegrityError, match="its verdict has digest"):
        release.pull(store, "tiny", tmp_path / "model", strict=True)
    assert not (tmp_path / "model" / "current").exists()


def test_f43_a_link_in_place_of_a_file_is_not_followed(store: ObjectStore, tmp_path: Path) -> None:
    promote(store, tmp_path, "one")
    current = release.pull(store, "tiny", tmp_path / "model").folder
    (tmp_path / "elsewhere").write_bytes((current / "model.json").read_bytes())
    (current / "model.json").unlink()
    (current / "model.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="does not have the bytes"):
        manifest.verify(current, manifest.Manifest.model_validate_json((current / "manifest.json").read_bytes()))
    assert release.pull(store, "tiny", tmp_path / "model").bytes_moved > 0, "and it is fetched again"
    assert not (current / "model.json").is_symlink()
