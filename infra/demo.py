"""The whole line on the stack that `make up` started: python -m infra.demo [RECIPE]

A retrain is triggered over HTTP as the pages do it; its states are told as they change; the champion is pulled from the
bucket into `.adaptory/demo/` and asked something.
"""

import os
import subprocess
import sys
import time

from infra.stack import ROOT, Stack


def main(recipe: str = "sentiment") -> int:
    stack = Stack(ROOT / ".adaptory" / "stack")
    os.environ.update(stack.client())
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/on-demand")
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"recipe": recipe})
        print(f"retrain {recipe}: http://{stack.values['PREFECT']}/runs/flow-run/{run.id}")
        began, told = time.monotonic(), ""
        while True:
            run = client.read_flow_run(run.id)
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
            newest = max(tasks, key=lambda one: str(one.start_time or one.created), default=None)
            said = f"{run.state.name if run.state else ''}{f', {newest.name.rpartition(chr(45))[0]}' if newest else ''}"
            if said != told:
                print(f"{time.monotonic() - began:6.0f} s   {said}", flush=True)
                told = said
            if run.state and run.state.is_final():
                break
            time.sleep(1)
    if not run.state.is_completed():
        print(run.state.message)
        return 1
    adaptory = os.path.join(os.path.dirname(sys.executable), "adaptory")
    folder = str(ROOT / ".adaptory" / "demo" / recipe)
    for words in (("history", recipe), ("pull", f"{recipe}@champion", folder), ("predict", folder, "what a film!")):
        print(f"\n$ adaptory {' '.join(words)}", flush=True)
        if code := subprocess.run([adaptory, *words], cwd=ROOT).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
