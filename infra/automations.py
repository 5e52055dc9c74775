"""What happens by itself on a Prefect server, and who is told of it: `automations` of infra/deploy.py."""

import os
from datetime import timedelta
from typing import Any

from adaptory.arrivals import EVENT
from adaptory.errors import UserError

_TOLD = (
    "adaptory.promoted", "adaptory.fail", "adaptory.inconclusive", "adaptory.champion-broken", "adaptory.needs-approval",
    "adaptory.awaiting-approval", "adaptory.rejected", "adaptory.rolled-back", "adaptory.monitor.worse",
    "adaptory.monitor.drifted",
)  # fmt: skip
# A run that says nothing for so long is dead: three heartbeats of 30 s (PREFECT_FLOWS_HEARTBEAT_FREQUENCY).
_SILENCE = timedelta(seconds=90)
# A worker that claimed a run begins it within so long; one that died first left it pending, and nothing would ever end it.
_STARTING = timedelta(minutes=5)


def automations() -> None:
    """What happens by itself: dead runs are declared so, crashed ones run again, new data start a retrain, people are told."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture

    runs: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}
    ours: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.tag.adaptory", "prefect.resource.role": "tag"}
    from_event = {"__prefect_kind": "jinja", "template": "{{ event.resource.name }}"}
    ended = {f"prefect.flow-run.{word}" for word in ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")}
    # A run that was told to stop waits to be taken again, and says nothing meanwhile; a pod may wait for a GPU for hours, and
    # Kubernetes tells of one that never will run.
    moved_on = "Running Scheduled Late AwaitingRetry Retrying AwaitingConcurrencySlot Resuming Cancelling heartbeat Submitting"
    moved_on += " InfrastructurePending"
    begun = {f"prefect.flow-run.{word}" for word in moved_on.split()}
    wanted = [
        Automation(
            name="adaptory: a run that its worker claimed and never began is declared crashed",
            trigger=EventTrigger(
                after={"prefect.flow-run.Pending"}, expect=begun | ended, match=runs, match_related=ours,
                for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=_STARTING,
            ),
            actions=[ChangeFlowRunState(
                state=StateType.CRASHED, message=f"not begun within {_STARTING.seconds} s: the worker that claimed it died"
            )],
        ),
        Automation(
            name="adaptory: a run whose machine died is declared crashed",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"}, expect=begun | ended, match=runs, match_related=ours,
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
                    expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, match=runs, match_related=ours,
                    for_each={"prefect.resource.id"}, posture=Posture.Reactive, threshold=1,
                ),
                actions=[SendNotification(
                    block_document_id=block, subject="{{ flow.name }}: {{ flow_run.state.name }}",
                    body="{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
                )],
            ),
            Automation(
                name="adaptory: people are told that nobody takes what is to be done",
                trigger=EventTrigger(
                    expect={"prefect.work-pool.not-ready"}, match={"prefect.resource.id": "prefect.work-pool.*"},
                    for_each={"prefect.resource.id"}, posture=Posture.Reactive, threshold=1,
                ),
                actions=[SendNotification(
                    block_document_id=block, subject="work pool {{ work_pool.name }}: not ready",
                    body="No worker of the pool {{ work_pool.name }} answers; its runs wait until one does.",
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
    from pydantic import SecretStr

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
        return SlackWebhook(url=SecretStr(slack)).save("adaptory-notify", overwrite=True)
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
