"""The ledger on the whole line: back, override, why, audit, rebuild; MLflow follows (F19, F20, F23); the service too (F49)."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptory import run as runs
from adaptory import workspace
from adaptory.errors import ReleaseError, ServerError
from adaptory.evaluation.evaluate import read as evidence_of
from adaptory.gate import judge
from adaptory.registry import append, decisions, head, history, read_judged
from adaptory.registry.audit import audit
from adaptory.registry.promotion import rollback
from adaptory.release import fetch_release, manifest, serving
from adaptory.release.build import store_release
from adaptory.release.serve import Following
from adaptory.storage import open_store
from adaptory.training.candidate import finished
from tests.pipeline.conftest import run
from tests.promotions import FaultyStore
from tests.service import ask, health, service
from tests.support import checkout, write_recipe

pytestmark = pytest.mark.slow

FLOOR = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5}
SECRETS = {
    "AWS_ACCESS_KEY_ID": "CANARY-id", "AWS_SECRET_ACCESS_KEY": "CANARY-key", "MLFLOW_TRACKING_PASSWORD": "CANARY-mlflow",
    "PREFECT_API_KEY": "CANARY-prefect", "HF_TOKEN": "CANARY-hub",
}  # fmt: skip
EASY: dict[str, Any] = {"gate.criteria": [FLOOR], "licence": "MIT"}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """Two champions, one after the other."""
    folder = checkout(tmp_path_factory.mktemp("registry") / "checkout", **EASY)
    told = [run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api, **SECRETS)]
    write_recipe(folder, **(EASY | {"training.seed": 1}))
    told.append(run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api, **SECRETS))
    (folder / "told.txt").write_text("".join(one.stdout + one.stderr for one in told))
    return folder


@pytest.fixture
def copy(line: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    for path in (folder / ".adaptory" / "mlflow").glob("*.db"):  # artifacts are where they were
        assert path.is_file()
    return folder


def mlflow_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/.adaptory/mlflow/mlflow.db")


def aliases(folder: Path) -> dict[str, str]:
    found = mlflow_of(folder).get_registered_model("tiny").aliases
    return {name: str(version) for name, version in found.items()}


def champion(folder: Path) -> Any:
    return head(open_store(str(folder / ".adaptory" / "store")), "tiny")


def test_both_champions_are_versions_and_the_aliases_name_the_last_two(line: Path) -> None:
    assert aliases(line) == {"champion": "2", "previous": "1"}
    assert "everything agrees with the ledger" in run(line, "audit", "tiny").stdout
    version = mlflow_of(line).get_model_version_by_alias("tiny", "champion")
    assert "macro F1" in version.description and "MIT" in version.description, "the model card"


def test_a_release_has_all_that_deploying_and_explaining_it_needs(line: Path, tmp_path: Path) -> None:
    run(line, "pull", "tiny", str(tmp_path / "model"))
    current = tmp_path / "model" / "current"
    assert {path.name for path in current.iterdir()} >= {
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "model.json",
        "recipe.json", "candidate.json", "evidence.json", "verdict.json", "example.json", "golden.json", "certificate.json",
        "README.md", "sbom.json", "manifest.json",
    }  # fmt: skip
    facts = json.loads((current / "model.json").read_bytes())
    assert facts["classes"] == ["negative", "neutral", "positive"] and facts["base"]["digest"].startswith("sha256:")
    card = (current / "README.md").read_text()
    assert all(word in card for word in ("MIT", "macro F1", "tiny"))


def test_s13_f46_no_secret_is_written_anywhere(line: Path, prefect_home: Path) -> None:
    """Not on the terminal, in a log, an artifact, or a database of DVC, MLflow and the Prefect server."""
    files = [path for folder in (line, prefect_home) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 200 and {"prefect.db", "mlflow.db", "told.txt", "log"} <= {path.name for path in files}
    leaks = [str(path) for path in files if b"CANARY" in path.read_bytes()]
    assert leaks == []


def test_a_way_back_takes_seconds_and_mlflow_follows(copy: Path, tmp_path: Path) -> None:
    run(copy, "pull", "tiny", str(tmp_path / "model"))
    told = run(copy, "rollback", "tiny", "--reason", "it swears").stdout
    assert "tiny v1 is champion again (record 3)" in told
    assert aliases(copy) == {"champion": "1", "previous": "2"}
    assert "it swears" in run(copy, "history", "tiny").stdout
    assert "tiny v1" in run(copy, "pull", "tiny", str(tmp_path / "model")).stdout
    assert "no bytes" not in run(copy, "smoke", str(tmp_path / "model")).stdout
    assert "v1 is champion of 'tiny' already" in run(copy, "rollback", "tiny", "--to", "v1", code=2).stderr
    assert "never was champion" in run(copy, "rollback", "tiny", "--to", "v9", code=2).stderr
    assert "is no version" in run(copy, "rollback", "tiny", "--to", "seven", code=2).stderr
    run(copy, "retire", "tiny", "v2", "--reason", "licence withdrawn")
    assert "licence withdrawn" in run(copy, "pull", "tiny@v2", str(tmp_path / "other"), code=2).stderr
    assert "v2 was retired" in run(copy, "rollback", "tiny", "--to", "v2", code=2).stderr


def test_an_override_is_a_typed_record_that_strict_pulls_refuse(copy: Path, tmp_path: Path, prefect_api: str) -> None:
    hard = {"gate.criteria": [FLOOR | {"limit": 0.999}], "training.seed": 2}
    write_recipe(copy, **(EASY | hard))
    assert "FAIL" in run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api).stdout
    told = run(copy, "promote", "tiny", "--override", "--reason", "v2 insults people", "--days", "7").stdout
    assert "tiny v3 is champion by override of FAIL, until " in told
    record = champion(copy)
    assert (record.kind, record.outcome, record.reason) == ("override", "FAIL", "v2 insults people") and record.expires
    again = run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api).stdout
    assert "nothing new since v3" in again, "the next schedule does not tell the old verdict of the new champion"
    assert "--strict takes only what a gate let pass" in run(copy, "pull", "tiny", str(tmp_path / "m"), "--strict", code=2).stderr
    run(copy, "pull", "tiny", str(tmp_path / "m"))
    assert "v3 is champion by override of FAIL until" in run(copy, "history", "tiny").stdout
    run(copy, "rollback", "tiny")
    run(copy, "pull", "tiny", str(tmp_path / "m"), "--strict")


def test_why_walks_from_a_pulled_folder_to_data_and_people(copy: Path, tmp_path: Path) -> None:
    run(copy, "pull", "tiny", str(tmp_path / "model"))
    told = run(copy, "why", str(tmp_path / "model")).stdout
    for word in (
        "release",
        "verdict",
        "PASS",
        "evidence",
        "scores",
        "adapter",
        "data",
        "dvc.lock",
        "split@tiny",
        "commit",
        "flow run",
        "gate:",
    ):
        assert word in told, word
    assert "✗" not in told
    assert "✓   file       train-00000.parquet" in told, "the bytes that DVC keeps"
    assert "with changes that no commit holds" in told, "another recipe and another dvc.lock lay in the checkout"
    assert told.splitlines()[1:] == run(copy, "why", "tiny@v2").stdout.splitlines()[1:]
    (tmp_path / "model" / "current" / "example.json").write_text("[]")
    assert "✗ files" in run(copy, "why", str(tmp_path / "model"), code=1).stdout


def test_why_asks_dvc_git_and_prefect_where_they_know(copy: Path, prefect_api: str) -> None:
    told = run(copy, "why", "tiny@v2", PREFECT_API_URL=prefect_api).stdout
    flow_run = champion(copy).flow_run
    line = next(line for line in told.splitlines() if "flow run" in line)
    assert line.startswith(f"✓ flow run     {flow_run}, ") and line.endswith("Completed")
    for path in (copy / ".dvc" / "cache").rglob("*"):
        if path.is_file() and path.read_bytes()[:4] == b"PAR1":
            path.chmod(0o644)
            path.write_bytes(b"others")
    assert "✗   file       train-00000.parquet" in run(copy, "why", "tiny@v2", code=1).stdout
    shutil.rmtree(copy / ".dvc" / "cache")
    shutil.rmtree(copy / ".git")
    told = run(copy, "why", "tiny@v2", PREFECT_API_URL="http://127.0.0.1:9/api").stdout
    assert "no Prefect server answers" in told
    assert "not in the DVC cache of this machine" in told and "not in this clone" in told


def test_why_and_rebuild_believe_no_dvc_lock_that_the_record_does_not_name(copy: Path) -> None:
    kept = next((copy / ".adaptory" / "store" / "datasets" / "tiny" / champion(copy).data[7:]).glob("version-*.json"))
    kept.write_text(kept.read_text().replace('"md5": "', '"md5": "0', 1))
    assert "✗   dvc.lock" in run(copy, "why", "tiny@v2", code=1).stdout
    assert "is not what its record names" in run(copy, "rebuild", "tiny@v2", code=2).stderr


def test_who_was_overtaken_is_compared_with_the_new_champion_in_the_same_run(copy: Path, prefect_api: str) -> None:
    """While v3 is evaluated somebody goes back to v1: STALE is no end, but another comparison."""
    write_recipe(copy, **(EASY | {"training.seed": 4}))
    code = (
        "import sys, flows.retrain as line\n"
        "from adaptory.registry.promotion import rollback\n"
        "from adaptory.storage import open_store\n"
        "from tasks.script import run_as_script\n"
        "promote, seen = line.promote, []\n"
        "def late(run, candidate, evidence, verdict):\n"
        "    if not seen:\n"
        "        rollback(open_store(run.workspace.store), 'tiny', 1, by='Ada', reason='v2 insults people')\n"
        "    ended = promote(run, candidate, evidence, verdict)\n"
        "    seen.append((ended.outcome, evidence.champion_version))\n"
        "    return ended\n"
        "line.promote = late\n"
        "line.retrain('tiny')\n"
        "print(seen)\n"
    )
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, env=environment, check=False)
    assert "[('STALE', 2), ('PASS', 1)]" in done.stdout, done.stdout + done.stderr
    assert champion(copy).version == 3


def test_s10_a_champion_is_made_again_from_its_record_alone(copy: Path) -> None:
    """Though recipe and data here are other ones by now."""
    write_recipe(copy, **(EASY | {"training.epochs": 1, "training.rank": 2}))
    shutil.rmtree(copy / "data")
    (copy / "incoming" / "rows.tsv").unlink()
    told = run(copy, "rebuild", "tiny@v1").stdout
    assert "tiny@v1: the same bytes" in told and champion(copy).version == 2


@pytest.mark.long
def test_s10_what_two_processes_trained_is_made_again_by_two(tmp_path: Path, prefect_api: str) -> None:
    folder = checkout(tmp_path / "checkout", **EASY)
    run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api, ADAPTORY_PROCESSES="2")
    card = json.loads(next(folder.glob(".adaptory/runs/tiny/candidate-*/candidate.json")).read_text())
    assert card["processes"] == 2
    assert "tiny@v1: the same bytes" in run(folder, "rebuild", "tiny@v1", GLOO_SOCKET_IFNAME="lo").stdout


def test_the_data_of_a_retrain_that_is_under_way_are_left_alone_by_a_monitor(copy: Path, prefect_api: str) -> None:
    code = (
        "import flows.monitor as line\n"
        "from prefect.client.orchestration import get_client\n"
        "def looked(name):\n"
        "    with get_client(sync_client=True) as client:\n"
        "        print('held:', client.read_global_concurrency_limit_by_name('promote-tiny').active_slots)\n"
        "    raise SystemExit(0)\n"
        "line.prepare = looked\n"
        "line.monitor('tiny')\n"
    )
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, env=environment, check=False)
    assert "held: 1" in done.stdout, done.stdout + done.stderr


def test_the_release_says_what_it_is_made_of(copy: Path, tmp_path: Path) -> None:
    run(copy, "pull", "tiny", str(tmp_path / "model"))
    bill = yaml.safe_load((tmp_path / "model" / "current" / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {"base", "data/notes", "torch", "adaptory"} <= {one["bom-ref"] for one in bill["components"]}
    card = (tmp_path / "model" / "current" / "README.md").read_text()
    assert "Licence: MIT." in card and "incoming/rows.tsv" in card


def test_f23_an_alias_that_was_moved_by_hand_is_found_and_mended(copy: Path) -> None:
    client = mlflow_of(copy)
    client.set_registered_model_alias("tiny", "champion", "1")
    client.set_registered_model_alias("tiny", "production", "1")
    told = run(copy, "audit", "tiny", code=1).stdout
    assert "alias champion of 'tiny' in MLflow names version 1, and by the ledger it is version 2" in told
    assert "alias production of 'tiny' in MLflow was set by hand" in told
    run(copy, "reconcile", "tiny")
    client.delete_registered_model_alias("tiny", "production")
    run(copy, "audit", "tiny")


def test_f19_a_version_that_was_deleted_is_found_and_made_again(copy: Path) -> None:
    mlflow_of(copy).delete_model_version("tiny", "2")
    assert "MLflow has no version of the champion" in run(copy, "audit", "tiny", code=1).stdout
    assert "created version" in run(copy, "reconcile", "tiny").stdout
    run(copy, "audit", "tiny")


def test_f20_altered_files_in_the_store_are_found_by_the_audit(copy: Path) -> None:
    path = next((copy / ".adaptory" / "store" / "releases" / "tiny" / champion(copy).release[7:]).glob("adapter*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    told = run(copy, "audit", "tiny", code=1).stdout
    assert "the release of v2" in told and "does not have the bytes" in told


def another(store: Any, record: Any, scratch: Path) -> None:
    """Promotes the same adapter in a release of its own: another card, so every byte comes, is verified and loaded again."""
    last = history(store, "tiny")[-1]
    folder = shutil.copytree(fetch_release(store, record, scratch / "cache"), scratch / f"release-{last.number + 1}")
    with (folder / "README.md").open("a") as card:
        card.write(f"\nRelease {last.number + 1}.\n")
    (folder / "manifest.json").write_text(manifest.of_folder("tiny", folder).model_dump_json(indent=1) + "\n")
    changes = {
        "number": last.number + 1, "previous": last.digest, "version": last.number + 1, "candidate": record.candidate,
        "release": store_release(store, "tiny", folder),
    }  # fmt: skip
    assert append(store, record.model_copy(update=changes))


def newest(store: Any) -> int:
    return history(store, "tiny")[-1].version


def until(url: str, reached: Callable[[Any], bool]) -> None:
    """Waits until the service says so of itself."""
    for _ in range(3000):
        if reached(said := health(url)):
            return
        time.sleep(0.02)
    raise AssertionError(said)


@pytest.mark.parametrize(("swaps", "requests"), [(15, 300), pytest.param(50, 1000, marks=pytest.mark.long)])
def test_f49_requests_during_swaps_meet_one_version_each(line: Path, tmp_path: Path, swaps: int, requests: int) -> None:
    """Each swap is a whole one: another release is pulled, verified, loaded, asked its example, and takes over."""
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    store, questions = open_store(str(folder / ".adaptory" / "store")), [{"text": "a lovely film"}, {"text": "was this boring"}]
    first = history(store, "tiny")
    with service(folder) as url:
        alone = []
        for record in (first[1], first[0]):
            if record is first[0]:
                another(store, record, tmp_path)
            until(url, lambda said: said["version"] == newest(store))
            alone.append(ask(url, questions)[1])
        assert alone[0] != alone[1]
        before, done = health(url)["swaps"], threading.Event()

        def swap() -> None:
            for turn in range(swaps):
                another(store, first[turn % 2], tmp_path)
                until(url, lambda said: said["version"] == newest(store))
            done.set()

        swapper, told = threading.Thread(target=swap), list[tuple[int, Any, str]]()
        swapper.start()
        with ThreadPoolExecutor(8) as pool:
            while not done.is_set() or len(told) < requests:
                assert swapper.is_alive() or done.is_set(), health(url)
                told += pool.map(lambda _: ask(url, questions), range(40))
        swapper.join(10)
        assert health(url)["swaps"] - before == swaps
    assert {code for code, _, _ in told} == {200}, "no request was dropped"
    made = {f"v{record.version}": record.candidate for record in history(store, "tiny")}
    for _, answers, version in told:
        for mine, expected in zip(answers, alone[made[version] == first[0].candidate], strict=True):
            assert mine["label"] == expected["label"]
            assert mine["chances"] == pytest.approx(expected["chances"], abs=1e-4), f"an answer of {version} mixed with another"
    assert len({version for _, _, version in told}) >= 0.9 * swaps, "requests met nearly every version"


def test_what_cannot_be_answered_is_refused_and_harms_nobody_else(line: Path) -> None:
    with service(line, ADAPTORY_TOKEN="let-me-in") as url:
        key = {"Authorization": "Bearer let-me-in"}
        assert ask(url, [{"text": "x"}])[0] == 401
        assert ask(url, b"not json", **key)[0] == 422
        assert ask(url, [], **key)[0] == 422
        assert ask(url, [{"text": "x"}] * 257, **key)[0] == 422
        assert ask(url, b"[" + b" " * (1 << 20) + b"]", **key)[0] == 413
        code, told, _ = ask(url, [{"question": "x"}], **key)
        assert code == 422 and "a question needs text" in told["error"]
        with ThreadPoolExecutor(8) as pool:
            bodies = [[{"text": "a lovely film"}], [{"wrong": 1}]] * 20
            codes = list(pool.map(lambda body: ask(url, body, **key)[0], bodies))
        assert codes == [200, 422] * 20
        metrics = urllib.request.urlopen(f"{url}/metrics", timeout=5).read().decode()
        assert 'adaptory_requests_total{code="200"} 20.0' in metrics and "adaptory_version 2.0" in metrics


def test_it_answers_on_when_the_store_is_gone(line: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    with service(folder) as url:
        (folder / ".adaptory" / "store").rename(folder / ".adaptory" / "gone")
        until(url, lambda said: said["trouble"] is not None)
        assert ask(url, {"text": "a lovely film"})[0] == 200
        assert health(url)["version"] == 2


def late_faults(inner: Any, at: int, how: str) -> Any:
    """A store whose n-th change after the release fails once; the files of a release are another campaign's."""
    faulty = FaultyStore(inner, at, how)
    change = faulty._change

    def counted(name: str, *words: Any) -> None:
        if any(str(word).startswith("releases/") for word in words):
            getattr(inner, name)(*words)
        else:
            change(name, *words)

    faulty._change = counted  # type: ignore[method-assign]
    return faulty


