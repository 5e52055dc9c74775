"""What of a network trains: everything, the top blocks, the head, or an adapter beside frozen weights.

LoRA: Hu et al. 2021; rsLoRA: Kalajdzievski 2023; DoRA: Liu et al. 2024; PiSSA: Meng et al. 2024; IA3: Liu et al. 2022;
prompt tuning: Lester et al. 2021. peft makes the adapters; only their place in the network is decided here.
"""

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from adaptory.errors import BaseModelError, RecipeError
from adaptory.recipe import Task
from adaptory.recipe.training import ADAPTERS, Training
from adaptory.training.devices import is_memory
from adaptory.training.network import HEADS, MASKED_HEAD, blocks, heads, linear_layers, lowest_trained_block

_OWN: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
_PROMPT_TOKENS = 16
# peft's keys that are settings of our own: a card that names one value and an adapter with another would disagree.
_SETTINGS = {
    "r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "method", "use_dora": "method",
    "init_lora_weights": "method", "task_type": "method",
}  # fmt: skip


def check_device(settings: Training) -> None:
    """Raises RecipeError for a method that this machine cannot compute."""
    import torch

    if settings.method == "qlora" and torch.cuda.is_available() and find_spec("bitsandbytes") is None:
        raise RecipeError("method 'qlora' needs bitsandbytes; install it here: pip install 'adaptory[qlora]'")
    if settings.method == "qlora" and not torch.cuda.is_available():
        raise RecipeError(
            "method 'qlora' needs an NVIDIA GPU: its 4-bit products have no CPU kernels worth using, and it saves memory, not "
            "time. Use method 'lora', with fewer top_layers if memory is short"
        )


def prepare(model: Any, task: Task, settings: Training, *, head: bool) -> Any:
    """The model with exactly the method's weights trainable; a new adapter is drawn from the seed."""
    import torch

    torch.manual_seed(settings.seed)
    if settings.method in ADAPTERS:
        from peft import get_peft_model

        configuration = _configuration(model, task, settings, head=head)
        try:
            with peft_asks_for_a_deprecated_property():
                return get_peft_model(model, configuration)
        except (ValueError, KeyError, RuntimeError) as fault:
            if is_memory(fault):
                raise
            where = f"method {settings.method!r} cannot be had on a {model.config.model_type}"
            raise RecipeError(f"{where}: peft says {type(fault).__name__}: {fault}") from None
    if settings.method == "full":
        model.requires_grad_(True)
        return model
    model.requires_grad_(False)
    lowest = None if settings.method == "head" or settings.layers else lowest_trained_block(model, settings.top_layers)
    numbers = blocks(model)
    for name, weight in model.named_parameters():
        inside = numbers.get(name.rpartition(".")[0])
        own = (head and _below(name, list(HEADS))) or name.rpartition(".")[0] in model.drawn
        top = lowest is not None and inside is not None and inside >= lowest
        weight.requires_grad_(own or top or any(part in name for part in settings.layers))
    if unused := [part for part in settings.layers if not any(part in name for name, _ in model.named_parameters())]:
        some = ", ".join(name for name, _ in list(model.named_parameters())[-4:])
        raise RecipeError(f"training.layers: no parameter's name contains {', '.join(unused)}; names are like {some}")
    return model


def target_modules(model: Any, top_layers: int | None) -> list[str]:
    """The names of the linear layers in the top blocks, sorted. Raises BaseModelError if there are none."""
    numbers, kinds = blocks(model), linear_layers()
    linear = [name for name, one in model.named_modules() if name in numbers and isinstance(one, kinds)]
    if not linear:
        raise BaseModelError(f"{type(model).__name__} has no linear layers in numbered blocks; LoRA cannot be placed")
    lowest = lowest_trained_block(model, top_layers)
    return sorted(name for name in linear if numbers[name] >= lowest)


def count(model: Any) -> tuple[int, int]:
    """Trainable and all parameters."""
    both = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, trained in both if trained), sum(size for size, _ in both)


def _configuration(model: Any, task: Task, settings: Training, *, head: bool) -> Any:
    import peft

    common: dict[str, Any] = {"task_type": _peft_task(model, head=head)}
    if settings.method == "prompt_tuning":
        return _checked(peft.PromptTuningConfig, common | {"num_virtual_tokens": _PROMPT_TOKENS}, settings)
    # What the base did not bring is learned, whatever it is called.
    saved = heads(model) if head else [MASKED_HEAD] if task == "text" and hasattr(model, MASKED_HEAD) else []
    if saved := saved + [name for name in model.drawn if not _below(name, saved)]:
        common["modules_to_save"] = saved
    if settings.method == "ia3":
        if settings.top_layers:
            common["target_modules"], common["feedforward_modules"] = _ia3_places(model, settings.top_layers)
        return _checked(peft.IA3Config, common, settings)
    own_keys = {
        "r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout,
        "target_modules": target_modules(model, settings.top_layers), **_OWN[settings.method],
    }  # fmt: skip
    own_keys["fan_in_fan_out"] = not any(_is_linear(model.get_submodule(name)) for name in own_keys["target_modules"])
    return _checked(peft.LoraConfig, common | own_keys, settings)


def _is_linear(part: Any) -> bool:
    """Whether its weight is outputs x inputs; that of GPT-2's layers is the other way round."""
    import torch

    return isinstance(part, torch.nn.Linear)


def _below(name: str, modules: list[str]) -> bool:
    return any(part in modules for part in name.split("."))


def _ia3_places(model: Any, top_layers: int) -> tuple[list[str], list[str]]:
    """peft's usual places for this architecture, in the top blocks only."""
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FORWARD
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

    wanted, forward = TARGETS.get(model.config.model_type), FORWARD.get(model.config.model_type)
    if wanted is None or forward is None:
        raise RecipeError(f"method 'ia3' has no usual places in {model.config.model_type}; name training.peft.target_modules")
    names = [name for name in target_modules(model, top_layers) if any(name.endswith(end) for end in wanted)]
    return names, [name for name in names if any(name.endswith(end) for end in forward)]


def _checked(config: Any, keys: dict[str, Any], settings: Training) -> Any:
    """peft's configuration with the recipe's further keys. Raises RecipeError for an unknown or refused one."""
    known = set(config.__dataclass_fields__)
    for key in settings.peft:
        if key in _SETTINGS and key in keys:
            raise RecipeError(f"training.peft: {key!r} is said by training.{_SETTINGS[key]}; say it there")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see peft.{config.__name__}"
            raise RecipeError(f"training.peft: {config.__name__} has no key {key!r}; {hint}")
    try:
        return config(**keys | settings.peft)
    except (TypeError, ValueError) as fault:
        raise RecipeError(f"training.peft: peft refuses {settings.peft}: {fault}") from None


def _peft_task(model: Any, *, head: bool) -> str | None:
    if head:
        return "SEQ_CLS"
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if "CausalLM" in type(model).__name__ or "LMHead" in type(model).__name__ else None


@contextmanager
def peft_asks_for_a_deprecated_property() -> Iterator[None]:
    """peft 0.21 reads `is_gradient_checkpointing`, of which transformers 5.23 warns; nobody here can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
