"""The sequences of a batch as a tree: nothing is padded, and what they begin with alike is computed once.

A template before every question, and the question before a chosen and a rejected answer, are one segment each that all
sequences after it attend to. Positions and attention are those of whole sequences, so losses and gradients are the same
(tested). One linear sequence of tokens goes through the network; only attention knows of the segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adaptory.training import devices
from adaptory.training.network import device, learns_prompt, unwrapped
from adaptory.training.render import Example, common

_WORTH = 4  # tokens: a shorter beginning is computed again and again
# Pairs of tokens that attention computes in vain rather than be called once more: on a CPU (docs/log.md), and on a GPU, where a
# call waits longer to begin than so many take (reckoned).
_IDLE, _GPU_IDLE = 2_500, 500_000
# Causal networks that leave all of attention to transformers' own interface, without a window or a bias of their own.
KNOWN = ("gemma", "granite", "llama", "mistral", "olmo", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")


def _idle() -> int:
    return _IDLE if device().type == "cpu" else _GPU_IDLE


@dataclass(frozen=True)
class Segment:
    """Tokens of a sequence, from one position to another, that attend to what stands before them and to themselves."""

    sequence: int
    start: int
    end: int
    above: tuple[int, ...] = ()  # the segments before it, from the root down


@dataclass(frozen=True)
class Lines:
    """Segments of similar length that attend in one call, a line each."""

    asking: Any  # the places of a segment's tokens, padded with place 0: lines x longest
    seen: Any  # the places of all that it attends to, itself last: lines x most
    mask: Any | None  # 0 for those that each token attends to, else -inf: lines x 1 x longest x most; None: nothing is above,
    # and each token attends to itself and to what stands before it
    masks: dict[Any, Any] = field(default_factory=dict)  # the mask in other precisions

    def mask_in(self, precision: Any) -> Any | None:
        """The mask in the precision of attention: one for all blocks, or each would keep its own."""
        if self.mask is None or self.mask.dtype is precision:
            return self.mask
        if precision not in self.masks:
            self.masks[precision] = self.mask.to(precision)
        return self.masks[precision]


@dataclass(frozen=True)
class Tree:
    """Segments in the order in which they are computed, and what attention needs to know of them."""

    segments: list[Segment]
    root: int  # tokens of the first segment, if all others stand on it: it attends to itself alone
    lines: list[Lines]  # of all other segments
    back: Any  # for each place after the root, where its token stands in `asking` of all lines, one after the other
    home: Any  # and where it stands in `seen` of them, in the line of its own segment
    again: Any  # where else tokens after the root stand in `seen`: they are above others
    whose: Any  # and the places of those
    owners: Any  # for each place, the sequence it is of (of a shared one: one of them)
    lasts: Any  # for each sequence, the place of its last token
    fill: int  # places at the end that are of no sequence: nothing reads them, and they read nothing

    def to(self, device: Any) -> "Tree":
        """The tree on a device."""
        return replace(self, lines=[replace(some, **_moved(some, device)) for some in self.lines], **_moved(self, device))


def knows(model: Any) -> bool:
    """Whether a tree gives what padded rows give: a causal network of a known build, and nothing is dropped at random."""
    import torch

    config = unwrapped(model).config
    odd = getattr(config, "sliding_window", None) or getattr(config, "attention_dropout", 0) or learns_prompt(model)
    if config.model_type not in KNOWN or odd:
        return False
    return not any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())


def segments_of(rows: Sequence[Example], groups: Sequence[Sequence[int]]) -> list[Segment]:
    """The segments of these sequences, of which groups (a chosen and a rejected answer) may share more than all do.

    Each keeps a token of its own before the first it learns, so that what guesses a token stands just before it.
    """
    root = alike(rows)
    found = [Segment(groups[0][0], 0, root)] if root else []
    for group in groups:
        above: tuple[int, ...] = (0,) if root else ()
        parting = _parting([rows[number] for number in group], root)
        if parting > root:
            found.append(Segment(group[0], root, parting, above))
            above = (*above, len(found) - 1)
        found += [Segment(number, parting, len(rows[number].ids), above) for number in group]
    return found


def tokens_of(group: Sequence[Example], root: int) -> int:
    """How many tokens a group adds to a tree whose sequences all begin with the same `root` tokens."""
    parting = _parting(group, root)
    return parting - root + sum(len(row.ids) - parting for row in group)


def planted(segments: Sequence[Segment], sequences: int) -> Tree:
    """The tree of these segments of so many sequences."""
    import torch

    lengths = [one.end - one.start for one in segments]
    starts = [sum(lengths[:place]) for place in range(len(segments))]
    places = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    paths = [[at for part in (*one.above, number) for at in places[part]] for number, one in enumerate(segments)]
    rooted = len(segments) > 1 and all(one.above[:1] == (0,) for one in segments[1:])  # not the beginning of one group alone
    root, below = lengths[0] if rooted else 0, range(int(rooted), len(segments))
    groups = _alike_in_length(below, lengths, [len(path) for path in paths], _idle())
    lines = [_lines(group, places, paths) for group in groups]
    asking, seen = _beginnings(groups, lines, "asking"), _beginnings(groups, lines, "seen")
    before = [len(paths[number]) - lengths[number] for number in range(len(segments))]  # where a segment begins in its line
    back = torch.cat([asking[number] + torch.arange(lengths[number]) for number in below])
    home = torch.cat([seen[number] + before[number] + torch.arange(lengths[number]) for number in below])
    above = [(seen[number] + at, paths[number][at]) for number in below for at in range(root, before[number])]
    again, whose = torch.tensor(above, dtype=torch.long).reshape(-1, 2).T
    owners = torch.cat([torch.full((length,), one.sequence) for one, length in zip(segments, lengths, strict=True)])
    lasts = torch.zeros(sequences, dtype=torch.long)
    for one, start, length in zip(segments, starts, lengths, strict=True):
        lasts[one.sequence] = start + length - 1  # the leaf of a sequence comes last
    return Tree(list(segments), root, lines, back, home, again, whose, owners, lasts, -sum(lengths) % devices.ROWS)


def _alike_in_length(numbers: Sequence[int], lengths: Sequence[int], seen: Sequence[int], spare: int) -> list[list[int]]:
    """The segments in groups, longest first: another one begins where padding would cost more than one more call does."""
    groups: list[list[int]] = []
    needed = longest = most = 0
    for number in sorted(numbers, key=lambda number: (-lengths[number], -seen[number])):
        needed, most = needed + lengths[number] * seen[number], max(most, seen[number])
        if not groups or longest * most * (len(groups[-1]) + 1) - needed > spare:
            groups.append([])
            needed, longest, most = lengths[number] * seen[number], lengths[number], seen[number]
        groups[-1].append(number)
    return groups


def _lines(numbers: Sequence[int], places: Sequence[list[int]], paths: Sequence[list[int]]) -> Lines:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    asking = pad_sequence([torch.tensor(places[number]) for number in numbers], batch_first=True)
    seen = pad_sequence([torch.tensor(paths[number]) for number in numbers], batch_first=True)
    before = torch.tensor([len(paths[number]) - len(places[number]) for number in numbers])[:, None, None]
    if not before.any():  # what pads a line stands after all that is asked
        return Lines(asking, seen, None)
    # A token sees all above its segment, and its segment up to itself; the padding sees something, too, or it would be NaN.
    sees = torch.arange(seen.shape[1]) <= before + torch.arange(asking.shape[1])[:, None]
    # As numbers: of a mask that only says yes and no each block would keep a copy of its own.
    return Lines(asking, seen, torch.zeros(sees.shape).masked_fill_(~sees, -torch.inf)[:, None])


def _beginnings(groups: Sequence[Sequence[int]], lines: Sequence[Lines], part: str) -> dict[int, int]:
    """Where the line of each segment begins when all of them stand one after the other."""
    found, start = {}, 0
    for group, some in zip(groups, lines, strict=True):
        width = getattr(some, part).shape[1]
        for number in group:
            found[number], start = start, start + width
    return found


def _moved(of: Any, device: Any) -> dict[str, Any]:
    import torch

    return {name: value.to(device) for name, value in vars(of).items() if torch.is_tensor(value)}


def alike(rows: Sequence[Example]) -> int:
    """How many tokens these begin with alike, before the last one that each only reads; 0 if not worth it."""
    if len(rows) < 2:
        return 0
    found = min(common([row.ids for row in rows]), min(row.start for row in rows) - 1)
    return found if found >= _WORTH else 0


def _parting(group: Sequence[Example], root: int) -> int:
    """Where the sequences of a group part."""
    found = alike(group)
    return found if found - root >= _WORTH else root
