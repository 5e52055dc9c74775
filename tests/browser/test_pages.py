"""The pages as a person sees them: Chromium on the real Prefect and MLflow."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.conftest import Site
from tests.support import ROOT

pytestmark = pytest.mark.slow
# Kept by CI; git does not know them.
SHOTS = ROOT / ".adaptory" / "screenshots"
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium; run: make test-system")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def prefect(approved: Site, browser: Any) -> Iterator[Any]:
    """Prefect's pages, with the password given."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(approved.environment["PREFECT_API_URL"].removesuffix("/api"))
    field = page.locator("input[type=password]")
    field.fill(approved.environment["PREFECT_API_AUTH_STRING"])
    field.press("Enter")
    page.get_by_role("link", name="Deployments").first.wait_for()
    yield page
    context.close()


def shot(page: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"))


def test_a_retrain_is_started_from_the_form_watched_read_and_approved(approved: Site, prefect: Any) -> None:
    approved.more_rows(300, seed=21)
    site, page = approved, prefect
    root = site.environment["PREFECT_API_URL"].removesuffix("/api")
    found = site.get("/deployments/name/retrain/on-demand")
    page.goto(f"{root}/deployments/deployment/{found['id']}")
    page.get_by_text("Retrains one recipe and promotes the candidate only if").first.wait_for()
    shot(page, "deployment")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("Train although the data drifted away").wait_for()
    page.get_by_text("accept_drift").first.wait_for()
    shot(page, "form")
    page.get_by_role("checkbox").first.check() if page.get_by_role("checkbox").count() else None
    page.get_by_role("button", name="Submit").click()
    run = site.until(lambda: [one for one in site.runs("retrain-tiny") if one["state"]["type"] in ("RUNNING", "COMPLETED")])[0]
    page.goto(f"{root}/runs/flow-run/{run['id']}")
    site.finish(run["id"], seconds=150)
    page.get_by_text("Completed").first.wait_for()
    shot(page, "run")
    page.goto(f"{root}/artifacts/key/tiny-report")
    page.get_by_text("macro F1").first.wait_for()
    shot(page, "report")
    asking = site.until(lambda: site.runs("promote-tiny", "PAUSED"))[0]["id"]
    page.goto(f"{root}/runs/flow-run/{asking}")
    page.get_by_text("Suspended").first.wait_for()
    shot(page, "suspended")
    page.get_by_role("button", name="Resume").first.click()
    page.get_by_text("passed the gate").first.wait_for()
    shot(page, "approval")
