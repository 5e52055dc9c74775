"""Digests name bytes, whatever folder, time or order they come in."""

import math
import os
from pathlib import Path

import pytest

from adaptory import fingerprint
from adaptory.errors import IntegrityError


def test_a_digest_carries_its_algorithm() -> None:
    assert fingerprint.of_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_key_order_does_not_matter_but_values_do() -> None:
    assert fingerprint.of_json({"a": 1, "b": 2}) == fingerprint.of_json({"b": 2, "a": 1})
    assert fingerprint.of_json({"a": 1}) != fingerprint.of_json({"a": 2})


def test_what_has_no_json_form_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint.of_json({"loss": math.nan})


def test_a_folders_digest_counts_names_and_bytes_and_not_times(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"same")
    os.utime(tmp_path / "a" / "deep" / "file", (0, 0))
    assert fingerprint.of_folder(tmp_path / "a") == fingerprint.of_folder(tmp_path / "b")
    (tmp_path / "b" / "deep" / "file").rename(tmp_path / "b" / "file")
    assert fingerprint.of_folder(tmp_path / "a") != fingerprint.of_folder(tmp_path / "b")


def test_a_file_with_other_bytes_than_promised_is_refused_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"other")
    with pytest.raises(IntegrityError, match="review it"):
        fingerprint.verify_file(file, fingerprint.of_bytes(b"promised"), "the file")
    assert not file.exists()
