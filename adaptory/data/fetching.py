"""The stage `fetch`: the bytes of every source, as files in `raw/<source>/`, and what they were.

Only what is new is copied: a file that the last fetch brought, and that has not changed since, is taken over.
"""

import glob
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from adaptory import fingerprint, storage, whole
from adaptory.data import champions, lock
from adaptory.data.shards import side_by_side, whole_folder
from adaptory.errors import DataError, IntegrityError
from adaptory.recipe import Recipe, Source
from adaptory.storage import transfer
from adaptory.workspace import Workspace

STATE = "sources.json"
# What a folder is searched for, by format; a packed file may carry one more suffix.
_SUFFIXES = {"csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl", "parquet": ".parquet", "datasets": ".arrow", "po": ".po"}
State = dict[str, dict[str, str]]  # source -> file -> what its bytes were: a digest, or an ETag and a size


def fetch(workspace: Workspace, recipe: Recipe) -> None:
    """Brings the bytes of every source. Raises DataError when a source has no files, IntegrityError for wrong bytes."""
    raw = workspace.data(recipe.name) / "raw"
    before, then = _fetched(raw), _fetched_from(workspace, recipe)
    seen = _Seen(workspace)
    with whole_folder(raw) as out:
        state = state_of(workspace, recipe, seen)
        for name, source in recipe.data.sources.items():
            (out / name).mkdir()

            def bring(file: str, name: str = name, source: Source = source) -> None:
                target, old = out / name / file, raw / name / file
                if not target.resolve().is_relative_to((out / name).resolve()):
                    raise DataError(f"source {name!r}: the name {file!r} leaves its folder; it is refused")
                target.parent.mkdir(parents=True, exist_ok=True)
                known = before.get(name, {}).get(file) == state[name][file] and then.get(name, source.uri) == source.uri
                if known and old.is_file():
                    os.link(old, target)
                else:
                    _bring(workspace, source, file, state[name][file], target)

            list(side_by_side(bring, state[name]))
            _check_pinned(name, source, out / name)
        (out / STATE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    seen.keep()


def sources_changed(workspace: Workspace, recipe: Recipe) -> bool:
    """Whether the sources hold other bytes than those fetched (DVC cannot know: it only sees the recipe)."""
    return _fetched(workspace.data(recipe.name) / "raw") != looked_at(workspace, recipe)


def looked_at(workspace: Workspace, recipe: Recipe) -> State:
    """What the sources hold now, by name, file and digest (or ETag), without bringing anything."""
    seen = _Seen(workspace)
    found = state_of(workspace, recipe, seen)
    seen.keep()
    return found


def raw_files(workspace: Workspace, recipe: str, source: str) -> list[tuple[Path, str]]:
    """The fetched files of a source, and their names in it, in order."""
    folder = workspace.data(recipe) / "raw" / source
    return [(folder / name, name) for name in fingerprint.files_below(folder)]


def _fetched(raw: Path) -> State:
    try:
        state: State = json.loads((raw / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return state


def _fetched_from(workspace: Workspace, recipe: Recipe) -> dict[str, str]:
    """From where each source was fetched, by DVC's lock: of an archive the state tells nothing of the place in it."""
    stage = f"fetch@{recipe.name}"
    section = lock.read(workspace.root / "dvc.lock", [stage]).get(stage, {})
    sources = section.get("params", {}).get("params.yaml", {}).get(f"recipes.{recipe.name}.data.sources", {})
    return {name: one["uri"] for name, one in sources.items()}


def state_of(workspace: Workspace, recipe: Recipe, seen: "_Seen") -> State:
    """What each source holds now. Raises DataError for a source without files."""
    state: State = {}
    for name, source in recipe.data.sources.items():
        place = storage.parse(source.uri, workspace.root)
        if isinstance(place, storage.PyPI):
            state[name] = dict.fromkeys(_inside(workspace, source, place), f"sha256:{source.sha256}")
        elif isinstance(place, storage.S3):
            state[name] = transfer.listing(place)
        elif isinstance(place, storage.Champion):
            state[name] = champions.state(workspace, place)
        elif isinstance(place, storage.Local):
            files = _local_files(place.path, source)
            state[name] = dict(zip(files, side_by_side(seen.digest, files.values()), strict=True))
        else:
            raise DataError(f"source {name!r}: {source.uri} cannot be a data source; use pypi:, s3://, champion: or a local path")
        if not state[name]:
            raise DataError(f"source {name!r}: no file at {source.uri}; correct data.sources.{name}.uri")
    return state


def _inside(workspace: Workspace, source: Source, place: storage.PyPI) -> dict[str, str]:
    """File -> path inside its archive: the one that is named, or those that match a glob."""
    wanted = place.inside[-1]
    if not glob.has_magic(wanted) or len(place.inside) > 1:
        return {Path(wanted).name: wanted}
    return storage.matching(storage.download(place.name, place.version, source.sha256, workspace.cache), wanted)


def _local_files(path: Path, source: Source) -> dict[str, Path]:
    """The files a path stands for: itself, those of its format below it, or those that match a glob."""
    if path.is_file():
        return {path.name: path}
    if path.is_dir():
        suffix = _SUFFIXES[source.format]
        names = [name for name in fingerprint.files_below(path) if name.removesuffix(".gz").removesuffix(".zst").endswith(suffix)]
        return {name: path / name for name in names}
    fixed = next((parent for parent in path.parents if not glob.has_magic(str(parent))), path)
    found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    return {file.relative_to(fixed).as_posix(): file for file in sorted(found) if file.is_file()}


def _bring(workspace: Workspace, source: Source, file: str, digest: str, target: Path) -> None:
    place = storage.parse(source.uri, workspace.root)
    if isinstance(place, storage.PyPI):
        archive = storage.download(place.name, place.version, source.sha256, workspace.cache)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            member = _inside(workspace, source, place)[file]
            files = storage.extract(archive, (*place.inside[:-1], member), Path(scratch))
            if len(files) != 1:
                raise DataError(f"{source.uri} is a folder of {len(files)} files; name one file")
            files[0].replace(target)
    elif isinstance(place, storage.S3):
        transfer.download(place, digest, target)
    elif isinstance(place, storage.Champion):
        champions.bring(workspace, place, digest, target)
    else:
        assert isinstance(place, storage.Local)
        if _copied(_local_files(place.path, source)[file], target) != digest:
            raise DataError(f"{place.path}: {file} changed while it was read; run the command again when it is complete")


def _copied(path: Path, target: Path) -> str:
    """Copies a file; returns the digest of what was copied, so that it is read only once."""
    digest = hashlib.sha256()
    with path.open("rb") as given, target.open("wb") as out:
        while piece := given.read(1 << 20):
            digest.update(piece)
            out.write(piece)
    return f"sha256:{digest.hexdigest()}"


def _check_pinned(name: str, source: Source, folder: Path) -> None:
    """The source's own sha256: of its one file, or of the list of its files (what `sha256sum` prints, sorted by name)."""
    if source.sha256 is None or source.uri.startswith("pypi:"):
        return
    files = fingerprint.files_below(folder)
    if len(files) == 1:
        found = fingerprint.of_file(folder / files[0])
    else:
        lines = [f"{fingerprint.hex_of(fingerprint.of_file(folder / file))}  {file}\n" for file in files]
        found = fingerprint.of_bytes("".join(lines).encode())
    if found != f"sha256:{source.sha256}":
        raise IntegrityError(
            f"source {name!r} is pinned to sha256 {source.sha256}, but {source.uri} has {fingerprint.hex_of(found)}. "
            "Nothing was taken over. If it was changed on purpose, review it and write the new sha256."
        )


class _Seen:
    """Digests of local files that have kept size and times since they were last read: reading gigabytes takes seconds."""

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.home / "seen.json"
        try:
            self._known: dict[str, list[Any]] = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self._known = {}
        self._changed = False

    def digest(self, path: Path) -> str:
        about = path.stat()
        state = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
        known = self._known.get(str(path))
        if known is None or known[:-1] != state:
            self._known[str(path)] = known = [*state, fingerprint.of_file(path)]
            self._changed = True
        return str(known[-1])

    def keep(self) -> None:
        """Writes what is known now, if that is more than before."""
        if self._changed:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            whole.write(self._file, json.dumps(self._known))
