"""The data part of a recipe: sources, the columns they feed, the split, and when a person must look."""

import re
from typing import Literal

from pydantic import Field, model_validator

from adaptory.frozen import Digest, Frozen, Name, Share

Task = Literal["classification", "regression", "pair_classification", "sft", "preference", "text"]
SplitName = Literal["train", "validation", "test"]

# What each task needs of every row; where there are several sets, one of them.
NEEDS: dict[Task, tuple[tuple[str, ...], ...]] = {
    "classification": (("text", "label"),),
    "regression": (("text", "value"),),
    "pair_classification": (("text", "text_pair", "label"),),
    "sft": (("prompt", "response"), ("messages",)),
    "preference": (("prompt", "chosen", "rejected"),),
    "text": (("text",),),
}


class Source(Frozen):
    """One stream of rows; its name in the recipe becomes the slice column `source`."""

    uri: str = Field(min_length=1)
    """A local file, folder or glob (starts with `./` or `/`), `s3://<bucket>/<prefix>`, `pypi:<name>==<version>!<glob>`,
    or `champion:<recipe>!<split>[!<rows>]`: pairs of the right answers and the worse ones of that recipe's champion (jsonl)."""
    sha256: Digest | None = None
    """Digest of the archive, of the one file, or of the list of files; needed for `pypi:`. Other bytes are refused."""
    format: Literal["csv", "tsv", "jsonl", "parquet", "datasets", "po"]
    """How rows are written. `datasets`: a folder saved by Hugging Face datasets; `po`: gettext. `.gz` and `.zst` are unpacked."""
    columns: tuple[str, ...] = ()
    """Names of the columns, in order; empty: the first line names them (csv, tsv)."""
    fields: dict[str, str] = Field(default={})
    """Columns of this source that are called otherwise than in `data.fields`, by field."""
    html_entities: Literal["keep", "decode"] = "keep"
    """`decode` turns `&amp;` into `&`, also where a publisher encoded it twice."""
    split: SplitName | None = None
    """Puts every row of the source there; `test` with a sha256 is a frozen evaluation set."""

    @model_validator(mode="after")
    def _pinned(self) -> "Source":
        if self.uri.startswith("pypi:") and self.sha256 is None:
            raise ValueError("a PyPI archive needs its sha256 beside it")
        if self.columns and self.format not in ("csv", "tsv"):
            raise ValueError(f"columns name the cells of csv and tsv lines; {self.format} names its own")
        return self


class Label(Frozen):
    """Where the class comes from: a column that names it, or a number cut at a band around zero."""

    column: str
    """The source column that names the class, or holds the number."""
    classes: tuple[str, ...] = Field(min_length=2)
    """All classes; with `neutral_band`, the lowest first."""
    neutral_band: float | None = Field(default=None, gt=0)
    """If set, the column is a number: below -band is the first class, above +band the last, between them the middle one."""

    @model_validator(mode="after")
    def _shape(self) -> "Label":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes repeat: {', '.join(self.classes)}")
        if self.neutral_band is not None and len(self.classes) != 3:
            raise ValueError(f"neutral_band cuts a number into three classes, but classes names {len(self.classes)}")
        return self


