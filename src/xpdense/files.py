"""Files that are whole or not there: written beside, synced to disk, and renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError

WRITING = ".writing-"  # the beginning of a file's or folder's name until it is whole


def check_writable(folder: Path) -> None:
    """Raise OutputError unless files can be made in `folder`, which is made, with its parents, where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Raise an OSError as an OutputError that says what could not be written, and where."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write the {what} to {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file to write to beside `path`, which replaces it at the end, or is removed where an error is raised.

    A device or a pipe is written to directly.

    Raises
    ------
    OutputError
        The file cannot be written; what was there is still there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replaced(Path(folder) / "a.txt") as file:
    ...         characters = file.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    if path.exists() and not path.is_file():
        with writing(path, "file"):
            yield path
        return
    path = Path(os.path.realpath(path))
    with writing(path, "file"):
        handle, name = tempfile.mkstemp(prefix=WRITING, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o666 & ~umask())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def put(file: BinaryIO, data: bytes) -> None:
    """Write bytes, and wait until they are on the disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until what a folder holds by name is on the disk."""
    if os.name == "nt":  # where a folder cannot be synced
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
