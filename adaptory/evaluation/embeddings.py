"""Sentence embeddings of a base: the mean of its last hidden states, of length one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaptory.evaluation.scores import Floats
from adaptory.training.adapter import device, load_tokenizer
from adaptory.training.batches import sorted_batches
from adaptory.training.scoring import TOKENS_PER_BATCH, collate, encode


def embed(base: Path, texts: Sequence[str], max_tokens: int) -> Floats:
    """One unit vector per text (rows x width), in the order of the texts."""
    import torch
    from transformers import AutoModel

    tokenizer = load_tokenizer(base)
    model = AutoModel.from_pretrained(
        base, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval().to(device())
    encoded = encode(tokenizer, texts, max_tokens)
    out = np.zeros((len(encoded), model.config.hidden_size))
    with torch.inference_mode():
        for batch in sorted_batches([len(row) for row in encoded], TOKENS_PER_BATCH):
            ids, mask = collate([encoded[row] for row in batch], tokenizer.pad_token_id)
            hidden = model(input_ids=ids.to(device()), attention_mask=mask.to(device())).last_hidden_state
            weight = mask[:, :, None].float().to(device())
            mean = (hidden * weight).sum(1) / weight.sum(1)
            out[batch] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
    return out
