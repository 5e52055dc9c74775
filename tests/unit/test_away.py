"""An index, a hub or a Prefect server that is away for a moment is another matter than one that refuses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adaptory import bases, prefect_api, storage, workspace
from adaptory.errors import BaseModelError, DataError, ServerError, UserError


@contextmanager
def saying(*statuses: int) -> Iterator[str]:
    """Somebody who answers with these statuses in turn, and with the last of them ever after."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the server's name for it

        def log_message(self, *words: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def asked_of_the_hub(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool = False) -> UserError:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match="base org/name@main cannot be fetched from the hub") as told:
        bases.fetch("org/name@main", tmp_path / "base", tmp_path, tmp_path / "cache")
    return told.value


@pytest.mark.parametrize(
    ("status", "kind"), [(503, ServerError), (429, ServerError), (404, BaseModelError), (401, BaseModelError)]
)
def test_a_hub_that_cannot_answer_now_is_worth_another_try_and_one_that_refuses_is_not(
    status: int, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saying(status) as url:
        assert type(asked_of_the_hub(url, tmp_path, monkeypatch)) is kind


def test_a_hub_that_nobody_reaches_is_worth_another_try_unless_it_may_not_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saying(200) as gone:
        pass
    assert type(asked_of_the_hub(gone, tmp_path, monkeypatch)) is ServerError
    assert type(asked_of_the_hub(gone, tmp_path, monkeypatch, offline=True)) is BaseModelError


def test_an_index_that_nobody_reaches_is_worth_another_try_and_one_without_the_package_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with saying(404) as url:
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        with pytest.raises(DataError, match=r"absent==1\.0 cannot be downloaded: ERROR: No matching distribution"):
            storage.download("absent", "1.0", None, tmp_path)
    with pytest.raises(ServerError, match=r"absent==1\.0 cannot be downloaded: the index does not answer"):
        storage.download("absent", "1.0", None, tmp_path)


def test_a_prefect_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_api, "_PAUSES", (0.0, 0.0))
    for statuses, told in {(503, 429, 200): None, (503, 503, 503, 200): "refuses: 503", (404, 200): "refuses: 404"}.items():
        with saying(*statuses) as url:
            monkeypatch.setenv("PREFECT_API_URL", url)
            if told is None:
                assert prefect_api.get(workspace.find(tmp_path), "/health") is None
                continue
            with pytest.raises(ServerError, match=told):
                prefect_api.get(workspace.find(tmp_path), "/health")
