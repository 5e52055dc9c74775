"""Everything that flows need of a Prefect server and a bucket: python -m infra.deploy (what `make deploy` runs)

Work pools, limits, automations, where notifications go, the deployments of prefect.yaml, and the forms' list of recipes.
Applying it again changes nothing. Needs PREFECT_API_URL; makes the buckets where AWS_ENDPOINT_URL names an own S3 server.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from adaptory import params, workspace
from adaptory.errors import UserError
from infra.automations import automations

_PEOPLE = "people"
_RUNS, _GPUS = "ADAPTORY_RUNS", "ADAPTORY_GPUS"  # orchestrated at once over all workers; GPUs there are
_GPU_POOL_TYPE = "ADAPTORY_GPU_POOL_TYPE"  # process, or kubernetes: a pod for every stage, made from this:
_JOB_TEMPLATE = Path(__file__).parent / "kubernetes" / "pool" / "job-template.json"
_BUCKETS = ("adaptory", "mlflow")


def buckets() -> None:
    """Makes the buckets of an S3 server of one's own; those of a provider are made with their policies, by their owner."""
    if not os.environ.get("AWS_ENDPOINT_URL"):
        return
    from adaptory.storage.objects import s3_client

    client = s3_client()
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in sorted(set(_BUCKETS) - there):
        client.create_bucket(Bucket=name)
        print(f"bucket {name}")


def pools_and_limits(recipes: list[str]) -> None:
    """Work pools, the limit `gpu`, and one limit per model."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    from tasks.alone import limit_of

    kind = os.environ.get(_GPU_POOL_TYPE, "process")
    template = json.loads(_JOB_TEMPLATE.read_bytes()) if kind == "kubernetes" else {}
    # Of the pool gpu each worker takes what its own --limit allows; of pods there are no more than GPUs.
    pods = int(os.environ.get(_GPUS, "1")) if kind == "kubernetes" else None
    wanted = [WorkPoolCreate(name="cpu", type="process", concurrency_limit=None)]
    wanted += [WorkPoolCreate(name="gpu", type=kind, concurrency_limit=pods, base_job_template=template)]
    before = None  # the limit of the pool, from when it was not its queue's
    with get_client(sync_client=True) as client:
        for pool in wanted:
            try:
                there = client.read_work_pool(pool.name)
            except ObjectNotFound:
                client.create_work_pool(pool)
                print(f"work pool {pool.name}")
                continue
            before = there.concurrency_limit if pool.name == "cpu" else before
            if there.type != pool.type:
                raise UserError(
                    f"the work pool {pool.name} is of the type {there.type}, {_GPU_POOL_TYPE} says {pool.type}; "
                    f"stop its workers, then: prefect work-pool delete {pool.name}"
                )
            if template and pool.name == "gpu" and there.base_job_template != template:
                client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))
                print("job template of the work pool gpu")
            # What was raised before stays unless it is said.
            if there.concurrency_limit != pool.concurrency_limit and (pods is None or pool.name == "cpu" or _GPUS in os.environ):
                client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=pool.concurrency_limit))
        _queues(client, before)
        if _GPUS in os.environ or not _has_limit(client, "gpu"):
            client.upsert_global_concurrency_limit_by_name("gpu", int(os.environ.get(_GPUS, "1")))
        for name in map(limit_of, recipes):
            client.upsert_global_concurrency_limit_by_name(name, 1)


def _queues(client: Any, before: int | None) -> None:
    """Retrains wait in the queue `default` while as many run as may; what a person asks for does not wait behind them."""
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_queue_by_name(_PEOPLE, work_pool_name="cpu")
    except ObjectNotFound:
        client.create_work_queue(name=_PEOPLE, work_pool_name="cpu", priority=1)
    there = client.read_work_queue_by_name("default", work_pool_name="cpu")
    if there.concurrency_limit is None or _RUNS in os.environ:
        client.update_work_queue(there.id, concurrency_limit=int(os.environ.get(_RUNS) or before or 8))


def _has_limit(client: Any, name: str) -> bool:
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return False
    return True


def deployments(recipes: list[str]) -> None:
    """The deployments of prefect.yaml; the forms offer exactly the recipes there are."""
    from prefect.client.orchestration import get_client

    place = workspace.find()
    with get_client(sync_client=True) as client:
        stopped = _stopped(client)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=place.root, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"prefect deploy failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    with get_client(sync_client=True) as client:
        for one in client.read_deployments():
            if "adaptory" in one.tags and (told := _for_people(one.description or "")) != one.description:
                answer = client.request("PATCH", "/deployments/{id}", path_params={"id": one.id}, json={"description": told})
                answer.raise_for_status()
            schema: dict[str, Any] = one.parameter_openapi_schema or {}
            asked = schema.get("properties", {}).get("recipe")
            if "adaptory" in one.tags and asked and asked.get("enum") != recipes:
                asked["enum"] = recipes
                asked.pop("pattern", None)
                answer = client.request(
                    "PATCH", "/deployments/{id}", path_params={"id": one.id}, json={"parameter_openapi_schema": schema}
                )
                answer.raise_for_status()
        _leave_stopped(client, stopped)
        print(f"deployments: {', '.join(sorted(_full_name(client, one) for one in client.read_deployments()))}")


def _stopped(client: Any) -> set[tuple[str, str]]:
    """Schedules that are not active, by deployment and name; a paused deployment is one of them, without a name."""
    every = [(_full_name(client, one), one) for one in client.read_deployments() if "adaptory" in one.tags]
    schedules = {(name, part.slug or "") for name, one in every for part in one.schedules if not part.active}
    return schedules | {(name, "") for name, one in every if one.paused}


def _leave_stopped(client: Any, stopped: set[tuple[str, str]]) -> None:
    """What a person stopped on the page stays so, whatever prefect.yaml says of it."""
    for one in client.read_deployments():
        name = _full_name(client, one)
        if (name, "") in stopped:
            client.pause_deployment(one.id)
            print(f"{name} is paused, and stays so until it is resumed on its page")
        for part in one.schedules:
            if (name, part.slug) in stopped and part.active:
                client.update_deployment_schedule(one.id, part.id, active=False)
                print(f"the schedule {part.slug} of {name} is stopped, and stays so until it is started on its page")


def _for_people(docstring: str) -> str:
    """A docstring as the page shows it: its paragraphs in one line each, without the arguments, which the form explains."""
    text = docstring.partition("Args:")[0].strip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _full_name(client: Any, one: Any) -> str:
    return f"{client.read_flow(one.flow_id).name}/{one.name}"


def main() -> None:
    place = workspace.find()
    place.activate()
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError("PREFECT_API_URL names no server to deploy to; start one with: make up")
    recipes = params.names(place.recipes_file)
    buckets()
    pools_and_limits(recipes)
    deployments(recipes)
    automations()


if __name__ == "__main__":
    try:
        main()
    except UserError as fault:
        sys.exit(f"error: {fault}")
