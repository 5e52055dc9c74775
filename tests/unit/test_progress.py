"""What a person at a terminal sees of a training."""

import pytest

from adaptory import progress

STEP = {
    "event": "step", "step": 30, "steps": 1200, "loss": 0.51234, "seconds_per_step": 0.5, "rows_per_second": 16.04,
    "tokens_per_second": 1234.5,
}  # fmt: skip


def test_a_step_tells_loss_speed_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.for_terminal()
    show(STEP)
    assert capsys.readouterr().err == "  step 30 of 1,200   loss 0.512   16.0 rows/s   1,234 tokens/s   9:45 left\n"
    show(STEP | {"step": 31})
    assert capsys.readouterr().err == "", "where there is no screen a line every 15 seconds is enough"


def test_on_a_screen_every_step_replaces_the_one_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    show = progress.for_terminal()
    show(STEP)
    show(STEP | {"step": 31})
    show({"event": "epoch", "epoch": 1, "measured": "macro F1", "validation_macro_f1": 0.7123})
    said = capsys.readouterr().err
    assert said.count(progress.START) == 3 and "step 31 of 1,200" in said
    assert said.endswith("  epoch 1: validation macro F1 0.712\n") and said.count("\n") == 1
