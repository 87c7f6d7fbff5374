"""Tensors of several ranks as files of torch.distributed.checkpoint, read by any number of ranks.

Every rank writes what it holds; the file `.metadata` says where each piece of a tensor lies.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

_KNOWN = {
    "pathlib": {"PosixPath", "PurePosixPath"},
    "torch": {"Size", "float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}
"""All that a table of pieces is made of; anything else in it would be code."""


def save_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the pieces of all ranks into `folder`; every rank must call it."""
    save(tensors, checkpoint_id=folder, no_dist=not dist.is_initialized())


def load_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill `tensors`, whole or sharded in any way, in place; every rank must call it.

    Raises:
        ValueError: A tensor is missing or of another size, or a file is damaged or holds code.
    """
    try:
        with warnings.catch_warnings():
            # It says that there is one process; that is what we ask for.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(tensors, storage_reader=_Reader(folder), no_dist=not dist.is_initialized())
    except CheckpointException as error:  # not even an Exception
        first, _ = next(iter(error.failures.values()))
        raise ValueError(" ".join(str(first).split())) from error


class _Reader(FileSystemReader):
    """Reads the table of pieces without running what a changed file may ask for."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            found: Metadata = _Unpickler(file).load()
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint")
        return super().find_class(module, name)
