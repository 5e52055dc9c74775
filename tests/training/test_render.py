"""A row becomes tokens in one way; what is learned goes by position; what cannot be learned from is named by its line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptory.errors import DataError, RecipeError
from adaptory.training import forward, network, objectives, render, xray
from tests.support import FILLER
from tests.training.toys import base, recipe, table, word_tokenizer

words = st.lists(st.sampled_from(FILLER), min_size=1, max_size=12).map(" ".join)


def made(task: str = "sft", kind: str = "causal", **changes: Any) -> render.Renderer:
    return render.Renderer(word_tokenizer(), task, kind, 48, render.BARE, None, **changes)


def chats(*pairs: tuple[str, str]) -> Any:
    rows = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in pairs]
    return polars.DataFrame([
        {"row": f"s/{n}", "file": "rows.jsonl", "line": n + 1, "messages": json.dumps(chat)} for n, chat in enumerate(rows)
    ])  # fmt: skip


@given(words, words)
@settings(max_examples=60)
def test_only_the_answer_and_its_stop_token_are_learned(asked: str, said: str) -> None:
    one = made()
    (row,), left = render.examples(one, recipe("sft"), chats((asked, said)))
    assert not left
    assert row.ids[row.start :] == one.response(said)
    assert row.ids[: row.start] == one.prompt([{"role": "user", "content": asked}])
    labels = forward.collate([row], one.pad).labels[0].tolist()
    assert [label for label in labels if label != forward.IGNORED] == one.response(said)
    assert labels[-1] == one.stop, "the last label is the stop token"


@given(words)
@settings(max_examples=30)
def test_an_answer_that_holds_the_padding_token_is_learned_whole(said: str) -> None:
    """The stop token is also what pads: a mask by id would hide it, and the model would never stop."""
    one = made()
    text = f"{said} [EOS] {said}"
    rows, _ = render.examples(one, recipe("sft"), chats(("the film", text), ("the film", f"{said} {said} {said}")))
    batch = forward.collate(rows, one.pad)
    for row, labels in zip(rows, batch.labels.tolist(), strict=True):
        assert [label for label in labels if label != forward.IGNORED] == row.ids[row.start :]
    assert batch.mask is None or batch.mask.sum(1).tolist() == [len(row.ids) for row in rows]


def test_a_row_that_does_not_fit_is_left_out_and_too_many_are_refused_by_line() -> None:
    long = " ".join(["the"] * 60)
    many = [("the film", f"was {word}") for word in FILLER] * 20
    found, left = render.examples(made(), recipe("sft"), chats(*many, ("the film", long)))
    assert len(found) == len(many) and [one.where for one in left] == [f"rows.jsonl:{len(many) + 1}"]
    with pytest.raises(DataError, match=r"1 of 2 rows cannot .* rows\.jsonl:2: 2 \+ 61 tokens.*training\.max_tokens \(48\)"):
        render.examples(made(), recipe("sft"), chats(("the film", "was"), ("the film", long)))


def test_the_system_message_stands_before_every_prompt() -> None:
    one = replace(made(), system="this is")
    row = render.examples(one, recipe("sft"), chats(("the film", "was")))[0][0]
    assert one.tokenizer.decode(row.ids[: row.start]) == "this is the film"


def test_a_chat_template_is_what_renders_training_and_serving(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}{% if add_generation_prompt %}the{% endif %}"
    one = replace(made(), template=template)
    row = render.examples(one, recipe("sft"), chats(("film", "was")))[0][0]
    assert row.ids[: row.start] == one.tokenizer("user : film the", add_special_tokens=False)["input_ids"]
    assert one.prompt([{"role": "user", "content": "film"}]) == row.ids[: row.start]


def test_whatever_decides_the_rendering_decides_its_digest(tmp_path: Path) -> None:
    one = made()
    others = [replace(one, template="x"), replace(one, system="y"), replace(one, max_tokens=9), replace(one, task="text")]
    assert len({one.digest, *(other.digest for other in others)}) == 5
    before = one.digest
    one.tokenizer(["the"], truncation=True, max_length=3, padding=True)
    assert one.digest == before, "calls leave traces in the tokenizer that decide nothing"
    place = base(tmp_path / "causal", "causal")
    one.tokenizer.save_pretrained(tmp_path / "saved")
    config = network.config_of(place)
    again = [render.renderer(folder, "sft", recipe("sft").training, config).digest for folder in (place, tmp_path / "saved")]
    assert again[0] == again[1]


def test_a_long_text_is_read_in_pieces_and_none_of_it_is_lost() -> None:
    text = " ".join(FILLER * 20)
    rows = polars.DataFrame([{"row": "s/0", "file": "f", "line": 1, "text": text}])
    one = made("text")
    found, _ = render.examples(one, recipe("text"), rows)
    whole = one.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [token for row in found for token in row.ids] == [*whole, one.stop]
    assert all(len(row.ids) <= 48 for row in found)


def test_a_base_without_a_stop_token_is_refused() -> None:
    one = made()
    one.tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="answers could never stop"):
        one.response("the")


def test_masked_tokens_are_a_function_of_seed_epoch_and_row_and_not_of_the_batch(tmp_path: Path) -> None:
    place = base(tmp_path / "encoder")
    made_recipe = recipe("text")
    one = render.renderer(place, "text", made_recipe.training, network.config_of(place))
    rows, _ = render.examples(one, made_recipe, table("text", 12))
    goal = objectives.objective("text", made_recipe.training, one, rows, 0)
    together = objectives.prepared(goal, rows, (0, 1))
    for place_, row in enumerate(rows):
        alone = objectives.prepared(goal, [row], (0, 1))
        width = len(row.ids)
        assert together.ids[place_, :width].tolist() == alone.ids[0].tolist()
        assert together.labels[place_, :width].tolist() == alone.labels[0].tolist()
        hidden = sum(label != forward.IGNORED for label in alone.labels[0].tolist())
        assert hidden == goal.weight(row) >= 1
        assert alone.labels[0, 0] == alone.labels[0, -1] == forward.IGNORED, "special tokens are not guessed"
    assert objectives.prepared(goal, rows, (0, 2)).ids.tolist() != together.ids.tolist()


def test_the_xray_shows_what_is_learned_and_where_it_stops() -> None:
    one = made()
    rows, left = render.examples(one, recipe("sft"), chats(("the film", "was happy"), ("this", "great")))
    goal = objectives.objective("sft", recipe("sft").training, one, rows, 0)
    page = xray.text(one, goal, rows, left)
    assert "2 rows, 8 tokens, 5 of them learned" in page
    assert "the film [was] [happy] [<stop>]" in page
    assert "this [great] [<stop>]" in page
