"""What orchestration costs, on a stack of its own: PostgreSQL, S3, MLflow, Prefect, one worker.

    python -m benchmarks.orchestration --recipes 20 --runs 200

    --recipes     so many recipes are started at the same moment; each is trained, judged and promoted
    --runs        then so many runs are started at the same moment, over all recipes; they find nothing new

Prints what a retrain costs besides its stages, the first of a recipe and those on new rows; how long a run takes that finds
nothing new; how long all took, and how fast the server answered meanwhile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from infra.stack import Stack
from tests.support import ROOT, checkout, rows, tiny_recipe, write_tsv


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--recipes", type=int, default=20)
    words.add_argument("--runs", type=int, default=200)
    told = words.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        folder = checkout(Path(home) / "checkout")
        names = [f"r{number:03}" for number in range(told.recipes)]
        floor = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.3}
        recipe = tiny_recipe(**{"gate.criteria": [floor]})
        (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": dict.fromkeys(names, recipe)}), encoding="utf-8")
        text = (ROOT / "prefect.yaml").read_text(encoding="utf-8").replace("sentiment", names[0])
        (folder / "prefect.yaml").write_text(text.replace("active: true", "active: false"), encoding="utf-8")
        alone = {"ADAPTORY_GPU_POOL": "", "OMP_NUM_THREADS": "1"}  # one machine: no second process for every stage
        stack = Stack(Path(home) / "stack", folder, overrides={"cpu-worker": alone})
        try:
            stack.up([name for name in stack.services if name != "gpu-worker"])
            measure(stack, names, told.runs)
        finally:
            stack.down()
            shutil.rmtree(stack._database, ignore_errors=True)


def measure(stack: Stack, names: list[str], count: int) -> None:
    api = Api(stack.client())
    print(f"a first retrain: {retrain(api, stack, names[0])}", flush=True)
    for more in (1, 2, 3):
        write_tsv(stack.checkout / "incoming" / "rows.tsv", rows(400 + 20 * more))
        print(f"a retrain on new rows: {retrain(api, stack, names[0])}", flush=True)
    again = sorted(api.finish([api.start(names[0])])[0] for _ in range(5))
    print(f"nothing new: {again[2]:.1f} s (median of 5, {again[0]:.1f} to {again[-1]:.1f})", flush=True)
    together(api, names, f"{len(names)} recipes")
    environment = os.environ | stack.client()
    adaptory = str(Path(sys.executable).parent / "adaptory")
    promoted, others = 0, names[1:]
    for name in others:
        command = [adaptory, "history", name]
        done = subprocess.run(command, cwd=stack.checkout, env=environment, capture_output=True, text=True, check=True)
        promoted += done.stdout.count("promote v") == 1
    print(f"  promoted once: {promoted} of {len(others)}", flush=True)
    together(api, [names[place % len(names)] for place in range(count)], f"{count} runs with nothing new")


def retrain(api: "Api", stack: Stack, name: str) -> str:
    """One whole run, alone; its seconds, and what is left of them without its stages."""
    record = stack.home / "cpu-worker" / "home" / "stages.jsonl"
    before = record.read_text().count("\n") if record.is_file() else 0
    whole = api.finish([api.start(name)])[0]
    spent = sum(json.loads(line)["seconds"] for line in record.read_text().splitlines()[before:])
    return f"{whole:.1f} s, of it stages {spent:.1f} s, everything else {whole - spent:.1f} s"


def together(api: "Api", names: list[str], what: str) -> None:
    """Starts all at once; none may be lost. The server is asked meanwhile as its pages ask it."""
    asked, stop = [], threading.Event()

    def ask() -> None:
        while not stop.wait(0.2):
            began = time.perf_counter()
            api.call("POST", "/flow_runs/filter", {"limit": 50})
            asked.append(time.perf_counter() - began)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    began = time.perf_counter()
    runs = [api.start(name) for name in names]
    started = time.perf_counter() - began
    api.finish(runs)
    whole = time.perf_counter() - began
    stop.set()
    asker.join()
    asked.sort()
    half, most = (1000 * asked[int(len(asked) * part)] for part in (0.5, 0.95))
    print(
        f"{what} at once: started within {started:.0f} s, all ended well within {whole:.0f} s, {whole / len(names):.1f} s each",
        flush=True,
    )
    print(
        f"  the server answered {len(asked)} times meanwhile, in {half:.0f} ms (median), {most:.0f} ms (95th percentile)",
        flush=True,
    )


class Api:
    """Prefect's API, as the pages use it."""

    def __init__(self, environment: dict[str, str]) -> None:
        user, password = environment["PREFECT_API_AUTH_STRING"].split(":")
        self.client = httpx.Client(base_url=environment["PREFECT_API_URL"], auth=(user, password), timeout=30)
        self.deployment = self.call("GET", "/deployments/name/retrain/on-demand")["id"]

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(verb, path, json=body)
        answer.raise_for_status()
        return answer.json()

    def start(self, recipe: str) -> str:
        made = self.call("POST", f"/deployments/{self.deployment}/create_flow_run", {"parameters": {"recipe": recipe}})
        return str(made["id"])

    def finish(self, runs: list[str]) -> list[float]:
        """Waits for all; the seconds from trigger to end of each."""
        took: dict[str, float] = {}
        ended = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
        while waiting := [run for run in runs if run not in took]:
            for found in self.call("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": waiting}, "state": ended}}):
                assert found["state"]["type"] == "COMPLETED", found["state"]["message"]
                since = datetime.fromisoformat(found["created"])
                took[found["id"]] = (datetime.fromisoformat(found["end_time"]) - since).total_seconds()
            time.sleep(0.5)
        return [took[run] for run in runs]


if __name__ == "__main__":
    main()
