"""What a person finds in MLflow about a run: parameters, datasets, curves, numbers, pictures.

One MLflow run per run key, found again by tag after an interruption. Only the client with explicit ids is
used: MLflow's global state belongs to the thread that set it.
"""

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.gate import Evidence, Verdict
from adaptory.registry.promotion import git_commit
from adaptory.run import Run
from adaptory.search import Choice, Trial, device_seconds
from adaptory.training.candidate import Candidate
from adaptory.training.certificate import CERTIFICATE
from adaptory.training.curve import CURVE
from adaptory.training.xray import XRAY
from adaptory.workspace import Workspace

_STEP = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
_SAMPLED = 5.0  # seconds between looks at the machine
_POINTS = 200  # of a curve, at a time


def client(workspace: Workspace) -> Any:
    """An MLflow client for the workspace's tracking server and registry."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=workspace.tracking_uri, registry_uri=workspace.tracking_uri)


def open_run(run: Run, flow_run: str | None) -> str:
    """The id of the MLflow run for this run key: the one there is, or a new one with all parameters."""
    mlflow = client(run.workspace)
    experiment = experiment_id(mlflow, run.workspace, run.recipe.name)
    key = run.key
    found = mlflow.search_runs([experiment], filter_string=f"tags.`adaptory.key` = '{key}'", max_results=1)
    if found:
        run_id: str = found[0].info.run_id
        mlflow.update_run(run_id, status="RUNNING")
        return run_id
    run_id = mlflow.create_run(experiment, run_name=f"{run.recipe.name}-{run.folder.name}", tags=tags(run, flow_run)).info.run_id
    _log_parameters(mlflow, run_id, run)
    _log_datasets(mlflow, run_id, run)
    return run_id


def open_child(now: Run, parent: str, one: Trial) -> str:
    """The id of the MLflow run for a trial of a search, below the run of the whole; found again like its parent."""
    mlflow, key = client(now.workspace), f"{parent}/{now.training_key}"
    experiment = experiment_id(mlflow, now.workspace, now.recipe.name)
    if found := mlflow.search_runs([experiment], filter_string=f"tags.`adaptory.key` = '{key}'", max_results=1):
        return str(found[0].info.run_id)
    named = {"adaptory.key": key, "mlflow.parentRunId": parent, "adaptory.trial": str(one.number)}
    run_id = str(mlflow.create_run(experiment, run_name=f"trial-{one.number}", tags=named).info.run_id)
    _log_flat(mlflow, run_id, {"training": now.settings.model_dump(mode="json"), "trial": one.name})
    return run_id


def close_children(run: Run, made: Choice, parent: str) -> None:
    """What came of each trial, in its run below this one: the chosen one is tagged."""
    mlflow = client(run.workspace)
    experiment = experiment_id(mlflow, run.workspace, run.recipe.name)
    for one in made.tried:
        key = f"{parent}/{run.trained_with(one.trial.training).training_key}" if one.trial.training else ""
        wanted = key and f"tags.`adaptory.key` = '{key}'"
        for child in mlflow.search_runs([experiment], filter_string=wanted) if wanted else ():
            numbers = one.model_dump(include={"score", "share", "seconds", "flops", "trainable", "latency"})
            log_metrics(run.workspace, child.info.run_id, {f"trial/{name}": value for name, value in numbers.items()})
            mlflow.set_tag(child.info.run_id, "adaptory.chosen", str(one.trial.number == made.chosen).lower())
            mlflow.set_terminated(child.info.run_id, "FAILED" if one.failed else "FINISHED")


def experiment_id(mlflow: Any, workspace: Workspace, name: str) -> str:
    """The experiment of the recipe, created at its first run."""
    from mlflow.exceptions import MlflowException

    if found := mlflow.get_experiment_by_name(name):
        return str(found.experiment_id)
    local = workspace.tracking_uri.startswith("sqlite:")
    try:
        place = (workspace.mlflow_artifacts / name).as_uri() if local else None
        return str(mlflow.create_experiment(name, artifact_location=place))
    except MlflowException:  # another process created it first
        return str(mlflow.get_experiment_by_name(name).experiment_id)


def tags(run: Run, flow_run: str | None) -> dict[str, str]:
    """Everything needed to make this run again, as tags."""
    made = {
        "adaptory.key": run.key,
        "adaptory.data": run.dataset.digest,
        "adaptory.base": run.dataset.base,
        "adaptory.base_reference": run.recipe.base,
        "adaptory.recipe": run.recipe.digest,
        "adaptory.git_commit": git_commit(run.workspace.root) or "none",
        "adaptory.flow_run": flow_run or "none",
    }
    for stage, section in run.dataset.dvc.items():
        for out in section.get("outs", ()):
            made[f"dvc.{stage.replace('@', '.')}"] = f"md5:{out['md5']}"
    return made


def log_curve(workspace: Workspace, run_id: str, events: Sequence[Mapping[str, Any]]) -> None:
    """What a training told, as far as MLflow does not have it yet: in order, nothing twice, whenever it is called again."""
    from mlflow.entities import Metric

    mlflow, now = client(workspace), int(time.time() * 1000)
    done = {kind: _last_step(mlflow, run_id, name) for kind, name in (("step", "loss"), ("epoch", "validation_loss"))}
    fresh = [event for event in events if event["event"] in done and event["step"] > done[event["event"]]]
    steps, epochs = ([event for event in fresh if event["event"] == kind] for kind in done)
    told = [(name, event[name], event["step"]) for event in steps[:: max(1, len(steps) // _POINTS)] for name in _STEP]
    told += [(n, v, event["step"]) for event in epochs for n, v in event.items() if n.startswith("validation_")]
    finite = [Metric(name, float(value), now, step) for name, value, step in told if math.isfinite(value)]
    for start in range(0, len(finite), 1000):
        mlflow.log_batch(run_id, metrics=finite[start : start + 1000])


def watch_machine(workspace: Workspace, run_id: str) -> Callable[[], None]:
    """Samples processors, memory, disk, network and GPUs of this machine into the run, until the returned function is called.

    MLflow does it; a server that is away ends the sampling, not the work.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, _SAMPLED, resume_logging=True, tracking_uri=workspace.tracking_uri)
    monitor.start()

    def stop() -> None:
        last = threading.Thread(target=monitor.finish, daemon=True)
        last.start()
        last.join(_SAMPLED)

    return stop


