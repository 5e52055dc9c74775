"""What a trained (or untrained) network answers: the one way for evaluation and serving alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from adaptory.errors import UserError
from adaptory.training import devices, forward, objectives, preemption, prefix
from adaptory.training.batches import sorted_batches
from adaptory.training.network import learns_prompt, positions, unwrapped
from adaptory.training.objectives import Objective
from adaptory.training.render import Example, Renderer

_TOKENS = {"cpu": 1024}  # computed at once; what stays near a processor is computed faster there
_MANY = 8192  # elsewhere
_ANY = 1 << 30  # tokens, where positions are computed
_NOTHING = "a question holds no text that this model could read; say something"
_GENERATED = 8192  # tokens of prompts and answers held at once while writing


def outputs(model: Any, goal: Objective, rows: Sequence[Example]) -> Any:
    """The task's own head for each row: a float array of rows x outputs, in the order of the rows."""
    found: Any = None
    device = next(model.parameters()).device
    for places, some in scoring(goal, model, rows):
        batch = forward.joined(model, some) or objectives.prepared(goal, some, (goal.settings.seed,))
        with forward.first_token_only(model, batch := batch.to(device)):
            said = forward.row_logits(model, batch).cpu().numpy().astype(np.float64)
        if found is None:
            found = np.zeros((len(rows), said.shape[1]))
        found[places] = said
    return found


def chances(model: Any, goal: Objective, rows: Sequence[Example]) -> Any:
    """Probability of each class: rows x classes."""
    import torch

    return torch.softmax(torch.from_numpy(outputs(model, goal, rows)), dim=1).numpy()


def losses(model: Any, goal: Objective, rows: Sequence[Example]) -> tuple[Any, Any]:
    """Negative log-likelihood of the learned tokens of each row, in nats, and how many they are."""
    import torch

    total, count = np.zeros(len(rows)), np.zeros(len(rows))
    for places, batch in _batches(model, goal, rows):
        each, owner = forward.label_losses(model, batch)
        none = each.new_zeros(len(places))
        sums, counts = none.index_add(0, owner, each), none.index_add(0, owner, torch.ones_like(each))
        total[places], count[places] = sums.cpu().numpy(), counts.cpu().numpy()
    return total, count


def pairs(model: Any, goal: Objective, rows: Sequence[Example], trunk: Any = None) -> tuple[Any, Any]:
    """Of each preference: what the model gives to the chosen and to the rejected answer (reward, or log-likelihood)."""
    better, worse = np.zeros(len(rows)), np.zeros(len(rows))
    for places, batch in _batches(model, goal, rows, trunk):
        said = forward.row_logits(model, batch)[:, 0] if goal.name == "reward" else objectives.likelihoods(model, batch)
        first, second = said.chunk(2)
        better[places], worse[places] = first.cpu().numpy(), second.cpu().numpy()
    return better, worse


def references(model: Any, goal: Objective, rows: Sequence[Example], trunk: Any = None) -> list[tuple[float, float]]:
    """The same for every row, of several processes each its part: what DPO holds a policy to."""
    mine: list[tuple[int, float, float]] = []
    for places, some in scoring(goal, model, rows, shared=True):
        batch = objectives.prepared(goal, some, (goal.settings.seed,), trunk).to(next(model.parameters()).device)
        better, worse = (part.tolist() for part in objectives.likelihoods(model, batch).chunk(2))
        mine += zip(places, better, worse, strict=True)
    found = {place: (better, worse) for place, better, worse in devices.gathered(mine)}
    return [found[place] for place in range(len(rows))]


