"""dvc.lock by its sections: DVC reads and writes all of it for every stage, half a minute where it holds a hundred recipes.

So DVC is given a lock of one recipe's stages, and what it makes of that is put back. Sections are kept as DVC wrote them, but
without YAML's anchors, which it numbers from one in every lock: where params.yaml says something once for several sources.
"""

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_HEAD = "schema: '2.0'\nstages:\n"
_EMPTY = "schema: '2.0'\nstages: {}\n"
_ANCHOR = re.compile(r"(?m)[:-] [&*]\w+$")


def read(file: Path, stages: Iterable[str]) -> dict[str, Any]:
    """The sections of these stages, as far as they are there."""
    there = _sections(file)[1]
    wanted = "".join(there[name] for name in stages if name in there)
    return dict(_loaded(_HEAD + wanted)["stages"] or {})


def take(file: Path, stages: Iterable[str], own: Path) -> None:
    """Writes a lock of these stages alone."""
    there = _sections(file)[1]
    own.parent.mkdir(parents=True, exist_ok=True)
    found = "".join(there[name] for name in stages if name in there)
    own.write_text(_HEAD + found if found else _EMPTY, encoding="utf-8")


def give_back(own: Path, file: Path) -> None:
    """Puts the sections of such a lock into the whole one, which is replaced at once and only if it changes."""
    _put(file, _sections(own)[1])


def replace(file: Path, sections: Mapping[str, Any]) -> None:
    """Makes the lock say this of these stages."""
    if read(file, sections) != sections:
        _put(file, _split(_dumped({"stages": dict(sections)}))[1])


def _put(file: Path, sections: Mapping[str, str]) -> None:
    head, there, tail = _sections(file)
    merged = {**there, **sections}
    if all(there.get(name) == text for name, text in sections.items()):
        return
    fresh = file.with_suffix(".fresh")
    fresh.write_text("".join([head, *merged.values(), tail]), encoding="utf-8")
    fresh.replace(file)


def _sections(file: Path) -> tuple[str, dict[str, str], str]:
    text = file.read_text(encoding="utf-8") if file.is_file() else _HEAD
    return _split(_dumped(_loaded(text)) if _ANCHOR.search(text) else text)


def _loaded(text: str) -> dict[str, Any]:
    """What DVC reads there: YAML 1.2, in which `no` is a word and 1e-05 a number."""
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe").load(text))


def _dumped(lock: dict[str, Any]) -> str:
    """The lock as DVC writes one, but with everything where it stands, though it stands elsewhere, too."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class AsDvc(RoundTripRepresenter):
        """Leaves the place of None empty, as DVC does; ruamel writes `null` there where it looks for no anchors."""

    AsDvc.add_representer(type(None), lambda its, nothing: its.represent_scalar("tag:yaml.org,2002:null", ""))
    written, text = YAML(), io.StringIO()
    written.Representer = AsDvc
    written.default_flow_style = False
    written.representer.ignore_aliases = lambda data: True
    written.dump(lock, text)
    return text.getvalue()


def _split(text: str) -> tuple[str, dict[str, str], str]:
    """What stands before the stages, the text of every stage, and what stands after them."""
    head, tail, name = "", "", None
    stages: dict[str, str] = {}
    inside = after = False
    for line in text.splitlines(keepends=True):
        outer = not line.startswith(" ") and line.strip()
        after = after or bool(inside and outer)
        if after:
            tail += line
        elif not inside:
            head, inside = head + line, line.startswith("stages:")
        elif line.startswith("  ") and line[2:3].strip():
            name = line.strip().rstrip(":").strip("'\"")
            stages[name] = line
        elif name is not None:
            stages[name] += line
    return head.replace("stages: {}", "stages:"), stages, tail
