"""What a candidate forgot: nothing if nothing was learned; otherwise its perplexity on other text, over that of its base."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adaptory import workspace
from adaptory.evaluation import beside, respond
from adaptory.recipe import Recipe
from adaptory.training import fit, fused
from tests.support import FILLER, WORDS
from tests.training import toys


def with_other_text(folder: Path, **more: Any) -> Recipe:
    """A recipe whose other text lies in a file."""
    draw, words = random.Random(5), [*FILLER, *(word for several in WORDS.values() for word in several)]
    text = "".join(json.dumps({"said": " ".join(draw.choices(words, k=12))}) + "\n" for _ in range(40))
    (folder / "other.jsonl").write_text(text)
    (folder / "params.yaml").touch()
    source = {"uri": "./other.jsonl", "format": "jsonl", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    body = toys.recipe("sft", **more).model_dump(mode="json")
    body["evaluation"] |= {"general": {"source": source, "column": "said", "rows": 30}, "resamples": 200}
    return Recipe.model_validate(body)


def test_a_base_forgot_nothing_and_training_is_measured_on_the_other_text(tmp_path: Path) -> None:
    recipe, place = with_other_text(tmp_path), workspace.find(tmp_path)
    base = toys.base(tmp_path / "causal", "causal")
    untouched = beside.forgetting(respond.untuned(base, recipe), recipe, place, base)
    assert untouched is not None and untouched.value == pytest.approx(1.0, abs=1e-6)
    one = toys.work(tmp_path, "sft", "causal", epochs=12, top_layers=None)
    fit.fit(one)
    fused.detach(one.model)
    learned = respond.untuned(base, recipe)
    found = beside.forgetting(respond.Loaded(one.model.eval(), learned.made, learned.goal), recipe, place, base)
    # The toy base knew nothing, so here even other text became less surprising.
    assert found is not None and found.low is not None and found.high is not None and 0 < found.low < found.high < 0.9
    assert beside.forgetting(learned, toys.recipe("sft"), place, base) is None, "nobody asked"


def test_who_has_no_language_model_cannot_be_asked(tmp_path: Path) -> None:
    body = with_other_text(tmp_path).model_dump(mode="json")
    other = toys.recipe("classification").model_dump(mode="json")
    other["evaluation"]["general"] = body["evaluation"]["general"]
    with pytest.raises(ValidationError, match="task 'classification' has none"):
        Recipe.model_validate(other)
    reward = toys.recipe("preference", objective="reward").model_dump(mode="json")
    reward["evaluation"]["general"] = body["evaluation"]["general"]
    with pytest.raises(ValidationError, match="a reward model is none"):
        Recipe.model_validate(reward)
    body["evaluation"]["general"]["source"]["sha256"] = None
    with pytest.raises(ValidationError, match="needs its sha256"):
        Recipe.model_validate(body)
