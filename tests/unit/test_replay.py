"""Past decisions are taken again from stored scores: the same under the same gate, others under another, and lies are found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from adaptory import fingerprint
from adaptory.errors import DataError, IntegrityError, RecipeError
from adaptory.evaluation import metrics, replay, scores
from adaptory.evaluation.evaluate import measured
from adaptory.evaluation.kept import Beside, kept
from adaptory.evaluation.scores import SCORES, Answers, Truth, from_chances
from adaptory.gate import Evidence, Look, judge
from adaptory.recipe import Recipe
from adaptory.registry import decisions
from adaptory.registry.judged import Judged, write_judged
from adaptory.registry.spending import level
from adaptory.storage import ObjectStore, open_store
from tests.support import tiny_recipe

CLASSES = ("negative", "neutral", "positive")
DIGEST = "sha256:" + "d" * 64


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"name": "tiny", **tiny_recipe(**changes)})


def model(truth: Truth, name: str, kind: str, share: float, seed: int) -> Answers:
    """Right on this share of the rows."""
    random = np.random.default_rng(seed)
    assert truth.labels is not None
    picked = np.where(random.random(len(truth.rows)) < share, truth.labels, (truth.labels + 1) % 3)
    chances = np.full((len(picked), 3), 0.1)
    chances[np.arange(len(picked)), picked] = 0.8
    return replace(from_chances(name, kind, chances), temperature=1.2)


def rows(count: int) -> Truth:
    labels = np.arange(count) % 3
    slices = {"source=notes": np.ones(count, dtype=bool), **{f"class={c}": labels == n for n, c in enumerate(CLASSES)}}
    names = tuple(f"notes:{n}" for n in range(count))
    values = np.array([-2.0, 0.1, 2.0])[labels]
    return Truth(names, ("notes",) * count, labels, values, asked=tuple(f"text {n}" for n in range(count)), slices=slices)


def decide(
    store: ObjectStore, folder: Path, week: int, share: float, champion: str | None, count: int = 300, more: tuple[str, ...] = ()
) -> tuple[str, str]:
    """One week's decision, kept as the flow keeps it; returns the candidate and the verdict."""
    made, truth = recipe(), rows(count)
    candidate = fingerprint.of_bytes(f"candidate {week}".encode())
    answers = [model(truth, "candidate", "candidate", share, week)]
    if champion:
        answers.append(model(truth, "champion", "champion", 0.7, 99))
    answers += [model(truth, name, "baseline", 0.33, 5) for name in ("majority", *more)]
    folder.mkdir()
    scores.write(folder / SCORES, truth, answers, CLASSES)
    look = Look(number=week - 1, level=level(week - 1, 0.05)) if champion else None
    facts = Evidence(
        recipe="tiny", key=fingerprint.of_bytes(b"%d" % week), candidate=candidate, champion=champion,
        champion_version=1 if champion else None, champion_error=None, data=DIGEST, base=DIGEST, recipe_digest=made.digest,
        scores=fingerprint.of_file(folder / SCORES), rows=count, planned_steps=10, done_steps=10, resamples=500, confidence=0.95,
        seed=12345, look=look, slice_rows={name: int(inside.sum()) for name, inside in truth.slices.items()}, models=(),
        differences=(),
    )  # fmt: skip
    found = measured(facts, truth, answers, metrics.plan(made, look.level if look else None))
    digests = {"candidate": candidate, "champion": champion, "majority": DIGEST, **dict.fromkeys(more, DIGEST)}
    found = found.model_copy(update={"models": tuple(m.model_copy(update={"digest": digests[m.name]}) for m in found.models)})
    verdict = judge(found, made.gate, champion)
    decisions.keep(store, folder, found)
    write_judged(store, Judged(
        model="tiny", key=found.key, outcome=verdict.outcome, reason=verdict.reason, candidate=candidate, champion_version=1,
        evidence=found.digest, time=f"2026-11-{week:02d}T06:00:00+00:00",
    ))  # fmt: skip
    return candidate, verdict.outcome


