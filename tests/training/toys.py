"""Networks of four small blocks, and trainings on them that take a second."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import polars

from adaptory.recipe import Recipe
from adaptory.training import adapter, answers, curve, devices, fit, fused, network, objectives, render
from adaptory.training.trunk import Trunk
from adaptory.training.work import Work
from tests.support import FILLER, VOCABULARY, WORDS, tiny_recipe

_FIELDS: dict[str, dict[str, Any]] = {
    "classification": {},
    "regression": {"text": "text", "value": "value"},
    "pair_classification": {"text": "a", "text_pair": "b", "label": {"column": "l", "classes": ["no", "yes"]}},
    "sft": {"prompt": "q", "response": "a"},
    "preference": {"prompt": "q", "chosen": "c", "rejected": "r"},
    "text": {"text": "text"},
}
_FLOORS = {
    "classification": "macro_f1", "regression": "mae", "pair_classification": "macro_f1", "sft": "chrf",
    "preference": "reward_accuracy", "text": "perplexity",
}  # fmt: skip


def base(folder: Path, kind: str = "encoder") -> Path:
    """A random network of four blocks with a word tokenizer: an encoder (BERT), causal (Llama) or seq2seq (T5)."""
    if not (folder / "config.json").is_file():
        shutil.copytree(_made(kind).name, folder, dirs_exist_ok=True)
    return folder


@cache
def _made(kind: str) -> tempfile.TemporaryDirectory[str]:
    """Once per process, in a folder that ends with it."""
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    made = tempfile.TemporaryDirectory(prefix="toy-")
    folder = Path(made.name)
    torch.manual_seed(0)
    if kind == "encoder":
        BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)}).save_pretrained(folder)
        sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, initializer_range=0.3, **sizes)
        BertForMaskedLM(config).save_pretrained(folder)
        return made
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if kind == "causal":
        llama = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None,
            tie_word_embeddings=True, **ends,
        )  # fmt: skip
        LlamaForCausalLM(llama).save_pretrained(folder)
    else:
        t5 = T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=4, num_heads=2, decoder_start_token_id=0,
            tie_word_embeddings=False, **ends,
        )  # fmt: skip
        T5ForConditionalGeneration(t5).save_pretrained(folder)
    return made


def word_tokenizer() -> Any:
    """Words of the toy vocabulary, and a stop token that is also what pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[EOS]", *VOCABULARY[5:]]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", eos_token="[EOS]", pad_token="[EOS]")


def recipe(task: str = "classification", **training: Any) -> Recipe:
    """A recipe of this task with these training settings."""
    settings = {"rank": 4, "alpha": 8, "epochs": 2, "batch_rows": 8, "learning_rate": 0.01, "max_tokens": 48, "top_layers": 2}
    metric = _FLOORS[task]
    direction = "lower" if metric in ("mae", "perplexity") else "higher"
    changes: dict[str, Any] = {
        "task": task,
        "training": settings | training,
        "evaluation.baselines": [],
        "gate.criteria": [{"kind": "floor", "metric": metric, "direction": direction, "limit": 0.5}],
    }
    if task != "classification":
        changes["data.fields"] = _FIELDS[task]
    return Recipe.model_validate({"name": "toy", **tiny_recipe(**changes)})


def table(task: str, count: int, seed: int = 0) -> Any:
    """Rows of a task in the columns that the data stages give them."""
    import json
    import random

    draw = random.Random(seed)
    rows = []
    for place in range(count):
        label = draw.choice(list(WORDS))
        words = draw.choices(FILLER, k=draw.randint(2, 14)) + draw.choices(WORDS[label], k=2)
        draw.shuffle(words)
        text = " ".join(words)
        good, bad = (" ".join(draw.choices(WORDS[one], k=draw.randint(1, 6))) for one in ("positive", "negative"))
        chat = [{"role": "user", "content": text}, {"role": "assistant", "content": good}]
        rows.append({
            "row": f"s/{place}", "source": "s", "file": "f", "line": place + 1, "text": text, "label": label,
            "value": float(list(WORDS).index(label)), "text_pair": good, "messages": json.dumps(chat), "prompt": text,
            "chosen": good, "rejected": bad,
        })  # fmt: skip
    made = polars.DataFrame(rows)
    if task == "pair_classification":
        made = made.with_columns(label=polars.Series(["yes" if n % 2 else "no" for n in range(count)]))
    return made


def work(
    folder: Path, task: str = "classification", kind: str = "encoder", count: int = 60, rows: Any = None, **training: Any
) -> Work:
    """A training that is ready to start, on these rows or on made-up ones."""
    made = recipe(task, **{"precision": "fp32"} | training)
    settings, place = made.training, base(folder / kind, kind)
    renderer = render.renderer(place, made.task, settings, network.config_of(place))
    train, _ = render.examples(renderer, made, table(task, count) if rows is None else rows)
    held, _ = render.examples(renderer, made, table(task, 20, seed=1) if rows is None else rows.tail(20))
    goal = objectives.objective(made.task, settings, renderer, train, len(made.data.classes))
    model = adapter.make(place, made.task, settings, made.data.classes)
    goal = objectives.laid_out(goal, model)
    if devices.sharded():
        devices.shard(model, network.block_modules(model), network.device())
    if settings.fused:
        fused.attach(model, bf16=devices.in_bf16(network.device(), settings.precision))
    trunk = None
    if settings.cache_trunk:
        cut = network.block_count(model) if settings.method == "head" else 4 - (settings.top_layers or 4)
        trunk = Trunk(model, cut, folder / f"trunk-{task}-{kind}-{cut}")
        trunk.extend([one for rows in (train, held) for one in objectives.sequences_of(goal, rows)], renderer.pad)
        trunk.attach()
    references = [answers.references(model, goal, rows, trunk) if goal.name == "dpo" else [] for rows in (train, held)]
    return Work(
        model, goal, train, held, "toy", folder / "checkpoints", lambda event: None, references[0], references[1], trunk, 1e9
    )


def unfused(folder: Path, task: str, kind: str, **training: Any) -> Work:
    """A training whose layers are as peft has them, and whose head is computed where a label stands."""
    one = work(folder, task, kind, **training)
    fused.detach(one.model)
    return one


def trajectory(one: Work) -> list[float]:
    """The loss of every step."""
    fit.fit(one)
    return [event["loss"] for event in curve.told(one.folder) if event["event"] == "step"]
