"""Models on disk: safetensors for the numbers, JSON for the rest. Loading parses and never executes.

A model is a folder with `model.json` and the file of weights that it names, with its SHA-256. Weights are written
first, under a name of their own; replacing `model.json` is the one moment at which the new model takes over, so
that at no time the folder holds a model that does not load.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelFileError, OutputError

FORMAT, VERSION = "xpdense-model", 1
_INDEX = "model.json"
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


def check_writable(folder: Path) -> None:
    """Raise OutputError unless files can be made in `folder`, which is made, with its parents, where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error


def check_no_strangers(folder: Path) -> None:
    """Raise OutputError where `folder`, which is there, holds anything that is no part of a model."""
    strangers = [path.name for path in folder.iterdir() if not _ours(path.name)]
    if strangers:
        raise OutputError(f"{folder} holds other files ({strangers[0]}); a model gets a folder of its own")


def write(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a model, or replace the one that the folder holds.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds something else.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    try:
        body = json.dumps(config, allow_nan=False)  # before anything is touched
    except (TypeError, ValueError) as error:
        raise OutputError(f"the model cannot be saved: its configuration does not fit JSON: {error}") from error
    if json.loads(body).get("extra") != config.get("extra"):
        raise OutputError("extra does not come back from JSON as it is: use lists and text keys, no tuples")
    check_writable(folder)
    data = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    weights = f"weights-{digest[:16]}.safetensors"
    index = {"format": FORMAT, "version": VERSION, "weights": weights, "sha256": digest, "model": json.loads(body)}
    try:
        check_no_strangers(folder)
        _replace(folder / weights, data)
        _replace(folder / _INDEX, json.dumps(index, indent=1).encode())
        for old in folder.iterdir():  # an earlier model's, and what a save left that did not come to its end
            if _ours(old.name) and old.name not in (weights, _INDEX):
                old.unlink()
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write the model to {folder}: {error.strerror or error}") from error


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and tensors of a model.

    Raises
    ------
    ModelFileError
        No model is there, or it is damaged, or was written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(folder)
    try:
        index = json.loads((folder / _INDEX).read_text())
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is not a model folder: it has no {_INDEX}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{folder / _INDEX} cannot be read: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ModelFileError(f"{folder / _INDEX} is not an xpdense model")
    if not isinstance(index.get("version"), int) or index["version"] > VERSION:
        raise ModelFileError(f"{folder} was written by a newer xpdense (format {index.get('version')}, this one reads "
                             f"up to {VERSION}): pip install --upgrade xpdense")
    name = index.get("weights")
    if not isinstance(name, str) or not _WEIGHTS.fullmatch(name):
        raise ModelFileError(f"{folder / _INDEX} names no file of weights: {name!r}")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ModelFileError(f"the weights of {folder} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != index.get("sha256"):
        raise ModelFileError(f"{folder / name} is damaged: {len(data):,} bytes, and their checksum is not the one that "
                             f"{_INDEX} holds")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(f"{folder / name} cannot be read: {error}") from error
    if not isinstance(index.get("model"), dict):
        raise ModelFileError(f"{folder / _INDEX} holds no network")
    return index["model"], tensors


def _ours(name: str) -> bool:
    return name == _INDEX or bool(_WEIGHTS.fullmatch(name)) or name.startswith(".writing-")


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the machine stops, either the old or the new one is there, whole."""
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "nt":  # where a folder cannot be synced
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
