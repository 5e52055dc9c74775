"""GGUF files, as llama.cpp runs them, turned into a folder of safetensors once and kept by digest."""

import tempfile
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import BaseModelError

_VERSION = "1"  # of what is written below: another one is another base


def unpack(file: Path, cache: Path) -> Path:
    """The folder that holds what is in the file: weights dequantised to half precision, and the tokenizer.

    Turning takes about a minute per hundred million parameters; the second time the folder is there.
    Raises BaseModelError for an architecture that transformers cannot read from GGUF.
    """
    folder = cache / "gguf" / f"{fingerprint.hex_of(fingerprint.of_file(file))}-{_VERSION}"
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fresh = Path(scratch) / "base"
        try:
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        except (ValueError, KeyError, OSError) as fault:
            raise BaseModelError(f"{file.name} cannot be read as GGUF: {fault}") from None
        # Dequantised, it is a plain model; transformers still takes it for one that it must not write.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        model.to(torch.float16).save_pretrained(fresh, safe_serialization=True)
        tokenizer.save_pretrained(fresh)
        fresh.replace(folder)
    return folder
