"""Every kind of task goes the whole line: prepared, trained, judged, promoted, pulled and asked."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.conftest import run
from tests.support import FILLER, WORDS, checkout, tiny_recipe
from tests.training.toys import base

pytestmark = [pytest.mark.slow, pytest.mark.long]
MEANING = {"negative": -2.0, "neutral": 0.0, "positive": 2.0}


def told(count: int) -> list[dict[str, Any]]:
    """Rows that every task can learn something from, all texts different."""
    draw, made = random.Random(0), {}
    while len(made) < count:
        label, same = draw.choice(list(WORDS)), draw.random() < 0.5
        text = " ".join([*draw.choices(FILLER, k=draw.randint(2, 7)), draw.choice(WORDS[label])])
        second = draw.choice(WORDS["positive" if same else "negative"])  # which of the two texts to look at must be learned
        made[text] = {
            "text": text, "value": MEANING[label] + draw.uniform(-0.3, 0.3), "second": f"it was {second}",
            "same": "yes" if same else "no", "answer": f"{WORDS[label][0]} {WORDS[label][1]}",
        }  # fmt: skip
    return list(made.values())


def settings(task: str, fields: dict[str, Any], metric: str, limit: float, baselines: list[str], **training: Any) -> Any:
    direction = "lower" if metric in ("perplexity", "mae") else "higher"
    criteria = [{"kind": "floor", "metric": metric, "direction": direction, "limit": limit}]
    if baselines:
        criteria.append({"kind": "beats_baselines", "metric": metric, "direction": direction, "margin": 0.0})
    body = tiny_recipe(**{"gate.criteria": criteria, "evaluation.max_new_tokens": 6, "evaluation.baselines": baselines})
    body["data"]["sources"] = {"notes": {"uri": "./incoming/rows.jsonl", "format": "jsonl"}}
    body["data"]["fields"] = fields
    body["training"] |= {"rank": 8, "alpha": 16, "epochs": 8, "max_tokens": 48} | training
    return body | {"task": task, "base": "./base"}


# kind of base, settings, what a pulled release is asked, and the field of its answer
LINES: dict[str, tuple[str, Any, str, str]] = {
    "regression": (
        "encoder",
        settings(
            "regression", {"text": "text", "value": "value"}, "mae", 1.0, ["mean"], method="full", learning_rate=0.002
        ),
        "the film was quite splendid",
        "value",
    ),
    "pairs": (
        "encoder",
        settings(
            "pair_classification",
            {"text": "text", "text_pair": "second", "label": {"column": "same", "classes": ["no", "yes"]}},
            "macro_f1", 0.45, [], method="full", learning_rate=0.002,
        ),
        '{"text": "the film was splendid", "text_pair": "it was lovely"}',
        "label",
    ),
    "reading": (
        "causal",
        settings("text", {"text": "text"}, "perplexity", 60.0, ["untuned"]),
        "the film was quite splendid",
        "perplexity",
    ),
    "hidden-words": (
        "encoder",
        settings("text", {"text": "text"}, "perplexity", 60.0, ["untuned"]),
        "the film was quite splendid",
        "perplexity",
    ),
    "translation": (
        "seq2seq",
        settings("sft", {"prompt": "text", "response": "answer"}, "chrf", 30.0, ["copy"], method="full", learning_rate=0.003),
        "the film was quite splendid",
        "answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_every_task_goes_the_whole_line_to_a_release_that_answers(tmp_path: Path, prefect_api: str, name: str) -> None:
    kind, recipe, question, field = LINES[name]
    folder = checkout(tmp_path / "checkout", base=False)
    base(folder / "base", kind)
    (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": {name: recipe}}))
    (folder / "incoming" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told(500)))

    said = run(folder, "retrain", name, PREFECT_API_URL=prefect_api).stdout
    assert f"PASS  {name}" in said, said
    run(folder, "pull", f"{name}@champion", str(tmp_path / "model"))
    answer = json.loads(run(folder, "predict", str(tmp_path / "model"), question, "--json").stdout)
    assert answer[field] not in (None, "")
    example = json.loads((tmp_path / "model" / "current" / "example.json").read_text())
    lines = [json.dumps(row["asked"]) for row in example]
    again = run(folder, "predict", str(tmp_path / "model"), *lines, "--json").stdout.splitlines()
    assert len(again) == len(example) > 0
    for line, row in zip(again, example, strict=True):
        expected = row["told"][field]
        assert json.loads(line)[field] == (expected if isinstance(expected, str) else pytest.approx(expected, abs=1e-3))
    assert "nothing new" in run(folder, "retrain", name, PREFECT_API_URL=prefect_api).stdout
