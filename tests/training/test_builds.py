"""Bases of other builds than the usual ones: what they need, what they cannot do, and what of theirs is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BertTokenizer

from adaptory import bases
from adaptory.errors import BaseModelError, RecipeError, UserError
from adaptory.training import adapter, answers, certificate, fit, forward, fused, methods, network, render, setup
from adaptory.training.render import Example
from tests.support import VOCABULARY
from tests.training.toys import recipe, trajectory, word_tokenizer, work

pytestmark = pytest.mark.slow

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
    "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}


def built(folder: Path, kind: str, auto: Any, **more: Any) -> Path:
    """A random base of another build, where `work` looks for its own."""
    torch.manual_seed(0)
    place = folder / "encoder"
    place.mkdir(parents=True)
    BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)}).save_pretrained(place)
    auto.from_config(AutoConfig.for_model(kind, **_SIZES | {"vocab_size": len(VOCABULARY)} | more)).save_pretrained(place)
    return place


def writer(folder: Path, kind: str, **more: Any) -> Path:
    """The same of one that writes."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    place = folder / ("causal" if kind == "gpt2" else "seq2seq")
    tokenizer.save_pretrained(place)
    auto = AutoModelForCausalLM if kind == "gpt2" else AutoModelForSeq2SeqLM
    auto.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ends, **more)).save_pretrained(place)
    return place


def again(one: Any, base: Path, folder: Path, task: str, first: Path | None = None) -> Any:
    """The model of a training, saved and loaded."""
    folder.mkdir()
    adapter.save(one.model, one.goal.settings, folder, "./base", bases.digest_of(base), first)
    return adapter.load(folder, base, bases.digest_of(base), task, one.goal.settings, recipe(task).data.classes)


@pytest.mark.parametrize("kind", ["deberta", "deberta-v2"])
@pytest.mark.parametrize("method", ["lora", "head"])
def test_deberta_learns_with_its_lowest_blocks_kept_as_without(tmp_path: Path, kind: str, method: str) -> None:
    plain, kept = (
        trajectory(work(built(tmp_path / name, kind, AutoModelForMaskedLM, **_DEBERTA).parent, method=method, cache_trunk=keep))
        for name, keep in (("plain", False), ("kept", True))
    )
    assert kept == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("fills", [False, True])
