"""A language model as GGUF: written by us, read by transformers' own reader, and equal."""

from pathlib import Path
from typing import Any

import pytest

from adaptory.errors import ReleaseError
from adaptory.release import gguf_file


def llama(**changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 300, "max_position_embeddings": 128, "tie_word_embeddings": True,
    }  # fmt: skip
    config = LlamaConfig(**(sizes | changes), rope_parameters={"rope_type": "default", "rope_theta": 50_000.0})
    return LlamaForCausalLM(config).eval()


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["the film was lovely", "the table was broken"] * 20,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<|end|>")


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_read_by_another_reader_gives_equal_logits(tmp_path: Path, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, words = llama(tie_word_embeddings=tied), tokenizer()
    gguf_file.write(tmp_path / "m.gguf", model, words, "{{ messages }}", "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    ids = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-5)


def test_the_tokens_of_a_gguf_file_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    import gguf

    words = tokenizer()
    gguf_file.write(tmp_path / "m.gguf", llama(), words, "", "m")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    listed = fields["tokenizer.ggml.tokens"].contents()
    vocabulary = words.get_vocab()
    assert {token: place for place, token in enumerate(listed) if not token.startswith("[PAD")} == vocabulary
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.token_type"].contents()[vocabulary["<|end|>"]] == 3
    assert len(fields["tokenizer.ggml.merges"].contents()) > 10


def test_what_gguf_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    from tests.training.toys import word_tokenizer

    with pytest.raises(ReleaseError, match="WordLevel"):
        gguf_file.write(tmp_path / "m.gguf", llama(), word_tokenizer(), "", "m")
    stretched = llama()
    stretched.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ReleaseError, match="yarn"):
        gguf_file.write(tmp_path / "n.gguf", stretched, tokenizer(), "", "m")
