"""Sentence embeddings of a base: the mean of its last hidden states, of length one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaptory.evaluation.scores import Floats

_TOKENS = 2048  # computed at once


def embed(base: Path, texts: Sequence[str], max_tokens: int) -> Floats:
    """One unit vector per text (rows x width), in the order of the texts."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from adaptory.training import forward, network
    from adaptory.training.batches import sorted_batches
    from adaptory.training.render import Example

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    model = AutoModel.from_pretrained(
        base, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    if model.config.is_encoder_decoder:  # the half that reads
        model = model.get_encoder()
    model = model.eval().to(network.device())
    encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    rows = [Example("", list(ids) or [0]) for ids in encoded]
    out = np.zeros((len(rows), model.config.hidden_size))
    with torch.inference_mode():
        for places in sorted_batches([row.length for row in rows], _TOKENS):
            batch = forward.collate([rows[place] for place in places], tokenizer.pad_token_id or 0).to(network.device())
            hidden = model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
            there = torch.arange(hidden.shape[1], device=hidden.device) < batch.lengths[:, None]
            mean = (hidden * there[:, :, None]).sum(1) / batch.lengths[:, None]
            out[places] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
    return out
