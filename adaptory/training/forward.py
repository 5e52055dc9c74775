"""Examples to numbers: collated by position, computed once, head and loss only where a label stands."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from adaptory.training import label_loss
from adaptory.training.network import learns_prompt, unwrapped
from adaptory.training.render import Example
from adaptory.training.tree import Tree, planted, segments_of
from adaptory.training.tree_attention import attending

IGNORED = -100
_BY_ROW = "adaptory-by-row"  # attention within each row of a joined batch
_CHUNK = 1024  # labels whose logits are computed at a time where the head trains, too
_READS_THE_FIRST = ("bert", "camembert", "electra", "roberta", "xlm-roberta")  # whose blocks are built alike, too


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, or one after another as a tree or joined."""

    ids: Any  # sequences x tokens
    lengths: Any  # of each row
    mask: Any | None  # which tokens are there; None: nothing is padded
    positions: Any | None  # where each token stands in its row, where that is not its place
    labels: Any  # the token to guess at each place, or IGNORED
    targets: Any  # class numbers or values
    types: Any | None
    decoder: Any | None  # encoder-decoder: what is written (ids of labels, shifted by the network)
    tree: Tree | None = None  # of a batch in which nothing is computed twice

    def to(self, device: Any) -> "Batch":
        """The batch on a device; the copy overlaps with computing where memory is pinned."""
        if device.type == "cpu":
            return self
        there = {name: value for name, value in vars(self).items() if value is not None and name != "tree"}
        moved = {name: value.pin_memory().to(device, non_blocking=True) for name, value in there.items()}
        return replace(self, **moved, tree=self.tree and self.tree.to(device))


def collate(rows: Sequence[Example], pad: int, width: int = 0) -> Batch:
    """A batch of these examples, so wide or wider. Tokens count by position, not by id: a text may hold the padding token."""
    import torch

    written = rows[0].second is not None and rows[0].second_start == 0  # encoder-decoder: `second` is what is read
    read = [row.second or [] for row in rows] if written else [row.ids for row in rows]
    ids, lengths, mask = _padded(read, pad, width)
    labels = _padded([row.ids for row in rows], IGNORED)[0] if written else _labels(rows, ids.shape[1])
    targets = torch.tensor([row.target for row in rows])
    types = _padded([row.types or [] for row in rows], 0, width)[0] if rows[0].types is not None else None
    whole = bool((lengths == ids.shape[1]).all())
    return Batch(ids, lengths, None if whole else mask, None, labels, targets, types, labels if written else None)


def branching(rows: Sequence[Example], groups: Sequence[Sequence[int]]) -> Batch:
    """The examples as a tree, in groups that may begin alike; each position learns and sees what it would in its row."""
    import torch
    from torch.nn.functional import pad

    segments = segments_of(rows, groups)
    lengths, tree = torch.tensor([len(row.ids) for row in rows]), planted(segments, len(rows))
    ids = [token for one in segments for token in rows[one.sequence].ids[one.start : one.end]]
    positions = torch.cat([torch.arange(one.start, one.end) for one in segments])
    every = _labels(rows, int(lengths.max()))
    labels = torch.cat([every[one.sequence, one.start : one.end] for one in segments])
    filled = [pad(torch.as_tensor(part), (0, tree.fill), value=empty)[None]
              for part, empty in ((ids, 0), (positions, 0), (labels, IGNORED))]
    return Batch(filled[0], lengths, None, filled[1], filled[2], None, None, None, tree)


def joined(model: Any, rows: Sequence[Example]) -> Batch | None:
    """The rows of an encoder one after another without padding, none seeing another; None where that saves nothing (on a GPU it
    would cost a launch for every row), or the network is not one of those that `first_token_only` knows."""
    import torch

    inner = unwrapped(model)
    lengths = [len(row.ids) for row in rows]
    if not _reads_the_first(inner) or learns_prompt(model) or next(inner.parameters()).device.type != "cpu":
        return None
    if len(rows) * max(lengths) <= 1.1 * sum(lengths):
        return None
    pad = None if inner.config.model_type in ("bert", "electra") else inner.config.pad_token_id
    positions = torch.cat([_counted(row.ids, pad) for row in rows])[None]
    types = torch.tensor([[kind for row in rows for kind in row.types or [0] * len(row.ids)]])
    ids = torch.tensor([[token for row in rows for token in row.ids]])
    return Batch(ids, torch.tensor(lengths), None, positions, None, None, types, None)