def test_a_policy_without_one_of_the_baselines_does_not_ask_for_it(tmp_path: Path) -> None:
    found = open_store(str(tmp_path / "store"))
    assert decide(found, tmp_path / "1", 1, 0.7, None, more=("tfidf",))[1] == "PASS"
    gate = {"criteria": [{"kind": "beats_baselines", "metric": "macro_f1", "direction": "higher", "margin": 0.0}], "budget": None}
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({"gate": gate, "evaluation": {"baselines": ["majority"]}}))
    assert [one.now for one in replay.replay(found, replay.policy(path, recipe()))] == ["PASS"]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Three weeks: a first champion, a better candidate, one that is no better."""
    found = open_store(str(tmp_path / "store"))
    first, outcome = decide(found, tmp_path / "1", 1, 0.7, None)
    assert outcome == "PASS"
    assert decide(found, tmp_path / "2", 2, 0.9, first)[1] == "PASS"
    assert decide(found, tmp_path / "3", 3, 0.7, first, count=400)[1] != "PASS"
    return found


def test_the_same_gate_decides_as_it_did(store: ObjectStore) -> None:
    told = list(replay.replay(store, recipe()))
    assert [one.then for one in told] == [one.now for one in told]
    assert [one.time[:10] for one in told] == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert len(list(replay.replay(store, recipe(), since="2026-11-02"))) == 2


def test_another_gate_decides_otherwise_and_says_why(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "strict.yaml"
    floor = {"kind": "floor", "metric": "accuracy", "direction": "higher", "limit": 0.97}
    path.write_text(yaml.safe_dump({"gate": {"criteria": [floor]}}))
    told = list(replay.replay(store, replay.policy(path, recipe())))
    assert [one.now for one in told] == ["FAIL", "FAIL", "FAIL"]
    assert "accuracy" in told[0].reason
    loose = {"kind": "not_worse", "metric": "macro_f1", "direction": "higher", "margin": 0.3, "slice": "source=notes"}
    path.write_text(yaml.safe_dump({"gate": {"criteria": [loose], "budget": None}, "evaluation": {"resamples": 300}}))
    assert [one.now for one in replay.replay(store, replay.policy(path, recipe()))][1:] == ["PASS", "PASS"]


def test_what_a_champion_did_on_later_rows_is_told(store: ObjectStore) -> None:
    first = next(iter(replay.replay(store, recipe())))
    assert "on 100 rows that came later" in first.later and "then)" in first.later


def test_altered_evidence_and_altered_scores_are_not_replayed(store: ObjectStore) -> None:
    for suffix in ("json", "parquet"):
        key = next(key for key in store.keys("decisions/tiny/") if key.endswith(suffix))
        whole = store.get(key)
        store.put(key, whole.replace(b"0.95", b"0.90") if suffix == "json" else whole[:-9] + b"x" + whole[-8:])
        with pytest.raises(IntegrityError):
            list(replay.replay(store, recipe()))
        store.put(key, whole)
    assert len(list(replay.replay(store, recipe()))) == 3


def test_where_nothing_is_kept_nothing_is_replayed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="retrain it first"):
        list(replay.replay(open_store(str(tmp_path)), recipe()))


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("gate: {criteria: []}", "gate.criteria"),
        ("gate: {criteria: [{kind: floor, metric: macrof1, direction: higher, limit: 1}]}", "criteria.0"),
        ("training: {epochs: 2}", "must hold `gate:`"),
    ],
)
def test_a_policy_is_checked_like_a_recipe(tmp_path: Path, policy: str, told: str) -> None:
    (tmp_path / "p.yaml").write_text(policy)
    with pytest.raises(RecipeError, match=told):
        replay.policy(tmp_path / "p.yaml", recipe())


def test_nobody_is_asked_twice_and_damaged_answers_are_asked_for_again(tmp_path: Path) -> None:
    store, truth, asked = open_store(str(tmp_path)), rows(30), []

    def ask() -> tuple[Answers, Beside]:
        asked.append(1)
        return model(truth, "candidate", "candidate", 0.8, 1), Beside(size=7)

    key = fingerprint.of_bytes(b"who, what and how")
    first, beside = kept(store, "tiny", key, "candidate", "candidate", CLASSES, ask)
    again, told = kept(store, "tiny", key, "champion", "champion", CLASSES, ask)
    assert len(asked) == 1 and told == beside and told.size == 7 and told.temperature == 1.2
    assert (again.name, again.kind) == ("champion", "champion")
    assert np.array_equal(again.chances, first.chances) and np.array_equal(again.picked, first.picked)
    table = next(name for name in store.keys("answers/tiny/") if name.endswith(".parquet"))
    store.put(table, store.get(table)[:-20])
    kept(store, "tiny", key, "candidate", "candidate", CLASSES, ask)
    assert len(asked) == 2
