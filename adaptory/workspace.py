"""Where things live: one folder, `.adaptory/`, unless the environment says otherwise.

    ADAPTORY_HOME         state of this checkout            <root>/.adaptory
    ADAPTORY_STORE        ledger and releases               <home>/store   (or s3://bucket/prefix)
    ADAPTORY_CACHE        downloads and bases, by digest    <home>/cache
    MLFLOW_TRACKING_URI   experiments and model registry    sqlite in <home>/mlflow
    PREFECT_API_URL       orchestration                     an ephemeral server, sqlite in <home>/prefect
"""

import os
from dataclasses import dataclass
from pathlib import Path

RECIPES = "params.yaml"

# Nothing here talks to anybody outside. MLflow understands the word "true" only.
_SILENCE = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# Defaults that keep a small machine usable, a dead server from hanging a run for minutes, and memory as planned.
_TUNING = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Kernels of torch and of oneDNN for sizes that were met; a thousand each, as by default, take half a GB.
    "LRU_CACHE_CAPACITY": "128",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}


@dataclass(frozen=True)
class Workspace:
    """The folders and addresses of one checkout. Making one touches nothing on disk."""

    root: Path
    home: Path
    store: str
    cache: Path
    tracking_uri: str

    @property
    def recipes_file(self) -> Path:
        return self.root / RECIPES

    @property
    def mlflow_artifacts(self) -> Path:
        """Where a local MLflow keeps artifacts; a tracking server decides for itself."""
        return self.home / "mlflow" / "artifacts"

    @property
    def prefect_home(self) -> Path:
        return self.home / "prefect"

    def data(self, recipe: str) -> Path:
        """The DVC-tracked outputs of a recipe."""
        return self.root / "data" / recipe

    def runs(self, recipe: str) -> Path:
        """The folders of a recipe's runs and candidates, each named by its key."""
        return self.home / "runs" / recipe

    def environment(self) -> dict[str, str]:
        """The environment for servers and stages: what the user has set wins."""
        return {
            **_SILENCE,
            **_TUNING,
            "PREFECT_HOME": str(self.prefect_home),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            **os.environ,
        }

    def activate(self) -> None:
        """Puts `environment()` into force for this process; call before importing prefect or mlflow."""
        self.home.mkdir(parents=True, exist_ok=True)
        if self.tracking_uri.startswith("sqlite:///"):
            Path(self.tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        for name, value in self.environment().items():
            os.environ.setdefault(name, value)


def find(start: Path | None = None) -> Workspace:
    """The workspace around `start` (or here): the nearest folder upwards that holds params.yaml."""
    here = (start or Path.cwd()).resolve()
    root = next((folder for folder in (here, *here.parents) if (folder / RECIPES).is_file()), here)
    home = Path(os.environ.get("ADAPTORY_HOME") or root / ".adaptory").absolute()
    return Workspace(
        root=root,
        home=home,
        store=os.environ.get("ADAPTORY_STORE") or str(home / "store"),
        cache=Path(os.environ.get("ADAPTORY_CACHE") or home / "cache").absolute(),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
    )