def test_deberta_learns_by_fused_steps_as_by_pefts(tmp_path: Path, fills: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes what a layer gave in place."""
    first = trajectory(work(built(tmp_path / "a", "deberta", AutoModelForMaskedLM, **_DEBERTA).parent, fused=False))
    monkeypatch.setattr(fused, "_filled", fused._filled if not fills else lambda flat, multiple: torch.nn.functional.pad(
        flat, (0, 0, 0, -len(flat) % 16)
    ))  # fmt: skip
    second = trajectory(work(built(tmp_path / "b", "deberta", AutoModelForMaskedLM, **_DEBERTA).parent))
    assert second == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize(
    ("task", "kind", "auto", "method"),
    [
        ("text", "electra", AutoModel, "lora"),
        ("text", "electra", AutoModel, "freeze"),
        ("text", "roberta", AutoModel, "lora"),
        ("classification", "modernbert", AutoModel, "lora"),
        ("classification", "modernbert", AutoModel, "freeze"),
        ("classification", "deberta-v2", AutoModel, "prompt_tuning"),
    ],
)
def test_what_a_base_did_not_bring_is_drawn_by_the_seed_and_learned(
    tmp_path: Path, task: str, kind: str, auto: Any, method: str
) -> None:
    more = {"global_attn_every_n_layers": 1} if kind == "modernbert" else {}
    base = built(tmp_path / "base", kind, auto, **more)
    top = {"top_layers": None} if method == "prompt_tuning" else {}
    one = work(base.parent, task, "encoder", method=method, seed=1, epochs=1, **top)
    inner = network.unwrapped(one.model)
    if method != "prompt_tuning":
        learned = [name.replace(".modules_to_save.default", "") for name in adapter.trained(one.model)]
        assert inner.drawn and all(any(f"{name}." in weight for weight in learned) for name in inner.drawn)
    fit.fit(one)
    fused.detach(one.model)
    golden = certificate.golden_answers(one.goal, one.model, one.validation[:6])
    assert certificate.golden_answers(one.goal, again(one, base, tmp_path / "saved", task), one.validation[:6]) == golden


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "bart"])
def test_a_base_is_asked_to_read_no_more_tokens_than_it_has_positions_for(tmp_path: Path, kind: str) -> None:
    if kind == "gpt2":
        base, most = writer(tmp_path, "gpt2", n_positions=64, n_embd=32, n_layer=2, n_head=2), 64
    elif kind == "bart":
        sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        base = writer(tmp_path, "bart", d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, **sizes)
        most = 64
    else:
        base = built(tmp_path, kind, AutoModelForMaskedLM)
        most = 64 if kind == "bert" else 63  # RoBERTa counts from its padding on
    task = "sft" if kind in ("gpt2", "bart") else "text"
    one = recipe(task, max_tokens=most, method="full", top_layers=None)
    model = adapter.make(base, one.task, one.training, ())
    setup._check_read(model, one.training)
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 5))
    with pytest.raises(RecipeError, match=f"max_tokens is {most + 1}, but the base reads at most {most}"):
        setup._check_read(model, recipe(task, max_tokens=most + 1).training)


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "ia3", "freeze"])
def test_gpt2_learns_though_its_layers_lie_the_other_way_round(tmp_path: Path, method: str) -> None:
    base = writer(tmp_path, "gpt2", n_positions=64, n_embd=32, n_layer=2, n_head=2)
    one = work(tmp_path, "sft", "causal", method=method, top_layers=1, epochs=6)
    first = adapter.save_first(one.model, one.goal.settings, tmp_path / "first")
    steps = trajectory(one)
    assert sum(steps[-8:]) < sum(steps[:8]), "the loss falls"
    fused.detach(one.model)
    golden = certificate.golden_answers(one.goal, one.model, one.validation[:6])
    found = certificate.golden_answers(one.goal, again(one, base, tmp_path / "saved", "sft", first), one.validation[:6])
    assert certificate.worst(golden, found) <= (1e-2 if method == "pissa" else 0)


def test_a_prompt_beyond_a_bases_positions_is_not_answered_and_a_question_is_refused(tmp_path: Path) -> None:
    base = writer(tmp_path, "gpt2", n_positions=64, n_embd=32, n_layer=2, n_head=2)
    one = recipe("sft", method="full", top_layers=None)
    made = render.renderer(base, "sft", one.training, network.config_of(base))
    model = adapter.make(base, "sft", one.training, ()).eval()
    assert answers.generate(model, made, [[5] * 70, [5] * 71], 12) == (["", ""], [False, False]), "nor what all begin with"
    texts, stopped = answers.generate(model, made, [[5] * 20, [5] * 60, [5] * 64, [5] * 80], 12)
    assert texts[2:] == ["", ""] and not any(stopped[2:]) and len(texts[1].split()) <= 4
    goal: Any = work(tmp_path / "other", "sft", "causal").goal
    with pytest.raises(UserError, match=r"a question has \d+ tokens, and this model reads at most 64"):
        answers.reply(model, made, goal, (), [{"prompt": "the " * 80}], 5)


def test_an_encoder_decoder_may_read_more_than_it_can_write(tmp_path: Path) -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 32}
    more = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "attention_window": 8, "decoder_start_token_id": 0}
    base = writer(tmp_path, "led", max_encoder_position_embeddings=256, max_decoder_position_embeddings=64, **sizes, **more)
    one = recipe("sft", method="full", top_layers=None, max_tokens=200)
    made = render.renderer(base, "sft", one.training, network.config_of(base))
    model = adapter.make(base, "sft", one.training, ()).eval()
    assert (network.positions(model), network.positions(model, written=True)) == (256, 64)
    setup._check_read(model, one.training)
    texts, _ = answers.generate(model, made, [[5] * 150, [5] * 300], 4)
    assert texts[0] and not texts[1]


def test_memory_that_runs_out_while_an_adapter_is_made_is_no_fault_of_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    def starved(*words: Any, **more: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(peft, "get_peft_model", starved)
    with pytest.raises(RuntimeError, match="can't allocate memory") as found:
        work(tmp_path, "sft", "causal")
    assert not isinstance(found.value, RecipeError)


def test_a_base_that_also_reads_pictures_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match=r"Gemma3ForConditionalGeneration, which is more than a language model"):
        network.load_base(tmp_path, "sft", recipe("sft").training, (), 0)


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("falcon_h1", {"lm_head_multiplier": 3.0, "head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}),
        ("minicpm3", {"dim_model_base": 8, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
                      "v_head_dim": 8}),
    ],
)  # fmt: skip
def test_logits_that_a_network_scales_in_its_own_way_are_computed_its_way(kind: str, own: dict[str, Any]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"vocab_size": 50, "num_key_value_heads": 4, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more, **own)).eval()
    rows = [Example("a", [7, 8, 9, 10, 11, 12], 2)]
    batch = forward.collate(rows, 0)
    with torch.no_grad():
        theirs = torch.nn.functional.cross_entropy(model(input_ids=batch.ids).logits[0, 1:-1], batch.ids[0, 2:], reduction="none")
        torch.testing.assert_close(forward.label_losses(model, batch)[0], theirs, rtol=1e-4, atol=1e-4)


def test_what_looks_like_padding_in_a_text_stands_where_the_network_puts_it(tmp_path: Path) -> None:
    base = built(tmp_path, "roberta", AutoModelForMaskedLM)
    one = work(base.parent, "classification", "encoder")
    model = one.model.eval()
    rows = [Example(str(n), [2, 6, 0, 7, *[8] * n, 3]) for n in range(12)]
    batch = forward.joined(model, rows)
    assert batch is not None
    with torch.no_grad(), forward.first_token_only(model, batch):
        together = forward.row_logits(model, batch)
    for row, said in zip(rows, together, strict=True):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids))).logits[0]
        torch.testing.assert_close(alone, said, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_text_that_holds_an_end_token_is_read_to_its_real_end(tmp_path: Path, kind: str) -> None:
    from tokenizers import processors

    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, **sizes}
    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    base = writer(tmp_path, kind, **bart if kind == "bart" else t5)
    tokenizer = word_tokenizer()
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", pair="$A [EOS] $B [EOS]", special_tokens=[("[EOS]", end)]
    )
    tokenizer.save_pretrained(base)
    one = recipe("classification", top_layers=None)
    made = render.renderer(base, "classification", one.training, network.config_of(base))
    model = adapter.make(base, "classification", one.training, one.data.classes).eval()
    goal: Any = work(tmp_path / "other", "classification", "encoder").goal
    said = answers.reply(model, made, goal, one.data.classes, [{"text": "the lovely film"}, {"text": "a [EOS] sad story"}], 5)
    assert len(said) == 2
    assert [ids.count(end) for ids, _ in made.typed(["a [EOS] sad story"])] == [1]


@pytest.mark.parametrize(
    ("task", "kind"), [("text", "causal"), ("text", "encoder"), ("classification", "causal"), ("sft", "causal")]
)
def test_a_question_without_a_token_to_read_is_refused(tmp_path: Path, task: str, kind: str) -> None:
    one = work(tmp_path, task, kind)
    made = render.renderer(tmp_path / kind, recipe(task).task, one.goal.settings, network.config_of(tmp_path / kind))
    asked = {"prompt": "" if task == "sft" else None, "text": ""}
    if task == "sft":
        made = render.Renderer(made.tokenizer, made.task, made.kind, made.max_tokens, "{{ messages[0]['content'] }}", None)
    with pytest.raises(UserError, match="holds no text that this model could read"):
        answers.reply(one.model, made, one.goal, recipe().data.classes, [asked], 5)


@pytest.mark.parametrize("kind", ["causal", "encoder", "seq2seq"])
def test_virtual_tokens_stand_just_before_every_prompt_whatever_is_answered_beside_it(tmp_path: Path, kind: str) -> None:
    if kind == "encoder":
        with pytest.raises(RecipeError, match="'prompt_tuning' cannot be had on a bert: peft says"):
            work(tmp_path, "text", "encoder", method="prompt_tuning", top_layers=None)
        return
    one = work(tmp_path, "sft", kind, method="prompt_tuning", top_layers=None, learning_rate=0.1)
    made = render.renderer(tmp_path / kind, "sft", one.goal.settings, network.config_of(tmp_path / kind))
    fit.fit(one)
    prompts = [row.ids[: row.start] if kind == "causal" else (row.second or []) for row in one.train[:12]]
    assert len({len(prompt) for prompt in prompts}) > 3
    together = answers.generate(one.model, made, prompts, 8)[0]
    assert together == [answers.generate(one.model, made, [prompt], 8)[0][0] for prompt in prompts]


def test_a_random_start_is_no_reference_for_preferences() -> None:
    with pytest.raises(ValueError, match="'prompt_tuning' cannot go with DPO"):
        recipe("preference", method="prompt_tuning", objective="dpo", top_layers=None)


def test_a_method_that_peft_has_no_place_for_on_this_base_is_refused_with_its_reason(tmp_path: Path) -> None:
    base = built(tmp_path, "electra", AutoModelForMaskedLM)
    one = recipe("classification", method="ia3", top_layers=None)
    with pytest.raises(RecipeError, match=r"method 'ia3' cannot be had on a electra: peft says ValueError"):
        methods.prepare(network.load_base(base, one.task, one.training, one.data.classes, 0), one.task, one.training, head=True)
