"""F1 to F9: a training that is killed, preempted, starved, poisoned or given damaged checkpoints.

    pytest tests/faults/test_training_faults.py
"""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from adaptory import process
from adaptory.errors import DiedError, Preempted, StageError, TrainingError
from adaptory.process import run_stage
from adaptory.run import current
from adaptory.training import adapter, checkpoint, curve, devices, fit, objectives, preemption
from adaptory.training.work import Work
from adaptory.workspace import find
from tests.pipeline.conftest import BIN
from tests.support import checkout
from tests.training.toys import trajectory, work


class Killed(BaseException):
    """What kill -9 leaves behind: nothing that would tidy up."""


def broken_at(one: Work, step: int) -> Work:
    """The same training, which dies when it tells of this step."""

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    return Work(**{**vars_of(one), "emit": tell, "every": 0.0})


def vars_of(one: Work) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Work.__dataclass_fields__}


def fresh(folder: Path, **changes: Any) -> Work:
    """The training anew, in a new process as it were: base and adapter made again, checkpoints as they lie there."""
    # By this seed the first epoch is the best one: what a stop may not lose.
    return work(folder, "classification", "encoder", **{"dropout": 0.2, "seed": 2} | changes)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float]]:
    one = fresh(tmp_path_factory.mktemp("unbroken"))
    losses = trajectory(one)
    return adapter.digest_of_weights(one.model), losses


def finished(folder: Path) -> tuple[str, list[float]]:
    one = fresh(folder)
    losses = trajectory(one)
    return adapter.digest_of_weights(one.model), losses


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 17))
def test_f1_killed_at_any_step_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, step: int, unbroken: tuple[str, list[float]]
) -> None:
    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), step))
    assert checkpoint.newest(tmp_path / "checkpoints", "toy") or step == 1
    assert finished(tmp_path) == unbroken, "weights, and the curve of losses without a gap or a repeat"


def test_f1_killed_again_and_again(tmp_path: Path, unbroken: tuple[str, list[float]]) -> None:
    for step in (3, 4, 9, 11, 16):
        with pytest.raises(Killed):
            fit.fit(broken_at(fresh(tmp_path), step))
    assert finished(tmp_path) == unbroken


