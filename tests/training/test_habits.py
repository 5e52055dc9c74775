"""What one base does otherwise than most: where its texts begin, which messages its template takes, how its stacks are built."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

from adaptory.errors import DataError, RecipeError
from adaptory.evaluation import baselines
from adaptory.evaluation.embeddings import embed
from adaptory.training import methods, network, objectives, render
from tests.training.toys import base, recipe, table, word_tokenizer

USER = [{"role": "user", "content": "the lovely film"}]


def beginning(**more: Any) -> render.Renderer:
    """A base whose tokenizer puts a token before every text, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[BOS]"})
    first = ("[BOS]", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[BOS] $A", special_tokens=[first])
    return render.Renderer(tokenizer, more.pop("task", "sft"), more.pop("kind", "causal"), 12, render.BARE, None, **more)


def test_prompts_and_passages_begin_as_the_bases_own_texts_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made = beginning()
    bos = made.tokenizer.bos_token_id
    assert made.begin == [bos] and made.prompt(USER)[0] == bos == made.typed(["the film"])[0][0][0]
    assert made.prompt(USER).count(bos) == 1
    passage = made.passage("the lovely film " * 9)
    assert passage[0] == bos and len(passage) == 12
    rows = table("text", 8).with_columns(text=polars.lit("the lovely film was great and the story is sad"))
    found, _ = render.examples(beginning(task="text"), recipe("text"), rows)
    assert all(row.ids[0] == bos and row.start == 1 and len(row.ids) <= 12 for row in found)
    plain = render.Renderer(word_tokenizer(), "text", "causal", 12, render.BARE, None)
    assert plain.begin == [] and plain.digest != beginning(task="text").digest
    # What always began so is named as before.
    monkeypatch.setattr(render.Renderer, "begin", [])
    bare = [beginning(task=task).digest for task in ("classification", "sft")]
    monkeypatch.undo()
    assert beginning(task="classification").digest == bare[0] and beginning(task="sft").digest != bare[1]


def test_a_chat_template_writes_the_beginning_itself() -> None:
    made = beginning()
    templated = render.Renderer(made.tokenizer, "sft", "causal", 12, "{{ bos_token }}{{ messages[0]['content'] }}", None)
    assert templated.prompt(USER).count(made.tokenizer.bos_token_id) == 1


def test_a_row_that_the_template_refuses_is_left_out_by_its_line_and_a_question_is_told() -> None:
    template = (
        "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "{{ message['content'] }}{% endfor %}"
    )
    made = render.Renderer(word_tokenizer(), "sft", "causal", 48, template, None)
    answer = {"role": "assistant", "content": "great"}
    rows = [[*USER, answer]] * 200 + [[*USER, {"role": "tool", "content": "film"}, answer]]
    told = polars.DataFrame([
        {"row": f"s/{n}", "file": "rows.jsonl", "line": n + 1, "messages": json.dumps(chat)} for n, chat in enumerate(rows)
    ])  # fmt: skip
    found, left = render.examples(made, recipe("sft"), told)
    assert len(found) == 200
    assert [(one.where, one.reason) for one in left] == [
        ("rows.jsonl:201", "the chat template of the base refuses these messages: no tools here")
    ]
    with pytest.raises(DataError, match="refuses these messages"):
        made.prompt(rows[-1][:-1])


def test_what_looks_like_the_stop_token_in_an_answer_is_text() -> None:
    made = render.Renderer(word_tokenizer(), "sft", "causal", 48, render.BARE, None)
    assert made.response("the film [EOS] was great").count(made.stop) == 1


def test_of_several_chat_templates_the_default_is_taken_and_without_one_its_user_must_say(tmp_path: Path) -> None:
    folder = base(tmp_path / "causal", "causal")
    tokenizer = word_tokenizer()
    settings, config = recipe("sft").training, network.config_of(folder)
    tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "tools": "{{ tools }}"}
    tokenizer.save_pretrained(folder)
    assert render.renderer(folder, "sft", settings, config).template == "{{ messages[0]['content'] }}"
    tokenizer.chat_template = {"rag": "{{ documents }}", "tools": "{{ tools }}"}
    for old in folder.rglob("*.jinja"):
        old.unlink()
    tokenizer.save_pretrained(folder)
    with pytest.raises(RecipeError, match=r"several chat templates \(rag, tools\), none of them the default"):
        render.renderer(folder, "sft", settings, config)


