"""What is written is there whole, or what was there before is."""

import os
from pathlib import Path

import pytest

from adaptory import whole


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for text in ("one", "another é"):
        whole.write(tmp_path / "file.json", text)
        assert (tmp_path / "file.json").read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_disk_without_room_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole.write(tmp_path / "file.json", "one")

    def full(self: Path, text: str, **how: str) -> int:
        with self.open("w") as file:
            file.write(text[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        whole.write(tmp_path / "file.json", "another")
    assert os.listdir(tmp_path) == ["file.json"] and (tmp_path / "file.json").read_text() == "one"