@pytest.mark.parametrize("moment", ["the tensors are half written", "the state is not there yet", "before the rename"])
def test_f1_killed_while_a_checkpoint_is_written(
    tmp_path: Path, moment: str, unbroken: tuple[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def dies(self: Path, *words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            if moment == "the tensors are half written":
                (self / checkpoint.STATE).unlink()
                os.truncate(self / checkpoint.TENSORS, 100)
            elif moment == "the state is not there yet":
                (self / checkpoint.STATE).unlink()
            raise Killed
        return replace(self, *words)

    replace = Path.replace
    one = broken_at(fresh(tmp_path), 16)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(Killed):
            fit.fit(one)
    assert finished(tmp_path) == unbroken


@pytest.mark.slow
@pytest.mark.long
def test_f1_and_f3_the_real_stage_killed_or_told_to_stop_goes_on_to_the_same_adapter(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout", **{"training.dropout": 0.1})
    subprocess.run([str(BIN / "adaptory"), "prepare", "tiny"], cwd=folder, check=True, capture_output=True)
    whole = shutil.copytree(folder, tmp_path / "whole", symlinks=True)
    assert _train(whole) == 0
    assert _train(folder, signal.SIGKILL, at=33) == -signal.SIGKILL
    assert _train(folder, signal.SIGTERM, at=90) == 75, "preempted is never called success"
    kept = [place for place in folder.glob(".adaptory/runs/tiny/*.checkpoints/step-*") if (place / "state.json").is_file()]
    assert kept
    assert not list(folder.glob(".adaptory/runs/tiny/candidate-*/candidate.json"))
    assert _train(folder) == 0
    assert _digest(folder) == _digest(whole)
    assert not list(folder.glob(".adaptory/runs/tiny/*.checkpoints")), "a finished training keeps no checkpoints"


def _train(folder: Path, end: signal.Signals | None = None, at: int = 0) -> int:
    """Runs the stage; sends the signal when it has told of a step. Returns its exit code."""
    environment = {**os.environ, "ADAPTORY_CHECKPOINT_SECONDS": "0"}
    stage = subprocess.Popen(
        [str(BIN / "adaptory"), "stage", "train", "tiny"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert stage.stdout is not None
    for line in stage.stdout:
        if end and '"event": "step"' in line and json.loads(line)["step"] >= at:
            stage.send_signal(end)
            break
    stage.stdout.read()
    return stage.wait(60)


def _digest(folder: Path) -> Any:
    return json.loads(next(folder.glob(".adaptory/runs/tiny/candidate-*/candidate.json")).read_text())["digest"]


@pytest.fixture
def told() -> Iterator[None]:
    """A process in which SIGTERM has come."""
    preemption._told = True
    yield
    preemption._told = False


def test_f3_a_sigterm_saves_the_step_and_ends_by_a_name(
    tmp_path: Path, unbroken: tuple[str, list[float]], told: None
) -> None:
    preemption._told = False
    one = fresh(tmp_path)
    preemption._told = True
    with pytest.raises(Preempted, match="run the same command to go on") as found:
        fit.fit(one)
    assert found.value.exit_code == 75
    kept = checkpoint.newest(tmp_path / "checkpoints", "toy")
    assert kept and kept.facts["step"] == 1
    preemption._told = False
    assert finished(tmp_path) == unbroken


def test_f3_a_sigterm_during_a_validation_saves_the_epoch_that_was_trained(
    tmp_path: Path, unbroken: tuple[str, list[float]], told: None
) -> None:
    def tell(event: dict[str, Any]) -> None:
        preemption._told = event["event"] == "step" and event["step"] == one.steps_per_epoch

    preemption._told = False
    one = fresh(tmp_path)
    asked = preemption.asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "asked", lambda: False)  # it comes after the last step has looked
        with pytest.raises(Preempted):
            fit.fit(Work(**{**vars_of(one), "emit": tell}))
    assert asked()
    kept = checkpoint.newest(tmp_path / "checkpoints", "toy")
    assert kept and (kept.facts["step"], kept.facts["epoch"]) == (one.steps_per_epoch, 0)
    preemption._told = False
    assert finished(tmp_path) == unbroken


def test_f3_a_sigterm_ends_tokenising_at_once(tmp_path: Path, told: None) -> None:
    with pytest.raises(Preempted):
        fresh(tmp_path)


@pytest.mark.parametrize("allowed", [8, 100])  # times the longest row: about what a step takes, and far more
@pytest.mark.parametrize(
    "fault",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
def test_f4_out_of_memory_is_tried_again_at_half_the_size_with_the_same_gradients(
    tmp_path: Path, fault: str, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    plain = trajectory(work(tmp_path / "a", "sft", "causal"))
    longest = max(work(tmp_path / "b", "sft", "causal").lengths)
    losses = objectives.losses

    def starved(goal: Any, model: Any, rows: Any, *more: Any) -> Any:
        if sum(row.length for row in rows) > 4 * longest:
            raise torch.OutOfMemoryError(fault) if "CUDA" in fault else RuntimeError(fault)
        return losses(goal, model, rows, *more)

    monkeypatch.setattr(fit, "losses", starved)
    one = work(tmp_path / "c", "sft", "causal", micro_tokens=allowed * longest)
    state = fit.fit(one)
    assert state.halved and state.micro_tokens <= 4 * longest
    ours = [event["loss"] for event in curve.told(one.folder) if event["event"] == "step"]
    assert ours == pytest.approx(plain, rel=1e-3)


def test_f4_what_torch_says_of_a_host_without_memory_is_recognised() -> None:
    import torch

    with pytest.raises(RuntimeError) as found:
        torch.empty(10**15)
    assert devices.is_memory(found.value)
    assert not devices.is_memory(RuntimeError("shapes do not match"))


def test_f4_out_of_memory_a_second_time_is_told_with_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def starved(*words: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(fit, "losses", starved)
    with pytest.raises(StageError, match=r"step 1 also with \d+ tokens at once; lower training\.micro_tokens"):
        fit.fit(fresh(tmp_path))


@pytest.mark.parametrize("where", ["optimizer", "validation"])
def test_f4_memory_that_runs_out_where_halves_would_not_help_is_told_with_what_to_lower(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def starved(*words: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if where == "optimizer":
        monkeypatch.setattr(torch.optim.AdamW, "step", starved)
    else:
        monkeypatch.setattr(fit, "validate", starved)
    with pytest.raises(TrainingError, match=r"out of memory, of [\d.e+]+ GB; lower training\.micro_tokens, max_tokens"):
        fit.fit(fresh(tmp_path))


def test_f4_a_process_of_a_sharded_base_ends_at_once_for_the_others_wait_for_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    calls = []

    def starved(*words: Any) -> Any:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    one = fresh(tmp_path)
    monkeypatch.setattr(fit, "losses", starved)
    monkeypatch.setattr(devices, "sharded", lambda: True)
    monkeypatch.setattr(devices, "world", lambda: 2)
    with pytest.raises(StageError, match="out of memory, of ") as found:
        fit.fit(one)
    assert len(calls) == 1
    assert not isinstance(found.value, TrainingError), "which a search would take for the end of a trial, and wait"


def test_f7_a_validation_that_is_not_finite_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"score": 0.5, "validation_loss": math.nan, "validation_macro_f1": 0.5}
    monkeypatch.setattr(fit, "validate", lambda *words: found)
    with pytest.raises(TrainingError, match=r"epoch 1: the validation is not finite \(.*validation_loss nan.*learning_rate"):
        fit.fit(fresh(tmp_path))


@pytest.mark.slow
def test_f5_a_process_without_memory_leaves_no_candidate_and_is_not_called_success(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    subprocess.run([str(BIN / "adaptory"), "prepare", "tiny"], cwd=folder, check=True, capture_output=True)
    limited = f"ulimit -v 1500000; exec {BIN / 'adaptory'} stage train tiny"
    done = subprocess.run(["bash", "-c", limited], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0
    assert not list(folder.glob(".adaptory/runs/tiny/candidate-*/candidate.json"))


def test_f6_a_full_disk_keeps_the_checkpoint_before_and_names_the_bytes(
    tmp_path: Path, unbroken: tuple[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), 5))
    before = checkpoint.newest(tmp_path / "checkpoints", "toy")

    def full(tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(StageError, match=r"no room for a checkpoint .* needs [\d,]+ bytes and [\d,]+ are free"):
            fit.fit(broken_at(fresh(tmp_path), 16))
    after = checkpoint.newest(tmp_path / "checkpoints", "toy")
    assert before and after and before.facts == after.facts
    assert not list((tmp_path / "checkpoints").glob(".step*")), "nothing half is left"
    assert finished(tmp_path) == unbroken


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_f6_a_disk_that_is_really_full(tmp_path: Path, unbroken: tuple[str, list[float]]) -> None:
    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), 5))
    folder = tmp_path / "checkpoints"
    kept = max(folder.glob("step-*"), key=lambda place: int(place.name.removeprefix("step-")))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.copytree(folder, tmp_path / "copy")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + 30_000}", "none", str(folder)], check=True)
    try:
        shutil.copytree(tmp_path / "copy", folder, dirs_exist_ok=True)
        with pytest.raises(StageError, match=r"no room for a checkpoint .* needs [\d,]+ bytes and [\d,]+ are free"):
            fit.fit(broken_at(fresh(tmp_path), 16))
        found = checkpoint.newest(folder, "toy")
        assert found and f"step-{found.facts['step']}" == kept.name, "the one before is whole"
        shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # the weights are mapped from there
    shutil.copytree(tmp_path / "copy", folder, dirs_exist_ok=True)
    assert finished(tmp_path) == unbroken


def test_f7_a_loss_that_is_not_finite_stops_before_the_weights_move_and_names_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fresh(tmp_path)
    losses, calls, digests = objectives.losses, 0, []

    def poisoned(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        digests.append(adapter.digest_of_weights(one.model))
        each, said = losses(*words)
        return each * (float("nan") if calls == 5 else 1.0), said

    monkeypatch.setattr(fit, "losses", poisoned)
    with pytest.raises(StageError, match=r"training step 5: loss nan.*these rows: s/\d+, s/\d+"):
        fit.fit(one)
    assert adapter.digest_of_weights(one.model) == digests[4]


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.STATE])
@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone"])
def test_f8_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, file: str, harm: str, unbroken: tuple[str, list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), 7))
    found = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [place.name for place in found] == ["step-5", "step-6"], "two are kept"
    victim = found[-1] / file
    if harm == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif harm == "flipped":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    else:
        victim.unlink()
    kept = checkpoint.newest(tmp_path / "checkpoints", "toy")
    assert kept and kept.facts["step"] == 5
    assert "step-6 is damaged and passed over" in capsys.readouterr().err
    assert finished(tmp_path)[0] == unbroken[0]


def test_f8_damaged_checkpoints_do_not_push_out_the_whole_ones_that_follow(
    tmp_path: Path, unbroken: tuple[str, list[float]]
) -> None:
    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), 7))
    for place in (tmp_path / "checkpoints").glob("step-*"):
        (place / checkpoint.TENSORS).unlink()
    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), 4))
    kept = checkpoint.newest(tmp_path / "checkpoints", "toy")
    assert kept and kept.facts["step"] == 3
    assert [place.name for place in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["step-2", "step-3"]
    assert finished(tmp_path)[0] == unbroken[0]


def test_a_curve_that_was_cut_off_does_not_stop_the_next_attempt(
    tmp_path: Path, unbroken: tuple[str, list[float]]
) -> None:
    with pytest.raises(Killed):
        fit.fit(broken_at(fresh(tmp_path), 5))
    with (tmp_path / "checkpoints" / curve.CURVE).open("a") as lines:
        lines.write('{"event": "step", "st')
    assert finished(tmp_path) == unbroken


def test_an_attempt_that_died_before_its_first_checkpoint_leaves_no_losses_behind(
    tmp_path: Path, unbroken: tuple[str, list[float]]
) -> None:
    with pytest.raises(Killed):
        fit.fit(Work(**{**vars_of(broken_at(fresh(tmp_path), 5)), "every": 1e9}))
    assert curve.told(tmp_path / "checkpoints")
    assert finished(tmp_path) == unbroken


def test_f9_a_checkpoint_of_another_training_is_not_gone_on_from(
    tmp_path: Path, unbroken: tuple[str, list[float]]
) -> None:
    other = fresh(tmp_path, learning_rate=0.02)
    with pytest.raises(Killed):
        fit.fit(broken_at(Work(**{**vars_of(other), "key": "another"}), 5))
    assert checkpoint.newest(tmp_path / "checkpoints", "toy") is None
    assert finished(tmp_path)[0] == unbroken[0]


@pytest.mark.slow
def test_f2_a_trainer_that_is_killed_or_hangs_in_a_step_is_told_as_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout(tmp_path / "checkout", **{"training.epochs": 40})
    subprocess.run([str(BIN / "adaptory"), "prepare", "tiny"], cwd=folder, check=True, capture_output=True)
    monkeypatch.setattr(process, "_STEPPING", 3.0)

    def at_step(end: signal.Signals) -> Callable[[dict[str, Any]], None]:
        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["step"] == 5:
                os.kill(stages(folder)[0], end)

        return on_event

    with pytest.raises(DiedError, match="ended with code -9"):
        run_stage(current(find(folder), "tiny"), "train", at_step(signal.SIGKILL))
    with pytest.raises(DiedError, match="said nothing for 3 s and was killed"):
        run_stage(current(find(folder), "tiny"), "train", at_step(signal.SIGSTOP))
    assert stages(folder) == []


@pytest.mark.slow
@pytest.mark.long
def test_f1_of_two_processes_that_train_together_one_dies_and_the_same_command_ends_with_the_same_bytes(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout", **{"training.dropout": 0.1, "training.epochs": 3})
    subprocess.run([str(BIN / "adaptory"), "prepare", "tiny"], cwd=folder, check=True, capture_output=True)
    copies = ("whole", "other", "sharded")
    whole, other, sharded = (shutil.copytree(folder, tmp_path / name, symlinks=True) for name in copies)
    run_stage(current(find(whole), "tiny"), "train", lambda event: None, processes=2)

    def follow(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 33:
            os.kill(max(stages(folder)), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTORY_CHECKPOINT_SECONDS", "0")
        with pytest.raises(DiedError):
            run_stage(current(find(folder), "tiny"), "train", follow, processes=2)
        assert stages(folder) == [], "nobody waits for the one that died"
    said: list[str] = []
    run_stage(current(find(folder), "tiny"), "train", lambda event: said.append(event.get("what", "")), processes=2)
    assert any("going on from the checkpoint of step" in what for what in said)
    assert _digest(folder) == _digest(whole)
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "adaptory.cli", "stage", "train", "tiny"]
    subprocess.run(torchrun, cwd=other, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, check=True, capture_output=True)
    card = json.loads(next(other.glob(".adaptory/runs/tiny/candidate-*/candidate.json")).read_text())
    assert card["processes"] == 2 and card["digest"] == _digest(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTORY_SHARD", "1")
        run_stage(current(find(sharded), "tiny"), "train", lambda event: None, processes=2)
    halves = json.loads(next(sharded.glob(".adaptory/runs/tiny/candidate-*/candidate.json")).read_text())
    assert halves["validation"] == pytest.approx(card["validation"], rel=1e-3), "each with half of the base"
    assert (halves["total_parameters"], halves["processes"]) == (card["total_parameters"], 2)


def stages(folder: Path) -> list[int]:
    """The processes that train in this checkout."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"train\0tiny" in (place / "cmdline").read_bytes() and (place / "cwd").resolve() == folder.resolve():
                found.append(int(place.name))
    return found


@pytest.mark.slow
def test_a_stage_that_says_nothing_is_killed_within_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout(tmp_path / "checkout")
    subprocess.run([str(BIN / "adaptory"), "prepare", "tiny"], cwd=folder, check=True, capture_output=True)
    monkeypatch.setenv("ADAPTORY_SILENCE", "1")
    with pytest.raises(StageError, match="said nothing for 1 s and was killed"):
        run_stage(current(find(folder), "tiny"), "train", lambda event: None)
