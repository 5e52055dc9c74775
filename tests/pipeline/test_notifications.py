"""Where people are told: any notification block of the server, by its name."""

from collections.abc import Iterator

import pytest

from adaptory.errors import UserError
from infra.automations import _where_to_tell

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def server(prefect_api: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


def test_e_mail_is_a_block_that_was_made_on_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.notifications import SendgridEmail

    mail = SendgridEmail(api_key="none", sender_email="adaptory@example.org", to_emails=["oncall@example.org"])
    made = mail.save("oncall")
    monkeypatch.setenv("ADAPTORY_NOTIFY", "sendgrid-email/oncall")
    try:
        assert _where_to_tell() == made
    finally:
        SendgridEmail.delete("oncall")


@pytest.mark.parametrize("named", ["sendgrid-email/nobody", "no-such-kind/oncall", "oncall"])
def test_a_block_that_is_not_there_is_told_with_how_to_make_it(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTORY_NOTIFY", named)
    with pytest.raises(UserError, match=f"{named}.*page Blocks"):
        _where_to_tell()


def test_without_a_word_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADAPTORY_NOTIFY", "ADAPTORY_SLACK_WEBHOOK", "ADAPTORY_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    assert _where_to_tell() is None