def test_the_reading_half_of_an_encoder_decoder_embeds_texts(tmp_path: Path) -> None:
    near = embed(base(tmp_path / "seq2seq", "seq2seq"), ["the lovely film", "the lovely film", "a sad street"], 16)
    assert near.shape == (3, 32) and np.allclose(np.linalg.norm(near, axis=1), 1)
    assert np.allclose(near[0], near[1]) and not np.allclose(near[0], near[2])


def test_of_two_stacks_of_unequal_depth_the_topmost_blocks_of_both_train() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "vocab_size": 32}
    model = T5ForConditionalGeneration(T5Config(num_layers=6, num_decoder_layers=2, **sizes))
    names = methods.target_modules(model, 1)
    assert {name.split(".layer.")[0] for name in names} == {"encoder.block.5", "decoder.block.1"}
    assert network.block_count(model) == 6


def test_a_lone_decoders_table_of_positions_is_found() -> None:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    model = OPTForCausalLM(OPTConfig(vocab_size=32, max_position_embeddings=24, **sizes))
    assert network.positions(model) == 24


@pytest.mark.parametrize(("rare", "rows"), [(1, 32), (2, 4)])
def test_balanced_classes_have_the_same_part_of_the_gradient_whatever_a_step_holds(rare: int, rows: int) -> None:
    """Divided by the weights of each step, the rare class would lose where it is missing from most steps."""
    import torch

    count = 40 * rows
    every = [render.Example(str(n), [1], target=float(n < rare * count // 40)) for n in range(count)]
    made = render.Renderer(word_tokenizer(), "classification", "encoder", 12, render.BARE, None)
    goal = objectives.objective("classification", recipe(class_weights="balanced").training, made, every, 2)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    parts = [0.0, 0.0]
    for start in range(0, count, rows):
        window = [every[place] for place in order[start : start + rows]]
        for row in window:
            parts[int(row.target)] += goal.class_weights[int(row.target)] / sum(goal.weight(one) for one in window)
    assert parts[0] == pytest.approx(parts[1])


@pytest.mark.parametrize(
    "texts",
    [
        ["这部电影很好看我很喜欢", "街道很脏我不喜欢这里", "书很有意思值得一读", "天气真糟糕让人难过"],
        ["good film", "bad street", "odd phone", "sad story"],
    ],
    ids=["without spaces", "nothing twice"],
)
def test_tfidf_answers_where_no_word_stands_in_two_texts(texts: list[str], tmp_path: Path) -> None:
    rows = polars.DataFrame({"text": texts, "label": ["positive", "negative", "positive", "negative"]})
    said = baselines.tfidf(baselines.Ask(recipe(), rows, rows, tmp_path, lambda done: None))
    assert said.chances.shape == (4, 3) and said.chances.sum(1) == pytest.approx(np.ones(4))


def test_what_a_system_is_told_stands_once_before_the_examples_that_are_shown(tmp_path: Path) -> None:
    begin, end = {"role": "system", "content": "be brief"}, {"role": "assistant", "content": "so"}
    chats = [[begin, {"role": "user", "content": f"question {n}"}, end] for n in range(4)]
    told = polars.DataFrame({"row": list("abcd"), "messages": [json.dumps(chat) for chat in chats]})
    shown = baselines.shown_chats(baselines.Ask(recipe("sft"), told, told, tmp_path, lambda done: None))
    assert shown and {turn["role"] for turn in shown} == {"user", "assistant"}
