"""From a reference to a folder with a base model's files."""

import fnmatch
import shutil
import tempfile
from pathlib import Path

from adaptory import fingerprint, storage
from adaptory.bases.gguf import unpack
from adaptory.bases.locks import pin
from adaptory.errors import BaseModelError, ServerError
from adaptory.recipe import Recipe
from adaptory.storage import transfer
from adaptory.workspace import Workspace

# Nothing that can carry code: a pickle (.bin, .pt) or a script is left behind.
ALLOWED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "*.safetensors", "model.safetensors.index.json",
)  # fmt: skip


def fetch(reference: str, destination: Path, root: Path, cache: Path) -> str:
    """Brings the base's files to `destination` (which must not exist) and returns their digest.

    Raises BaseModelError when the reference cannot be had or is no transformers model in safetensors; of a bucket or an archive
    DataError; ServerError where another try may help.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        found = _bring(reference, Path(scratch) / "all", root, cache)
        if packed := sorted(found.glob("*.gguf")):
            found = unpack(packed[0], cache)
        whole = Path(scratch) / "base"
        whole.mkdir()
        for path in sorted(found.iterdir()):
            if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in ALLOWED):
                shutil.copyfile(path, whole / path.name)
        if not (whole / "config.json").is_file() or not list(whole.glob("*.safetensors")):
            held = ", ".join(sorted(path.name for path in found.iterdir())[:8])
            raise BaseModelError(
                f"base {reference!r} has no config.json with *.safetensors weights (it holds: {held}); "
                "convert it to safetensors, or choose another base"
            )
        whole.replace(destination)
    return digest_of(destination)


def place(workspace: Workspace, recipe: Recipe) -> None:
    """The DVC stage `base`: the recipe's base, pinned in recipes.lock, in the workspace."""
    target = workspace.data(recipe.name) / "base"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh = Path(scratch) / "base"
        digest = fetch(recipe.base, fresh, workspace.root, workspace.cache)
        pin(workspace.root / "recipes.lock", recipe.name, recipe.base, digest)
        shutil.rmtree(target, ignore_errors=True)
        fresh.replace(target)


def digest_of(folder: Path) -> str:
    """The digest of a base: of the names and bytes of its files."""
    return fingerprint.of_folder(folder)


def cached(reference: str, digest: str, root: Path, cache: Path) -> Path:
    """The folder of the base with this digest, from the cache or fetched. Raises BaseModelError for another."""
    folder = cache / "bases" / fingerprint.hex_of(digest)
    if folder.is_dir() and digest_of(folder) != digest:  # a disk, or a crash: it is fetched again
        shutil.rmtree(folder)
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as scratch:
            fresh = Path(scratch) / "base"
            found = fetch(reference, fresh, root, cache)
            if found != digest:
                raise BaseModelError(
                    f"base {reference!r} now has digest {found}, but {digest} was pinned; "
                    "an adapter on another base gives wrong answers in silence, so it is refused"
                )
            try:
                fresh.replace(folder)
            except OSError:
                if not folder.is_dir():  # else another process was as fast
                    raise
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bring(reference: str, scratch: Path, root: Path, cache: Path) -> Path:
    """Everything that lies at the reference, in one folder."""
    place = storage.parse(reference, root)
    if isinstance(place, storage.Local):
        if not place.path.is_dir():
            raise BaseModelError(f"base {reference!r}: no folder {place.path}; correct the reference")
        return place.path
    if isinstance(place, storage.Champion):
        raise BaseModelError(f"base {reference!r} names answers, not a model; go on from a champion with training.start")
    scratch.mkdir()
    if isinstance(place, storage.PyPI):
        storage.extract(storage.download(place.name, place.version, None, cache), place.inside, scratch)
    elif isinstance(place, storage.S3):
        _from_s3(place, scratch)
    else:
        _from_hub(place, scratch)
    return scratch


def _from_s3(place: storage.S3, scratch: Path) -> None:
    for name, state in transfer.listing(place).items():
        if "/" not in name:
            transfer.download(place, state, scratch / name)


def _from_hub(place: storage.Hub, scratch: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            place.name, revision=place.revision, local_dir=scratch, allow_patterns=list(ALLOWED)
        )
    except Exception as fault:
        what = f"base {place.name}@{place.revision} cannot be fetched from the hub ({type(fault).__name__}: {fault})"
        if _away(fault):
            raise ServerError(f"{what}; run the command again when the hub answers") from fault
        raise BaseModelError(f"{what}; check the name and revision, and that HF_HUB_OFFLINE is not set") from fault


def _away(fault: Exception) -> bool:
    """Whether the hub did not answer, or said that it cannot now; not that it refused, or that it may not be asked."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    for one in (fault, fault.__cause__):  # the library wraps what happened
        if isinstance(one, HfHubHTTPError):
            return one.response.status_code >= 500 or one.response.status_code in (408, 429)
        if isinstance(one, HTTPError | ConnectionError | TimeoutError):
            return not isinstance(one, OfflineModeIsEnabled)
    return False
