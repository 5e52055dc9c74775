"""The docs cannot lie: what is generated is fresh, and the README's tree names every file there is."""

import re

from tests.support import ROOT


def test_the_generated_pages_are_fresh() -> None:
    from docs import generate

    for name, page in (("recipe.md", generate.recipe_page()), ("cli.md", generate.cli_page())):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page, f"run: python -m docs.generate (docs/{name} is stale)"


def test_every_key_of_a_recipe_is_explained() -> None:
    from adaptory import recipe
    from docs import generate

    for title, model in generate._sections(recipe.Recipe, ""):
        for name, field in model.model_fields.items():
            assert field.description or name in ("name", "kind"), f"{title}.{name} has no sentence"


def test_the_readmes_file_tree_names_every_source_file_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\s+([a-z_0-9]+\.py) ", readme, re.MULTILINE))
    files = [file for folder in ("adaptory", "tasks", "flows") for file in (ROOT / folder).rglob("*.py")]
    assert told == {file.name for file in files} - {"__init__.py"}


def test_the_readmes_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "infra" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