def _counted(ids: list[int], pad: int | None) -> Any:
    """The positions of a row's tokens: from 0 on or, as in RoBERTa, after that of `pad`, whose likes in a text do not count."""
    import torch

    if pad is None:
        return torch.arange(len(ids))
    there = torch.tensor(ids) != pad
    return there.cumsum(0) * there + pad


def label_losses(model: Any, batch: Batch, *, plain: bool = False) -> tuple[Any, Any]:
    """Negative log-likelihood of each label, and the row each is of.

    The head is computed only where a label stands, a chunk of labels at a time; where a network does more than that to
    its logits, or where it is asked for, all of them are computed the plain way.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    inner = unwrapped(model)
    places, labels = _places(batch, inner.config.is_encoder_decoder or not _is_causal(inner))
    owners = places[0] if batch.tree is None else batch.tree.owners[places[1]]
    if plain or learns_prompt(model) or not _has_plain_head(inner):
        logits = _call(model, batch).logits
        logits = logits[:, logits.shape[1] - _width(batch) :]  # virtual tokens stand before the row's own
        return torch.nn.functional.cross_entropy(label_loss.wide(logits[places]), labels, reduction="none"), owners
    hidden, head = _hidden(inner, batch)[places], _head(inner)

    if hidden.requires_grad and hasattr(head, "losses"):  # training; what is only measured, is in the head's own precision
        return head.losses(hidden, labels), owners

    def losses(states: Any, wanted: Any) -> Any:
        return torch.nn.functional.cross_entropy(label_loss.wide(head(states)), wanted, reduction="none")

    if not hidden.requires_grad:
        few = label_loss.LABELS
        return torch.cat([losses(*part) for part in zip(hidden.split(few), labels.split(few), strict=True)]), owners
    if len(labels) <= _CHUNK:
        return losses(hidden, labels), owners
    parts = zip(hidden.split(_CHUNK), labels.split(_CHUNK), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in parts]), owners


def row_logits(model: Any, batch: Batch) -> Any:
    """What the task's own head says of each row: rows x outputs."""
    import torch

    inner = unwrapped(model)
    if hasattr(inner, "score") and not learns_prompt(model):
        # transformers looks for the last token that is not padding by its id; a row may end with that very token.
        hidden = _hidden(inner, batch)
        rows = torch.arange(len(hidden), device=hidden.device)
        return inner.score(hidden[rows, batch.lengths - 1] if batch.tree is None else hidden[0, batch.tree.lasts]).float()
    return _call(model, batch).logits.float()