class Fields(Frozen):
    """Which source columns feed the task."""

    id: str | None = None
    """The column that names a row within its source; null: the row's content names it."""
    group: str | None = None
    """The column that names the document (user, thread, page) a row belongs to: a document never sits in two splits."""
    group_pattern: str | None = None
    """Or: what this regular expression matches at the start of the id names the document."""
    text: str | None = None
    """The column that holds the text."""
    text_pair: str | None = None
    """The column that holds the second text (pair_classification)."""
    label: Label | None = None
    """Where the class comes from."""
    value: str | None = None
    """The column that holds the number (regression)."""
    prompt: str | None = None
    """The column that holds what is asked (sft, preference)."""
    response: str | None = None
    """The column that holds the answer (sft)."""
    messages: str | None = None
    """The column that holds a chat: a list of `{role, content}` (sft)."""
    chosen: str | None = None
    """The column that holds the better answer (preference)."""
    rejected: str | None = None
    """The column that holds the worse answer (preference)."""
    slices: dict[Name, str] = Field(default={})
    """Name -> column: its values cut the test rows into slices `<name>=<value>`."""

    @model_validator(mode="after")
    def _compiles(self) -> "Fields":
        try:
            re.compile(self.group_pattern or "")
        except re.error as fault:
            raise ValueError(f"group_pattern is not a regular expression: {fault}") from None
        if self.group_pattern and self.group:
            raise ValueError("both group and group_pattern name the document; keep one")
        if self.group_pattern and not self.id:
            raise ValueError("group_pattern reads the id, but fields.id names no column")
        if taken := set(self.slices) & {"source", "class", "words", "text", "history"}:
            raise ValueError(
                f"fields.slices: {', '.join(sorted(taken))} names slices that every evaluation has; take another name"
            )
        return self

    def columns(self, source: Source) -> dict[str, str]:
        """Field -> column of this source, for every field that is set."""
        return self.given() | source.fields

    def read(self, source: Source) -> list[str]:
        """Every column of this source that is read."""
        return sorted({*self.columns(source).values(), *self.slices.values()})

    def given(self) -> dict[str, str]:
        """Field -> column, for every field that is set."""
        columns = {
            name: column for name, column in self.model_dump(exclude={"group_pattern", "label", "slices"}).items() if column
        }
        return columns | ({"label": self.label.column} if self.label else {})


class Split(Frozen):
    """Shares of the groups; the rest trains. The salt is the only way to move a row."""

    validation: Share = 0.10
    """Share of the documents that choose the best epoch."""
    test: Share = 0.15
    """Share of the documents that the gate judges on."""
    salt: str = "1"
    """Another salt makes another division; nothing else moves a row."""
    near_copies: float | None = Field(default=0.8, ge=0.5, le=1)
    """Texts that share at least this part of their words (Jaccard) never sit in two splits; null: only equal texts."""

    @model_validator(mode="after")
    def _leaves_training(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing to train on")
        return self


class Drift(Frozen):
    """How far new data may lie from the champion's before a person must approve the training."""

    rows: Share = 0.8
    """Fewer rows than this share of the champion's need approval."""
    labels: float = Field(default=0.1, ge=0, le=1)
    """Largest part of the rows that may have changed class (total variation)."""
    lengths: float = Field(default=0.2, ge=0, le=1)
    """Largest distance between the distributions of text lengths (Kolmogorov-Smirnov)."""
    vocabulary: float = Field(default=0.1, ge=0, le=1)
    """Largest part of the words that the champion's data had not."""
    embeddings: float = Field(default=0.7, ge=0.5, le=1)
    """The lower end of the AUC with which a classifier tells new rows from old ones must stay below this."""


class Data(Frozen):
    """What is learned from."""

    sources: dict[Name, Source] = Field(min_length=1)
    """Named streams of rows; the name becomes the slice column `source`."""
    fields: Fields
    """Which columns feed the task."""
    # These two have no default: DVC watches them in params.yaml, and it cannot watch what is not there.
    split: Split
    """How the documents are divided."""
    max_quarantine: Share
    """A source with a larger share of unusable rows is refused, and the last good data stays."""
    drift: Drift = Drift()
    """When a person must look before anything is trained."""

    @property
    def label(self) -> Label:
        """Where the class comes from, in a task that has classes."""
        assert self.fields.label is not None, "this task has no classes"
        return self.fields.label

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes; none in a task without."""
        return self.fields.label.classes if self.fields.label else ()

    def check(self, task: Task) -> None:
        """Raises ValueError unless the fields are exactly those that the task is made of."""
        given = set(self.fields.given()) - {"id", "group"}
        if not any(given == set(choice) for choice in NEEDS[task]):
            wanted = " or ".join(", ".join(choice) for choice in NEEDS[task])
            raise ValueError(f"task {task!r} needs data.fields {wanted}; found {', '.join(sorted(given)) or 'none'}")
        for name, source in self.sources.items():
            if unknown := set(source.fields) - set(self.fields.given()):
                raise ValueError(f"data.sources.{name}.fields names {', '.join(sorted(unknown))}, which data.fields does not")
