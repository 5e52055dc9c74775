"""One training said in many ways is one training: the same losses, step by step, and the same weights at the end.

After TRL's tests/invariant: what differs by more than rounding is a bug (transformers#34191 is what happens without).
"""

import errno
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptory.errors import Preempted, StageError
from adaptory.training import adapter, curve, devices, fit, forward, objectives, preemption, tree, validate
from adaptory.training import trunk as trunks
from adaptory.training.render import Example
from adaptory.training.trunk import Trunk
from adaptory.training.work import begin
from tests.support import FILLER, ROOT
from tests.training.toys import base, trajectory, work

TASKS = [("classification", "encoder"), ("sft", "causal"), ("preference", "causal"), ("sft", "seq2seq"), ("text", "encoder")]


def run(folder: Path, task: str, kind: str, **training: Any) -> tuple[list[float], str]:
    one = work(folder, task, kind, **training)
    for left in (one.folder.glob("**/*") if one.folder.is_dir() else ()):
        left.unlink() if left.is_file() else None
    losses = trajectory(one)
    return losses, adapter.digest_of_weights(one.model)


def close(first: list[float], second: list[float]) -> None:
    np.testing.assert_allclose(first, second, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("task", "kind"), TASKS)
def test_a_window_cut_into_any_micro_batches_gives_the_gradient_of_the_whole(tmp_path: Path, task: str, kind: str) -> None:
    whole = run(tmp_path / "a", task, kind, epochs=1)[0]
    assert len(whole) == 8  # 60 rows in windows of 8, the last one short
    for tokens in (1, 40, 97):
        close(run(tmp_path / f"b{tokens}", task, kind, epochs=1, micro_tokens=tokens)[0], whole)


@pytest.mark.parametrize(("task", "kind"), [("classification", "encoder"), ("sft", "causal"), ("preference", "causal")])
@pytest.mark.parametrize("method", ["lora", "freeze", "dora"])
def test_a_cached_trunk_changes_nothing(tmp_path: Path, task: str, kind: str, method: str) -> None:
    plain, kept = (run(tmp_path / name, task, kind, method=method, cache_trunk=name == "b")[0] for name in "ab")
    close(plain, kept)


def test_of_two_that_need_the_same_trunk_at_once_one_computes_and_the_other_reads(tmp_path: Path) -> None:
    ones = [work(tmp_path / name, "classification", "encoder", top_layers=2) for name in "ab"]
    rows = objectives.sequences_of(ones[0].goal, ones[0].train)
    trunks = [Trunk(one.model, 2, tmp_path / "trunk") for one in ones]
    with ThreadPoolExecutor() as pool:
        new = list(pool.map(lambda trunk: trunk.extend(rows, ones[0].goal.pad), trunks))
    assert min(new) == 0 and max(new) == len(trunks[0].places) == len(trunks[1].places)
    assert len(list((tmp_path / "trunk").glob("*.f32"))) == 1


def rows_and_trunk(folder: Path, count: int) -> tuple[Any, list[Example], Trunk]:
    one = work(folder / "work", "classification", "encoder", count=count, top_layers=2)
    return one, objectives.sequences_of(one.goal, one.train), Trunk(one.model, 2, folder / "trunk")


def test_next_month_only_the_new_rows_are_computed(tmp_path: Path) -> None:
    one, rows, trunk = rows_and_trunk(tmp_path, 40)
    first = trunk.extend(rows, one.goal.pad)
    one, more, trunk = rows_and_trunk(tmp_path, 60)
    texts = [{tuple(row.ids) for row in some} for some in (rows, more)]
    assert first == len(texts[0]) and trunk.extend(more, one.goal.pad) == len(texts[1] - texts[0]) > 0
    assert Trunk(one.model, 2, tmp_path / "trunk").extend(more, one.goal.pad) == 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell which pages are held")
def test_what_was_read_of_a_trunk_is_not_held_in_memory(tmp_path: Path) -> None:
    one, rows, trunk = rows_and_trunk(tmp_path, 60)
    trunk.extend(rows, one.goal.pad)
    trunk.show(rows)
    lines = Path("/proc/self/smaps").read_text().splitlines()
    held = [lines[at + 4].split() for at, line in enumerate(lines) if f"{trunk.folder}/" in line]
    assert held == [["Rss:", "0", "kB"]]