@contextmanager
def first_token_only(model: Any, batch: Batch) -> Iterator[None]:
    """Within it, the last block of an encoder whose head reads the first token computes what follows the attention for that
    token of each row alone: the same answers, an eighth less work in six blocks. Joined rows attend each to itself. Other
    networks are left as they are."""
    inner = unwrapped(model)
    if not _reads_the_first(inner):
        yield
        return
    starts = None if batch.positions is None else batch.lengths.cumsum(0) - batch.lengths

    def firsts(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(states[:, :1] if starts is None else states[0, starts][:, None] for states in given)

    hook = inner.base_model.encoder.layer[-1].attention.output.register_forward_pre_hook(firsts)
    usual = inner.config._attn_implementation
    if starts is not None:
        _attend_by_row()
        inner.config._attn_implementation = _BY_ROW
    try:
        yield
    finally:
        inner.config._attn_implementation = usual
        hook.remove()


@cache
def _attend_by_row() -> None:
    """Makes known to transformers how joined rows attend: each to itself, with neither mask nor padding."""
    import torch
    from transformers import AttentionInterface

    def by_row(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, None]:
        rows = zip(*(states.split(more["rows"], dim=2) for states in (query, key, value)), strict=True)
        attend = torch.nn.functional.scaled_dot_product_attention
        found = [attend(*row, scale=more.get("scaling")) for row in rows]
        return torch.cat(found, dim=2).transpose(1, 2), None

    AttentionInterface.register(_BY_ROW, by_row)


def finished_for_one_token(model: Any) -> int:
    """Weights of linear layers that `first_token_only` computes for one token of each row, and not for all."""
    import torch

    inner = unwrapped(model)
    if not _reads_the_first(inner):
        return 0
    last = inner.base_model.encoder.layer[-1]
    parts = (last.attention.output, last.intermediate, last.output)
    layers = [(name, one) for part in parts for name, one in part.named_modules() if isinstance(one, torch.nn.Linear)]
    return sum(one.weight.numel() for name, one in layers if "lora_" not in name)


def _reads_the_first(inner: Any) -> bool:
    return inner.config.model_type in _READS_THE_FIRST and "SequenceClassification" in type(inner).__name__


def _call(model: Any, batch: Batch) -> Any:
    keys = inputs(unwrapped(model), batch)
    with attending(unwrapped(model), batch.tree is not None):
        return model(**keys) if batch.decoder is None else model(**keys, labels=batch.decoder)


def _hidden(inner: Any, batch: Batch) -> Any:
    """The last hidden states, without a head."""
    keys = inputs(inner, batch)
    if batch.decoder is None:
        with attending(inner, batch.tree is not None):
            return inner.base_model(**keys).last_hidden_state
    shift = getattr(inner, "prepare_decoder_input_ids_from_labels", None) or inner._shift_right
    body = inner.model if hasattr(inner, "model") else inner.base_model
    return body(**keys, decoder_input_ids=shift(batch.decoder)).last_hidden_state


def inputs(inner: Any, batch: Batch) -> dict[str, Any]:
    """What the network is called with."""
    keys = {
        "input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.positions, "token_type_ids": batch.types,
        "tree": batch.tree,
    }  # fmt: skip
    if inner.config._attn_implementation == _BY_ROW:
        keys["rows"] = batch.lengths.tolist()
    if inner.config.is_encoder_decoder or _is_causal(inner):
        keys["use_cache"] = False
    return {name: value for name, value in keys.items() if value is not None}


def _places(batch: Batch, same: bool) -> tuple[Any, Any]:
    """Where labels are guessed, and the labels. A causal network guesses a token from the place before it."""
    labels = batch.labels
    if not same:
        labels = labels[:, 1:]
    places = (labels != IGNORED).nonzero(as_tuple=True)
    return places, labels[places]


def _labels(rows: Sequence[Example], width: int) -> Any:
    import torch

    labels = torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
        # The first token of a row is never guessed: nothing stands before it.
        start = max(row.start, 1)
        labels[place, start : len(row.ids)] = torch.tensor(row.ids[start:], dtype=torch.long)
    return labels


def _padded(rows: Sequence[Sequence[int]], empty: int, width: int = 0) -> tuple[Any, Any, Any]:
    import torch
    from torch.nn.functional import pad
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=empty)
    ids = pad(ids, (0, max(0, width - ids.shape[1])), value=empty)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, lengths, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _width(batch: Batch) -> int:
    return int((batch.ids if batch.decoder is None else batch.decoder).shape[1])


def _is_causal(inner: Any) -> bool:
    name = type(inner).__name__
    return "CausalLM" in name or "LMHead" in name or hasattr(inner, "score")


def _head(inner: Any) -> Any:
    return inner.cls if hasattr(inner, "cls") else inner.get_output_embeddings()


def _has_plain_head(inner: Any) -> bool:
    """Whether logits are simply the head of the last hidden states."""
    odd = [name for name in dir(inner.config) if "logit" in name or "lm_head" in name]  # logits_scaling, lm_head_multiplier, ...
    if hasattr(inner, "final_logits_bias") or any(getattr(inner.config, name) not in (None, False, 1) for name in odd):
        return False
    if inner.config.is_encoder_decoder:
        # T5 scales what it hands to a tied head.
        return not (inner.config.model_type in ("t5", "mt5", "umt5") and getattr(inner.config, "tie_word_embeddings", False))
    return hasattr(inner, "cls") or _is_causal(inner)
