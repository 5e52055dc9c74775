"""F49 and the service: 1,000 requests during 50 swaps, each answered by exactly one version; limits, tokens, a gone store."""

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptory.registry.promotion import rollback
from adaptory.storage import open_store
from tests.pipeline.conftest import BIN, free_port, run
from tests.support import checkout, write_recipe

FLOOR = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """Two champions, one after the other."""
    folder = checkout(tmp_path_factory.mktemp("serve") / "checkout", **{"gate.criteria": [FLOOR]})
    run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    write_recipe(folder, **{"gate.criteria": [FLOOR], "training.seed": 1})
    run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    return folder


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[str]:
    port = free_port()
    command = [str(BIN / "adaptory"), "serve", "tiny@champion", "--port", str(port), "--every", "0.02"]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str, body: Any, **headers: str) -> tuple[int, Any, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/predict", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read()), answer.headers["X-Adaptory-Version"]
    except urllib.error.HTTPError as fault:
        return fault.code, json.loads(fault.read()), ""


def health(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(urllib.request.urlopen(f"{url}/health", timeout=5).read())
    return found


def test_f49_a_thousand_requests_during_fifty_swaps_meet_one_version_each(line: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    store, questions = open_store(str(folder / ".adaptory" / "store")), [{"text": "a lovely film"}, {"text": "was this boring"}]
    with service(folder) as url:
        alone = {}
        for version in (2, 1):
            if version == 1:
                rollback(store, "tiny", 1, by="test", reason="")
            while health(url)["version"] != version:
                time.sleep(0.02)
            alone[f"v{version}"] = ask(url, questions)[1]
        assert alone["v1"] != alone["v2"]
        before, done = health(url)["swaps"], threading.Event()

        def swap() -> None:
            for turn in range(50):
                rollback(store, "tiny", 2 if turn % 2 == 0 else 1, by="test", reason="")
                seen = health(url)["swaps"]
                while health(url)["swaps"] == seen and not done.wait(0.005):
                    pass

        swapper = threading.Thread(target=swap)
        swapper.start()
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda _: ask(url, questions), range(1000)))
        swapper.join(120)
        done.set()
        assert health(url)["swaps"] - before >= 50
    assert {code for code, _, _ in told} == {200}, "no request was dropped"
    for _, answers, version in told:
        for mine, expected in zip(answers, alone[version], strict=True):
            assert mine["label"] == expected["label"]
            assert mine["chances"] == pytest.approx(expected["chances"], abs=1e-4), f"an answer of {version} mixed with another"
    met = Counter(version for _, _, version in told)
    assert min(met["v1"], met["v2"]) > 50, met


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
        while health(url)["trouble"] is None:
            time.sleep(0.02)
        assert ask(url, {"text": "a lovely film"})[0] == 200
        assert health(url)["version"] == 2


def test_without_a_champion_there_is_nothing_to_begin_with(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "empty")
    assert "no tiny@champion in the ledger" in run(folder, "serve", "tiny", code=2).stderr
