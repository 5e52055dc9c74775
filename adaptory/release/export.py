"""A release for others' runtimes: merged weights, vLLM's layout, GGUF, ONNX. Nothing is written that does not answer as the
release does: what was written is read again by a reader that is not ours, and asked the rows the release was certified with."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from adaptory import bases
from adaptory.errors import ReleaseError, StageError
from adaptory.recipe.training import ADAPTERS
from adaptory.release import serving
from adaptory.training import adapter, certificate, network, objectives
from adaptory.training.certificate import GOLDEN, golden_answers
from adaptory.training.render import Example

Form = Literal["merged", "vllm", "gguf", "onnx"]
FORMS = get_args(Form)
# Largest difference of any number, in logits or in nats. Merging adds the same products in another order.
_LIMIT = {"merged": 2e-3, "vllm": 2e-3, "gguf": 2e-3, "onnx": 2e-3}
_VLLM = ("lora", "rslora", "pissa")
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


def export(folder: Path, out: Path, form: Form, root: Path, cache: Path) -> str:
    """Writes the pulled release in `folder` to `out`, a folder that must not exist; says what, and how exactly it answers.

    Raises ReleaseError where the form cannot hold this kind of model, StageError when what was written answers otherwise;
    then nothing is left behind.
    """
    if out.exists():
        raise ReleaseError(f"{out} is there already; name a folder that is not")
    loaded = serving.load(folder, root, cache, whole=True)
    current = folder / "current" if (folder / "current").is_dir() else folder
    _check_form(form, loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        fresh = Path(scratch) / "export"
        fresh.mkdir()
        answer = _WRITE[form](loaded, current, fresh, root, cache)
        rows, expected, half = _golden(current)
        apart, limit = certificate.difference(expected, answer(rows), _LIMIT[form], half=half)
        if not apart <= limit:
            by = f"difference {apart:.3g}, limit {limit:g}"
            raise StageError(f"as {form}, the release answers otherwise ({by}); nothing is kept")
        told = {"release": loaded.facts, "form": form, "difference": apart, "limit": limit}
        (fresh / "export.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        fresh.rename(out)
    return f"{out} holds {loaded.facts['name']} as {form}; it answers as the release does (to within {apart:.2g})"


def _check_form(form: Form, loaded: serving.Predictor) -> None:
    made, config = loaded.candidate, loaded.model.config
    kind, head = loaded.made.kind, made.objective in ("classes", "value", "reward")
    if form == "onnx" and not (head and kind == "encoder"):
        raise ReleaseError(f"onnx is for encoders with a head of their own, and {loaded.facts['name']} is of the kind {kind}")
    if form == "gguf" and (config.model_type != "llama" or head):
        raise ReleaseError(
            f"gguf is written for language models of the type llama, and this is a {config.model_type} ({made.task})"
        )
    if form == "vllm" and (kind != "causal" or head or made.training.method not in _VLLM):
        how = f"this network is of the kind {kind}, its method {made.training.method}"
        raise ReleaseError(f"vLLM loads LoRA adapters of decoders that write text; {how}")
    if form == "merged" and made.training.method in ADAPTERS and hasattr(loaded.model, "peft_config"):
        raise ReleaseError(f"an adapter of method {made.training.method} cannot be merged into its base; export it as it is")


def _merged(loaded: serving.Predictor, folder: Path, out: Path, root: Path, cache: Path) -> Any:
    """Full weights, as transformers alone reads them."""
    loaded.model.save_pretrained(out, safe_serialization=True)
    loaded.made.tokenizer.save_pretrained(out)
    return _asked(loaded, type(loaded.model).from_pretrained(out, local_files_only=True))


def _vllm(loaded: serving.Predictor, folder: Path, out: Path, root: Path, cache: Path) -> Any:
    """The base beside the adapter, and the command: a served name carries the version, so that none is ever reused."""
    made, name = loaded.candidate, loaded.facts["name"]
    base = bases.cached(made.base_reference, made.base_digest, root, cache)
    shutil.copytree(base, out / "base")
    (out / name).mkdir()
    shutil.copyfile(folder / adapter.WEIGHTS, out / name / adapter.WEIGHTS)
    config = json.loads((folder / adapter.CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": "../base", "revision": None}
    (out / name / adapter.CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    loaded.made.tokenizer.save_pretrained(out / name)
    served = f"{name}-{made.digest.removeprefix('sha256:')[:12]}"
    words = f"vllm serve ./base --enable-lora --max-lora-rank {_room_for(config['r'])} --lora-modules {served}=./{name}"
    if loaded.made.template:
        (out / "chat_template.jinja").write_text(loaded.made.template, encoding="utf-8")
        words += " --chat-template ./chat_template.jinja"
    (out / "serve.sh").write_text(f'#!/bin/sh\ncd "$(dirname "$0")" && exec {words} "$@"\n', encoding="utf-8")
    (out / "serve.sh").chmod(0o755)
    from peft import PeftModel

    base_model = type(loaded.model).from_pretrained(out / "base", local_files_only=True, dtype="float32")
    return _asked(loaded, PeftModel.from_pretrained(base_model, str(out / name)))


def _room_for(rank: int) -> int:
    """The least that vLLM can be told to have room for."""
    return next((room for room in _RANKS if room >= rank), rank)


def _onnx(loaded: serving.Predictor, folder: Path, out: Path, root: Path, cache: Path) -> Any:
    """One graph from token ids to what the head says, for any number and length of rows."""
    import numpy as np
    import onnxruntime
    import torch

    rows = _golden(folder)[0]
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if rows[0].types is not None else [])
    dynamic = {name: {0: "rows", 1: "tokens"} for name in names} | {"logits": {0: "rows"}}
    sample = _inputs(rows[0])
    wrapped = _OnlyLogits(loaded.model.cpu().eval(), names).module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is traced; the answers are compared below
        torch.onnx.export(
            wrapped, tuple(sample[name] for name in names), str(out / "model.onnx"), input_names=names, output_names=["logits"],
            dynamic_axes=dynamic, dynamo=False, opset_version=17,
        )  # fmt: skip
    loaded.made.tokenizer.save_pretrained(out)
    (out / "config.json").write_text(loaded.model.config.to_json_string(), encoding="utf-8")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])

    def answer(rows: list[Example]) -> list[list[float]]:
        found = []
        for row in rows:
            given = {name: np.asarray(value) for name, value in _inputs(row).items() if name in names}
            found.append([float(one) for one in session.run(None, given)[0].reshape(-1)])
        _check_padding(session, rows, names, loaded)
        return found

    return answer


def _check_padding(session: Any, rows: list[Example], names: list[str], loaded: serving.Predictor) -> None:
    """Raises StageError unless rows of different lengths, padded and asked together, are answered as they are alone."""
    from adaptory.training.forward import collate

    batch = collate(rows, loaded.made.pad)
    mask = batch.mask if batch.mask is not None else (batch.ids == batch.ids).long()
    given = {
        "input_ids": batch.ids,
        "attention_mask": mask.long(),
        "token_type_ids": batch.types if batch.types is not None else 0 * mask,
    }
    together = session.run(None, {name: given[name].long().numpy() for name in names})[0]
    alone = [session.run(None, {n: v.numpy() for n, v in _inputs(row).items() if n in names})[0][0] for row in rows]
    worst = max(float(abs(one - other).max()) for one, other in zip(together, alone, strict=True))
    if not worst <= _LIMIT["onnx"]:
        raise StageError(f"the graph answers padded rows otherwise than single ones (difference {worst:.3g}); nothing is kept")


class _OnlyLogits:
    """The network as a function of tensors in a fixed order."""

    def __init__(self, model: Any, names: list[str]) -> None:
        import torch

        class Module(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *given: Any) -> Any:
                return self.model(**dict(zip(names, given, strict=True))).logits

        self.module = Module().eval()


def _inputs(row: Example) -> dict[str, Any]:
    import torch

    ids = torch.tensor([row.ids])
    types = torch.tensor([row.types]) if row.types is not None else torch.zeros_like(ids)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}


def _gguf(loaded: serving.Predictor, folder: Path, out: Path, root: Path, cache: Path) -> Any:
    """One file, as llama.cpp runs it; read again by transformers' own reader."""
    from adaptory.release import gguf_file

    name = f"{loaded.facts['name']}.gguf"
    gguf_file.write(out / name, loaded.model, loaded.made.tokenizer, loaded.made.template, loaded.facts["name"])
    return _asked(loaded, type(loaded.model).from_pretrained(out, gguf_file=name, dtype="float32"))


def _golden(folder: Path) -> tuple[list[Example], list[list[float]], bool]:
    """Rows, how the release answers them, and whether it did so with a base in bf16."""
    path = folder / GOLDEN
    if not path.is_file():
        raise ReleaseError(
            f"{folder} has no {GOLDEN}: it was made before exports were checked; retrain, and export the new release"
        )
    golden = json.loads(path.read_bytes())
    return [Example(**row) for row in golden["rows"]], golden["answers"], bool(golden.get("half"))


def _asked(loaded: serving.Predictor, model: Any) -> Callable[[list[Example]], list[list[float]]]:
    """How a model that somebody else's reader loaded answers the rows of the certificate."""
    made = loaded.candidate
    whole = made.training.model_copy(update={"precision": "fp32"})
    goal = objectives.to_answer(made.objective, whole, loaded.made, made.centre, made.spread)
    return lambda rows: golden_answers(goal, model.eval().to(network.device()), rows)


_WRITE = {"merged": _merged, "vllm": _vllm, "gguf": _gguf, "onnx": _onnx}