def kept_states(trunk: Trunk, rows: list[Example]) -> list[bytes]:
    return [trunk._read(row).numpy().tobytes() for row in rows]


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_trunk_that_was_cut_off_keeps_what_was_done_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(trunks, "_FILE", 32 * 4 * 100)  # a hundred tokens
    monkeypatch.setattr(devices, "tokens_at_once", lambda device: 64)
    one, rows, whole = rows_and_trunk(tmp_path / "a", 60)
    whole.extend(rows, one.goal.pad)
    assert len(list(whole.folder.glob("*.f32"))) > 5
    _, _, broken = rows_and_trunk(tmp_path / "b", 60)
    calls = iter(range(stop))

    def check() -> None:
        if next(calls, None) is None:
            raise Preempted

    with monkeypatch.context() as patch:
        patch.setattr(preemption, "check", check)
        with pytest.raises(Preempted):
            broken.extend(rows, one.goal.pad)
    kept = len(broken.places)
    assert kept < len(whole.places) and (kept or stop < 8)
    _, _, again = rows_and_trunk(tmp_path / "b", 60)
    assert again.extend(rows, one.goal.pad) == len(whole.places) - kept
    assert kept_states(again, rows) == kept_states(whole, rows)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_what_is_kept_of_a_text_does_not_depend_on_what_was_kept_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """To the last bit: else another adapter would come of another month's cache, and a rebuild elsewhere would not find it."""
    widened(base(tmp_path / "work" / kind, kind))
    one = work(tmp_path / "work", "classification", kind, count=60, top_layers=2)
    rows = objectives.sequences_of(one.goal, one.train)
    whole, shapes, plain = Trunk(one.model, 2, tmp_path / "whole"), [], Trunk._compute

    def compute(trunk: Trunk, filled: list[Example], pad: int, width: int) -> Any:
        shapes.append((len(filled), width))
        return plain(trunk, filled, pad, width)

    monkeypatch.setattr(Trunk, "_compute", compute)
    whole.extend(rows, one.goal.pad)
    assert {rows for rows, width in shapes} == {512 // width for rows, width in shapes}, "one shape for a length"
    for first in (1, 7, 30, 59):
        by_parts = Trunk(one.model, 2, tmp_path / f"parts-{first}")
        by_parts.extend(rows[:first], one.goal.pad)
        by_parts.extend(rows, one.goal.pad)
        assert kept_states(by_parts, rows) == kept_states(whole, rows), first


def widened(folder: Path) -> None:
    """The network in this folder, so wide that the processor multiplies batches of unlike shapes in unlike orders."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(folder)
    config.update({"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_key_value_heads": 6})
    config.head_dim = 64
    kind = AutoModelForCausalLM if config.model_type == "llama" else AutoModelForMaskedLM
    kind.from_config(config).save_pretrained(folder)


def test_sequences_are_computed_in_shapes_that_depend_on_their_own_length_alone() -> None:
    lengths = [3, 7, 8, 9, 30, 31, 32, 32]
    found = {tuple(batch.places): (batch.rows, batch.width) for batch in trunks._batches(lengths, 64, 32)}
    # Seven tokens are padded to eight, eight to sixteen; 32, which is all that can be read, are by themselves.
    assert found == {(0, 1): (8, 8), (2, 3): (4, 16), (4, 5): (2, 32), (6, 7): (2, 32)}
    assert list(trunks._batches([100], 64, None)) == [trunks._Batch([0], 1, 104)]
    assert [len(batch.places) for batch in trunks._batches([5] * 20, 64, None)] == [8, 8, 4]


def test_kept_states_that_were_damaged_are_computed_again(tmp_path: Path) -> None:
    one, rows, trunk = rows_and_trunk(tmp_path, 40)
    count = trunk.extend(rows, one.goal.pad)
    file = next(trunk.folder.glob("*.f32"))
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    again = Trunk(one.model, 2, tmp_path / "trunk")
    assert again.places == {} and again.extend(rows, one.goal.pad) == count
    assert file.read_bytes() == whole


def test_a_disk_without_room_for_the_trunk_is_told_with_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write into mapped memory would end the process by SIGBUS, without a word."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one, rows, trunk = rows_and_trunk(tmp_path, 40)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StageError, match=r"needs [\d,]+ bytes and [\d,]+ are free"):
        trunk.extend(rows, one.goal.pad)
    assert list(trunk.folder.glob("*.f32")) == []


def test_a_head_on_cached_embeddings_is_a_head_on_the_network(tmp_path: Path) -> None:
    settings = {"method": "head", "top_layers": None}
    one = run(tmp_path / "a", "classification", "encoder", **settings)
    close(one[0], run(tmp_path / "b", "classification", "encoder", cache_trunk=True, **settings)[0])


SYSTEM = " ".join(FILLER[:6])
PACKED: list[tuple[str, dict[str, Any]]] = [
    ("sft", {}), ("text", {}), ("preference", {"objective": "dpo"}), ("preference", {"objective": "reward"}),
]  # fmt: skip


@pytest.mark.parametrize("cache_trunk", [False, True])
@pytest.mark.parametrize(("task", "more"), PACKED)
def test_packing_and_sharing_what_rows_begin_with_changes_nothing(
    tmp_path: Path, task: str, more: dict[str, Any], cache_trunk: bool
) -> None:
    settings = {"system": SYSTEM, "cache_trunk": cache_trunk, **more}
    padded = run(tmp_path / "a", task, "causal", packing=False, **settings)[0]
    close(padded, run(tmp_path / "b", task, "causal", micro_tokens=100, **settings)[0])


@pytest.mark.parametrize(("task", "more"), PACKED)
def test_what_rows_begin_with_is_computed_once_as_the_planner_reckons(tmp_path: Path, task: str, more: dict[str, Any]) -> None:
    one = work(tmp_path, task, "causal", system=SYSTEM, **more)
    batch = objectives.prepared(one.goal, one.train[:9], (0,))
    tokens = batch.ids.shape[1] - batch.tree.fill
    assert tokens == one.shared + sum(one.own[:9])
    assert one.computed(list(range(9))) == batch.ids.shape[1] == 16 * -(-tokens // 16), "filled up, as kernels like it"
    if task != "text":
        sequences = [ids for row in one.train[:9] for ids in (row.ids, row.second) if ids]
        questions = sum(row.start - 1 - one.shared for row in one.train[:9] if row.second and row.start > one.shared + 4)
        assert one.shared >= 6 and tokens == sum(map(len, sequences)) - (len(sequences) - 1) * one.shared - questions
    else:
        assert one.shared == 0 and tokens == sum(row.length for row in one.train[:9])


@pytest.mark.parametrize(("task", "more"), PACKED)
def test_a_batch_of_a_tree_copies_what_attention_reads_only_so_often(tmp_path: Path, task: str, more: dict[str, Any]) -> None:
    """A long beginning before many short rows: what it saves in products must not be paid for in memory."""
    settings = {"system": " ".join(FILLER[:6] * 12), "batch_rows": 64, "micro_tokens": 400, "max_tokens": 160, **more}
    one = work(tmp_path, task, "causal", count=200, **settings)
    for window in one.windows(0):
        for rows in one.cut(window, one.micro_tokens):
            made = objectives.prepared(one.goal, [one.train[row] for row in rows], (0,)).tree
            assert made is not None
            most = 4 * 400 * (1.5 if task == "preference" else 1)  # a question and two answers, of which the row counts two
            assert len(rows) == 1 or sum(lines.seen.numel() for lines in made.lines) <= most
            below = made.segments[bool(made.root) :]
            longest = max(part.end - part.start for part in below)
            assert made.lines[0].asking.shape[1] == longest, "nothing is padded to the root"


def test_a_long_beginning_is_computed_as_seldom_as_memory_allows(tmp_path: Path) -> None:
    """What its copies may take is a matter of micro_tokens, not of how little a step happens to hold."""
    one = work(tmp_path, "sft", "causal", system=" ".join(FILLER[:6] * 12), batch_rows=8, micro_tokens=2000, max_tokens=160)
    windows = one.windows(0)
    assert all(len(one.cut(window, one.micro_tokens)) == 1 for window in windows)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("task", "kind"), [("sft", "causal"), ("preference", "causal"), ("sft", "seq2seq")])
def test_processes_that_train_together_have_alike_much_to_do_and_no_turn_too_many(
    tmp_path: Path, task: str, kind: str, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work(tmp_path, task, kind, count=200, batch_rows=32, packing=packing)
    for world, tokens in product((1, 2, 3, 4, 8), (4000, 150)):
        monkeypatch.setattr(devices, "world", lambda world=world: world)
        waited = computed = 0
        for window in one.windows(0):
            batches = one.cut(window, tokens)
            assert sorted(row for rows in batches for row in rows) == sorted(window)
            costs = [one.computed(rows) for rows in batches]
            assert max(costs) <= max(tokens, *(one.computed([row]) for row in window))
            turns = [costs[start : start + world] for start in range(0, len(costs), world)]
            assert len(turns) == -(-len(one._cut(window, tokens)) // world)
            waited, computed = waited + world * sum(map(max, turns)), computed + sum(costs)
        assert computed > (0.9 if packing else 0.87) * waited, (world, tokens)


def test_a_packed_row_does_not_see_the_row_before_it(tmp_path: Path) -> None:
    one = work(tmp_path, "sft", "causal", system=SYSTEM)
    one.model.eval()
    some = one.train[:5]
    packed = forward.label_losses(one.model, forward.branching(some, [[place] for place in range(5)]))
    alone = [forward.label_losses(one.model, forward.collate([row], one.goal.pad))[0].tolist() for row in some]
    np.testing.assert_allclose(packed[0].tolist(), [loss for losses in alone for loss in losses], rtol=1e-4, atol=1e-5)
    assert packed[1].tolist() == [place for place, losses in enumerate(alone) for _ in losses]


@pytest.mark.parametrize("padding", [0, 2500])  # a call of attention for each length, and one for all
@pytest.mark.parametrize("kind", tree.KNOWN)
def test_each_network_that_is_known_to_pack_gives_the_plain_losses_and_gradients(
    kind: str, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    more = {"num_key_value_heads": 2, "vocab_size": 50, "pad_token_id": 0, "sliding_window": None, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more), dtype=torch.float64)
    assert tree.knows(model)
    begin, question = [7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24, 25]
    ends = [[30, 31, 32], [33], [34, 35, 36, 37, 38, 39], [30, 40]]
    rows = [Example(str(n), begin + (question if n % 2 else [25 + n]) + end, 12 if n % 2 else 7) for n, end in enumerate(ends)]

    def gradients(batch: forward.Batch) -> list[Any]:
        model.zero_grad()
        losses, _ = forward.label_losses(model, batch)
        losses.square().sum().backward()
        return [losses.detach().sort().values, *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]

    monkeypatch.setattr(tree, "_IDLE", padding)
    packed = forward.branching(rows, [[0], [1, 3], [2]])
    assert len(packed.tree.lines) == (1 if padding else 5)
    assert packed.ids.shape[1] - packed.tree.fill == sum(len(row.ids) for row in rows) - 3 * 6 - 5
    for ours, theirs in zip(gradients(packed), gradients(forward.collate(rows, 0)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # norms are computed in fp32


def test_of_long_rows_no_block_keeps_a_mask_of_its_own() -> None:
    """One of all pairs of tokens, in each of 30 blocks, would take more memory than the states of the rows."""
    import torch

    def lines(begin: list[int]) -> list[tree.Lines]:
        rows = [Example(str(n), [*begin, *range(n, 40 + n)], 7) for n in range(3)]
        return tree.planted(tree.segments_of(rows, [[0], [1], [2]]), 3).lines

    assert [some.mask for some in lines([])] == [None]
    (some,) = lines([1, 2, 3, 4, 5, 6])
    for precision in (torch.float32, torch.bfloat16):
        assert some.mask_in(precision).dtype is precision, "else each call would make one"
        assert some.mask_in(precision) is some.mask_in(precision)


def test_rows_of_any_length_are_learned_together_where_none_is_padded(tmp_path: Path) -> None:
    def widest(one: Any) -> int:
        return max(max(one.lengths[row] for row in w) - min(one.lengths[row] for row in w) for w in one.windows(0))

    assert widest(work(tmp_path / "a", "sft", "causal")) > 2 * widest(work(tmp_path / "b", "sft", "seq2seq"))


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"method": "prompt_tuning", "top_layers": None}, {"packing": False}])
def test_rows_are_padded_where_a_tree_would_not_be_the_same_training(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert work(tmp_path / "a", "sft", "causal").goal.tree
    assert not work(tmp_path / "b", "sft", "causal", **changes).goal.tree


@pytest.mark.parametrize("cache_trunk", [False, True])
@pytest.mark.parametrize("task", ["classification", "pair_classification", "regression"])
def test_finishing_only_the_token_that_the_head_reads_changes_nothing(
    tmp_path: Path, task: str, cache_trunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "a", task, "encoder", cache_trunk=cache_trunk, top_layers=1)
    monkeypatch.setattr(forward, "_READS_THE_FIRST", ())
    close(first[0], run(tmp_path / "b", task, "encoder", cache_trunk=cache_trunk, top_layers=1)[0])


@pytest.mark.parametrize(("task", "kind"), [("sft", "causal"), ("text", "causal"), ("text", "encoder"), ("sft", "seq2seq")])
def test_the_head_on_labels_only_gives_the_plain_losses_and_gradients(
    tmp_path: Path, task: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def gradient(plain: bool) -> tuple[float, list[Any]]:
        one = work(tmp_path, task, kind)
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(forward, "_has_plain_head", lambda inner: False)
            loss = objectives.losses(one.goal, one.model, one.train[:9], (0, 0))[0].sum()
        loss.backward()
        return loss.item(), [weight.grad for weight in one.model.parameters() if weight.requires_grad]

    (fast, grads), (slow, plain) = gradient(False), gradient(True)
    assert fast == pytest.approx(slow, rel=1e-5)
    for first, second in zip(grads, plain, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_a_loss_in_chunks_is_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a head that trains."""
    whole = run(tmp_path / "a", "sft", "causal", method="full", top_layers=None)[0]
    monkeypatch.setattr(forward, "_CHUNK", 7)
    close(run(tmp_path / "b", "sft", "causal", method="full", top_layers=None)[0], whole)


@pytest.mark.parametrize(
    ("task", "kind", "trunk"),
    [*((task, kind, False) for task, kind in TASKS), ("regression", "encoder", True), ("sft", "causal", True)],
)
def test_what_is_not_fused_is_computed_as_transformers_does_and_is_the_same_training(
    tmp_path: Path, task: str, kind: str, trunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = run(tmp_path / "a", task, kind, cache_trunk=trunk)[0]
    calls, usual = [], forward._call

    def noted(model: Any, batch: Any) -> Any:
        calls.append(batch)
        return usual(model, batch)

    def short(*given: Any) -> Any:
        assert not given[0].training, "a training takes no short cut"
        return shorter(*given)

    shorter = forward.first_token_only
    monkeypatch.setattr(forward, "_call", noted)
    monkeypatch.setattr(forward, "first_token_only", short)
    one = work(tmp_path / "b", task, kind, cache_trunk=trunk, fused=False)
    assert not any("forward" in vars(part) and "lora" in type(part).__module__ for part in one.model.modules())
    close(trajectory(one), fast)
    assert len(calls) >= one.planned_steps


def test_the_losses_are_those_that_transformers_computes(tmp_path: Path) -> None:
    """A mean over the labels of a padded batch, written out the plain way."""
    import torch

    one = work(tmp_path, "sft", "causal")
    batch = forward.collate(one.train[:6], one.goal.pad)
    theirs = one.model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels).loss
    ours = objectives.losses(one.goal, one.model, one.train[:6], (0,))[0].sum()
    ours = ours / sum(one.goal.weight(row) for row in one.train[:6])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "sharded",
    [pytest.param(False, id="each with the whole base"), pytest.param(True, id="each with half of it", marks=pytest.mark.slow)],
)
def test_two_processes_train_as_one(tmp_path: Path, sharded: bool) -> None:
    alone = run(tmp_path / "a", "sft", "causal", epochs=1)[0]
    for folder in (tmp_path / "b", tmp_path / "b" / "dpo", tmp_path / "c"):
        base(folder / "causal", "causal")
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from adaptory.training import devices, recompute\n"
        "from tests.training.toys import trajectory, work\n"
        "with devices.joined():\n"
        "    assert devices.world() == 2\n"
        # So many batches in a step that one process often has one more than the other.
        f"    one = work(Path({str(tmp_path / 'b')!r}), 'sft', 'causal', epochs=1, micro_tokens=60)\n"
        "    held = [w for n, w in one.model.named_parameters() if '.layers.' in n and not w.requires_grad]\n"
        "    mine = sum((w.to_local() if hasattr(w, 'to_local') else w).numel() for w in held)\n"
        f"    assert mine == sum(w.numel() for w in held) // {1 + sharded}, mine\n"
        f"    if {sharded}:  # what it is held to is scored before the first step\n"
        f"        there = Path({str(tmp_path / 'b' / 'dpo')!r})\n"
        "        pairs = work(there, 'preference', 'causal', count=16, objective='dpo', epochs=1)\n"
        "        assert len(pairs.reference) == 16 and len(trajectory(pairs)) == 2\n"
        f"        again = work(Path({str(tmp_path / 'c')!r}), 'sft', 'causal', epochs=1, micro_tokens=60)\n"
        "        assert recompute.attach(again.model)\n"
        "        trajectory(again)\n"
        "    # Clocks differ: the first process finds that a checkpoint is due after every step, the other one never does.\n"
        "    trajectory(replace(one, every=1e9 if devices.rank() else 0.0))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun sets.
    shared = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        "ADAPTORY_SHARD": str(int(sharded)),
    }  # fmt: skip
    ranks = [{**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    both = [subprocess.Popen([sys.executable, str(script)], env=rank, stderr=subprocess.PIPE, text=True) for rank in ranks]
    told = [one.communicate(timeout=120)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], told[0][-2000:] + told[1][-2000:]
    for folder in (tmp_path / "b", tmp_path / "c")[: 1 + sharded]:
        together = [event["loss"] for event in curve.told(folder / "checkpoints") if event["event"] == "step"]
        close(together, alone)  # as many losses as one process told: the other one is silent
        close(together, PINNED_CAUSAL)


def test_a_training_that_pauses_on_the_way_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", "classification", "encoder", dropout=0.2)
    for steps in (3, 11):  # in the first epoch, and in the second
        one = work(tmp_path / "b", "classification", "encoder", dropout=0.2)
        assert fit.fit(one, steps).step == steps
        validate.validate(one.goal, one.model, one.validation)  # what a search looks at changes nothing
    one = work(tmp_path / "b", "classification", "encoder", dropout=0.2)
    assert begin(one).step == 11, "it goes on, and does not begin again"
    assert (trajectory(one), adapter.digest_of_weights(one.model)) == whole


def test_the_trajectory_is_pinned(tmp_path: Path) -> None:
    """A change of these numbers is a change of what everybody's trainings learn."""
    losses = run(tmp_path, "classification", "encoder", epochs=1)[0]
    close(losses, PINNED)


PLAIN: dict[str, Any] = {"packing": False, "fused": False}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {}, "in small pieces": {"micro_tokens": 40}, "packed": {"packing": True}, "fused": {"fused": True},
    "on a kept trunk": {"cache_trunk": True},
    "all of it": {"packing": True, "fused": True, "cache_trunk": True, "micro_tokens": 90},
}  # fmt: skip


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_to_say_it_is_the_pinned_trajectory_of_a_causal_base(tmp_path: Path, way: str) -> None:
    close(run(tmp_path, "sft", "causal", **{"epochs": 1} | PLAIN | WAYS[way])[0], PINNED_CAUSAL)


def test_a_training_that_was_resumed_is_the_pinned_trajectory_of_a_causal_base(tmp_path: Path) -> None:
    fit.fit(work(tmp_path, "sft", "causal", epochs=1, **PLAIN), 3)
    close(trajectory(work(tmp_path, "sft", "causal", epochs=1)), PINNED_CAUSAL)


PINNED = [2.372909, 1.799877, 0.89881, 1.864955, 1.047723, 1.573136, 1.497043, 1.22116]
PINNED_CAUSAL = [4.252642, 4.632606, 5.173372, 4.416706, 4.727553, 5.025431, 4.507588, 4.399208]
