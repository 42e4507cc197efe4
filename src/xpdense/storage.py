"""Models and checkpoints on disk: safetensors for the numbers, JSON for the rest. Loading parses, it never executes.

A model is a folder with `model.json` and the file of weights that it names, with its SHA-256. Weights are written
first, under a name of their own; replacing `model.json` is the one moment at which the new model takes over, so
that at no time the folder holds a model that does not load. A checkpoint is such a folder with a second pair of files,
`training.json` and its tensors; it is made under another name and renamed when it is whole.

Format 2 added the checksum of the JSON, and `reads`: the oldest format whose readers understand the file. A file of
an earlier format is read; one of a later format is where it says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelFileError, OutputError
from .files import WRITING, check_writable, put, replaced, sync, umask, writing

FORMAT, VERSION = "xpdense-model", 2
_STEP = re.compile(r"step-\d{10}(-earlier)?")
_INDEX_LIMIT = _HEADER_LIMIT = 2**26  # bytes of JSON: of an index, and of the head of a file of tensors
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class _Kind:
    """A pair of files: an index in JSON and the tensors that it names."""

    index: str
    key: str  # of what the index holds
    tensors: re.Pattern[str]

    def name(self, digest: str) -> str:
        return f"{self.tensors.pattern.partition('-')[0]}-{digest[:16]}.safetensors"

    def owns(self, name: str) -> bool:
        return name == self.index or bool(self.tensors.fullmatch(name))


_MODEL = _Kind("model.json", "model", re.compile(r"weights-[0-9a-f]{16}\.safetensors"))
_TRAINING = _Kind("training.json", "training", re.compile(r"training-[0-9a-f]{16}\.safetensors"))


# --- writing ---------------------------------------------------------------------------------------------------

def check_only_own_files(folder: Path) -> None:
    """Raise OutputError where an existing `folder` holds anything other than the files of a model."""
    others = [path.name for path in folder.iterdir() if not _is_own(path.name)]
    if others:
        raise OutputError(f"{folder} holds other files ({others[0]}); a model gets a folder of its own")


def write(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a model, or replace the one that the folder holds.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds something else.
    """
    folder = Path(folder)
    files = _files(_MODEL, config, tensors)  # before anything is touched
    check_writable(folder)
    with writing(folder, "model"):
        check_only_own_files(folder)
        for name, data in files.items():  # the weights, then the index
            _replace(folder / name, data)
        for old in folder.iterdir():  # an earlier model's, and what a save left that did not come to its end
            if _is_own(old.name) and old.name not in files:
                old.unlink()


def write_checkpoint(root: Path, step: int, model: tuple[Mapping[str, Any], Mapping[str, np.ndarray]],
                     training: tuple[Mapping[str, Any], Mapping[str, np.ndarray]]) -> Path:
    """Write the checkpoint of a step, each half a configuration and its tensors; its folder in `root`.

    At every moment the folder is either not there or whole.

    Raises
    ------
    OutputError
        It cannot be written; earlier ones are as they were.
    """
    files = _files(_MODEL, *model) | _files(_TRAINING, *training)
    target = root / f"step-{step:010d}"
    with writing(root, "checkpoint"):
        temporary = Path(tempfile.mkdtemp(prefix=WRITING, dir=root))
        try:
            for name, data in files.items():
                with open(temporary / name, "xb") as file:
                    put(file, data)
            os.chmod(temporary, 0o777 & ~umask())
            sync(temporary)
            earlier = root / f"{target.name}-earlier"
            if target.exists():  # of the same step: it may be the only one that there is
                if earlier.exists():
                    remove(earlier)
                os.rename(target, earlier)
            os.rename(temporary, target)
            if earlier.exists():
                remove(earlier)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(root)
    return target


def remove(folder: Path) -> None:
    """Remove a checkpoint: it is renamed first, so that a half of it never looks like one."""
    with writing(folder.parent, "checkpoint"):
        doomed = Path(tempfile.mkdtemp(prefix=WRITING, dir=folder.parent))
        os.rename(folder, doomed / folder.name)
        shutil.rmtree(doomed)


def sweep(root: Path) -> None:
    """Remove what a run left that was killed while it wrote or removed a checkpoint."""
    with writing(root, "checkpoint"):
        for path in root.glob(f"{WRITING}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def _files(kind: _Kind, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The two files by name, the index last, of what comes back from JSON as it is."""
    from safetensors.numpy import save

    try:
        body = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"the {kind.key} cannot be saved: its configuration does not fit JSON: {error}") from error
    if body.get("extra") != config.get("extra"):
        raise OutputError("extra does not come back from JSON as it is: use lists and text keys, no tuples")
    data = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    index = {"format": FORMAT, "version": VERSION, "reads": VERSION, "weights": kind.name(digest), "sha256": digest,
             "checksum": _checksum(body), kind.key: body}
    text = json.dumps(index, indent=1).encode()
    if len(text) > _INDEX_LIMIT:
        raise OutputError(f"the {kind.key} cannot be saved: its configuration takes {len(text):,} bytes of JSON, and "
                          f"{_INDEX_LIMIT:,} are read")
    return {kind.name(digest): data, kind.index: text}


