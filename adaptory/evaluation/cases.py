"""Behavioural cases in the style of CheckList (Ribeiro et al., ACL 2020): what a model must answer, what must not change its
answer, and in which direction a change must move it.

A file beside params.yaml lists them:

    - name: plain praise
      ask: what a lovely film
      expect: positive              # a class; a regular expression for written answers; {above: 0.5} or {below: 0} for numbers
    - name: a name changes nothing
      ask: [Ann liked it, Omar liked it]
      same: true                    # the same class; written answers that are equal; numbers within 10% of the first
    - name: more praise, more positive
      ask: [it was good, it was very good]
      towards: positive             # its chance must not fall; numbers: up or down
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from adaptory.errors import RecipeError
from adaptory.gate import Case
from adaptory.recipe import Recipe

_TASKS = ("classification", "regression", "sft")
_SLACK = 0.01  # a chance may fall by rounding and by a change of wording that says the same


class Bounds(BaseModel):
    """Where a number must lie."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    above: float | None = None
    below: float | None = None


class Written(BaseModel):
    """One case as it stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    ask: str | tuple[str, ...]
    expect: str | Bounds | None = None
    same: bool = False
    towards: str | None = None

    @model_validator(mode="after")
    def _one_question(self) -> "Written":
        if sum([self.expect is not None, self.same, self.towards is not None]) != 1:
            raise ValueError("a case says exactly one of expect, same, towards")
        if (self.same or self.towards) and (isinstance(self.ask, str) or len(self.ask) < 2):
            raise ValueError("same and towards compare texts: ask lists two or more")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """What is asked."""
        return (self.ask,) if isinstance(self.ask, str) else self.ask


def read(path: Path, recipe: Recipe) -> tuple[Written, ...]:
    """The cases of a file. Raises RecipeError, naming file and case, for one that could not be tried."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"evaluation.cases: there is no file {path}") from None
    except yaml.YAMLError as fault:
        raise RecipeError(f"evaluation.cases: {path} is not YAML: {fault}") from None
    if not isinstance(found, list) or not found:
        raise RecipeError(f"evaluation.cases: {path} must be a list of cases")
    cases = []
    for place, one in enumerate(found, start=1):
        try:
            cases.append(Written.model_validate(one))
        except ValidationError as fault:
            first = fault.errors()[0]
            raise RecipeError(
                f"{path}, case {place}: {'.'.join(map(str, first['loc']))} {first['msg']}".replace("  ", " ")
            ) from None
    if recipe.task not in _TASKS:
        raise RecipeError(f"evaluation.cases: task {recipe.task!r} has no cases; {', '.join(_TASKS)} have")
    for case in cases:
        if wrong := _fault(case, recipe):
            raise RecipeError(f"{path}, case {case.name!r}: {wrong}")
    classes = set(recipe.data.classes)
    for case in cases:
        named = {case.expect if isinstance(case.expect, str) else None, case.towards} - {None}
        if classes and not named <= classes:
            raise RecipeError(
                f"{path}, case {case.name!r}: {', '.join(map(str, named))} is no class ({', '.join(sorted(classes))})"
            )
    return tuple(cases)


def _fault(case: Written, recipe: Recipe) -> str | None:
    """What is wrong with a case for this task."""
    numbers, words = recipe.task == "regression", recipe.task == "sft"
    if isinstance(case.expect, Bounds) != numbers and case.expect is not None:
        return "expect is bounds ({above: ..., below: ...}) for numbers, and text for everything else"
    if case.towards is not None and (words or (numbers and case.towards not in ("up", "down"))):
        return "towards is up or down for numbers, a class for classes, and nothing for written answers"
    if words and isinstance(case.expect, str):
        try:
            re.compile(case.expect)
        except re.error as broken:
            return f"expect is not a regular expression: {broken}"
    return None


def questions(cases: tuple[Written, ...], recipe: Recipe) -> list[dict[str, Any]]:
    """Everything that is asked, as `reply` takes it."""
    field = "prompt" if recipe.task == "sft" else "text"
    return [{field: text} for case in cases for text in case.texts]


def tried(cases: tuple[Written, ...], told: list[dict[str, Any]]) -> tuple[Case, ...]:
    """Whether each case holds, given the answers to `questions`."""
    found, start = [], 0
    for case in cases:
        said = told[start : start + len(case.texts)]
        start += len(case.texts)
        shown = " | ".join(_shown(one) for one in said)
        found.append(Case(name=case.name, passed=_holds(case, said), said=shown))
    return tuple(found)


def _holds(case: Written, said: list[dict[str, Any]]) -> bool:
    if case.expect is not None:
        return all(_as_expected(case.expect, one) for one in said)
    if case.same:
        return all(_alike(said[0], one) for one in said[1:])
    assert case.towards is not None
    values = [_towards(case.towards, one) for one in said]
    return all(after >= before - _SLACK for before, after in pairwise(values))


def _as_expected(wanted: str | Bounds, one: dict[str, Any]) -> bool:
    if isinstance(wanted, Bounds):
        value = float(one["value"])
        return (wanted.above is None or value > wanted.above) and (wanted.below is None or value < wanted.below)
    if "label" in one:
        return bool(one["label"] == wanted)
    return re.search(wanted, str(one["answer"])) is not None


def _alike(first: dict[str, Any], other: dict[str, Any]) -> bool:
    if "value" in first:
        return abs(float(other["value"]) - float(first["value"])) <= 0.1 * max(abs(float(first["value"])), 1.0)
    key = "label" if "label" in first else "answer"
    return bool(first[key] == other[key])


def _towards(direction: str, one: dict[str, Any]) -> float:
    if "chances" in one:
        return float(one["chances"][direction])
    return float(one["value"]) * (-1 if direction == "down" else 1)


def _shown(one: dict[str, Any]) -> str:
    if "chances" in one:
        return f"{one['label']} {one['chances'][one['label']]:.2f}"
    return f"{one['value']:.3f}" if "value" in one else str(one.get("answer"))[:80]
