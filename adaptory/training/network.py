"""The network of a task: a base from its folder, with the head the task needs.

torch and transformers are imported inside the functions: they take seconds, and most commands need neither.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptory.errors import BaseModelError
from adaptory.garbage import make_room
from adaptory.recipe import Task
from adaptory.recipe.training import ADAPTERS, Training
from adaptory.training import devices
from adaptory.training.render import kind_of

# encoder.layer.3, model.layers.3, transformer.h.3, encoder.block.3: the number of a block.
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|block|h)\.(\d+)(?:\.|$)")
_POSITIONS = ("position_embeddings", "embed_positions", "wpe")  # tables of them
HEADS, MASKED_HEAD = ("pooler", "pre_classifier", "classifier", "classification_head", "score"), "cls"


def device() -> Any:
    """Where models run on this machine: one GPU per process where there are any."""
    import os

    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def holds_bf16(settings: Training) -> bool:
    """Whether the base is held in bf16, in half the memory: where it is frozen and computed with in bf16 anyway, on a GPU.

    PiSSA changes the base by less than bf16 can hold; QLoRA holds it in 4 bits.
    """
    frozen = settings.method in ADAPTERS and settings.method not in ("pissa", "qlora")
    return frozen and devices.all_in_bf16(device(), settings.precision)


def rounds(settings: Training) -> bool:
    """Whether the base's products are of so few digits that the same question, asked in another way, has a near answer only."""
    return holds_bf16(settings) or settings.method == "qlora"


def config_of(base: Path) -> Any:
    """The configuration of a base."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)


def outputs_of(task: Task, settings: Training, classes: Sequence[str]) -> int | None:
    """How many numbers the task's own head gives; None for a task of tokens."""
    if task in ("classification", "pair_classification"):
        return len(classes)
    return 1 if task == "regression" or (task == "preference" and settings.objective == "reward") else None


def load_base(base: Path, task: Task, settings: Training, classes: Sequence[str], seed: int) -> Any:
    """The base with the head of the task; layers that it did not bring are drawn from `seed`, so a second call gives the same
    model, and named in `drawn`.

    Dropout of the base is off: the work it costs bought nothing (docs/log.md).
    """
    import torch
    import transformers

    make_room()
    config, half = config_of(base), holds_bf16(settings)
    kind, outputs = kind_of(config), outputs_of(task, settings, classes)
    _check_text_only(config, kind)
    drops = [name for name in vars(config) if name.endswith(("dropout", "dropout_prob", "dropout_rate", "pdrop", "layerdrop"))]
    more: dict[str, Any] = {name: 0.0 for name in drops if isinstance(getattr(config, name), float)}
    if outputs is not None:
        model_class = transformers.AutoModelForSequenceClassification
        more["num_labels"] = outputs
        if classes:
            more |= {"id2label": dict(enumerate(classes)), "label2id": {name: place for place, name in enumerate(classes)}}
    elif kind == "seq2seq":
        model_class = transformers.AutoModelForSeq2SeqLM
    else:
        model_class = transformers.AutoModelForMaskedLM if kind == "encoder" else transformers.AutoModelForCausalLM
    if task in ("sft", "preference") and kind == "encoder":
        raise BaseModelError(f"task {task!r} needs a base that writes text; {config.model_type} is an encoder")
    torch.manual_seed(seed)
    with _quiet():
        model, found = model_class.from_pretrained(
            base, dtype=torch.bfloat16 if half else torch.float32, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, output_loading_info=True, **_placed(), **_quantised(settings, model_class, config), **more,
        )  # fmt: skip
    model.drawn = sorted(key.removesuffix(".weight") for key in found["missing_keys"] if key.endswith(".weight"))
    for name, part in model.named_modules() if half else ():
        if name.rpartition(".")[2] in (*HEADS, MASKED_HEAD) or name in model.drawn or "norm" in type(part).__name__.lower():
            part.float()  # heads train; norms are small, and sums of squares
    if getattr(model.config, "pad_token_id", None) is None and hasattr(model.config, "eos_token_id"):
        model.config.pad_token_id = model.config.eos_token_id
    return model


