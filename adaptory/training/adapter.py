"""What was trained, apart from its base: saved, and loaded only on the same base.

An adapter is saved as peft saves it. Whole networks, top blocks and heads are saved as the tensors that trained, under
the names they have in transformers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptory import bases, fingerprint
from adaptory.errors import BaseModelError, RecipeError, ReleaseError
from adaptory.recipe import Task
from adaptory.recipe.training import ADAPTERS, Training
from adaptory.training import methods, network

WEIGHTS, CONFIG, TRAINED = "adapter_model.safetensors", "adapter_config.json", "trained.safetensors"


def make(base: Path, task: Task, settings: Training, classes: Sequence[str]) -> Any:
    """The base with the method's weights ready to train; the same seed gives the same bytes."""
    methods.check_device(settings)
    model = network.load_base(base, task, settings, classes, settings.seed)
    head = network.outputs_of(task, settings, classes) is not None
    return methods.prepare(model, task, settings, head=head)


def save(model: Any, settings: Training, folder: Path, base: str, digest: str, first: Path | None = None) -> str:
    """Writes what was trained and the pin of its base to `folder`; returns the digest of what was trained.

    `first` holds the adapter as it began: PiSSA changes the base at its start, and is saved as a LoRA of the untouched base.
    """
    if settings.method not in ADAPTERS:
        from safetensors.torch import save_file

        save_file({name: weight.contiguous() for name, weight in trained(model).items()}, folder / TRAINED)
        return fingerprint.of_files(folder, [TRAINED])
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    if first:
        _as_lora(folder, first)
    # peft writes sets in hash order and no word on which base it was: both are mended here.
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": digest}
    config |= {name: sorted(value) for name, value in config.items() if name.endswith("_modules") and isinstance(value, list)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return fingerprint.of_files(folder, [WEIGHTS, CONFIG])


def save_first(model: Any, settings: Training, folder: Path) -> Path | None:
    """Keeps the adapter as it begins, if saving it will need that."""
    if settings.method != "pissa":
        return None
    config = model.peft_config["default"]
    config.init_lora_weights, before = True, config.init_lora_weights
    model.save_pretrained(folder, safe_serialization=True)
    config.init_lora_weights = before
    return folder


def load(
    folder: Path, base: Path, base_digest: str, task: Task, settings: Training, classes: Sequence[str], *, merge: bool = False
) -> Any:
    """What lies in `folder` on the base in `base`, in evaluation mode; merged it computes faster.

    Raises BaseModelError when the base is not the pinned one (peft would load it without a word), and
    ReleaseError when weights are missing.
    """
    check_base(base, base_digest)
    model = network.load_base(base, task, settings, classes, settings.seed)
    if settings.method in ADAPTERS:
        if not (folder / WEIGHTS).is_file():
            raise ReleaseError(f"{folder} has no {WEIGHTS}; other formats are not loaded")
        from peft import PeftModel

        with methods.peft_asks_for_a_deprecated_property():
            model = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    else:
        _load_trained(model, folder / TRAINED)
    return (merged(model, settings) if merge else model).eval().to(network.device())


def merged(model: Any, settings: Training) -> Any:
    """The model with its adapter worked into the base, where that can be done: it computes faster.

    A base in bf16 has no digits to take an adapter up with.
    """
    # peft 0.21 cannot merge IA3 beside a saved head; its products cost next to nothing.
    mergeable = settings.method in ADAPTERS and settings.method not in ("prompt_tuning", "qlora", "ia3")
    return model.merge_and_unload() if mergeable and not network.holds_bf16(settings) else model


def check_base(base: Path, digest: str) -> None:
    """Raises BaseModelError unless the folder holds the base with this digest."""
    found = bases.digest_of(base)
    if found != digest:
        raise BaseModelError(
            f"{base} has digest {found}, but this adapter was trained on {digest}; "
            "on another base its answers are wrong in silence, so it is refused"
        )


def start_from(model: Any, folder: Path, what: str) -> None:
    """Gives a fresh adapter the weights of another one. Raises RecipeError when they do not fit.

    A head is taken over only where both have one of the same shape.
    """
    from safetensors.torch import load_file

    theirs = load_file(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
    ours = {_saved_name(name): weight for name, weight in model.named_parameters() if weight.requires_grad}
    adapters = {name for name in ours if "lora_" in name or "ia3_" in name}
    if missing := sorted(name for name in adapters if name not in theirs or theirs[name].shape != ours[name].shape):
        raise RecipeError(
            f"training.start: the adapter of {what} does not fit ({missing[0]} is missing or of another shape); "
            "both recipes need the same method, rank and top_layers"
        )
    import torch

    with torch.no_grad():
        for name, weight in ours.items():
            if name in theirs and theirs[name].shape == weight.shape:
                weight.copy_(theirs[name])


def trained(model: Any) -> dict[str, Any]:
    """The tensors that train, by name."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def digest_of_weights(model: Any) -> str:
    """The digest of all trainable tensors, whatever order or file they are in."""
    import numpy as np

    return fingerprint.of_json({
        name: fingerprint.of_bytes(np.ascontiguousarray(weight.cpu().float().numpy()).tobytes())
        for name, weight in trained(model).items()
    })


def _as_lora(folder: Path, first: Path) -> None:
    """Turns a PiSSA adapter of the changed base into a LoRA of the untouched one: B A - B0 A0, of twice the rank."""
    import torch
    from safetensors.torch import load_file, save_file

    now, began = load_file(folder / WEIGHTS), load_file(first / WEIGHTS)
    for name, weight in now.items():
        if "lora_A" in name:
            now[name] = torch.cat([weight, began[name]], dim=0)
        elif "lora_B" in name:
            now[name] = torch.cat([weight, -began[name]], dim=1)
    save_file(now, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"], "init_lora_weights": True}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _load_trained(model: Any, path: Path) -> None:
    from safetensors.torch import load_file

    if not path.is_file():
        raise ReleaseError(f"{path.parent} has no {path.name}; other formats are not loaded")
    tensors = load_file(path)
    _, strangers = model.load_state_dict(tensors, strict=False)
    if strangers:
        raise ReleaseError(f"{path}: the base has no {', '.join(strangers[:3])}; these weights are of another network")


def _saved_name(name: str) -> str:
    """The name under which peft saves a parameter."""
    kept = name.replace(".default.", ".").replace(".modules_to_save.", ".").removesuffix(".default")
    return kept.removesuffix(".weight") if kept.endswith(".lora_magnitude_vector.weight") else kept
