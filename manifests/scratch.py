"""Local files for a while: shards before their upload, footage while it is decoded.

They lie in a folder of the process that uses them; what a killed process left there is removed by
the next one that needs scratch space.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from .errors import StorageError
from .processes import boot_id, process_started

SCRATCH_ENV = "EGODOJO_SCRATCH"
"""Folder for scratch files; default the system's temporary folder."""

_SPARE_BYTES = 256 << 20
_OWNER = re.compile(r"(\d+)-(\d*)-([0-9a-f-]{8})\Z")


@contextmanager
def scratch_file(name: str, *, num_bytes: int = 0) -> Iterator[Path]:
    """The path of a scratch file of this name, alone in its folder; removed with it at the end.

    Args:
        name: What the file is called.
        num_bytes: How much it will hold, when that is known.

    Raises:
        StorageError: There is no such folder, or no room.
    """
    root = _own_folder(os.environ.get(SCRATCH_ENV) or tempfile.gettempdir(), os.getpid())
    folder = root / secrets.token_hex(6)
    try:
        folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if num_bytes and free < num_bytes + _SPARE_BYTES:
            raise StorageError(
                f"{name} needs {num_bytes / 1e9:.1f} GB of scratch space; {folder.parent} has "
                f"{free / 1e9:.1f} GB.",
                hint=f"Free space there, or set {SCRATCH_ENV} to a folder on a larger disk.",
            )
        yield folder / name
    except OSError as error:
        if isinstance(error, StorageError) or not str(error.filename).startswith(str(folder)):
            raise
        raise StorageError(
            f"Cannot use the scratch folder {folder.parent}: {error.strerror}.",
            hint=f"Free space there, or set {SCRATCH_ENV} to another folder.",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=4)
def _own_folder(base: str, pid: int) -> Path:
    """This process's folder, after what dead processes of this machine left was removed."""
    shared = Path(base, f"egodojo-scratch-{os.getuid()}-{socket.gethostname()}")
    boot = boot_id()[:8]
    for left in shared.glob("*-*-*"):
        owner = _OWNER.match(left.name)
        if owner and (owner[3] != boot or process_started(int(owner[1])) != owner[2]):
            shutil.rmtree(left, ignore_errors=True)
    return shared / f"{pid}-{process_started(pid)}-{boot}"
