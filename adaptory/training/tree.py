"""The sequences of a batch as a tree: nothing is padded, and what they begin with alike is computed once.

A template before every question, and the question before a chosen and a rejected answer, are one segment each that all
sequences after it attend to. Positions and attention are those of whole sequences, so losses and gradients are the same
(tested). One linear sequence of tokens goes through the network; only attention knows of the segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptory.training import devices
from adaptory.training.network import learns_prompt, unwrapped
from adaptory.training.render import Example, common

_WORTH = 4  # tokens: a shorter beginning is computed again and again
# Causal networks that leave all of attention to transformers' own interface, without a window or a bias of their own.
KNOWN = ("gemma", "granite", "llama", "mistral", "olmo", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")


@dataclass(frozen=True)
class Segment:
    """Tokens of a sequence, from one position to another, that attend to what stands before them and to themselves."""

    sequence: int
    start: int
    end: int
    above: tuple[int, ...] = ()  # the segments before it, from the root down


@dataclass(frozen=True)
class Tree:
    """Segments in the order in which they are computed, and what attention needs to know of them."""

    segments: list[Segment]
    root: int  # tokens of the first segment, if all others stand on it: it attends to itself alone
    asking: Any  # for each other segment the places of its tokens, padded with place 0: segments x longest
    seen: Any  # the places of all that it attends to, itself last: segments x most
    mask: Any  # which of those each token attends to: segments x 1 x longest x most
    back: Any  # for each place after the root, where its token stands in `asking`
    home: Any  # and where it stands in `seen`, in the line of its own segment
    again: Any  # where else tokens after the root stand in `seen`: they are above others
    whose: Any  # and the places of those
    owners: Any  # for each place, the sequence it is of (of a shared one: one of them)
    lasts: Any  # for each sequence, the place of its last token
    fill: int  # places at the end that are of no sequence: nothing reads them, and they read nothing

    def to(self, device: Any) -> "Tree":
        """The tree on a device."""
        import torch

        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)})


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
    below = list(range(int(rooted), len(segments)))
    longest, most = max(lengths[number] for number in below), max(len(paths[number]) for number in below)
    asking, seen = torch.zeros(len(below), longest, dtype=torch.long), torch.zeros(len(below), most, dtype=torch.long)
    for row, number in enumerate(below):
        asking[row, : lengths[number]] = torch.tensor(places[number])
        seen[row, : len(paths[number])] = torch.tensor(paths[number])
    before = torch.tensor([segments[number].start for number in below])[:, None, None]
    # A token sees all above its segment, and its segment up to itself; the padding sees something, too, or it would be NaN.
    mask = torch.arange(most) <= before + torch.arange(longest)[:, None]
    back = torch.cat([row * longest + torch.arange(lengths[number]) for row, number in enumerate(below)])
    lines = [len(paths[number]) - lengths[number] for number in below]  # where a segment begins in its line
    home = torch.cat([row * most + lines[row] + torch.arange(lengths[number]) for row, number in enumerate(below)])
    root = lengths[0] if rooted else 0
    above = [(row * most + at, paths[number][at]) for row, number in enumerate(below) for at in range(root, lines[row])]
    again, whose = torch.tensor(above, dtype=torch.long).reshape(-1, 2).T
    owners = torch.cat([torch.full((length,), one.sequence) for one, length in zip(segments, lengths, strict=True)])
    lasts = torch.zeros(sequences, dtype=torch.long)
    for one, start, length in zip(segments, starts, lengths, strict=True):
        lasts[one.sequence] = start + length - 1  # the leaf of a sequence comes last
    fill = -sum(lengths) % devices.ROWS
    return Tree(list(segments), root, asking, seen, mask[:, None], back, home, again, whose, owners, lasts, fill)


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
