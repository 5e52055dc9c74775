"""Who gets in, and what comes out: authentication (F47), parameters from the pages (F45), secrets (F46), backups, the doctor."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptory.registry import history
from adaptory.storage import open_store
from adaptory.storage.objects import s3_client
from tests.stack.site import Site
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]
ZERO = "00000000-0000-0000-0000-000000000000"


def test_f47_every_route_of_prefect_asks_for_the_password(site: Site) -> None:
    url = site.environment["PREFECT_API_URL"]
    described = httpx.get(url.removesuffix("/api") + "/openapi.json").json()["paths"]
    routes = [(verb, re.sub(r"{[^}]+}", ZERO, path)) for path, verbs in described.items() for verb in verbs]
    assert len(routes) > 150
    open_to_all = {"/health", "/ready"}
    with httpx.Client(base_url=url) as client:
        for verb, path in routes:
            for auth in (None, ("adaptory", "wrong")):
                answer = client.request(verb.upper(), path, auth=auth)
                assert answer.status_code == 401 or path in open_to_all, (verb, path, answer.status_code)


@pytest.mark.parametrize("path", ["/events/out", "/events/in", "/logs/out"])
def test_f47_the_websockets_tell_nothing_without_the_password(site: Site, path: str) -> None:
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    url = site.environment["PREFECT_API_URL"].replace("http", "ws", 1) + path
    with pytest.raises((ConnectionClosed, InvalidStatus, OSError)):
        _listen(url)


def _listen(url: str) -> None:
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    with connect(url, subprotocols=[Subprotocol("prefect")], open_timeout=10) as door:
        door.send(json.dumps({"type": "auth", "token": "wrong"}))
        door.recv(timeout=10)
        door.send(json.dumps({"type": "filter", "filter": {}}))
        door.recv(timeout=10)


def test_f47_every_route_of_mlflow_asks_for_the_password(site: Site) -> None:
    from mlflow.server import app
    from mlflow.server.fastapi_app import create_fastapi_app

    flask = {(verb, rule.rule) for rule in app.url_map.iter_rules() for verb in rule.methods or ()}
    fast = {(verb, one.path) for one in create_fastapi_app().routes for verb in getattr(one, "methods", None) or ()}
    routes = {(verb, re.sub(r"<[^>]+>|{[^}]+}", "x", path)) for verb, path in flask | fast if verb not in ("HEAD", "OPTIONS")}
    assert len(routes) > 250
    info = "api/3.0/mlflow/server-info"  # which kind of store it has, and what it can do
    open_to_all, told = {"/health", "/static-files/x", f"/{info}", f"/ajax-{info}"}, set()
    with httpx.Client(base_url=site.environment["MLFLOW_TRACKING_URI"]) as client:
        for verb, path in sorted(routes | {("GET", "/graphql"), ("POST", "/graphql")}):
            for auth in (None, ("adaptory", "wrong")):
                code = client.request(verb, path, auth=auth, **({} if verb == "GET" else {"json": {}})).status_code
                told |= {(verb, path, code)} if code not in (401, 403) else set()
        assert {path for _, path, _ in told} <= open_to_all, told
        assert "://" not in client.get(f"/{info}").text, "no address of a database or bucket"


def test_the_form_offers_the_recipes_there_are_and_says_what_everything_means(site: Site) -> None:
    for name in ("retrain/on-demand", "promote/ask", "rollback/on-demand", "monitor/tiny", "reconcile/tiny"):
        found = site.get(f"/deployments/name/{name}")
        fields = found["parameter_openapi_schema"]["properties"]
        assert fields["recipe"]["enum"] == ["tiny"], name
        assert all(one.get("description") and "default" in one for one in fields.values()), name
        assert found["description"] and found["enforce_parameter_schema"], name
    hours = site.get("/deployments/name/promote/ask")["parameter_openapi_schema"]["properties"]["wait_hours"]
    assert (hours["exclusiveMinimum"], hours["maximum"]) == (0, 720)


@pytest.mark.parametrize(
    "value",
    ["../x", "/etc/passwd", "{{ 7*7 }}", "$(id)", "!!python/object:os.system", "tiny\n", "", "x" * 1_000_000, 7, None, ["tiny"],
     {"a": 1},
     {"__prefect_kind": "jinja", "template": "{{ 7*7 }}"}, {"__prefect_kind": "workspace_variable", "variable_name": "secret"},
     {"__prefect_kind": "json", "value": '"../x"'}],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_f45_what_is_no_recipe_is_refused_before_anything_runs(site: Site, value: Any) -> None:
    before = site.post("/flow_runs/count", {})
    found = site.get("/deployments/name/retrain/on-demand")
    answer = site.answer("POST", f"/deployments/{found['id']}/create_flow_run", json={"parameters": {"recipe": value}})
    assert answer.status_code in (400, 404, 409, 413, 422), answer.text[:300]
    assert site.post("/flow_runs/count", {}) == before


_PARCEL = {"recipe": "tiny", "stage": "train", "words": [], "key": f"sha256:{'0' * 64}", "dvc": {}, "files": {}}
BAD: dict[str, list[Any]] = {
    "recipe": ["../x", "{{ 7*7 }}", "nobody", 7],
    "accept_drift": ["perhaps", {"a": 1}, 7],
    "wait_hours": [0, -1, 721, "soon", [72]],
    "to_version": [-1, 1.5, 10**9, "x", "7; drop table"],
    "reason": ["x" * 501, 7, {"__prefect_kind": "jinja", "template": "{{ 7*7 }}" * 300}],
    "who": ["", "x" * 101, None],
    "retrain_when": ["always", "", 1],
    "order": [
        "train", {}, _PARCEL | {"recipe": "../x"}, _PARCEL | {"stage": "rm"}, _PARCEL | {"words": ["--seed", "$(id)"]},
        _PARCEL | {"key": "x"}, _PARCEL | {"files": {"x": "y"}}, _PARCEL | {"more": 1}, _PARCEL | {"words": ["1"] * 9},
    ],
}  # fmt: skip


def test_f45_every_parameter_of_every_deployment_is_checked_before_anything_runs(site: Site) -> None:
    before, seen = site.post("/flow_runs/count", {}), set()
    for found in site.post("/deployments/filter", {}):
        for parameter in found["parameter_openapi_schema"]["properties"]:
            seen.add(parameter)
            for value in BAD[parameter]:
                parameters = found["parameters"] | {parameter: value}
                answer = site.answer("POST", f"/deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
                assert answer.status_code in (400, 404, 409, 413, 422), (found["name"], parameter, value, answer.text[:300])
    assert seen == BAD.keys() and site.post("/flow_runs/count", {}) == before


def test_f46_no_secret_is_in_a_database_a_log_or_a_bucket(approved: Site, tmp_path: Path) -> None:
    _backup(approved, tmp_path)
    secrets = {
        path.name: path.read_bytes() for path in (approved.stack.home / "secrets").iterdir()
        if path.suffix == "" and "USERNAME" not in path.name
    }  # fmt: skip
    assert len(secrets) >= 7
    dumps = [subprocess.run(["pg_restore", "-f", "-", str(dump)], capture_output=True).stdout for dump in tmp_path.glob("*.dump")]
    logs = [path.read_bytes() for path in (approved.stack.home / "logs").iterdir()]
    assert approved.store.keys("")
    stores = [open_store(f"s3://{one['Name']}") for one in s3_client().list_buckets()["Buckets"]]  # MLflow's and DVC's, too
    objects = [store.get(key) for store in stores for key in store.keys("")]
    assert len(objects) > len(approved.store.keys("")) and len(stores) > 1
    for name, secret in secrets.items():
        assert not any(secret in text for text in (*dumps, *logs, *objects)), name
        assert not any(secret.split(b":")[-1] in text for text in (*dumps, *logs, *objects)), name


def test_the_databases_come_back_from_a_backup_and_a_damaged_one_is_refused(approved: Site, tmp_path: Path) -> None:
    approved.until(approved.assets, 30)  # events reach the database some seconds later
    _backup(approved, tmp_path)
    champion = history(approved.store, "tiny")[-1]
    for name in ("prefect", "mlflow"):
        approved.stack.stop(name)
    environment = _database(approved)
    drop = "psql -U adaptory -d mlflow -qc 'drop table model_versions cascade'"
    assert subprocess.run(["sh", "-c", drop], env=environment, capture_output=True).returncode == 0
    restore = ["infra/restore.sh", str(tmp_path)]
    dump = tmp_path / "mlflow.dump"
    whole = dump.read_bytes()
    dump.write_bytes(whole[:-9])
    assert subprocess.run(restore, env=environment, cwd=ROOT, capture_output=True).returncode != 0
    dump.write_bytes(whole)
    done = subprocess.run(restore, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("mlflow", "prefect"):
        approved.stack.start(name)
    assert approved.version(champion.candidate).tags["adaptory.approved_by"] == champion.approved_by
    assert approved.get("/deployments/name/retrain/on-demand")["name"] == "on-demand"


def test_the_doctor_finds_nothing_on_a_sound_site_and_names_what_is_wrong_otherwise(approved: Site) -> None:
    approved.until(lambda: _sound(approved), 60)  # the workers may not have noticed yet that a server was away
    body = {"name": "leaked", "limit": 1, "active_slots": 1}
    approved.post("/v2/concurrency_limits/", body)
    approved.stack.stop("mlflow")
    try:
        told = approved.adaptory("doctor", code=1)
        assert "no MLflow server answers at http" in told
        assert "prefect gcl update leaked --active-slots 0" in told
    finally:
        approved.stack.start("mlflow")
        approved.answer("DELETE", "/v2/concurrency_limits/leaked")


def _sound(site: Site) -> bool:
    try:
        return "✗" not in site.adaptory("doctor")
    except AssertionError:
        return False


def _backup(site: Site, folder: Path) -> None:
    done = subprocess.run(["infra/backup.sh", str(folder)], env=_database(site), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _database(site: Site) -> dict[str, str]:
    host, port = site.stack.values["POSTGRES"].split(":")
    password = (site.stack.home / "secrets" / "PGPASSWORD").read_text()
    return {"PGHOST": host, "PGPORT": port, "PGPASSWORD": password, "PATH": "/usr/local/bin:/usr/bin:/bin"}
