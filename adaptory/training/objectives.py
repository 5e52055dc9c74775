"""The one loss function: for every task the sum of losses over a batch, never a mean.

A step divides the sums of its whole window by the window's weight once, so that 8 x 1, 4 x 2 and 1 x 8 micro-batches give
the gradient of the large batch, whatever the lengths (transformers#34191 is what happens otherwise).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adaptory.recipe import Task
from adaptory.recipe.training import Training
from adaptory.training import forward
from adaptory.training.render import Example, Renderer
from adaptory.training.tree import knows


@dataclass(frozen=True)
class Objective:
    """What is learned, and everything it needs besides the model: a task with its settings and constants."""

    name: str  # classes, value, tokens, masked, reward or dpo
    settings: Training
    pad: int
    class_weights: tuple[float, ...] = ()
    centre: float = 0.0  # of the values of a regression, which is learned on standardised ones
    spread: float = 1.0
    mask_token: int = 0
    vocabulary: int = 0
    packs: bool = False  # whether rows can be computed without padding

    @property
    def tree(self) -> bool:
        """Whether the rows of a batch are not padded, and what they begin with alike is computed once."""
        return self.packs and self.settings.packing

    @property
    def sequences(self) -> int:
        """Sequences per row."""
        return 2 if self.name in ("reward", "dpo") else 1

    def weight(self, row: Example) -> float:
        """What a row counts in the denominator of the loss."""
        if self.name == "tokens":
            return float(len(row.ids) - max(row.start, 0 if row.second is not None else 1))
        if self.name == "masked":
            return float(_hidden_count(row, self.settings.masked))
        return 1.0  # class weights are 1 on average: divided by their own sum in each step, they would balance nothing


def objective(task: Task, settings: Training, made: Renderer, train: Sequence[Example], classes: int) -> Objective:
    """The objective of a task; class weights and the scale of values are those of the training rows."""
    if task in ("classification", "pair_classification"):
        weights: tuple[float, ...] = ()
        if settings.class_weights == "balanced":
            counts = np.bincount([int(row.target) for row in train], minlength=classes)
            weights = tuple(float(weight) for weight in len(train) / (classes * np.maximum(counts, 1)))
        return Objective("classes", settings, made.pad, weights)
    if task == "regression":
        values = np.array([row.target for row in train])
        return Objective("value", settings, made.pad, centre=float(values.mean()), spread=float(values.std() or 1.0))
    if task == "preference":
        return Objective(settings.objective, settings, made.pad)
    if task == "text" and made.kind == "encoder":
        return Objective(
            "masked", settings, made.pad, mask_token=made.tokenizer.mask_token_id, vocabulary=len(made.tokenizer)
        )
    return Objective("tokens", settings, made.pad)


def laid_out(goal: Objective, model: Any) -> Objective:
    """The objective, knowing whether its rows can be a tree: the model and what is learned must suit one."""
    return replace(goal, packs=goal.name in ("tokens", "reward", "dpo") and knows(model))


def losses(
    goal: Objective, model: Any, rows: Sequence[Example], draw: Sequence[int],
    reference: Sequence[tuple[float, float]] = (), trunk: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """The losses of these rows, whose sum is to be divided by the sum of their weights, and what the model says.

    Of tokens there is a loss for each label, and nothing else is said. Of classes logits are said (rows x classes), of a
    value the standardised value, of a preference by how much the chosen answer leads.

    `draw` seeds what is random in an objective (with the row's name, so that batching changes nothing); `reference` holds
    the log-likelihoods of chosen and rejected answers under the start, for DPO; `trunk` what is kept of the lower blocks.
    """
    import torch

    batch = prepared(goal, rows, draw, trunk).to(next(model.parameters()).device)
    plain = torch.is_grad_enabled() and not goal.settings.fused
    if goal.name in ("tokens", "masked"):
        return forward.label_losses(model, batch, plain=plain)[0], None
    if goal.name == "dpo":
        better, worse = likelihoods(model, batch, plain=plain).chunk(2)
        first, second = torch.tensor(reference, device=better.device).T
        lead = goal.settings.beta * ((better - first) - (worse - second))
        return -torch.nn.functional.logsigmoid(lead), lead
    with nullcontext() if plain else forward.first_token_only(model, batch):
        said = forward.row_logits(model, batch)
    if goal.name == "classes":
        weights = torch.tensor(goal.class_weights, device=said.device) if goal.class_weights else None
        return torch.nn.functional.cross_entropy(said, batch.targets.long(), weight=weights, reduction="none"), said
    if goal.name == "value":
        return (said[:, 0] - (batch.targets - goal.centre) / goal.spread).square(), said[:, 0]
    better, worse = said[:, 0].chunk(2)
    return -torch.nn.functional.logsigmoid(better - worse), better - worse


def prepared(goal: Objective, rows: Sequence[Example], draw: Sequence[int], trunk: Any = None) -> forward.Batch:
    """The batch in which this objective reads the rows: of pairs, all chosen answers, then all rejected ones."""
    if goal.name == "masked":
        return _masked(goal, rows, draw)
    sequences, count = sequences_of(goal, rows), len(rows)
    groups = [range(place, len(sequences), count) for place in range(count)]
    batch = forward.branching(sequences, groups) if goal.tree else forward.collate(sequences, goal.pad)
    if trunk:
        trunk.show(sequences, batch.tree)
    return batch


def sequences_of(goal: Objective, rows: Sequence[Example]) -> Sequence[Example]:
    """What a network reads of these rows, in the order in which it reads them."""
    if goal.sequences == 1:
        return rows
    chosen = [replace(row, second=None) for row in rows]
    return [*chosen, *(Example(row.row, row.second or [], row.second_start) for row in rows)]


def likelihoods(model: Any, batch: forward.Batch, *, plain: bool = False) -> Any:
    """Log-likelihood of the learned tokens of each sequence."""
    losses, rows = forward.label_losses(model, batch, plain=plain)
    return -losses.new_zeros(len(batch.lengths)).index_add(0, rows, losses)


def _hidden_count(row: Example, share: float) -> int:
    return max(1, round(share * (len(row.ids) - 2)))


def _masked(goal: Objective, rows: Sequence[Example], draw: Sequence[int]) -> forward.Batch:
    """Some tokens of each row are to be guessed: of ten, eight are hidden, one is another, one is as it is (BERT)."""
    import torch

    batch = forward.collate(rows, goal.pad)
    ids, labels = batch.ids.clone(), torch.full_like(batch.ids, forward.IGNORED)
    for place, row in enumerate(rows):
        random = np.random.default_rng([*draw, *_number(row)])
        picked = 1 + random.permutation(len(row.ids) - 2)[: _hidden_count(row, goal.settings.masked)]
        kind = random.random(len(picked))
        others = random.integers(0, goal.vocabulary, len(picked))
        labels[place, picked] = ids[place, picked]
        ids[place, picked[kind < 0.8]] = goal.mask_token
        swapped = (kind >= 0.8) & (kind < 0.9)
        ids[place, picked[swapped]] = torch.from_numpy(others[swapped])
    return replace(batch, ids=ids, labels=labels)


def _number(row: Example) -> tuple[int, ...]:
    """A number for the row that does not depend on its place in a batch."""
    from zlib import crc32

    return (crc32(row.row.encode()), row.ids[1], len(row.ids))


def to_answer(name: str, settings: Training, made: Renderer, centre: float = 0.0, spread: float = 1.0) -> Objective:
    """The objective of a model that only answers: without what matters for its training."""
    mask = made.tokenizer.mask_token_id if name == "masked" else 0
    return Objective(name, settings, made.pad, (), centre, spread, mask, len(made.tokenizer))
