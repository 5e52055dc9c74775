"""What all prompts begin with is computed once, and nothing about the answers changes."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.errors import RecipeError
from adaptory.evaluation import baselines
from adaptory.recipe import Recipe
from adaptory.training import answers, network, prefix, render
from tests.support import FILLER, WORDS
from tests.training import toys

SAID = {"negative": "awful", "neutral": "table", "positive": "lovely"}
GREETING = (FILLER * 3)[:24]


def model_and_renderer(folder: Path) -> tuple[object, render.Renderer]:
    one = toys.work(folder, "sft", "causal")
    made = render.renderer(folder / "causal", "sft", one.goal.settings, network.config_of(folder / "causal"))
    return one.model, made


def prompts_of(made: render.Renderer, count: int) -> list[list[int]]:
    draw = random.Random(3)
    begin = made.tokenizer(" ".join(GREETING))["input_ids"]
    words = [word for several in WORDS.values() for word in several]
    return [begin + made.tokenizer(" ".join(draw.choices(words, k=draw.randint(1, 9))))["input_ids"] for _ in range(count)]


def test_answers_are_the_same_with_and_without_what_prompts_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = model_and_renderer(tmp_path)
    prompts = prompts_of(made, 12)
    assert len(prefix.Shared.of(model, made, prompts).tokens) >= 24
    shared = answers.generate(model, made, prompts, 10)
    monkeypatch.setattr(prefix, "_WORTH", 10**6)
    assert answers.generate(model, made, prompts, 10) == shared
    monkeypatch.setattr(prefix, "plain", lambda model, made: False)
    theirs = answers.generate(model, made, prompts, 10)
    assert theirs == shared, "what transformers' own loop writes"
    assert len({len(text.split()) for text in shared[0]}) > 1, "some end before others"


def test_the_likelihood_of_an_option_is_that_of_its_tokens_after_the_prompt(tmp_path: Path) -> None:
    import torch

    model, made = model_and_renderer(tmp_path)
    prompts, options = prompts_of(made, 7), [[4, 9], [12], [5, 6, 7]]
    found = prefix.likelihoods(model, made, prompts, options)
    for row, prompt in enumerate(prompts):
        for place, option in enumerate(options):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([prompt + option])).logits[0]  # type: ignore[operator]
            chances = torch.log_softmax(logits.float(), dim=-1)
            alone = sum(float(chances[len(prompt) - 1 + n, token]) for n, token in enumerate(option))
            assert found[row, place] == pytest.approx(alone, abs=1e-4)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_shared_beginning_is_one_of_every_prompt_and_leaves_it_a_token(prompts: list[list[int]]) -> None:
    length = prefix._shared(prompts)
    assert all(prompt[:length] == prompts[0][:length] and len(prompt) > length for prompt in prompts)
    longer = {tuple(prompt[: length + 1]) for prompt in prompts}
    assert len(longer) > 1 or min(map(len, prompts)) == length + 1, "it could be longer"


def asked(folder: Path, kind: str, **evaluation: object) -> baselines.Ask:
    recipe = toys.recipe("classification")
    body = recipe.model_dump(mode="json")
    body["evaluation"] |= evaluation
    body["data"]["fields"]["label"]["classes"] = list(SAID.values())  # words that the toy tokenizer knows
    train, test = (toys.table("classification", n, seed=n).with_columns(pl.col("label").replace(SAID)) for n in (40, 30))
    return baselines.Ask(Recipe.model_validate(body), train, test, toys.base(folder / kind, kind), lambda done: None)


def test_a_language_model_is_asked_for_classes_and_answers_with_chances(tmp_path: Path) -> None:
    ask = asked(tmp_path, "causal", shots=2, prompt="this {text} is one of {classes}")
    zero, few = baselines.zero_shot(ask), baselines.few_shot(ask)
    for one in (zero, few):
        assert one.chances is not None and one.chances.shape == (30, 3)
        assert np.allclose(one.chances.sum(axis=1), 1) and one.picked is not None
    assert not np.allclose(zero.chances, few.chances), "examples change what it says"
    shown = baselines._shown(ask)
    assert [label for _, label in shown[:3]] == list(SAID.values()) and len(shown) == 6


def test_an_encoder_cannot_be_prompted_and_says_what_can(tmp_path: Path) -> None:
    ask = asked(tmp_path, "encoder")
    with pytest.raises(RecipeError, match="use 'untuned'"):
        baselines.zero_shot(ask)
    assert baselines.few_shot(ask).chances is None, "prototypes"
    assert baselines.possible(ask.recipe, ask.base) == ["few_shot"]
    assert baselines.possible(ask.recipe, toys.base(tmp_path / "causal", "causal")) == ["zero_shot", "few_shot"]
