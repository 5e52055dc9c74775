"""Prepare: the data and the base, brought up to date by DVC."""

import json

import yaml
from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from adaptory import data, params, reach, run, workspace
from adaptory.run import Run
from tasks.common import RETRIED, key


@task(**RETRIED | {"retries": 1, "retry_delay_seconds": 5})  # it begins: a server that is not there is told within seconds
def prepare(name: str) -> Run:
    """Returns the run on the newest data, checked, split and versioned; the recipe in force is shown."""
    place = workspace.find()
    made = params.load(place.recipes_file, name)
    reach.check_tracking(place)
    dataset = data.prepare(place, made)
    create_table_artifact(
        key=key(name, "data"),
        table=[{"split": split, **counts, "rows": sum(counts.values())} for split, counts in dataset.card.counts.items()],
        description=f"Dataset `{dataset.digest}`: {dataset.card.rows_in:,} rows in, "
        f"{sum(dataset.card.quarantined.values()):,} quarantined.",
    )
    said = made.model_dump(mode="json", exclude_defaults=True)
    texts = [yaml.safe_dump(one, sort_keys=False, allow_unicode=True) for one in (said, made.model_dump(mode="json"))]
    create_markdown_artifact(
        f"Asked for: `{json.dumps(runtime.flow_run.parameters)}`.\n\nWhat params.yaml says:\n\n```yaml\n{texts[0]}```\n\n"
        f"What is in force, defaults included:\n\n```yaml\n{texts[1]}```\n",
        key=key(name, "recipe"), description=f"The recipe `{made.digest}`.",
    )  # fmt: skip
    return run.on(place, made, dataset)


@task(**RETRIED)
def keep(run: Run) -> None:
    """The run's dataset version is in the DVC remote, where other machines and later years find it."""
    data.keep(run.workspace, run.recipe)