def generate(
    model: Any, made: Renderer, prompts: Sequence[list[int]], longest: int | Sequence[int],
    tell: Callable[[int], None] = lambda done: None, draw: int | None = None, precision: str = "auto",
) -> tuple[list[str], list[bool]]:  # fmt: skip
    """The most likely answer to each prompt, token by token, at most `longest` tokens (or so many each); and whether it stopped.
    With `draw`, a seed, a random answer instead, each token as likely as the model thinks it is.

    Prompts of similar length are answered together, padded on the left, and what they all begin with is computed once; the
    same answers as one at a time. Where a prompt with its answer is longer than the base can read, less is written, or nothing.
    """
    import torch

    texts, stopped = [""] * len(prompts), [False] * len(prompts)
    device, done = next(model.parameters()).device, 0
    limits = [longest] * len(prompts) if isinstance(longest, int) else list(longest)
    reads, writes = positions(model) or _ANY, positions(model, written=True) or _ANY
    for place, prompt in enumerate(prompts):
        rest = (writes if len(prompt) <= reads else 0) if made.kind == "seq2seq" else reads - len(prompt)
        limits[place] = min(limits[place], rest)
    able = [place for place, limit in enumerate(limits) if limit > 0]
    stops = _stops(model, made, random=draw is not None)
    model.eval()
    with torch.inference_mode(), devices.computing(device, precision):
        plain = draw is None and prefix.plain(model, made)
        shared = prefix.Shared.of(model, made, [prompts[place] for place in able]) if plain else prefix.Shared([])
        for places in _together(model, made, prompts, limits, able):
            preemption.check()
            some, most = [prompts[place] for place in places], [limits[place] for place in places]
            if plain:
                new = prefix.likeliest(model, shared, some, most, stops, made.pad)
            else:
                new = _generated(model, made, some, max(most), None if draw is None else draw * 1_000_003 + done)
            for place, tokens in zip(places, new, strict=True):
                tokens = tokens[: limits[place]]
                end = next((at for at, token in enumerate(tokens) if token in stops), None)
                texts[place], stopped[place] = made.decode(tokens[:end]), end is not None
            done += len(places)
            tell(done)
    return texts, stopped


def _together(
    model: Any, made: Renderer, prompts: Sequence[list[int]], limits: Sequence[int], able: list[int]
) -> Iterator[list[int]]:
    """The places of prompts that are answered at a time."""
    budget = [len(prompts[place]) + limits[place] for place in able]
    for batch in sorted_batches(budget, max(_GENERATED, max(budget, default=1))):
        places = [able[number] for number in batch]
        if not (learns_prompt(model) and made.kind == "causal"):
            yield places
            continue
        # peft puts its virtual tokens before what pads a shorter prompt, which would then stand farther from them.
        places.sort(key=lambda place: len(prompts[place]))
        yield from (list(some) for _, some in groupby(places, key=lambda place: len(prompts[place])))


def _generated(model: Any, made: Renderer, prompts: Sequence[list[int]], longest: int, draw: int | None) -> list[list[int]]:
    """What transformers' own loop writes: for encoder-decoders, for virtual tokens, and for random answers."""
    import torch

    width, device = max(len(prompt) for prompt in prompts), next(model.parameters()).device
    ids = torch.full((len(prompts), width), made.pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        begin = 0 if made.kind == "seq2seq" else width - len(prompt)
        ids[row, begin : begin + len(prompt)] = torch.tensor(prompt)
        mask[row, begin : begin + len(prompt)] = 1
    if draw is not None:
        torch.manual_seed(draw)
    said = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest)
    found: list[list[int]] = said[:, 1 if made.kind == "seq2seq" else width :].tolist()
    return found


def _stops(model: Any, made: Renderer, *, random: bool) -> set[int]:
    """The tokens that end an answer: ours, and those the base itself ends with.

    The base's other habits (penalties, sampling, forced tokens) are set aside: they would make an answer depend on its batch.
    """
    from transformers import GenerationConfig

    inner = unwrapped(model)
    own = inner.generation_config.eos_token_id
    stops = {made.stop, *(own if isinstance(own, list) else [own] if own is not None else [])}
    plain = GenerationConfig(
        do_sample=random, top_k=0 if random else None, num_beams=1, eos_token_id=sorted(stops), pad_token_id=made.pad,
        bos_token_id=inner.generation_config.bos_token_id, decoder_start_token_id=inner.generation_config.decoder_start_token_id,
    )  # fmt: skip
    for one in (model, inner):
        one.generation_config = plain
    return stops


