"""What all prompts begin with is computed once: instructions and examples before every question.

The states of the shared tokens are kept and repeated for every batch; positions and masks are those of whole prompts, so
answers are the same (tested).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaptory.training import devices
from adaptory.training.batches import sorted_batches
from adaptory.training.network import learns_prompt, unwrapped
from adaptory.training.render import Renderer, common

_WORTH = 16  # tokens: a shorter beginning is not worth its copies
_TOKENS = 4096  # computed at once


@dataclass(frozen=True)
class Shared:
    """The beginning of all prompts, and what the model remembers of it; empty where nothing is shared."""

    tokens: list[int]
    memory: Any = None

    @classmethod
    def of(cls, model: Any, made: Renderer, prompts: Sequence[list[int]]) -> "Shared":
        """The shared beginning of these prompts, computed; a causal network only."""
        import torch
        from transformers import DynamicCache

        length = _shared(prompts)
        if not plain(model, made) or length < _WORTH or len(prompts) < 2:
            return cls([])
        tokens = prompts[0][:length]
        memory = DynamicCache(config=model.config)
        device = next(model.parameters()).device
        model(input_ids=torch.tensor([tokens], device=device), past_key_values=memory, use_cache=True)
        return cls(tokens, memory)

    def batch(self, prompts: Sequence[list[int]], pad: int, device: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Token ids and mask of these prompts, their ends aligned, and the memory of the beginning for each."""
        import torch

        begin = len(self.tokens)
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            rest = width - (len(prompt) - begin)
            ids[row, :begin] = torch.tensor(self.tokens, dtype=ids.dtype)
            ids[row, rest:] = torch.tensor(prompt[begin:])
            mask[row, :begin] = 1
            mask[row, rest:] = 1
        if self.memory is None:
            return ids.to(device), mask.to(device), {}
        memory = copy.deepcopy(self.memory)
        memory.batch_repeat_interleave(len(prompts))
        return ids.to(device), mask.to(device), {"past_key_values": memory}


def likeliest(
    model: Any, shared: Shared, prompts: Sequence[list[int]], limits: Sequence[int], stops: set[int], pad: int
) -> list[list[int]]:
    """The tokens of the likeliest answer to each prompt, one after the other, up to a stop token or its limit.

    What `generate` of transformers gives without sampling and penalties; but an answer that ended takes no more time.
    """
    import torch

    device = next(model.parameters()).device
    ids, mask, more = shared.batch(prompts, pad, device)
    begin = len(shared.tokens) if more else 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    said = model(
        input_ids=ids[:, begin:],
        attention_mask=mask,
        position_ids=positions[:, begin:],
        use_cache=True,
        **_last_only(model),
        **more,
    )
    memory, last = said.past_key_values, positions[:, -1:]
    written: list[list[int]] = [[] for _ in prompts]
    there = list(range(len(prompts)))  # which prompt each line of the batch is
    while True:
        following = said.logits[:, -1].argmax(dim=-1)
        for line, token in enumerate(following.tolist()):
            written[there[line]].append(token)
        going = [
            line for line, place in enumerate(there)
            if written[place][-1] not in stops and len(written[place]) < limits[place]
        ]  # fmt: skip
        if not going:
            return written
        if len(going) < len(there):
            keep = torch.tensor(going, device=device)
            memory.batch_select_indices(keep)
            mask, last, following = mask[keep], last[keep], following[keep]
            there = [there[line] for line in going]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        last = last + 1
        said = model(input_ids=following[:, None], attention_mask=mask, position_ids=last, past_key_values=memory, use_cache=True)


def likelihoods(
    model: Any, made: Renderer, prompts: Sequence[list[int]], options: Sequence[list[int]], precision: str = "auto"
) -> Any:
    """Log-likelihood of each option as the continuation of each prompt (rows x options), without writing anything."""
    import numpy as np
    import torch

    found = np.zeros((len(prompts), len(options)))
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode(), devices.computing(device, precision):
        shared = Shared.of(model, made, prompts)
        for places in sorted_batches([len(prompt) - len(shared.tokens) for prompt in prompts], _TOKENS):
            ids, mask, more = shared.batch([prompts[place] for place in places], made.pad, device)
            begin = len(shared.tokens) if more else 0
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            said = model(
                input_ids=ids[:, begin:], attention_mask=mask, position_ids=positions[:, begin:], use_cache=True,
                **_last_only(model), **more,
            )  # fmt: skip
            first = torch.log_softmax(said.logits[:, -1].float(), dim=-1)
            for number, option in enumerate(options):
                total = first[:, option[0]]
                if len(option) > 1:
                    total = total + _rest(model, said.past_key_values, mask, positions[:, -1:], option)
                found[places, number] = total.cpu().numpy()
    return found


def _rest(model: Any, memory: Any, mask: Any, last: Any, option: list[int]) -> Any:
    """Log-likelihood of the tokens of an option after its first one."""
    import torch

    rows, count = len(mask), len(option) - 1
    ids = torch.tensor([option[:-1]], device=mask.device).expand(rows, -1)
    longer = torch.cat([mask, torch.ones(rows, count, dtype=mask.dtype, device=mask.device)], dim=1)
    positions = last + 1 + torch.arange(count, device=mask.device)
    said = model(
        input_ids=ids, attention_mask=longer, position_ids=positions, past_key_values=copy.deepcopy(memory), use_cache=True
    )
    chances = torch.log_softmax(said.logits.float(), dim=-1)
    targets = torch.tensor([option[1:]], device=mask.device).expand(rows, -1)
    return chances.gather(2, targets[:, :, None])[:, :, 0].sum(1)


def plain(model: Any, made: Renderer) -> bool:
    """Whether the model is a causal transformer without learned tokens of its own before every prompt."""
    inner = unwrapped(model)
    # A window counts what stands in the memory, so padding between beginning and end would use it up.
    odd = getattr(inner, "_is_stateful", False) or getattr(inner.config, "sliding_window", None)
    return made.kind == "causal" and not learns_prompt(model) and not odd


def _last_only(model: Any) -> dict[str, int]:
    """Asks for the logits of the last position alone, of networks that can leave out the others."""
    able = getattr(unwrapped(model), "_supports_logits_to_keep", None)
    return {"logits_to_keep": 1} if able and able() else {}


def _shared(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    return min(common(prompts), min((len(prompt) for prompt in prompts), default=1) - 1)
