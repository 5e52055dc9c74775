"""A language model of the type llama as a GGUF file, as llama.cpp runs it.

The names of the tensors and keys are those of the `gguf` package; rows of the query and key projections are in llama.cpp's
order (it rotates neighbours, transformers rotates halves). The weights are written in single precision, so that they
answer as they do here; llama.cpp's own `llama-quantize` makes them smaller.
"""

import json
from pathlib import Path
from typing import Any

from adaptory.errors import ReleaseError

_NORMAL, _CONTROL, _USER = 1, 3, 4  # kinds of tokens


def write(path: Path, model: Any, tokenizer: Any, template: str, name: str) -> None:
    """Writes the file. Raises ReleaseError for a tokenizer or a tensor that GGUF has no name for."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope_base(config))
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _write_tokenizer(writer, tokenizer, template, config.vocab_size)
    _write_tensors(writer, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers), model, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_base(config: Any) -> float:
    told = getattr(config, "rope_parameters", None) or {}
    if told.get("rope_type", "default") != "default":
        raise ReleaseError(f"positions of the kind {told['rope_type']!r} are not written to gguf; export merged weights instead")
    return float(told.get("rope_theta") or config.rope_theta)


def _write_tensors(writer: Any, names: Any, model: Any, config: Any) -> None:
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ReleaseError(f"gguf has no name for the tensor {name}; export merged weights instead")
        values = weight.cpu().float().numpy()
        if ".q_proj." in name:
            values = _paired(values, config.num_attention_heads)
        elif ".k_proj." in name:
            values = _paired(values, config.num_key_value_heads)
        writer.add_tensor(known, values)


def _paired(values: Any, heads: int) -> Any:
    """Rows of each head, halves side by side: x0 x1 y0 y1 becomes x0 y0 x1 y1."""
    rows = values.shape[0]
    return values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _write_tokenizer(writer: Any, tokenizer: Any, template: str, size: int) -> None:
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    if parts["model"]["type"] != "BPE" or not parts["model"].get("merges"):
        raise ReleaseError(
            f"a tokenizer of the kind {parts['model']['type']} is not written to gguf; export merged weights instead"
        )
    by_number = {number: token for token, number in tokenizer.get_vocab().items()}
    special = {one["id"]: _CONTROL if one["special"] else _USER for one in parts["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splits(json.dumps(parts.get("pre_tokenizer"))))
    writer.add_token_list([by_number.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types([special.get(number, _NORMAL if number in by_number else _USER) for number in range(size)])
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in parts["model"]["merges"]])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id), (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):  # fmt: skip
        if number is not None:
            add(number)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)


def _splits(told: str) -> str:
    """llama.cpp's name for how text is cut before pairs are merged."""
    if '"ByteLevel"' not in told:
        raise ReleaseError("only byte-level tokenizers are written to gguf; export merged weights instead")
    return "smollm" if '"Digits"' in told else "gpt-2"