def scoring(
    goal: Objective, model: Any, rows: Sequence[Example], tokens: int | None = None, *, shared: bool = False
) -> Iterator[tuple[list[int], list[Example]]]:
    """Rows to be scored together in inference mode, longest first, with their places; shared: this process's part."""
    import torch

    if model.training:  # saying it again walks through every module
        model.eval()
    device = next(model.parameters()).device
    batches = sorted_batches([row.length * goal.sequences for row in rows], tokens or _TOKENS.get(device.type, _MANY))
    # Parts that are brought together in inference mode could not be trained with later.
    plain = torch.no_grad() if devices.sharded() else torch.inference_mode()
    with plain, devices.computing(device, goal.settings.precision):
        for places in devices.share(batches) if shared else batches:
            if devices.world() == 1:
                preemption.check()
            else:  # all of them gather what they find: none may leave the others waiting
                preemption.beat()
            some = [rows[place] for place in places]
            yield places, some


def _batches(
    model: Any, goal: Objective, rows: Sequence[Example], trunk: Any = None
) -> Iterator[tuple[list[int], forward.Batch]]:
    device = next(model.parameters()).device
    for places, some in scoring(goal, model, rows):
        yield places, objectives.prepared(goal, some, (goal.settings.seed,), trunk).to(device)


def reply(
    model: Any, made: Renderer, goal: Objective, classes: Sequence[str], asked: Sequence[dict[str, Any]], longest: int
) -> list[dict[str, Any]]:
    """What a model says of each question, as plain values: the fields of the task without what is to be told.

    `{text}` (with `text_pair`) is answered by `label` and `chances`, or by `value`; `{prompt}` or `{messages}` by `answer`;
    `{prompt, answer}` by `reward`; `{text}` of a language model by `perplexity`. Raises UserError for a question without a token
    to read, or with more than the base can.
    """
    if goal.name in ("classes", "value"):
        texts = [one["text"] for one in asked]
        seconds = [one["text_pair"] for one in asked] if made.task == "pair_classification" else None
        rows = [Example("", ids, types=types) for ids, types in made.typed(texts, seconds)]
        _check_read([row.ids for row in rows])
        if goal.name == "value":
            return [{"value": float(said) * goal.spread + goal.centre} for said in outputs(model, goal, rows)[:, 0]]
        found = chances(model, goal, rows)
        return [
            {"label": classes[int(line.argmax())], "chances": dict(zip(classes, map(float, line), strict=True))} for line in found
        ]
    if goal.name == "reward":
        prompts = [made.prompt([{"role": "user", "content": one["prompt"]}]) for one in asked]
        rows = [Example("", prompt + made.response(one["answer"])) for prompt, one in zip(prompts, asked, strict=True)]
        _check_read([row.ids for row in rows], positions(model))
        alone = replace(goal, name="value")  # one sequence per row
        return [{"reward": float(said)} for said in outputs(model, alone, rows)[:, 0]]
    if made.task == "text":
        rows = [Example("", made.passage(one["text"]), max(1, len(made.begin))) for one in asked]
        total, count = losses(model, goal, rows)
        if not count.all():
            raise UserError(_NOTHING)
        return [{"perplexity": float(np.exp(a / b))} for a, b in zip(total, count, strict=True)]
    prompts = [made.prompt(one.get("messages") or [{"role": "user", "content": one["prompt"]}]) for one in asked]
    _check_read(prompts, positions(model))
    return [{"answer": text} for text in generate(model, made, prompts, longest, precision=goal.settings.precision)[0]]


def _check_read(sequences: Sequence[list[int]], most: int | None = None) -> None:
    if not all(sequences):
        raise UserError(_NOTHING)
    if most is not None and (longest := max(map(len, sequences), default=0)) > most:
        raise UserError(f"a question has {longest:,} tokens, and this model reads at most {most:,}; shorten it")