def _check_text_only(config: Any, kind: str) -> None:
    """Raises BaseModelError for a base that reads pictures or sounds, too: only its language model could be trained here."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as WRITERS

    name = str(WRITERS.get(config.model_type, ""))
    if kind == "causal" and name and "CausalLM" not in name and "LMHead" not in name:
        raise BaseModelError(f"the base is a {name}, which is more than a language model; take the text-only one of its family")


def blocks(model: Any) -> dict[str, int]:
    """Module name -> number of its block, for everything inside one; of two stacks of unequal depth the topmost have the same."""
    found = [(name, one[1], name[: one.start()]) for name, _ in model.named_modules() if (one := _BLOCK.search(name))]
    if not unwrapped(model).config.is_encoder_decoder:
        return {name: int(number) for name, number, _ in found}
    depth: dict[str, int] = {}
    for _, number, stack in found:
        depth[stack] = max(depth.get(stack, 0), int(number))
    return {name: int(number) + max(depth.values()) - depth[stack] for name, number, stack in found}


def block_modules(model: Any) -> list[Any]:
    """The blocks themselves, in the order of the network."""
    return [part for name, part in model.named_modules() if (found := _BLOCK.search(name)) and found.end() == len(name)]


def block_count(model: Any) -> int:
    """How many blocks a network has. Raises BaseModelError if none can be told apart."""
    numbers = blocks(model).values()
    if not numbers:
        raise BaseModelError(f"{type(model).__name__} has no numbered blocks; only methods full and head can train it")
    return max(numbers) + 1


def lowest_trained_block(model: Any, top_layers: int | None) -> int:
    """The number of the lowest of the top blocks. Raises BaseModelError when the base has fewer."""
    count = block_count(model)
    if top_layers is not None and top_layers > count:
        raise BaseModelError(f"training.top_layers is {top_layers}, but the base has {count} blocks; lower it")
    return count - (top_layers or count)


def linear_layers() -> tuple[Any, ...]:
    """The kinds of layers that are products with a matrix; GPT-2 has one of its own."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return torch.nn.Linear, Conv1D


def heads(model: Any) -> list[str]:
    """The names of the task's own head modules."""
    return [name for name in HEADS if any(part == name or part.endswith("." + name) for part, _ in model.named_modules())]


def unwrapped(model: Any) -> Any:
    """The transformers model inside, with the adapter's layers in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def learns_prompt(model: Any) -> bool:
    """Whether virtual tokens stand before the row's own: then only peft's own forward pass is right."""
    found = getattr(model, "active_peft_config", None)
    return found is not None and bool(found.is_prompt_learning)


def positions(model: Any, *, written: bool = False) -> int | None:
    """The most tokens a row may have; None where positions are computed, not looked up. Written: those of an encoder-decoder's
    answer, for which it may have another table."""
    import torch

    found: list[int] = []
    two = unwrapped(model).config.is_encoder_decoder  # a lone decoder may be called so, too
    for name, part in unwrapped(model).named_modules():
        *above, last = name.split(".")
        if isinstance(part, torch.nn.Embedding) and last in _POSITIONS and (two and "decoder" in above) <= written:
            first = 0 if part.padding_idx is None else part.padding_idx + 1  # where RoBERTa begins to count
            found.append(part.num_embeddings - getattr(part, "offset", 0) - first)
    if not found:
        return None
    return min(found) - int(model.active_peft_config.num_virtual_tokens if learns_prompt(model) else 0)


def _placed() -> dict[str, Any]:
    """On a GPU weights go there as they are read: several processes would each hold a whole base in the host's memory, and PiSSA
    would take every matrix apart on the CPU.

    What will be sharded is not: no GPU need hold all of it.
    """
    where = device()
    return {"device_map": {"": where}} if where.type == "cuda" and not devices.sharded() else {}


def _quantised(settings: Training, model_class: Any, config: Any) -> dict[str, Any]:
    """4 bits for the linear layers in the blocks (Dettmers et al. 2023); heads train, and are left as they are."""
    if settings.method != "qlora":
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        bare = model_class.from_config(config)
    whole = [name for name, part in bare.named_modules() if isinstance(part, torch.nn.Linear) and not _BLOCK.search(name)]
    whole += list(bare._keep_in_fp32_modules or ())  # T5 casts what it computes to the type of these weights
    return {"quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=whole,
        bnb_4bit_compute_dtype=torch.bfloat16 if devices.in_bf16(device(), settings.precision) else torch.float32,
    )}  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports at length which weights of a head are new; here they always are."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
