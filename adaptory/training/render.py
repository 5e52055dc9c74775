"""Rows to tokens: the one way a row is rendered, for training, evaluation and serving alike.

What is learned is marked by position, never by token id: `start` is the first learned position, the last one is the stop
token. A prompt and its response are tokenised apart, so the prompt's tokens are the same whether an answer follows or not.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.errors import DataError, RecipeError
from adaptory.recipe import Recipe, Task
from adaptory.recipe.training import Training
from adaptory.training import preemption

_BLOCK = 4096  # rows that are tokenised in one call, between which a stage shows that it lives and can be stopped
# For a base without a chat template: the texts one after the other, a line each.
BARE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@dataclass(frozen=True, slots=True)
class Example:
    """One row as a model reads it."""

    row: str
    ids: list[int]
    start: int = 0  # first learned position of `ids`; tasks with a head of their own learn no token
    target: float = 0.0  # class number or value
    types: list[int] | None = None  # which of a pair's texts a token is of
    second: list[int] | None = None  # the rejected answer after its prompt, or what a decoder writes
    second_start: int = 0
    cut: int = 0  # tokens that did not fit

    @property
    def length(self) -> int:
        """Tokens of the longer of its sequences."""
        return max(len(self.ids), len(self.second or ()))

    @property
    def learned(self) -> int:
        """Tokens that are labels."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class Left:
    """A row that cannot be learned from, and why."""

    row: str
    where: str
    reason: str