def _last_step(mlflow: Any, run_id: str, name: str) -> int:
    return max((one.step for one in mlflow.get_metric_history(run_id, name)), default=0)


def log_metrics(workspace: Workspace, run_id: str, numbers: Mapping[str, Any], step: int = 0) -> None:
    """Finite numbers only: MLflow reads NaN back as 0.0 in places, and infinity as 1.8e308."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    finite = [
        Metric(name, float(value), now, step)
        for name, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    client(workspace).log_batch(run_id, metrics=finite)


def log_candidate(run: Run, run_id: str, candidate: Candidate) -> None:
    """How the training went: its numbers, its X-ray and certificate, and what of its curve could not be told while it ran."""
    workspace, folder = run.workspace, run.candidate_folder
    lines = (folder / CURVE).read_text(encoding="utf-8").splitlines()
    log_curve(workspace, run_id, [json.loads(line) for line in lines])
    numbers = candidate.model_dump(include={
        "planned_steps", "done_steps", "trainable_parameters", "seconds", "tokens", "flops", "peak_memory", "rows_left_out",
        "predicted_seconds", "fit_seconds",
    })  # fmt: skip
    numbers["device_seconds"] = candidate.seconds * candidate.processes + device_seconds(run)
    if price := os.environ.get("ADAPTORY_DEVICE_HOUR"):
        numbers["cost"] = float(price) * numbers["device_seconds"] / 3600
    log_metrics(workspace, run_id, {f"training/{name}": value for name, value in numbers.items()})
    mlflow = client(workspace)
    mlflow.set_tag(run_id, "adaptory.candidate", candidate.digest)
    for name in (XRAY, CERTIFICATE):
        if (folder / name).is_file():
            mlflow.log_artifact(run_id, str(folder / name), "training")


def log_evidence(workspace: Workspace, run_id: str, evidence: Evidence) -> None:
    """Every model's test numbers, with the ends of their intervals."""
    numbers: dict[str, float | None] = {}
    for model in evidence.models:
        for metric, found in model.metrics.items():
            prefix = f"test/{metric}" if model.kind == "candidate" else f"test/{model.name}/{metric}"
            numbers |= {prefix: found.value, f"{prefix}_low": found.low, f"{prefix}_high": found.high}
        if model.kind == "candidate":
            for where, inside in model.slices.items():
                of_class = where.startswith("class=")
                name = where.removeprefix("class=") if of_class else where.replace("=", "/")
                name = re.sub(r"[^\w\-. :/]|\.\.", "_", name) or "_"  # whatever a column holds, MLflow takes only some letters
                numbers |= {f"test/{name}/{metric}": one.value for metric, one in inside.items()}
    log_metrics(workspace, run_id, numbers)


