"""The whole line, as its user runs it: real DVC, a real adapter, a real Prefect server, MLflow on SQLite."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from adaptory import params
from adaptory.gate import Evidence
from adaptory.registry import history
from adaptory.storage import open_store
from tests.pipeline.conftest import BIN, free_port, run
from tests.support import checkout, rows, write_recipe, write_tsv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which `adaptory retrain tiny` ran once, from nothing, on the ephemeral server."""
    folder = checkout(tmp_path_factory.mktemp("line") / "checkout")
    done = run(folder, "retrain", "tiny")
    (folder / ".adaptory" / "first.txt").write_text(done.stdout)
    (folder / ".adaptory" / "first-progress.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def pulled(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its champion, pulled."""
    folder = tmp_path_factory.mktemp("pulled") / "model"
    run(line, "pull", "tiny@champion", str(folder))
    return folder


TEXTS = ["a lovely film", "the table was dreadful and that was quite a broken morning"]


@pytest.fixture(scope="module")
def predicted(line: Path, pulled: Path) -> list[dict[str, Any]]:
    """What `adaptory predict` says of TEXTS and of the release's own example."""
    example = json.loads((pulled / "current" / "example.json").read_text())
    lines = run(line, "predict", str(pulled), *TEXTS, *(row["asked"]["text"] for row in example), "--json").stdout.splitlines()
    return [json.loads(one) for one in lines]


@pytest.fixture
def copy(line: Path, tmp_path: Path) -> Path:
    """The line's checkout, to break."""
    return shutil.copytree(line, tmp_path / "copy", symlinks=True)


def evidence(folder: Path) -> Evidence:
    last = json.loads((folder / ".adaptory" / "runs" / "tiny" / "last.json").read_text())
    return Evidence.model_validate_json((Path(last["folder"]) / "evidence.json").read_bytes())


def test_the_panel_says_what_happened_and_where_to_look(line: Path) -> None:
    panel = (line / ".adaptory" / "first.txt").read_text()
    champion = "tiny v1 (MLflow version 1, alias champion)"
    for part in ("PASS  tiny: every criterion holds", "candidate", "majority class", "macro F1", champion):
        assert part in panel, part
    for remedy in ("report.html", "adaptory pull tiny@champion", "adaptory ui"):
        assert remedy in panel, remedy
    progress = (line / ".adaptory" / "first-progress.txt").read_text()
    assert "Traceback" not in progress
    assert "Warning" not in progress
    assert len(progress.splitlines()) < 30, progress


def test_a_second_retrain_has_nothing_to_do_and_starts_no_server(copy: Path) -> None:
    # An address where nobody answers: whoever asked a server would fail.
    done = run(copy, "retrain", "tiny", PREFECT_API_URL="http://127.0.0.1:9/api", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "tiny: nothing new since v1" in done.stdout


def test_the_checkout_is_left_as_git_knows_it(line: Path) -> None:
    told = subprocess.run(["git", "status", "--porcelain"], cwd=line, capture_output=True, text=True, check=True).stdout
    assert sorted(told.split()) == ["??", "??", "dvc.lock", "recipes.lock"], told


def test_every_row_is_accounted_for(line: Path) -> None:
    card = json.loads((line / "data" / "tiny" / "splits" / "dataset.json").read_text())
    placed = sum(sum(counts.values()) for counts in card["counts"].values())
    assert placed + sum(card["quarantined"].values()) == card["rows_in"] == 400


def test_scores_are_kept_for_every_model_and_test_row(line: Path) -> None:
    import polars

    found = polars.read_parquet(next((line / ".adaptory" / "runs" / "tiny").glob("*/scores.parquet")))
    counts = dict(found.group_by("model").len().iter_rows())
    assert counts == {"candidate": evidence(line).rows, "majority": evidence(line).rows}
    assert found["score"].is_finite().all()


def test_the_report_is_one_file_without_links_to_the_network(line: Path) -> None:
    page = next((line / ".adaptory" / "runs" / "tiny").glob("*/report/report.html")).read_text()
    assert ">PASS</span></h1>" in page
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page.replace("http-equiv", "")


def test_mlflow_shows_parameters_curves_datasets_version_and_alias(line: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{line}/.adaptory/mlflow/mlflow.db")
    version = client.get_model_version_by_alias("tiny", "champion")
    found = client.get_run(version.run_id)
    record = history(open_store(str(line / ".adaptory" / "store")), "tiny")[0]
    assert record.recipe == params.load(line / "params.yaml", "tiny").digest
    assert found.info.status == "FINISHED"
    assert found.data.params["training.rank"] == "4"
    assert found.data.metrics["test/macro_f1"] == pytest.approx(evidence(line).of("candidate")[0].metrics["macro_f1"].value)
    assert len(client.get_metric_history(version.run_id, "validation_macro_f1")) == 6
    assert {entry.dataset.name for entry in found.inputs.dataset_inputs} == {"tiny-train", "tiny-validation", "tiny-test"}
    for name in ("candidate", "release", "evidence", "data", "base", "recipe", "key", "git_commit", "flow_run"):
        assert version.tags[f"adaptory.{name}"] == getattr(record, name), name
    assert found.data.tags["dvc.split.tiny"].startswith("md5:")
    names = {item.path for item in client.list_artifacts(version.run_id, "report")}
    assert {"report/report.html", "report/confusion.png", "report/learning.png"} <= names
    trained = {item.path for item in client.list_artifacts(version.run_id, "training")}
    assert trained == {"training/xray.txt", "training/certificate.json"}
    assert found.data.metrics["training/device_seconds"] > 0 and found.data.metrics["training/predicted_seconds"] > 0


def test_mlflow_can_load_the_version_and_answers_as_predict_does(line: Path, predicted: list[dict[str, Any]]) -> None:
    script = """
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/tiny@champion")
assert model.metadata.signature.inputs.input_names() == ["text"]
assert model.input_example["text"].str.len().min() > 0
print(model.predict(pandas.DataFrame({"text": ["a lovely film"]}))["positive"][0])
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{line}/.adaptory/mlflow/mlflow.db",
                   "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
    theirs = subprocess.run([str(BIN / "python"), "-c", script], cwd=line, capture_output=True, text=True, env=environment)
    assert theirs.returncode == 0, theirs.stderr
    ours = predicted[0]
    assert float(theirs.stdout.split()[-1]) == pytest.approx(ours["chances"]["positive"], abs=1e-5)


def test_mlflow_models_serve_answers_as_predict_does(line: Path, tmp_path: Path, predicted: list[dict[str, Any]]) -> None:
    port = free_port()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{line}/.adaptory/mlflow/mlflow.db",
                   "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
                   "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}  # fmt: skip
    words = ["models", "serve", "-m", "models:/tiny@champion", "--env-manager", "local", "-p", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([str(BIN / "mlflow"), *words], cwd=line, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(240):
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2)
                    break
                except OSError:
                    time.sleep(0.5)
            body = json.dumps({"dataframe_records": [{"text": "a lovely film"}]}).encode()
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
            theirs = json.loads(urllib.request.urlopen(asked, timeout=60).read())["predictions"][0]
        finally:
            server.terminate()
            server.wait(20)
    ours = predicted[0]
    assert theirs["label"] == ours["label"]
    assert {name: theirs[name] for name in ours["chances"]} == pytest.approx(ours["chances"], abs=1e-5)


def test_a_pulled_release_gives_the_scores_that_were_measured(pulled: Path, predicted: list[dict[str, Any]]) -> None:
    example = json.loads((pulled / "current" / "example.json").read_text())
    for told, expected in zip(predicted[len(TEXTS) :], example, strict=True):
        assert told["chances"] == pytest.approx(expected["told"]["chances"], abs=1e-5)


def test_f42_an_adapter_is_not_loaded_on_another_base_of_the_same_shape(copy: Path, tmp_path: Path) -> None:
    from tests.support import tiny_base

    run(copy, "pull", "tiny@champion", str(tmp_path / "model"))
    facts = json.loads((tmp_path / "model" / "current" / "model.json").read_text())
    kept = tmp_path / "cache" / "bases" / facts["base"]["digest"].removeprefix("sha256:")
    asked = ("predict", str(tmp_path / "model"), "text")
    right = run(copy, *asked, ADAPTORY_CACHE=str(tmp_path / "another")).stdout
    tiny_base(kept, seed=1)
    assert run(copy, *asked, ADAPTORY_CACHE=str(tmp_path / "cache")).stdout == right, "the right one was fetched"
    for place in (kept, copy / "tiny-base"):
        shutil.rmtree(place)
        tiny_base(place, seed=1)
    done = run(copy, *asked, code=2, ADAPTORY_CACHE=str(tmp_path / "cache"))
    assert "an adapter on another base gives wrong answers in silence, so it is refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_new_rows_make_a_new_candidate_that_must_beat_the_champion(copy: Path, prefect_api: str) -> None:
    arrived = [(f"9{n}_0", rating, f"{text} indeed") for n, (_, rating, text) in enumerate(rows(60, seed=5))]
    write_tsv(copy / "incoming" / "rows.tsv", rows(400) + arrived)
    done = run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    found = evidence(copy)
    assert found.champion_version == 1
    assert found.slice_rows["source=notes"] == found.rows > found.slice_rows["history=new"] > 0
    assert found.difference("champion", "macro_f1") is not None
    assert "champion v1" in done.stdout
    records = history(open_store(str(copy / ".adaptory" / "store")), "tiny")
    outcome = json.loads((copy / ".adaptory" / "runs" / "tiny" / "last.json").read_text())["outcome"]
    assert len(records) == (2 if outcome == "PASS" else 1)
    again = run(copy, "retrain", "tiny", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert f"judged {outcome}" in again.stdout


def test_a_changed_gate_judges_again_without_training_and_a_tie_keeps_the_champion(copy: Path, prefect_api: str) -> None:
    criterion = {"kind": "beats_champion", "metric": "macro_f1", "direction": "higher", "margin": 0.0}
    write_recipe(copy, **{"gate.criteria": [criterion]})
    done = run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    assert "step" not in done.stderr, "the candidate was trained before"
    assert "scoring" not in done.stderr, "everyone was asked before"
    assert "FAIL  tiny: gain over v1 +0.000 [+0.000, +0.000] at level 0.03 (comparison 1) is not above 0" in done.stdout
    assert len(history(open_store(str(copy / ".adaptory" / "store")), "tiny")) == 1


def test_the_same_rows_in_another_order_are_nothing_new(copy: Path, prefect_api: str) -> None:
    write_tsv(copy / "incoming" / "rows.tsv", rows(400)[::-1])
    done = run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    assert "tiny: nothing new since v1: every row is one of the champion's, and none is missing" in done.stdout
    assert "step" not in done.stderr


def test_mlflow_is_rebuilt_from_the_ledger(copy: Path) -> None:
    from mlflow import MlflowClient

    shutil.rmtree(copy / ".adaptory" / "mlflow")
    told = run(copy, "reconcile", "tiny").stdout
    assert "created version 1 for v1" in told
    client = MlflowClient(f"sqlite:///{copy}/.adaptory/mlflow/mlflow.db")
    assert str(client.get_model_version_by_alias("tiny", "champion").version) == "1"
    assert "nothing to change" in run(copy, "reconcile", "tiny").stdout


def test_an_alias_that_was_moved_by_hand_is_put_back(copy: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{copy}/.adaptory/mlflow/mlflow.db")
    version = client.get_model_version_by_alias("tiny", "champion")
    other = client.create_model_version("tiny", version.source)
    client.set_registered_model_alias("tiny", "champion", other.version)
    assert "alias champion now names version 1" in run(copy, "reconcile", "tiny").stdout


def test_ctrl_c_and_sigterm_leave_nothing_promoted_and_the_same_command_goes_on(tmp_path: Path, prefect_api: str) -> None:
    folder = checkout(tmp_path / "checkout", **{"training.epochs": 40})
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "ADAPTORY_CHECKPOINT_SECONDS": "0"}
    # Ctrl-C reaches every process of the terminal; a service manager tells the command alone.
    for tell, told, code in ((os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 75)):
        process = subprocess.Popen(
            [str(BIN / "adaptory"), "retrain", "tiny"], cwd=folder, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        before = []
        for said in process.stderr:
            before.append(said)
            if re.match(r"\s*epoch \d", said):
                break
        assert (code == 75) == any("going on from the checkpoint of step" in said for said in before), before
        tell(process.pid, told)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == code, rest
        assert "Traceback" not in rest and ("by SIGTERM" in rest) == (code == 75)
        assert not (folder / ".adaptory" / "store" / "ledger").exists()
        _none_left(process.pid)
    done = run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    assert "PASS" in done.stdout and "going on from the checkpoint of step" in done.stderr


def _none_left(group: int) -> None:
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    raise AssertionError("a process of the interrupted run is still there")


def test_training_again_gives_the_same_adapter_byte_for_byte(copy: Path) -> None:
    folder = next((copy / ".adaptory" / "runs" / "tiny").glob("candidate-*"))
    before = (folder / "adapter_model.safetensors").read_bytes(), (folder / "adapter_config.json").read_bytes()
    shutil.rmtree(folder)
    run(copy, "stage", "train", "tiny", PYTHONHASHSEED="77")
    assert ((folder / "adapter_model.safetensors").read_bytes(), (folder / "adapter_config.json").read_bytes()) == before


def test_a_promotion_cut_off_after_its_ledger_record_is_finished_by_the_same_command(copy: Path, prefect_api: str) -> None:
    shutil.rmtree(copy / ".adaptory" / "store" / "judged")
    shutil.rmtree(copy / ".adaptory" / "mlflow")
    shutil.rmtree(copy / ".adaptory" / "runs")  # as on another machine
    done = run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    assert "step" not in done.stderr
    assert "PASS" in done.stdout
    assert "tiny v1 (MLflow version 1, alias champion)" in done.stdout
    assert len(history(open_store(str(copy / ".adaptory" / "store")), "tiny")) == 1


def test_an_export_answers_as_the_release_does_in_others_hands(
    line: Path, pulled: Path, predicted: list[dict[str, Any]], tmp_path: Path
) -> None:
    import numpy
    import onnxruntime
    from transformers import AutoTokenizer, pipeline

    from adaptory.errors import ReleaseError
    from adaptory.release.export import export

    ours = [one["chances"] for one in predicted[: len(TEXTS)]]
    for form in ("merged", "onnx"):
        told = export(pulled, tmp_path / form, form, line, line / ".adaptory" / "cache")
        assert "answers as the release does" in told
    theirs = pipeline("text-classification", model=str(tmp_path / "merged"), top_k=None)(TEXTS)
    for mine, said in zip(ours, theirs, strict=True):
        assert {one["label"]: one["score"] for one in said} == pytest.approx(mine, abs=1e-4)
    given = AutoTokenizer.from_pretrained(tmp_path / "onnx")(TEXTS, padding=True, return_tensors="np")
    logits = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx")).run(
        None, {name: given[name] for name in ("input_ids", "attention_mask")}
    )[0]
    chances = numpy.exp(logits) / numpy.exp(logits).sum(axis=1, keepdims=True)
    assert chances.tolist() == [pytest.approx(list(mine.values()), abs=1e-4) for mine in ours]
    for form, why in (("gguf", "type llama"), ("vllm", "decoders")):
        with pytest.raises(ReleaseError, match=why):
            export(pulled, tmp_path / form, form, line, line / ".adaptory" / "cache")


def test_an_export_that_answers_otherwise_is_not_kept(
    line: Path, pulled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaptory.errors import StageError
    from adaptory.release import export

    merged = export._WRITE["merged"]

    def careless(loaded: object, folder: Path, out: Path, root: Path, cache: Path) -> object:
        loaded.model.classifier.bias.data += 0.1  # type: ignore[attr-defined]
        return merged(loaded, folder, out, root, cache)

    monkeypatch.setitem(export._WRITE, "merged", careless)
    with pytest.raises(StageError, match="answers otherwise"):
        export.export(pulled, tmp_path / "out", "merged", line, line / ".adaptory" / "cache")
    assert not list(tmp_path.iterdir())