@dataclass(frozen=True)
class Renderer:
    """A tokenizer with everything else that decides how a row becomes tokens."""

    tokenizer: Any
    task: Task
    kind: str  # encoder, causal or seq2seq
    max_tokens: int
    template: str
    system: str | None

    @property
    def digest(self) -> str:
        """The digest of the rendering: training, evaluation and serving must agree on it."""
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        tokenizer |= {"truncation": None, "padding": None}  # these are of the last call, not of the tokenizer
        own = self.task == "text" or (self.task in ("sft", "preference") and self.template == BARE)
        begin = {"begin": self.begin} if self.begin and own else {}
        return fingerprint.of_json({
            "schema": "rendering/v1", "task": self.task, "kind": self.kind, "max_tokens": self.max_tokens,
            "template": self.template, "system": self.system, "tokenizer": tokenizer, **begin,
        })  # fmt: skip

    def counts_like(self, other: "Renderer") -> bool:
        """Whether both cut texts into the same tokens."""
        mine, theirs = (json.loads(one.tokenizer.backend_tokenizer.to_str())["model"] for one in (self, other))
        return bool(mine == theirs)

    @property
    def pad(self) -> int:
        """The token that fills up rows; what it is does not matter, since masks go by position."""
        found = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id or 0 if found is None else found

    @property
    def stop(self) -> int:
        """The token that ends an answer. Raises RecipeError if the base has none."""
        if self.tokenizer.eos_token_id is None:
            raise RecipeError("the base's tokenizer has no end-of-text token, so answers could never stop; choose another base")
        return int(self.tokenizer.eos_token_id)

    def typed(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[tuple[list[int], list[int] | None]]:
        """Token ids of each text (or pair of texts) with the base's special tokens, cut at `max_tokens`; of pairs also
        which text a token is of, if the base wants to know."""
        found = self._read(texts, pairs, truncation=True, max_length=self.max_tokens)
        types = found["token_type_ids"] if pairs and "token_type_ids" in found else [None] * len(texts)
        return list(zip(found["input_ids"], types, strict=True))

    def whole(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[int]:
        """How many tokens each of these is, uncut."""
        return [len(ids) for ids in self._read(texts, pairs)["input_ids"]]

    def _read(self, texts: Sequence[str], pairs: Sequence[str] | None, **how: Any) -> Any:
        # An encoder-decoder's head reads where the text ends: none may hold what looks like an end.
        return self.tokenizer(list(texts), list(pairs) if pairs else None, split_special_tokens=self.kind == "seq2seq", **how)

    def passage(self, text: str) -> list[int]:
        """Token ids of a running text, cut at `max_tokens`."""
        around = self.around
        before, after = around[:1] or self.begin, around[1:]
        body = self.tokenizer(text, add_special_tokens=False)["input_ids"] + ([] if around else [self.stop])
        return [*before, *body[: self.max_tokens - len(before) - len(after)], *after]

    @property
    def around(self) -> list[int]:
        """What an encoder's texts stand between: [CLS] and [SEP] or their like. Nothing for a causal base."""
        return list(self.tokenizer("")["input_ids"]) if self.kind == "encoder" else []

    @cached_property
    def begin(self) -> list[int]:
        """What a causal base's texts begin with, as its tokenizer says (<s> of Llama and Gemma); of most bases nothing."""
        if self.kind != "causal":
            return []
        whole, plain = (list(self.tokenizer("a", add_special_tokens=more)["input_ids"]) for more in (True, False))
        return next((whole[:at] for at in range(len(whole)) if whole[at : at + len(plain)] == plain), [])

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of everything before an answer. Raises DataError for messages that the base's template refuses."""
        from jinja2 import TemplateError

        said = [{"role": "system", "content": self.system}] if self.system and messages[0]["role"] != "system" else []
        try:
            text = self.tokenizer.apply_chat_template(
                [*said, *messages], chat_template=self.template, tokenize=False, add_generation_prompt=True, strftime_now=_no_date
            )
        except TemplateError as fault:
            raise DataError(f"the chat template of the base refuses these messages: {fault}") from None
        # An encoder needs its own special tokens; a chat template writes those of a causal base.
        ids = list(self.tokenizer(text, add_special_tokens=self.kind == "seq2seq")["input_ids"])
        return [*self.begin, *ids] if self.template == BARE else ids

    def response(self, text: str) -> list[int]:
        """Token ids of an answer, with the stop token, which stands nowhere else: what looks like one is text."""
        return [*self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], self.stop]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def common(sequences: Sequence[list[int]]) -> int:
    """How many tokens all of these begin with."""
    first, last = min(sequences, default=[]), max(sequences, default=[])  # in order, so what these share all share
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _no_date(form: str) -> str:
    """For templates that write today's date: a prompt must not change overnight."""
    return date(2000, 1, 1).strftime(form)


def kind_of(config: Any) -> str:
    """What sort of network a base is: encoder, causal or seq2seq."""
    if config.is_encoder_decoder:
        return "seq2seq"
    names = " ".join(config.architectures or ())
    if "CausalLM" in names or "LMHead" in names or getattr(config, "is_decoder", False):
        return "causal"
    # An encoder is called after masked language modelling, a head for sequences or nothing; a bare decoder after nothing.
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return "encoder" if config.model_type in MASKED else "causal"


def renderer(folder: Path, task: Task, settings: Training, config: Any) -> Renderer:
    """The renderer of the tokenizer in this folder (of a base or an adapter) under these settings."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    template = settings.template or _template(tokenizer)
    return Renderer(tokenizer, task, kind_of(config), settings.max_tokens, template, settings.system)


def _template(tokenizer: Any) -> str:
    """The tokenizer's chat template; of several, the one called default."""
    if not tokenizer.chat_template:
        return BARE
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        told = f"the base has several chat templates ({names}), none of them the default"
        raise RecipeError(f"{told}; write one into training.template")
    return str(tokenizer.get_chat_template())


def examples(made: Renderer, recipe: Recipe, table: Any) -> tuple[list[Example], list[Left]]:
    """An example of every row of a table that can be learned from, and the rows that cannot.

    Raises DataError, naming file and line, when more than data.max_quarantine of the rows cannot: a response that does not
    fit beside its prompt is never cut, since a cut answer teaches to stop anywhere.
    """
    found: list[Example] = []
    left: list[Left] = []
    for one in (one for block in table.iter_slices(_BLOCK) for one in _rendered(made, recipe, block)):
        preemption.check()
        found.append(one) if isinstance(one, Example) else left.append(one)
    if left and len(left) > recipe.data.max_quarantine * table.height:
        named = "; ".join(f"{one.where}: {one.reason}" for one in left[:5])
        raise DataError(
            f"{len(left):,} of {table.height:,} rows cannot be learned from, more than data.max_quarantine "
            f"({recipe.data.max_quarantine:.1%}) allows: {named}. Raise training.max_tokens ({made.max_tokens}), or mend the rows"
        )
    if not found:
        raise DataError("no row is left to learn from; add rows")
    return found, left


def _rendered(made: Renderer, recipe: Recipe, table: Any) -> Iterator[Example | Left]:
    makers = {"sft": _answers, "preference": _preferences, "text": _passages}
    return makers.get(recipe.task, _heads)(made, recipe, table)


def _heads(made: Renderer, recipe: Recipe, table: Any) -> Iterator[Example]:
    pairs = table["text_pair"].to_list() if recipe.task == "pair_classification" else None
    texts = table["text"].to_list()
    number = {label: float(place) for place, label in enumerate(recipe.data.classes)}
    targets = table["value"] if recipe.task == "regression" else [number[label] for label in table["label"]]
    read = made.typed(texts, pairs)
    full = [place for place, (ids, _) in enumerate(read) if len(ids) == made.max_tokens]  # only of these something may be cut
    seconds = [pairs[n] for n in full] if pairs else None
    whole = made.whole([texts[n] for n in full], seconds) if full else []
    cut = {place: uncut - made.max_tokens for place, uncut in zip(full, whole, strict=True)}
    for place, (row, target, (ids, types)) in enumerate(zip(table["row"], targets, read, strict=True)):
        yield Example(row, ids, target=float(target), types=types, cut=cut.get(place, 0))


def _answers(made: Renderer, recipe: Recipe, table: Any) -> Iterator[Example | Left]:
    for row, where, written in _named(table, "messages"):
        messages = json.loads(written)
        try:
            prompt, response = made.prompt(messages[:-1]), made.response(messages[-1]["content"])
        except DataError as fault:
            yield Left(row, where, str(fault))
            continue
        if len(response) < 2:
            yield Left(row, where, "the response has no token to learn")
        elif made.kind == "seq2seq":
            if max(len(prompt), len(response)) > made.max_tokens:
                yield Left(row, where, f"{len(prompt)} and {len(response)} tokens")
            else:
                yield Example(row, response, 0, second=prompt)
        elif len(prompt) + len(response) > made.max_tokens:
            yield Left(row, where, f"{len(prompt)} + {len(response)} tokens")
        else:
            yield Example(row, prompt + response, len(prompt))


def _preferences(made: Renderer, recipe: Recipe, table: Any) -> Iterator[Example | Left]:
    if made.kind != "causal":
        raise RecipeError(f"task 'preference' needs a causal base, and this one is of kind {made.kind!r}")
    rejected = table["rejected"].to_list()
    for (row, where, question, chosen), worse in zip(_named(table, "prompt", "chosen"), rejected, strict=True):
        prompt = made.prompt([{"role": "user", "content": question}])
        better, other = (prompt + made.response(text) for text in (chosen, worse))
        if max(len(better), len(other)) > made.max_tokens:
            yield Left(row, where, f"{len(better)} and {len(other)} tokens")
        elif better == other:
            yield Left(row, where, "both answers are the same tokens")
        else:
            yield Example(row, better, len(prompt), second=other, second_start=len(prompt))


def _passages(made: Renderer, recipe: Recipe, table: Any) -> Iterator[Example | Left]:
    if made.kind == "seq2seq":
        raise RecipeError("task 'text' needs an encoder or a causal base; this one is an encoder-decoder")
    around = made.around
    before, after = around[:1] or made.begin, around[1:]
    bodies = made.tokenizer(table["text"].to_list(), add_special_tokens=False)["input_ids"]
    for (row, where, _), body in zip(_named(table, "text"), bodies, strict=True):
        body = body if around else [*body, made.stop]
        room = made.max_tokens - len(before) - len(after)
        for begin in range(0, max(len(body), 1), room):
            piece = body[begin : begin + room]
            if len(piece) < 2:
                if not begin:
                    yield Left(row, where, "too short to guess a token from the others")
                continue
            yield Example(row, [*before, *piece, *after], max(1, len(before)))


def _named(table: Any, *columns: str) -> Iterator[tuple[Any, ...]]:
    where = [f"{file}:{line}" for file, line in zip(table["file"], table["line"], strict=True)]
    return zip(table["row"], where, *(table[column] for column in columns), strict=True)
