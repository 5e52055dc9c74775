"""Everything that flows need of a Prefect server and a bucket: python -m infra.deploy (what `make deploy` runs)

Work pools, limits, automations, where notifications go, the deployments of prefect.yaml, and the forms' list of recipes.
Applying it again changes nothing. Needs PREFECT_API_URL; makes the buckets where AWS_ENDPOINT_URL names an own S3 server.
"""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from adaptory import params, workspace
from adaptory.arrivals import EVENT
from adaptory.errors import UserError

_RUNS, _GPUS = "ADAPTORY_RUNS", "ADAPTORY_GPUS"  # orchestrated at once over all workers; GPUs there are
_GPU_POOL_TYPE = "ADAPTORY_GPU_POOL_TYPE"  # process, or kubernetes: a pod for every stage, made from this:
_JOB_TEMPLATE = Path(__file__).parent / "kubernetes" / "pool" / "job-template.json"
_BUCKETS = ("adaptory", "mlflow")
_TOLD = (
    "adaptory.promoted", "adaptory.fail", "adaptory.inconclusive", "adaptory.champion-broken", "adaptory.needs-approval",
    "adaptory.awaiting-approval", "adaptory.rejected", "adaptory.rolled-back", "adaptory.monitor.worse",
    "adaptory.monitor.drifted",
)  # fmt: skip
# A run that says nothing for so long is dead: three heartbeats of 30 s (PREFECT_FLOWS_HEARTBEAT_FREQUENCY).
_SILENCE = timedelta(seconds=90)
# A worker that claimed a run begins it within so long; one that died first left it pending, and nothing would ever end it.
_STARTING = timedelta(minutes=5)


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
    # Of the pool gpu each worker takes what its own --limit allows.
    wanted = [WorkPoolCreate(name="cpu", type="process", concurrency_limit=int(os.environ.get(_RUNS, "8")))]
    wanted += [WorkPoolCreate(name="gpu", type=kind, concurrency_limit=None, base_job_template=template)]
    with get_client(sync_client=True) as client:
        for pool in wanted:
            try:
                there = client.read_work_pool(pool.name)
            except ObjectNotFound:
                client.create_work_pool(pool)
                print(f"work pool {pool.name}")
                continue
            if there.type != pool.type:
                raise UserError(
                    f"the work pool {pool.name} is of the type {there.type}, {_GPU_POOL_TYPE} says {pool.type}; "
                    f"stop its workers, then: prefect work-pool delete {pool.name}"
                )
            if template and pool.name == "gpu" and there.base_job_template != template:
                client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))
                print("job template of the work pool gpu")
            # What was raised before stays unless it is said.
            if there.concurrency_limit != pool.concurrency_limit and (pool.name != "cpu" or _RUNS in os.environ):
                client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=pool.concurrency_limit))
        if _GPUS in os.environ or not _has_limit(client, "gpu"):
            client.upsert_global_concurrency_limit_by_name("gpu", int(os.environ.get(_GPUS, "1")))
        for name in map(limit_of, recipes):
            client.upsert_global_concurrency_limit_by_name(name, 1)


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
        print(f"deployments: {', '.join(sorted(_full_name(client, one) for one in client.read_deployments()))}")


