"""Reading `params.yaml`: one `Recipe` by name, or every fault of it at once, each with key, value and remedy."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from adaptory.errors import RecipeError
from adaptory.recipe import Recipe


def names(file: Path) -> list[str]:
    """The names of all recipes in the file."""
    return sorted(_recipes(file))


def load(file: Path, name: str) -> Recipe:
    """The recipe `name` of `file`, complete and coherent. Raises RecipeError otherwise."""
    recipes = _recipes(file)
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"recipes there: {', '.join(sorted(recipes)) or 'none'}"
        raise RecipeError(f"{file.name}: recipes has no {name!r}; {hint}")
    body = recipes[name]
    if not isinstance(body, dict):
        raise RecipeError(f"{file.name}: recipes.{name} is {body!r}; a recipe is a mapping of keys")
    try:
        return Recipe.model_validate({"name": name, **body})
    except ValidationError as fault:
        faults = "\n".join(f"  {line}" for line in _explain(fault, name))
        raise RecipeError(f"{file.name} has {fault.error_count()} fault(s):\n{faults}") from None


def _recipes(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no {file.name} in {file.parent}: run this inside a checkout, or create it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise RecipeError(f"{file.name} is not YAML: {fault}") from None
    recipes = content.get("recipes") if isinstance(content, dict) else None
    if not isinstance(recipes, dict) or not recipes:
        raise RecipeError(f"{file.name}: no recipes; write `recipes: {{<name>: {{...}}}}`")
    return recipes


def _explain(fault: ValidationError, name: str) -> Iterator[str]:
    """One line per fault: key, what is wrong, the value, the remedy."""
    for error in fault.errors():
        path = [str(part) for part in error["loc"]]
        key = ".".join(["recipes", name, *path])
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _keys_at(path[:-1]), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it"
            yield f"{key}: unknown key; {hint}"
        elif error["type"] == "missing":
            yield f"{key}: missing; add it"
        else:
            said = error["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(error["input"], dict) else f" (found {error['input']!r})"
            yield f"{key}: {said}{shown}"


def _keys_at(path: list[str]) -> list[str]:
    """The keys that are known at this place of a recipe, for a hint; nothing where it cannot tell."""
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        inner: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(part)
            inner += _models_in(field.annotation) if field else [model]
        models = inner
    return sorted({key for model in models for key in model.model_fields} - {"name"})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
