"""The pages as a person sees them: Chromium on the real Prefect and MLflow."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from adaptory.registry import history
from tests.stack.site import Site
from tests.stack.test_bad_days import waits
from tests.stack.test_line import events
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]
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
    page.locator("input[type=password]").fill(approved.environment["PREFECT_API_AUTH_STRING"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard")
    yield page
    context.close()


def shot(page: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"))


def test_a_retrain_is_started_from_the_form_watched_read_and_approved(approved: Site, prefect: Any) -> None:
    approved.more_rows(300, seed=31)
    site, page = approved, prefect
    root = site.environment["PREFECT_API_URL"].removesuffix("/api")
    known = {one["id"] for one in site.runs("promote-tiny")}
    records = len(history(site.store, "tiny"))
    found = site.get("/deployments/name/retrain/on-demand")
    page.goto(f"{root}/deployments/deployment/{found['id']}?tab=Description")
    page.get_by_text("Retrains one recipe and promotes the candidate only if").first.wait_for()
    shot(page, "deployment")
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.get_by_text("Custom run").first.click()
    page.get_by_text("Train although the data drifted away").first.wait_for()
    page.get_by_role("switch").first.click()
    shot(page, "form")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("scheduled").first.wait_for()

    def waiting() -> Any:
        return [one for one in site.runs("promote-tiny", "PAUSED") if one["id"] not in known]

    asking = site.until(waiting)[0]["id"]
    run = site.runs("retrain-tiny")[0]
    assert run["parameters"] == {"recipe": "tiny", "accept_drift": True}
    page.goto(f"{root}/runs/flow-run/{run['id']}")
    page.get_by_text("Beginning flow run").first.wait_for()
    page.get_by_text("Completed", exact=True).first.wait_for()
    shot(page, "run")
    report = site.post("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["tiny-report"]}}})[0]["latest_id"]
    page.goto(f"{root}/artifacts/artifact/{report}")
    page.get_by_text("macro F1").first.wait_for()
    shot(page, "report")
    page.goto(f"{root}/runs/flow-run/{asking}")
    page.get_by_role("button", name="Resume").first.click()
    page.get_by_text("passed the gate").first.wait_for()
    page.get_by_text("It was compared with the champion v").first.wait_for()
    shot(page, "question")
    fill(page)
    shot(page, "answer")
    page.get_by_role("button", name="Submit").last.click()
    site.until(lambda: not site.runs("promote-tiny", "PAUSED"), 30)
    site.finish(asking)
    page.goto(f"{root}/runs/flow-run/{asking}")
    page.get_by_text("Completed").first.wait_for()
    shot(page, "approved")
    now = history(site.store, "tiny")
    assert len(now) == records + 1 and now[-1].approved_by == "Ada Lovelace"


def test_a_candidate_is_rejected_from_the_page(approved: Site, prefect: Any) -> None:
    site, page = approved, prefect
    known, records = {one["id"] for one in site.runs("promote-tiny")}, history(site.store, "tiny")
    site.more_rows(300, seed=32)
    site.finish(site.start("retrain/on-demand", recipe="tiny", accept_drift=True), seconds=150)
    asking = waits(site, known)
    page.goto(f"{site.environment['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{asking}")
    page.get_by_role("button", name="Resume").first.click()
    page.get_by_text("passed the gate").first.wait_for()
    fill(page, "reject", "the new rows look wrong")
    page.get_by_role("button", name="Submit").last.click()
    site.finish(asking)
    page.get_by_text("Completed", exact=True).first.wait_for()
    shot(page, "rejected")
    assert history(site.store, "tiny") == records
    run = site.start("retrain/on-demand", recipe="tiny")
    site.finish(run)
    assert "REJECTED" in events(site, run)["adaptory.nothing-new"]["reason"]


def fill(page: Any, decision: str = "approve", reason: str = "I have read the report") -> None:
    """Answers the question about a candidate."""
    page.locator(".p-select-button__control").last.press("Space")
    page.get_by_text(decision, exact=True).last.click()
    for label, said in (("Name", "Ada Lovelace"), ("Reason", reason)):
        page.locator(".schema-form-property", has_text=label).last.locator("input, textarea").last.fill(said)


def test_the_champion_is_found_in_mlflow(approved: Site, browser: Any) -> None:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    user, password = (approved.environment[name] for name in names)
    context = browser.new_context(
        viewport={"width": 1300, "height": 1000}, http_credentials={"username": user, "password": password}
    )
    page = context.new_page()
    page.goto(f"{approved.environment['MLFLOW_TRACKING_URI']}/#/models/tiny")
    page.get_by_text("champion").first.wait_for(timeout=60_000)
    shot(page, "mlflow-champion")
    version = approved.mlflow.get_model_version_by_alias("tiny", "champion").version
    page.goto(f"{approved.environment['MLFLOW_TRACKING_URI']}/#/models/tiny/versions/{version}")
    page.get_by_text("adaptory.ledger").first.wait_for(timeout=60_000)
    shot(page, "mlflow-version")
    context.close()