def page(workspace: Workspace, recipe: str, run_id: str) -> str | None:
    """The page of a run, where MLflow is a server."""
    if not workspace.tracking_uri.startswith("http"):
        return None
    experiment = experiment_id(client(workspace), workspace, recipe)
    return f"{workspace.tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def server_version(workspace: Workspace) -> str:
    """The version that a tracking server says it has."""
    from mlflow.utils.rest_utils import http_request

    creds = client(workspace)._tracking_client.store.get_host_creds()
    return str(http_request(creds, "/version", "GET").text.strip())


def version_page(workspace: Workspace, recipe: str, version: str) -> str | None:
    """The page of a registered version, where MLflow is a server."""
    if not workspace.tracking_uri.startswith("http"):
        return None
    return f"{workspace.tracking_uri.rstrip('/')}/#/models/{recipe}/versions/{version}"


def tag_run(workspace: Workspace, recipe: str, key: str, tags: Mapping[str, str]) -> None:
    """Tags the run with this key, if this MLflow has it."""
    mlflow = client(workspace)
    if experiment := mlflow.get_experiment_by_name(recipe):
        for one in mlflow.search_runs([experiment.experiment_id], f"tags.`adaptory.key` = '{key}'", max_results=1):
            for name, value in tags.items():
                mlflow.set_tag(one.info.run_id, name, value)


def close_run(workspace: Workspace, run_id: str, verdict: Verdict, folder: Path) -> None:
    """Verdict, report and pictures; the run ends as FINISHED, also when the gate refused."""
    mlflow = client(workspace)
    mlflow.set_tag(run_id, "adaptory.verdict", verdict.outcome)
    mlflow.set_tag(run_id, "adaptory.reason", verdict.reason)
    for path in sorted(folder.glob("*")):
        if path.is_file():
            mlflow.log_artifact(run_id, str(path), "report")
    mlflow.set_terminated(run_id, "FINISHED")


def close_left(workspace: Workspace, recipe: str, status: str) -> None:
    """Ends what a run of this recipe left open when it ended itself: it and its trials would seem to train for ever."""
    mlflow = client(workspace)
    if experiment := mlflow.get_experiment_by_name(recipe):
        for one in mlflow.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
            mlflow.set_terminated(one.info.run_id, status)


def _log_flat(mlflow: Any, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = dict(flatten(values))
    mlflow.log_batch(run_id, params=[Param(name, str(value)[:6000]) for name, value in flat.items()])


def _log_parameters(mlflow: Any, run_id: str, run: Run) -> None:
    _log_flat(mlflow, run_id, run.recipe.model_dump(mode="json", exclude={"data": {"sources"}}))
    mlflow.log_dict(run_id, run.recipe.model_dump(mode="json"), "recipe.json")
    mlflow.log_dict(run_id, run.dataset.model_dump(mode="json"), "dataset.json")


def _log_datasets(mlflow: Any, run_id: str, run: Run) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for split, counts in run.dataset.card.counts.items():
        digest = fingerprint.of_json({n: d for n, d in run.dataset.card.files.items() if n.startswith(f"{split}-")})
        entity = Dataset(
            name=f"{run.recipe.name}-{split}",
            digest=digest.removeprefix("sha256:")[:32],
            source_type="dvc",
            source=json.dumps({"sha256": digest, "dvc": run.dataset.dvc.get(f"split@{run.recipe.name}")}),
            profile=json.dumps(counts),
        )
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", split)]))
    mlflow.log_inputs(run_id, inputs)


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings, with the dotted path to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for place, inner in enumerate(value):
            yield from flatten(inner, f"{path}.{place}")
    else:
        yield path, value
