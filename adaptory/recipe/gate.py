"""The gate part of a recipe: what has to be proved before a candidate becomes champion."""

from typing import Annotated, Literal

from pydantic import Field

from adaptory.frozen import Frozen, Name, Share
from adaptory.recipe.metrics import Metric


class _Asked(Frozen):
    """A question about one metric."""

    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher", "lower"]
    """Which way is better."""
    slice: str | None = None
    """Asked of these test rows only: `source=<name>`, `class=<name>` (precision, recall, f1), `words=9-16`, `text=<name>`,
    `<column>=<value>`, `history=new` (since the champion); null: of all."""


class Floor(_Asked):
    """The worse end of the candidate's interval must reach a limit. Of `ece_fitted`: calibration."""

    kind: Literal["floor"]
    limit: float
    """The whole interval must reach it."""


class BeatsBaselines(_Asked):
    """The candidate must beat the best baseline by more than a margin, beyond chance."""

    kind: Literal["beats_baselines"]
    margin: float = Field(ge=0)
    """The paired gain over every baseline must be larger, with its whole interval."""


class BeatsChampion(_Asked):
    """The candidate must beat the champion by more than a margin, beyond what gate.budget allows to chance. No champion:
    not asked."""

    kind: Literal["beats_champion"]
    margin: float = Field(ge=0)
    """The paired gain over the champion must be larger, with its whole interval."""


class NotWorse(_Asked):
    """The candidate must be proved to lose no more than a margin (non-inferiority). No champion: not asked."""

    kind: Literal["not_worse"]
    margin: float = Field(gt=0)
    """The paired loss must be smaller, with its whole interval: of a source, how much of it may be forgotten."""
    than: Name = "champion"
    """Than whom: the champion, or a recipe of evaluation.compare."""


class NoSliceWorse(_Asked):
    """No slice may be measurably worse than with the champion (one-sided tests, corrected for their number; Holm 1979).

    It finds harm, and proves nothing of slices that are too small to show it. No champion: not asked."""

    kind: Literal["no_slice_worse"]
    margin: float = Field(default=0.0, ge=0)
    """A loss up to this is no harm."""
    min_rows: int = Field(default=50, ge=10)
    """Smaller slices are not asked."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """How often a candidate that is nowhere worse may be refused by chance."""


class Cases(Frozen):
    """The behavioural cases of evaluation.cases must pass."""

    kind: Literal["cases"]
    allowed: int = Field(default=0, ge=0)
    """So many may fail."""


class Latency(Frozen):
    """One row at a time must be answered fast enough on the machine that evaluates."""

    kind: Literal["latency"]
    limit: float = Field(gt=0)
    """Milliseconds; the upper end of the interval of the median must be below."""


class DataChecks(Frozen):
    """The data must be good enough to judge on."""

    kind: Literal["data"]
    max_quarantined: Share = 0.05
    """Share of the rows that could not be used."""
    min_test_rows: int = Field(default=100, ge=1)
    """Fewer rows prove nothing."""


class Lineage(Frozen):
    """Everything the candidate is made from must be committed, so that it can be made again."""

    kind: Literal["lineage"]


class Steady(Frozen):
    """Chance alone must move the result little: evaluation.seeds trains the candidate again with other seeds."""

    kind: Literal["steady"]
    metric: Metric
    """What is measured on the test rows."""
    limit: float = Field(gt=0)
    """Most the standard deviation over the seeds may be."""


class Forgetting(Frozen):
    """The text of evaluation.general must not surprise the candidate much more than its base."""

    kind: Literal["forgetting"]
    limit: float = Field(gt=1)
    """Perplexity of the candidate over that of the base; the upper end of the interval must be below."""


Criterion = Annotated[
    Floor | BeatsBaselines | BeatsChampion | NotWorse | NoSliceWorse | Cases | Latency | DataChecks | Lineage | Steady
    | Forgetting,
    Field(discriminator="kind"),
]  # fmt: skip


class Gate(Frozen):
    """What has to be proved before a candidate becomes champion. No criteria: refused."""

    criteria: tuple[Criterion, ...] = Field(min_length=1)
    """All must hold; an empty list is refused."""
    budget: float | None = Field(default=0.05, gt=0, lt=0.5)
    """How often candidates that are no better may ever be promoted on one test split, however many are tried: the k-th
    comparison with a champion is judged at level 6 budget / (pi k)^2. null: every one at the level of evaluation.confidence."""
    approval: Literal["auto", "required"] = "auto"
    """Whether a PASS makes the champion at once, or waits for a person who approves or rejects it."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """How surely a gain should be seen that is worth it: what the test rows can show is said before training."""

    @property
    def asked(self) -> tuple[_Asked, ...]:
        """The criteria about a metric."""
        return tuple(one for one in self.criteria if isinstance(one, _Asked))


Asked = _Asked