@pytest.mark.long
def test_f15_f16_whichever_change_around_a_promotion_fails_the_same_step_ends_it_once(
    copy: Path, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of the flow with all that comes after the record: mirror, curves, scores, the note that the run is done."""
    write_recipe(copy, **(EASY | {"training.seed": 5}))
    run(copy, "stage", "train", "tiny")
    run(copy, "stage", "evaluate", "tiny")
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    import tasks.promote  # brings Prefect, which whoever only collects need not wait for

    at, ended = 0, False
    while not ended:
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(copy, folder, symlinks=True)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/.adaptory/mlflow/mlflow.db")
        place = workspace.find(folder)
        now, store = runs.current(place, "tiny"), open_store(place.store)
        trained, found = finished(now), evidence_of(now.folder)
        assert found is not None
        verdict = judge(found, now.recipe.gate, champion(folder).candidate)
        (now.folder / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        how = ("lost", "unanswered")[at % 2]
        with monkeypatch.context() as patch:
            faulty = late_faults(store, at, how)
            patch.setattr(tasks.promote, "open_store", lambda url, faulty=faulty: faulty)
            try:
                tasks.promote.promote.fn(now, trained, found, verdict)
                ended = True
            except ServerError:
                pass
        assert tasks.promote.promote.fn(now, trained, found, verdict).outcome == "PASS"
        assert [record.version for record in history(store, "tiny")] == [1, 2, 3], how
        judged = read_judged(store, "tiny", now.key)
        assert judged is not None and judged.outcome == "PASS" and decisions.has_scores(store, found)
        assert list(audit(place, store, "tiny")) == []
        shutil.rmtree(folder)
    assert at >= 6, f"only {at - 1} changes were tried"


class Gone:
    """A store that does not answer."""

    url = "s3://gone"

    def __getattr__(self, name: str) -> Any:
        raise ServerError("the store does not answer")


def follower(folder: Path, store: Any) -> Following:
    return Following(store, "tiny@champion", folder / "served", folder, folder / ".adaptory" / "cache", 1.0)


def test_f19_a_service_that_starts_while_the_store_is_gone_answers_with_what_it_served_last(copy: Path) -> None:
    with pytest.raises(ServerError):
        follower(copy, Gone()).begin()
    follower(copy, open_store(str(copy / ".adaptory" / "store"))).begin()
    again = follower(copy, Gone())
    again.begin()
    assert again.current is not None and (again.current.version, again.trouble) == (2, "ServerError")
    assert again.current.answer[0]([{"text": "a lovely film"}])[0]["label"]


def test_a_release_that_does_not_answer_its_example_takes_nothing_over(copy: Path, tmp_path: Path) -> None:
    store = open_store(str(copy / ".adaptory" / "store"))
    one = follower(copy, store)
    one.begin()
    rollback(store, "tiny", 1, by="test", reason="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "other_answers", lambda *_: ["asked a lovely film, told negative"])
        with pytest.raises(ReleaseError, match="answers its example otherwise"):
            one.look()
        assert one.current is not None and one.current.version == 2
        again = follower(copy, store)
    with pytest.MonkeyPatch.context() as patch:
        other, bad = serving.other_answers, json.loads(store.get("ledger/tiny/000001.json"))["release"][7:]
        asked = lambda made, folder: ["bad"] if folder.resolve().name == bad else other(made, folder)  # noqa: E731
        patch.setattr(serving, "other_answers", asked)
        again.begin()
        assert again.current is not None and (again.current.version, again.trouble) == (2, "ReleaseError"), "also after a restart"
    run(copy, "pull", "tiny", str(tmp_path / "model"))
    release = (tmp_path / "model" / "current").resolve()
    example = json.loads((release / "example.json").read_bytes())
    example[0]["told"]["label"] = "positive" if example[0]["told"]["label"] != "positive" else "negative"
    (release / "example.json").write_text(json.dumps(example))
    (release / "manifest.json").write_text(manifest.of_folder("tiny", release).model_dump_json())
    assert "otherwise" in run(copy, "smoke", str(release), code=1).stdout


def test_without_a_champion_there_is_nothing_to_begin_with(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "empty")
    assert "no tiny@champion in the ledger" in run(folder, "serve", "tiny", code=2).stderr
