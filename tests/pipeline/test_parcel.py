"""Stages on other machines: what travels, what is refused; a trial goes on on another machine as if it had never moved."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adaptory import data, fingerprint, params, parcel, workspace
from adaptory import run as runs
from adaptory.errors import IntegrityError, ServerError, StageError
from adaptory.parcel import Order
from adaptory.run import Pin, Run
from adaptory.search import choose
from adaptory.storage import ObjectStore, open_store
from adaptory.storage.objects import LocalStore
from adaptory.training import candidate
from tests.pipeline.test_search_line import SEARCH
from tests.support import checkout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared checkout, those of two other machines without data, and what they share."""
    home = tmp_path_factory.mktemp("machines")
    first = checkout(home / "first", count=200, **{"search": SEARCH, "training.epochs": 3})
    for name in ("second", "third"):
        shutil.rmtree(shutil.copytree(first, home / name) / "incoming")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTORY_DVC_REMOTE", str(home / "remote"))
        place = workspace.find(first)
        data.prepare(place, params.load(place.recipes_file, "tiny"))
    return home


@pytest.fixture
def machines(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, list[Path], ObjectStore]:
    """The run on the first machine, the checkouts of the others, and the store they share."""
    monkeypatch.setenv("ADAPTORY_STORE", str(home / "store"))
    monkeypatch.setenv("ADAPTORY_DVC_REMOTE", str(home / "remote"))
    place = workspace.find(home / "first")
    return runs.current(place, "tiny"), [home / "second", home / "third"], open_store(place.store)


def send(run: Run, machine: Path, store: ObjectStore, *words: str) -> list[dict[str, Any]]:
    """Does `train` with these words on another machine; returns what it told."""
    told: list[dict[str, Any]] = []
    order = parcel.pack(run, store, "train", words)
    there = parcel.unpack(workspace.find(machine), store, Order.model_validate_json(order.model_dump_json()))
    if words:
        choose.train_trial(there, int(words[1]), int(words[3]), told.append, 0.0)
    else:
        candidate.train(there, told.append, 0.0)
    parcel.leave(there, store, words, "somebody")
    parcel.take(run, store, "somebody")
    return told


def test_a_trial_goes_on_on_another_machine_with_the_bytes_of_one_that_never_moved(
    machines: tuple[Run, list[Path], ObjectStore], tmp_path: Path
) -> None:
    run, (second, third), store = machines
    turn = iter((second, third, second))

    def train(several: Any, rung: int | None) -> None:
        for one in several:
            send(run, next(turn), store, "--trial", str(one.number), "--rung", str(rung))
            assert choose.was_trained(run, one, rung)

    made = choose.choose(run, train, lambda: None)
    now = run.trained_with(made.training)
    first_at = third if made.chosen == 1 else second
    told = send(now, second if first_at is third else third, store)
    assert any("going on from the checkpoint" in event.get("what", "") for event in told)
    moved = candidate.finished(now)
    assert not now.checkpoints.exists()
    shutil.rmtree(now.candidate_folder)
    assert candidate.train(now, lambda event: None).digest == moved.digest


def test_a_candidate_of_which_a_part_came_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    place = workspace.find(tmp_path)
    files = {f"candidate-1/{name}": fingerprint.of_bytes(name.encode()) for name in (
        "adapter_model.safetensors", candidate.CARD, "golden.json", "tokenizer.json"
    )}  # fmt: skip

    class Breaking(LocalStore):
        downloads = 0

        def download(self, key: str, path: Path) -> None:
            self.downloads += 1
            if self.downloads == len(files):
                raise ServerError("the store is gone")
            super().download(key, path)

    store = Breaking(tmp_path / "store")
    for name, digest in files.items():
        store.put(f"parcels/tiny/files/{fingerprint.hex_of(digest)}", name.rpartition("/")[2].encode())
    with pytest.raises(ServerError):
        parcel.bring(place, store, "tiny", files)
    folder = place.runs("tiny") / "candidate-1"
    assert (folder / "tokenizer.json").is_file() and not (folder / candidate.CARD).exists()
    parcel.bring(place, store, "tiny", files)
    assert (folder / candidate.CARD).is_file()


def test_a_parcel_that_leads_out_of_its_folder_or_holds_other_bytes_is_refused(
    machines: tuple[Run, list[Path], ObjectStore], tmp_path: Path
) -> None:
    run, _, store = machines
    (tmp_path / "file").write_bytes(b"mine")
    digest = f"sha256:{'0' * 64}"
    store.upload(tmp_path / "file", f"parcels/tiny/files/{'0' * 64}")
    for name in ("../../../evil", "/etc/evil"):
        with pytest.raises(IntegrityError, match="leads out of"):
            parcel.bring(run.workspace, store, "tiny", {name: digest})
    with pytest.raises(IntegrityError):
        parcel.bring(run.workspace, store, "tiny", {"fine/name": digest})
    assert not (run.workspace.runs("tiny") / "fine" / "name").exists()


def test_an_order_on_the_data_of_another_recipe_or_with_other_code_is_refused(
    machines: tuple[Run, list[Path], ObjectStore],
) -> None:
    run, (second, _), store = machines
    order = parcel.pack(run, store, "train", ())
    other = Pin(key=f"sha256:{'0' * 64}")
    for change, why in (({"dvc": {"fetch@other": {}}}, "names data of others"), ({"pin": other}, "other code")):
        with pytest.raises(StageError, match=why):
            parcel.unpack(workspace.find(second), store, order.model_copy(update=change))


@pytest.mark.parametrize(
    "change",
    [{"recipe": "../x"}, {"stage": "rm"}, {"words": ["--seed", "$(id)"]}, {"words": ["1"] * 9}, {"pin": {"key": "x"}},
     {"more": 1}, {"files": {"x": "y"}}, {"schema_version": "order/v9"}],
    ids=str,
)  # fmt: skip
def test_an_order_says_only_what_orders_say(change: dict[str, Any]) -> None:
    whole = {"recipe": "tiny", "stage": "train", "words": [], "pin": {"key": f"sha256:{'0' * 64}"}, "dvc": {}, "files": {}}
    assert Order.model_validate(whole)
    with pytest.raises(ValidationError):
        Order.model_validate(whole | change)