def _checksum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_own(name: str) -> bool:
    return _MODEL.owns(name) or _TRAINING.owns(name) or name.startswith(WRITING)


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the machine stops, either the old or the new one is there, whole."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        put(file, data)
    sync(path.parent)


# --- reading ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Saved:
    """One pair of files whose index has been read: what it says, and the shapes of its tensors.

    Attributes
    ----------
    config : dict
    shapes : dict
        The shape of each tensor by name, from the head of their file, whose size is that of all of them together.
    """

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    path: Path
    digest: str

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors themselves, in memory of the size of their file; a ModelFileError where they are damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise ModelFileError(f"{self.path} is damaged: {len(data):,} bytes, and their checksum is not the one "
                                 f"that its index holds")
        try:
            tensors: dict[str, np.ndarray] = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"{self.path} cannot be read: {error}") from error
        if {name: value.shape for name, value in tensors.items()} != self.shapes:
            raise ModelFileError(f"{self.path} changed while it was read")
        return tensors


def read(folder: str | Path) -> Saved:
    """The model of a folder.

    Raises
    ------
    ModelFileError
        No model is there, or it is damaged, or was written by a newer version that says nothing of this one.
    """
    return _read(Path(folder), _MODEL)


def read_training(folder: str | Path) -> Saved:
    """The other half of a checkpoint: where its training stood. Raises as `read` does."""
    return _read(Path(folder), _TRAINING)


def checkpoints(root: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; damaged ones too."""
    found = [path for path in root.iterdir() if _STEP.fullmatch(path.name)] if root.is_dir() else []
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), reverse=True)


def _read(folder: Path, kind: _Kind) -> Saved:
    index = _index(folder, kind)
    name, digest, config = index.get("weights"), index.get("sha256"), index.get(kind.key)
    if not isinstance(name, str) or not kind.tensors.fullmatch(name):
        raise ModelFileError(f"{folder / kind.index} names no file of weights: {name!r}")
    if not isinstance(digest, str) or not isinstance(config, dict):
        raise ModelFileError(f"{folder / kind.index} holds no {kind.key}")
    if index["version"] > 1 and index.get("checksum") != _checksum(config):
        raise ModelFileError(f"{folder / kind.index} is damaged: its checksum is not that of what it says")
    path = folder / name
    if path.is_symlink():
        raise ModelFileError(f"{path} is a link, and weights lie in the folder itself")
    return Saved(config, _shapes(path), path, digest)


def _index(folder: Path, kind: _Kind) -> dict[str, Any]:
    path = folder / kind.index
    try:
        if path.stat().st_size > _INDEX_LIMIT:
            raise ModelFileError(f"{path} is larger than an index may be ({_INDEX_LIMIT:,} bytes)")
        index = json.loads(path.read_bytes(), parse_constant=_no_constant, object_pairs_hook=_distinct)
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is not a {kind.key} folder: it has no {kind.index}") from None
    except ModelFileError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not an xpdense model")
    version, reads = index.get("version"), index.get("reads", index.get("version"))
    if type(version) is not int or type(reads) is not int or version < 1:
        raise ModelFileError(f"{path} does not say which format it has: version {version!r}")
    if version > VERSION and reads > VERSION:
        raise ModelFileError(f"{folder} was written by a newer xpdense (format {version}, this one reads up to "
                             f"{VERSION}): pip install --upgrade xpdense")
    return index


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in the head of a safetensors file, once they are found to fill it: no size is believed unchecked."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
                raise ValueError(f"its header would take {length:,} of {size:,} bytes")
            head = json.loads(file.read(length), parse_constant=_no_constant, object_pairs_hook=_distinct)
        shapes, end = _filled(head)
        if end != size - 8 - length:
            raise ValueError(f"its tensors take {end:,} bytes, and {size - 8 - length:,} are there")
        return shapes
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error


def _filled(head: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes by name and where the tensors end, which lie one after the other."""
    shapes, places = {}, []
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if any(type(n) is not int or n < 0 for n in (*shape, start, end)):
            raise ValueError(f"{name!r} has an invalid shape or data_offsets")
        if end - start != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(f"{name!r} of shape {list(shape)} does not fit its data_offsets")
        shapes[name] = shape
        places.append((start, end))
    places.sort()
    last = 0
    for start, end in places:
        if start != last:
            raise ValueError("its tensors do not lie one after the other")
        last = end
    return shapes, last


def read_with(what: str, parse: Callable[[], Any]) -> Any:
    """What `parse` makes of a saved state, or a ModelFileError where it is not as it should be."""
    try:
        return parse()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ModelFileError(f"{what} is damaged: {error!r}") from error
