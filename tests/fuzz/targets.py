"""Loaders of files from strangers, as functions of bytes: only the family of errors may come out of them.

An input is what a stranger would send. Where a checksum would catch every change at once, it is put right again, as
whoever makes such a file would do.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import xpdense as xd
from xpdense import storage
from xpdense.data import datasets

CUT = b"\n--tensors--\n"  # between an index and its tensors
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def network() -> xd.DenseNetwork:
    layers = [xd.Dense(3, "gelu"), xd.BatchNorm(), xd.Residual([xd.Dense(3, "tanh"), xd.Dropout(0.1)]), xd.Dense(1)]
    return xd.DenseNetwork(layers, inputs=2, seed=0)


# --- inputs ----------------------------------------------------------------------------------------------------

def seeds(target: str) -> list[bytes]:
    """Small valid inputs of a target."""
    makers = {"model": _models, "checkpoint": _checkpoints, "npz": _archives, "csv": _tables, "parquet": _parquet}
    return makers[target]()


def _pair(folder: Path, index: str, tensors: str) -> bytes:
    return (folder / index).read_bytes() + CUT + next(folder.glob(f"{tensors}-*")).read_bytes()


def _models() -> list[bytes]:
    found = []
    for loss in (None, xd.Huber(0.5), xd.SoftmaxCrossEntropy(0.1)):
        net = network()
        net.loss, net.extra = loss, {"note": ["text", 1, None, 0.5]}
        net.save(FOLDER / "seed")
        found.append(_pair(FOLDER / "seed", "model.json", "weights"))
        shutil.rmtree(FOLDER / "seed")
    return found


def _checkpoints() -> list[bytes]:
    folder = FOLDER / "seed"
    _train(folder, None)
    found = [_pair(path, "training.json", "training") for path in storage.checkpoints(folder)]
    shutil.rmtree(folder)
    return found


X = np.linspace(-1.0, 1.0, 40).reshape(20, 2).astype(np.float32)


def _train(folder: Path, resume: Path | None) -> None:
    hooks: list[xd.Callback] = [xd.EarlyStopping(patience=3)]
    if resume is None:
        hooks.append(xd.Checkpoint(folder, every=1))
    network().fit(X, X[:, 0], loss="squared_error", optimizer=xd.Adam(xd.ReduceOnPlateau(0.01)), batch_size=8, epochs=2,
                  callbacks=hooks, resume=resume)


def _archives() -> list[bytes]:
    found = []
    for arrays in ({"x": X, "y": np.arange(20)}, {"x": np.eye(3), "y": np.array(["a", "b", "c"])}):
        file = io.BytesIO()
        np.savez(file, **arrays)
        found.append(file.getvalue())
    for array in (X, np.array(["a", "b"])):  # of one array alone: it is put into an archive
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def _tables() -> list[bytes]:
    return [b"a,b,y\n1,x,0\n2,z,1\n,x,0\n4,,1\n", b"\xef\xbb\xbfcode;y\n", b'a,"b ""c""",y\n1.5e3,"two\nlines",no\n',
            b"a\ty\n007\tTrue\n08\tFalse\n"]


def _parquet() -> list[bytes]:
    import pandas

    found = []
    for frame in (pandas.DataFrame({"a": [1.0, None, 3.0], "b": ["x", "z", None], "y": [0, 1, 0]}),
                  pandas.DataFrame({"y": [1.5] * 50, "when": pandas.Timestamp("2024-01-01"), "c": True})):
        file = io.BytesIO()
        frame.to_parquet(file, row_group_size=20)
        found.append(file.getvalue())
    return found


# --- targets ---------------------------------------------------------------------------------------------------

def _unpacked(data: bytes, folder: Path, index: str, key: str, tensors: str) -> None:
    """Write an index and its tensors, their checksums put right."""
    text, _, content = data.partition(CUT)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    name = f"{tensors}-{digest[:16]}.safetensors"
    (folder / name).write_bytes(content)
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found |= {"weights": name, "sha256": digest, "checksum": storage._checksum(found.get(key))}
            text = json.dumps(found).encode()
    except (ValueError, RecursionError):
        pass  # it is written as it is
    (folder / index).write_bytes(text)


def model(data: bytes) -> None:
    folder = FOLDER / "model"
    shutil.rmtree(folder, ignore_errors=True)
    _unpacked(data, folder, "model.json", "model", "weights")
    net = xd.load(folder)
    if net.inputs <= 1000:
        net.predict(np.zeros((2, net.inputs), np.float32))


def checkpoints(data: bytes) -> None:
    """The training's half of a checkpoint, and a training that goes on from it."""
    root = FOLDER / "checkpoint"
    shutil.rmtree(root, ignore_errors=True)
    _train(root, None)
    last = storage.checkpoints(root)[0]
    for old in last.glob("training*"):
        old.unlink()
    _unpacked(data, last, "training.json", "training", "training")
    _train(root, last)


def _file(ending: str) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        path = FOLDER / f"file{ending}"
        path.write_bytes(data)
        try:
            datasets.read(str(path), needs_target=False)
        finally:
            if ending != ".npz":
                stream = xd.data.open(path)
                stream.head(5)
    return target


def npz(data: bytes) -> None:
    _file(".npz")(data)
    if zipfile.is_zipfile(io.BytesIO(data)):
        return
    path = FOLDER / "raw.npz"  # the bytes as an array within a sound archive
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", data)
    datasets.read(str(path), needs_target=False)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "model": model, "checkpoint": checkpoints, "npz": npz, "csv": _file(".csv"), "parquet": _file(".parquet"),
}


def holds(target: str, data: bytes) -> bool:
    """Run a target on an input; whether it was loaded. Any error that is not of the family comes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[target](data)
        except xd.XpdenseError:
            return False
    return True


def every_place(value: Any, replacement: Any) -> list[Any]:
    """Copies of a JSON value, one for each place in it, with a replacement there."""
    found = [replacement]
    if isinstance(value, dict):
        found += [{**value, key: inner} for key in value for inner in every_place(value[key], replacement)]
    if isinstance(value, list):
        found += [[*value[:i], inner, *value[i + 1 :]] for i in range(len(value))
                  for inner in every_place(value[i], replacement)]
    return found
