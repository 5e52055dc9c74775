"""Candidates that were judged, made without a model: everything that promotion touches is real, but what was trained."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adaptory import fingerprint
from adaptory.data import Dataset
from adaptory.data.dataset import Card
from adaptory.errors import AlreadyExists, NotFound, ServerError
from adaptory.evaluation.scores import SCORES
from adaptory.gate import Estimate, Evidence, ModelScores, Verdict, judge
from adaptory.profile.profile import KEPT
from adaptory.recipe import Recipe
from adaptory.recipe.training import Training
from adaptory.registry import Record, head
from adaptory.registry.promotion import promote
from adaptory.storage import ObjectStore
from adaptory.training.adapter import WEIGHTS
from adaptory.training.candidate import Candidate
from tests.support import tiny_recipe

FLOOR = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5}
BASE = fingerprint.of_bytes(b"base")


class Judged:
    """One judged candidate of the model `tiny`, with the folders that a run would have left."""

    def __init__(self, folder: Path, number: int, champion: Record | None, *, good: bool = True) -> None:
        body = tiny_recipe(**{"gate.criteria": [FLOOR]})
        self.recipe = Recipe.model_validate({"name": "tiny", **body})
        card = Card(
            task="classification", classes=self.recipe.data.classes,
            counts={"train": {"negative": number}, "validation": {"negative": 1}, "test": {"negative": 1}}, sources={},
            quarantined={}, rows_in=number, files={},
        )  # fmt: skip
        data = fingerprint.of_json(card.model_dump(mode="json"))
        root = folder / f"run-{number}"
        shutil.rmtree(root, ignore_errors=True)
        weights = b"%d" % number * 4000
        self.candidate = Candidate(
            recipe="tiny", key="k", digest=fingerprint.of_json({WEIGHTS: fingerprint.of_bytes(weights)}),
            base_reference="./tiny-base", base_digest=BASE, data_digest=data, start=None, task="classification",
            classes=self.recipe.data.classes,
            training=Training(), rendering="r", objective="classes", centre=0, spread=1, planned_steps=5, done_steps=5,
            stopped_early=False, halved=False, trainable_parameters=10, total_parameters=100, validation={}, first_digest="f",
            rows_left_out=0, tokens=1, flops=1.0, seconds=1.0, device="cpu", peak_memory=0.1,
        )  # fmt: skip
        for name in ("candidate", "run", "profile"):
            (root / name).mkdir(parents=True)
        (root / "candidate" / WEIGHTS).write_bytes(weights)
        (root / "candidate" / "candidate.json").write_text(self.candidate.model_dump_json())
        (root / "run" / "example.json").write_text(json.dumps([{"asked": {"text": "x"}, "told": {"label": "neutral"}}]))
        (root / "run" / SCORES).write_bytes(b"scores %d" % number)
        for name in KEPT:
            (root / "profile" / name).write_bytes(b"kept")
        self.run: Any = SimpleNamespace(
            recipe=self.recipe, key=fingerprint.of_bytes(b"run %d" % number), folder=root / "run",
            candidate_folder=root / "candidate", dataset=Dataset(recipe="tiny", digest=data, card=card, base=BASE, dvc={}),
            workspace=SimpleNamespace(root=folder, data=lambda name: root, cache=folder / "cache"),
        )  # fmt: skip
        self.evidence = self._evidence(champion, 0.8 if good else 0.3)
        self.verdict: Verdict = judge(self.evidence, self.recipe.gate, champion.candidate if champion else None)

    def _evidence(self, champion: Record | None, value: float) -> Evidence:
        estimate = Estimate(value=value, low=value - 0.02, high=value + 0.02)
        own = ModelScores(name="candidate", kind="candidate", metrics={"macro_f1": estimate})
        return Evidence(
            recipe="tiny", key=self.run.key, candidate=self.candidate.digest, champion=champion and champion.candidate,
            champion_version=champion and champion.version, champion_error=None, data=self.run.dataset.digest, base=BASE,
            recipe_digest=self.recipe.digest, scores=fingerprint.of_file(self.run.folder / SCORES), rows=100, planned_steps=5,
            done_steps=5, resamples=100, confidence=0.95, seed=1, models=(own,), differences=(),
        )  # fmt: skip

    def promote(self, store: ObjectStore) -> Record | None:
        """As the flow promotes."""
        return promote(self.run, store, self.candidate, self.evidence, self.verdict)


def promoted(store: ObjectStore, folder: Path, number: int) -> Record:
    """Candidate `number`, judged against the champion of now and promoted."""
    made = Judged(folder, number, head(store, "tiny")).promote(store)
    assert made is not None
    return made


class MemoryStore:
    """An ObjectStore in memory, for thousands of steps."""

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound(key) from None

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def create(self, key: str, data: bytes) -> None:
        if self.objects.setdefault(key, data) is not data:
            raise AlreadyExists(key)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def read(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def upload(self, path: Path, key: str) -> None:
        self.put(key, path.read_bytes())


class FaultyStore:
    """A store that fails once, at its n-th change: before it is made (`lost`, `killed before`: the whole process), or after
    (`unanswered`, `killed after`)."""

    def __init__(self, inner: ObjectStore, at: int, how: str) -> None:
        self._inner, self._left, self._how = inner, at, how
        self.url, self.changes = inner.url, 0

    def _change(self, name: str, *words: Any) -> None:
        self.changes += 1
        self._left -= 1
        if self._left == 0 and self._how in ("lost", "killed before"):
            self._fail()
        getattr(self._inner, name)(*words)
        if self._left == 0:
            self._fail()

    def _fail(self) -> None:
        if self._how.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise ServerError(f"the store is gone: {self._how}")

    def put(self, key: str, data: bytes) -> None:
        self._change("put", key, data)

    def create(self, key: str, data: bytes) -> None:
        self._change("create", key, data)

    def upload(self, path: Path, key: str) -> None:
        self._change("upload", path, key)

    def get(self, key: str) -> bytes:
        return self._inner.get(key)

    def keys(self, prefix: str) -> list[str]:
        return self._inner.keys(prefix)

    def download(self, key: str, path: Path) -> None:
        self._inner.download(key, path)

    def read(self, key: str, start: int, length: int) -> bytes:
        return self._inner.read(key, start, length)
