"""dvc.lock by its sections: what is taken and given back changes nothing else, byte for byte."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptory.data import lock
from tests.support import ROOT

WHOLE = ROOT / "dvc.lock"
NAMES = list(yaml.safe_load(WHOLE.read_text())["stages"])


def test_every_section_is_read_as_the_whole_file_says_it() -> None:
    assert lock.read(WHOLE, NAMES) == yaml.safe_load(WHOLE.read_text())["stages"]


def test_what_is_written_anew_is_as_dvc_writes_it() -> None:
    """A clone in which a recipe is retrained must not change what is committed."""
    assert lock._dumped(yaml.safe_load(WHOLE.read_text())) == WHOLE.read_text()


@settings(max_examples=15)
@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_sections_that_were_taken_are_a_lock_and_go_back_without_a_trace(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    home = tmp_path_factory.mktemp("lock")
    whole, own = shutil.copyfile(WHOLE, home / "dvc.lock"), home / "own.lock"
    lock.take(whole, names, own)
    assert yaml.safe_load(own.read_text())["stages"] == lock.read(whole, names)
    lock.give_back(own, whole)
    assert whole.read_bytes() == WHOLE.read_bytes()


def test_a_changed_section_replaces_its_own_and_a_new_one_follows_the_others(tmp_path: Path) -> None:
    whole, own = shutil.copyfile(WHOLE, tmp_path / "dvc.lock"), tmp_path / "own.lock"
    whole.write_text(whole.read_text() + "datasets: []\n")
    before = yaml.safe_load(whole.read_text())
    lock.take(whole, NAMES[5:7], own)
    own.write_text(own.read_text().replace("size:", "size: 1") + "  new@x:\n    cmd: true\n")
    lock.give_back(own, whole)
    now = yaml.safe_load(whole.read_text())
    assert now["stages"].pop("new@x") == {"cmd": True} and now["datasets"] == [] and list(now["stages"]) == NAMES
    assert {name for name in NAMES if now["stages"][name] != before["stages"][name]} == set(NAMES[5:7])


def test_a_lock_that_is_not_there_is_made(tmp_path: Path) -> None:
    lock.take(tmp_path / "dvc.lock", ["a@b"], tmp_path / "own.lock")
    assert yaml.safe_load((tmp_path / "own.lock").read_text()) == {"schema": "2.0", "stages": {}}
    lock.replace(tmp_path / "dvc.lock", {"a@b": {"cmd": "x", "outs": [{"md5": "1"}]}})
    assert yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"] == {"a@b": {"cmd": "x", "outs": [{"md5": "1"}]}}


def test_a_lock_that_says_so_already_is_left_alone(tmp_path: Path) -> None:
    whole = shutil.copyfile(WHOLE, tmp_path / "dvc.lock")
    told = json.loads(json.dumps(lock.read(whole, NAMES[:3])))
    lock.replace(whole, told)
    assert whole.read_bytes() == WHOLE.read_bytes()
    lock.replace(whole, told | {NAMES[0]: {"cmd": "other"}})
    assert lock.read(whole, NAMES)[NAMES[0]] == {"cmd": "other"} and lock.read(whole, NAMES[1:]) == lock.read(WHOLE, NAMES[1:])


def test_what_dvc_says_once_for_several_sources_of_a_recipe_is_whole_beside_another_recipe(tmp_path: Path) -> None:
    """YAML's anchors are numbered from one in every lock: two recipes with their own would be no lock together."""
    whole, same = tmp_path / "dvc.lock", ["id", "text"]
    for name in ("fetch@a", "fetch@b"):
        own = tmp_path / "own.lock"
        lock.take(whole, [name], own)
        own.write_text(yaml.safe_dump({"schema": "2.0", "stages": {name: {"x": same, "y": same}}}, sort_keys=False))
        assert "&id001" in own.read_text()
        lock.give_back(own, whole)
    assert yaml.safe_load(whole.read_text())["stages"] == {name: {"x": same, "y": same} for name in ("fetch@a", "fetch@b")}


def test_values_that_yaml_reads_in_two_ways_stay_what_dvc_reads(tmp_path: Path) -> None:
    text = "schema: '2.0'\nstages:\n  a@x:\n    p: &id001\n    - no\n    - on\n    - 1e-05\n    - '1e-05'\n    q: *id001\n"
    own, whole, told = tmp_path / "own.lock", tmp_path / "dvc.lock", ["no", "on", 1e-05, "1e-05"]
    own.write_text(text)
    lock.give_back(own, whole)
    assert "id001" not in whole.read_text()
    assert lock.read(whole, ["a@x"]) == {"a@x": {"p": told, "q": told}}


def test_a_section_is_whole_that_another_one_was_written_with(tmp_path: Path) -> None:
    """DVC writes what several stages have in common once, if it writes the whole lock."""
    whole, same = tmp_path / "dvc.lock", ["id", "text"]
    whole.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"a@x": {"c": same}, "b@x": {"c": same}}}, sort_keys=False))
    assert "*id001" in whole.read_text()
    assert lock.read(whole, ["b@x"]) == {"b@x": {"c": same}}
    lock.take(whole, ["b@x"], tmp_path / "own.lock")
    assert yaml.safe_load((tmp_path / "own.lock").read_text())["stages"] == {"b@x": {"c": same}}
