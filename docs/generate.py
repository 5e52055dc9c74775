"""Writes docs/recipe.md and docs/cli.md from the code, so that they cannot lie; a test fails when they are stale.

    python -m docs.generate
"""

import argparse
import os
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adaptory import cli, recipe

HERE = Path(__file__).parent


def recipe_page() -> str:
    """Every key of a recipe: type, default, meaning."""
    parts = [
        "# The recipe, key by key",
        "Made from `adaptory/recipe/` by `python -m docs.generate`. A recipe lives under `recipes: <name>:` in params.yaml; "
        "an unknown key is an error, and so are NaN and infinity.",
    ]
    for title, model in _sections(recipe.Recipe, ""):
        lines = [f"## {title}", (model.__doc__ or "").strip(), "", "| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            if (model, name) != (recipe.Recipe, "name"):
                lines.append(f"| `{name}` | {_type(field)} | {_default(field)} | {' '.join((field.description or '').split())} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cli_page() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "100"
    parser, verbs = cli._parser()
    parts = ["# The command line", "Made from `adaptory/cli.py` by `python -m docs.generate`.", _block(parser)]
    parts += [f"## adaptory {name}\n\n{_block(verb)}" for name, verb in verbs.items()]
    return "\n\n".join(parts) + "\n"


def _block(parser: argparse.ArgumentParser) -> str:
    return f"```\n{parser.format_help().rstrip()}\n```"


def _sections(model: type[BaseModel], path: str) -> list[tuple[str, type[BaseModel]]]:
    found = [(f"`{path}`" if path else "The recipe", model)]
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            several = "[]" if "tuple" in str(field.annotation) else ".<name>" if "dict" in str(field.annotation) else ""
            kind = inner.model_fields["kind"].annotation if "kind" in inner.model_fields else None
            suffix = f" (kind: {typing.get_args(kind)[0]})" if kind else ""
            found += [(title + suffix, m) for title, m in _sections(inner, f"{path}.{name}{several}".lstrip("."))]
    return found


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _type(field: FieldInfo) -> str:
    if _models(field.annotation):
        return "see below"
    limits = [f"{sign} {value:g}" for sign, value in _limits(field)]
    return ", ".join([_name(field.annotation), *limits])


def _limits(field: FieldInfo) -> list[tuple[str, float]]:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return [(signs[kind], getattr(rule, kind)) for rule in field.metadata for kind in signs if hasattr(rule, kind)]


def _name(annotation: object) -> str:
    if annotation is type(None):
        return "null"
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        return _name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (tuple, dict):
        inner = [_name(part) for part in typing.get_args(annotation) if part is not Ellipsis]
        return f"list of {inner[0]}" if typing.get_origin(annotation) is tuple else f"map of {inner[0]} to {inner[1]}"
    if parts := typing.get_args(annotation):
        return " or ".join(_name(part) for part in parts)
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "JsonValue": "value"}
    return words.get(getattr(annotation, "__name__", ""), str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    if isinstance(field.default, BaseModel):
        return "see below"
    if field.default in ((), {}):
        return "empty"
    if isinstance(field.default, bool):
        return "`true`" if field.default else "`false`"  # as YAML writes it
    return "null" if field.default is None else f"`{field.default}`"


if __name__ == "__main__":
    (HERE / "recipe.md").write_text(recipe_page(), encoding="utf-8")
    (HERE / "cli.md").write_text(cli_page(), encoding="utf-8")
