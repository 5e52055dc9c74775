"""Texts to logits: the one way a text is rendered, for training, evaluation and serving alike."""

from collections.abc import Sequence
from typing import Any

from adaptory.training.batches import sorted_batches

TOKENS_PER_BATCH = 2048


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text, cut at `max_tokens`."""
    encoded: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    return encoded


def collate(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Token ids and attention mask of a batch, padded on the right to its longest row."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    # By position, not by id: a text may hold the padding token itself.
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def logits(model: Any, encoded: Sequence[Sequence[int]], pad: int) -> Any:
    """The model's logits for each row, in the order of the rows: a float array of rows x classes."""
    import torch

    device = next(model.parameters()).device
    out: Any = None
    with torch.inference_mode():
        for batch in sorted_batches([len(row) for row in encoded], TOKENS_PER_BATCH):
            ids, mask = collate([encoded[row] for row in batch], pad)
            found = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()
            if out is None:
                out = torch.zeros(len(encoded), found.shape[1])
            out[batch] = found
    return out.numpy()
