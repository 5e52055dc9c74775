"""The adapter: made on a base, saved apart from it, loaded only on the same base.

torch and peft are imported inside the functions: they take seconds, and most commands need neither.
"""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptory import bases, fingerprint
from adaptory.errors import BaseModelError, ReleaseError
from adaptory.recipe import Training

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LAYER = re.compile(r"\blayers?\.(\d+)\.")


def device() -> Any:
    """Where models run on this machine."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer that lies with a base or an adapter."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_classifier(base: Path, classes: Sequence[str], seed: int) -> Any:
    """The base with a new classification head; dropout off, since the work it costs buys nothing here.

    The head is drawn from `seed`, so a second call gives the same model.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    labels = dict(enumerate(classes))
    return AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=len(classes),
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )


def add_adapter(model: Any, settings: Training) -> Any:
    """The model with LoRA in the linear layers of its top blocks; only these and the head will train."""
    import torch
    from peft import LoraConfig, get_peft_model

    head = [name for name in ("pooler", "classifier", "score") if _has(model, name)]
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_modules(model, settings.top_layers),
        modules_to_save=head,
    )
    with _peft_asks_for_a_deprecated_property():
        return get_peft_model(model, config)


def target_modules(model: Any, top_layers: int | None) -> list[str]:
    """The names of the linear layers in the top blocks, sorted. Raises BaseModelError if there are none."""
    import torch

    linear = {
        name: int(found[1])
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (found := _LAYER.search(name))
    }
    if not linear:
        raise BaseModelError(f"{type(model).__name__} has no linear layers in numbered blocks; LoRA cannot be placed")
    blocks = max(linear.values()) + 1
    if top_layers is not None and top_layers > blocks:
        raise BaseModelError(f"training.top_layers is {top_layers}, but the base has {blocks} blocks; lower it")
    lowest = blocks - (top_layers or blocks)
    return sorted(name for name, block in linear.items() if block >= lowest)


def save(model: Any, tokenizer: Any, folder: Path, base: str, digest: str) -> str:
    """Writes adapter, tokenizer and base pin to `folder` and returns the adapter's digest."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # peft writes sets in hash order and no word on which base it was: both are mended here.
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": digest, "target_modules": sorted(config["target_modules"])}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return fingerprint.of_files(folder, [WEIGHTS, CONFIG])


def load(folder: Path, base: Path, base_digest: str, classes: Sequence[str], *, merge: bool = False) -> Any:
    """The adapter in `folder` on the base in `base`, in evaluation mode; merged it computes faster.

    Raises BaseModelError when the base is not the pinned one (peft would load it without a word), and
    ReleaseError when weights are missing.
    """
    from peft import PeftModel

    found = bases.digest_of(base)
    if found != base_digest:
        raise BaseModelError(
            f"{base} has digest {found}, but this adapter was trained on {base_digest}; "
            "on another base its answers are wrong in silence, so it is refused"
        )
    if not (folder / WEIGHTS).is_file():
        raise ReleaseError(f"{folder} has no {WEIGHTS}; other formats are not loaded")
    with _peft_asks_for_a_deprecated_property():
        model = PeftModel.from_pretrained(load_classifier(base, classes, seed=0), str(folder), is_trainable=False)
    return (model.merge_and_unload() if merge else model).eval().to(device())


def digest_of_weights(model: Any) -> str:
    """The digest of all trainable tensors, whatever order or file they are in."""
    import numpy as np

    tensors = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return fingerprint.of_json(
        {n: fingerprint.of_bytes(np.ascontiguousarray(w.detach().cpu().float().numpy()).tobytes()) for n, w in tensors.items()}
    )


@contextmanager
def _peft_asks_for_a_deprecated_property() -> Iterator[None]:
    """peft 0.21 reads `is_gradient_checkpointing`, of which transformers 5.23 warns; nobody here can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def _has(model: Any, name: str) -> bool:
    return any(part == name or part.endswith("." + name) for part, _ in model.named_modules())
