"""The Parquet files of tables as pyarrow reads them: local ones itself, objects through obstore."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from threading import Lock
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.fs as pafs

from . import object_store
from .locations import is_remote

_WHOLE_BYTES = 8 << 20
_CACHED_BYTES = 256 << 20


def filesystem_of(table_uri: str) -> pafs.FileSystem:
    """The filesystem in which the live files of a table are found by path or URI."""
    return _objects() if is_remote(table_uri) else pafs.LocalFileSystem()


@lru_cache(maxsize=1)
def _objects() -> pafs.FileSystem:
    return pafs.PyFileSystem(_Objects())


class _Objects(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Objects by their whole URI, read only. Files of tables never change: small ones are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, pa.Buffer] = OrderedDict()
        self._lock = Lock()

    def get_type_name(self) -> str:
        return "objects"

    def normalize_path(self, path: str) -> str:
        return path

    def open_input_file(self, path: str) -> Any:
        """A file for random access: in memory when it is small, in ranges otherwise."""
        buffer = self._buffer(path)
        if buffer is not None:
            return pa.BufferReader(buffer)
        return pa.PythonFile(object_store.reader(path), mode="r")

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return [
            pafs.FileInfo(path, type=pafs.FileType.File, size=object_store.info(path).size)
            for path in paths
        ]

    def _buffer(self, path: str) -> pa.Buffer | None:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        data = object_store.get_small(path, limit=_WHOLE_BYTES)
        if data is None:
            return None
        buffer = pa.py_buffer(data)
        with self._lock:
            self._kept[path] = buffer
            while sum(kept.size for kept in self._kept.values()) > _CACHED_BYTES:
                self._kept.popitem(last=False)
        return buffer

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("objects of tables are only read here")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _refuse
    delete_root_dir_contents = delete_file = move = copy_file = _refuse
    open_output_stream = open_append_stream = _refuse