def _for_people(docstring: str) -> str:
    """A docstring as the page shows it: its paragraphs in one line each, without the arguments, which the form explains."""
    text = docstring.partition("Args:")[0].strip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def automations() -> None:
    """What happens by itself: dead runs are declared so, crashed ones run again, new data start a retrain, people are told."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture

    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    from_event = {"__prefect_kind": "jinja", "template": "{{ event.resource.name }}"}
    ended = {f"prefect.flow-run.{word}" for word in ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")}
    moved_on = "Running Scheduled Late AwaitingRetry Retrying AwaitingConcurrencySlot Resuming Cancelling heartbeat"
    begun = {f"prefect.flow-run.{word}" for word in moved_on.split()}
    wanted = [
        Automation(
            name="adaptory: a run that its worker claimed and never began is declared crashed",
            trigger=EventTrigger(
                after={"prefect.flow-run.Pending"}, expect=begun | ended, match=runs, for_each={"prefect.resource.id"},
                posture=Posture.Proactive, threshold=1, within=_STARTING,
            ),
            actions=[ChangeFlowRunState(
                state=StateType.CRASHED, message=f"not begun within {_STARTING.seconds} s: the worker that claimed it died"
            )],
        ),
        Automation(
            name="adaptory: a run whose machine died is declared crashed",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"}, expect={"prefect.flow-run.heartbeat", *ended}, match=runs,
                for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=_SILENCE,
            ),
            actions=[ChangeFlowRunState(
                state=StateType.CRASHED, message=f"no heartbeat for {_SILENCE.seconds} s: its machine or its worker died"
            )],
        ),
        Automation(
            name="adaptory: a crashed retrain runs again, and goes on where it was",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Crashed"}, match=runs, for_each={"prefect.resource.id"}, posture=Posture.Reactive,
                match_related={"prefect.resource.id": "prefect.tag.resubmit", "prefect.resource.role": "tag"}, threshold=1,
            ),
            actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="resubmitted after a crash")],
        ),
        Automation(
            name="adaptory: new data start a retrain",
            trigger=EventTrigger(
                expect={EVENT}, match={"prefect.resource.id": "adaptory.recipe.*"}, for_each={"prefect.resource.id"},
                posture=Posture.Reactive, threshold=1,
            ),
            actions=[RunDeployment(
                deployment_id=_deployment("retrain/on-demand"),
                parameters={"recipe": from_event, "accept_drift": False},
            )],
        ),
    ]  # fmt: skip
    if (block := _where_to_tell()) is not None:
        wanted += [
            Automation(
                name="adaptory: people are told what became of a model",
                trigger=EventTrigger(
                    expect=set(_TOLD), match={"prefect.resource.id": "adaptory.model.*"}, for_each={"prefect.resource.id"},
                    posture=Posture.Reactive, threshold=1,
                ),
                actions=[SendNotification(
                    block_document_id=block, subject="{{ event.resource.name }}: {{ event.event }}",
                    body="{{ event.payload['reason'] }}",
                )],
            ),
            Automation(
                name="adaptory: people are told of failures",
                trigger=EventTrigger(
                    expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, match=runs,
                    match_related={"prefect.resource.id": "prefect.tag.adaptory", "prefect.resource.role": "tag"},
                    for_each={"prefect.resource.id"}, posture=Posture.Reactive, threshold=1,
                ),
                actions=[SendNotification(
                    block_document_id=block, subject="{{ flow.name }}: {{ flow_run.state.name }}",
                    body="{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
                )],
            ),
        ]  # fmt: skip
    for one in wanted:
        _put(one)


def _put(wanted: Any) -> None:
    """Creates the automation, or makes the one of its name like it."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for there in client.read_automations_by_name(wanted.name):
            body = wanted.model_dump(mode="json", exclude={"id"})
            if _same(body, there.model_dump(mode="json", exclude={"id"})):
                return
            client.delete_automation(there.id)
    wanted.create()
    print(f"automation {wanted.name.removeprefix('adaptory: ')}")


def _same(ours: Any, theirs: Any) -> bool:
    """Whether everything we say is so there; what the server adds (ids, defaults) does not count."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(_same(value, theirs.get(key)) for key, value in ours.items() if key != "id")
    if isinstance(ours, list):
        return (
            isinstance(theirs, list) and sorted(map(repr, ours)) == sorted(map(repr, theirs))
            if _plain(ours)
            else (len(ours) == len(theirs) and all(map(_same, ours, theirs)))
        )
    return bool(ours == theirs)


def _plain(values: list[Any]) -> bool:
    return all(isinstance(one, str) for one in values)


def _where_to_tell() -> Any:
    """The id of the notification block that the environment describes, or None: ADAPTORY_SLACK_WEBHOOK, ADAPTORY_WEBHOOK, or
    ADAPTORY_NOTIFY, which names a block that was made on the server (e-mail, PagerDuty, Teams, ...). Raises UserError for
    one that is not there."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    if named := os.environ.get("ADAPTORY_NOTIFY"):
        kind, _, name = named.partition("/")
        try:
            with get_client(sync_client=True) as client:
                return client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            raise UserError(
                f"ADAPTORY_NOTIFY={named!r}: the server has no such block; make one on its page Blocks, and say its kind and "
                "name, as in sendgrid-email/oncall or pager-duty-webhook/oncall"
            ) from None
    if slack := os.environ.get("ADAPTORY_SLACK_WEBHOOK"):
        return SlackWebhook(url=slack).save("adaptory-notify", overwrite=True)
    if url := os.environ.get("ADAPTORY_WEBHOOK"):
        block = CustomWebhookNotificationBlock(
            name="adaptory", url=url, json_data={"subject": "{{subject}}", "text": "{{body}}"}, allow_private_urls=True
        )
        return block.save("adaptory-webhook", overwrite=True)
    return None


def _deployment(name: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name).id


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
