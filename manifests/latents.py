"""Stored latent actions: one float16 file and one row table per shard, found by model and step.

Row t of a clip is the latent of its frames (t, t + step). A shard's rows count once its
`rows.parquet` is in place, which holds the digest of the `.f16` file; what is written is never
rewritten, later clips get numbered files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .action_vector import LATENT_WIDTH
from .errors import DatasetError
from .locations import Location, ObjectPath, location, matches, names_in
from .object_store import listed
from .storage import remove, replacing, write_new

Float16Array = NDArray[np.float16]

ROWS_SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("first_row", pa.int64()), ("num_rows", pa.int64())]
)
ROW_BYTES = 2 * LATENT_WIDTH
_DIGEST = b"f16_sha256"
_SHARDS_HELD = 64
_LATER = re.compile(r"(.+)\.[0-9]+\.rows\.parquet\Z")


def latent_dir(dataset: Location | str, model_id: str, step: int) -> Location:
    """The folder of one model's latents at one frame step."""
    return location(dataset) / "latents" / model_id / f"step-{step}"


def list_latents(dataset: Location | str) -> list[tuple[str, int]]:
    """Every (model_id, step) stored in a dataset, sorted."""
    found = []
    for meta in (location(dataset) / "latents").glob("*/step-*/meta.json"):
        match = re.fullmatch(r"step-(\d+)", meta.parent.name)
        if match:
            found.append((meta.parent.parent.name, int(match[1])))
    return sorted(found)


def list_row_tables(folder: Location) -> dict[str, list[Location]]:
    """Shard -> its tables of rows in a folder of `latent_dir`, from one listing."""
    found: dict[str, list[Location]] = defaultdict(list)
    for path in matches(folder, "*.rows.parquet"):
        found[path.name.partition(".")[0]].append(path)
    return found


def list_f16_files(folder: Location) -> list[tuple[Location, int]]:
    """Every table of rows in a folder of `latent_dir` and the rows its `.f16` file has, sorted."""
    if isinstance(folder, ObjectPath):
        sizes = {info.key.rpartition("/")[2]: info.size for info in listed(str(folder))}
    else:
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    found = matches(folder, "*.rows.parquet")
    return [(path, sizes.get(f16_path(path).name, 0) // ROW_BYTES) for path in found]


def read_rows(path: Location) -> pa.Table:
    """A table of rows; `rows_digest` gives what it says of its `.f16` file.

    Raises:
        DatasetError: It is damaged.
    """
    try:
        return pq.read_table(pa.BufferReader(path.read_bytes()), partitioning=None).select(
            ROWS_SCHEMA.names
        )
    except (pa.ArrowException, KeyError, OSError) as error:
        raise _damaged(path) from error


def read_counts(tables: Iterable[Location]) -> dict[str, int]:
    """Clip -> number of rows that some tables name, without opening the latents themselves."""
    counts: dict[str, int] = {}
    for path in tables:
        table = read_rows(path)
        ids, rows = (table.column(name).to_pylist() for name in ("clip_id", "num_rows"))
        counts.update(zip(ids, rows, strict=True))
    return counts


def rows_digest(table: pa.Table) -> str | None:
    """SHA-256 of the `.f16` file that belongs to a table; None where an older version wrote it."""
    digest = (table.schema.metadata or {}).get(_DIGEST)
    return None if digest is None else digest.decode()


def rows_bytes(clip_ids: Sequence[str], counts: Sequence[int], *, f16_sha256: str) -> bytes:
    """The content of a `rows.parquet` for clips whose rows follow each other."""
    first = np.cumsum([0, *counts], dtype=np.int64)[:-1]
    columns = {"clip_id": list(clip_ids), "first_row": first, "num_rows": list(counts)}
    table = pa.table(columns, schema=ROWS_SCHEMA.with_metadata({_DIGEST: f16_sha256}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def f16_path(rows: Location) -> Location:
    """The file of latents that a `rows.parquet` belongs to."""
    return rows.with_name(rows.name.replace(".rows.parquet", ".f16"))


def f16_digest(path: Location) -> str:
    """SHA-256 of a file, 64 hex digits."""
    if isinstance(path, ObjectPath):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(dataset: Location, model_id: str) -> None:
    """Remove what a killed extraction left half-written; nobody may be writing there."""
    for path in matches(dataset / "latents" / model_id, "step-*/*.tmp-*"):
        remove(path)


def missing_latents_error(
    dataset: Location | str, model_id: str, step: int, *, detail: str | None = None
) -> DatasetError:
    """What to say when latents are asked for that are not there, with the command for them."""
    stored = ", ".join(f"{name} step {number}" for name, number in list_latents(dataset))
    return DatasetError(
        detail
        or f"{dataset} holds no latents of {model_id} at step {step} (stored: {stored or 'none'}).",
        hint=f"Run: egodojo latents extract {dataset} --model MODEL --step {step}, where MODEL is "
        f"the folder of {model_id}.",
    )


class LatentWriter:
    """Writes the latents of one shard; several writers may work on different shards at once.

    Example:
        writer = LatentWriter(latent_dir("DATASET", "lam-0123abcd", 1), 0, {"every": 1})
        writer.add(clip_id, rows)          # rows: float16 (num_rows, 32)
        writer.finish()                    # clips-000000.f16 + clips-000000.rows.parquet
    """

    def __init__(self, folder: Location | str, shard_number: int, meta: Mapping[str, Any]) -> None:
        """Takes the folder from `latent_dir` and facts for its meta.json.

        Args:
            folder: .../latents/<model_id>/step-<k>; made when missing.
            shard_number: N of the shard clips-N.
            meta: Written once; model_id and step come from the folder's name, `every` is the
                distance between stored frames (default 1). A later writer must bring the same.
        """
        self.folder = location(folder)
        self._stem = f"clips-{shard_number:06d}"
        step = int(self.folder.name.removeprefix("step-"))
        self._meta = {"model_id": self.folder.parent.name, "step": step, "every": 1, **meta}
        self._clip_ids: list[str] = []
        self._rows: list[Float16Array] = []

    def add(self, clip_id: str, rows: Float16Array) -> None:
        """Takes a clip's (num_rows, 32) latents; zero rows say that the clip is too short."""
        rows = np.asarray(rows)
        if rows.dtype != np.float16 or rows.ndim != 2 or rows.shape[1] != LATENT_WIDTH:
            raise ValueError(
                f"latents must be float16 (rows, {LATENT_WIDTH}), not {rows.dtype} {rows.shape}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"the latents of clip {clip_id} hold values that are not finite")
        self._clip_ids.append(clip_id)
        self._rows.append(rows)

    def finish(self) -> Location:
        """Puts both files in place, rows last, and returns the path of the .f16 file.

        Another process may do the same shard, for instance a worker that outlived its driver: the
        same rows are then stored once.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_meta()
        while True:
            stem = self._free_stem()
            data_path = self.folder / f"{stem}.f16"
            digest = hashlib.sha256()
            with replacing(data_path, _token()) as file:
                for rows in self._rows:
                    content = np.ascontiguousarray(rows).tobytes()
                    digest.update(content)
                    file.write(content)
            table = rows_bytes(
                self._clip_ids, [len(rows) for rows in self._rows], f16_sha256=digest.hexdigest()
            )
            path = self.folder / f"{stem}.rows.parquet"
            if write_new(path, table) or path.read_bytes() == table:
                return data_path

    def _free_stem(self) -> str:
        number, stem = 0, self._stem
        while (self.folder / f"{stem}.rows.parquet").exists():
            number += 1
            stem = f"{self._stem}.{number}"
        return stem

    def _write_meta(self) -> None:
        path = self.folder / "meta.json"
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known != json.loads(json.dumps(self._meta)):
                changed = [k for k in {*known, *self._meta} if known.get(k) != self._meta.get(k)]
                raise DatasetError(
                    f"{self.folder} was written with other settings ({', '.join(sorted(changed))} "
                    f"differ).",
                    hint="Use the settings of its meta.json, or remove the folder and start again.",
                )
            return
        with replacing(path, _token()) as file:
            file.write((json.dumps(self._meta, indent=2, sort_keys=True) + "\n").encode())


class LatentReader:
    """Reads stored latents through memory maps; opens a shard's files when first asked for them.

    Example:
        reader = LatentReader.open("DATASET", "lam-0123abcd", 1)
        reader.rows(clip_id).shape         # (num_frames - 1, 32), float16
    """

    def __init__(self, folder: Location, meta: dict[str, Any]) -> None:
        """Use `open`."""
        self.folder = folder
        self.meta = meta
        self._shards: OrderedDict[str, dict[str, Float16Array]] = OrderedDict()
        self._everything: dict[str, Float16Array] | None = None
        self._later: dict[str, list[str]] | None = None

    @classmethod
    def open(cls, dataset: Location | str, model_id: str, step: int) -> LatentReader:
        """Opens one model's latents at one step.

        Raises:
            DatasetError: They are not there (the hint is the command that makes them) or damaged.
        """
        folder = latent_dir(dataset, model_id, step)
        meta = folder / "meta.json"
        if not meta.exists():
            raise missing_latents_error(dataset, model_id, step)
        try:
            facts = json.loads(meta.read_text(encoding="utf-8"))
            every, known = int(facts.get("every", 1)), int(facts["step"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(meta) from error
        if every < 1 or known != step:
            raise _damaged(meta)
        return cls(folder, facts)

    @property
    def every(self) -> int:
        """Latents are stored for frames 0, every, 2 every, ... of each clip."""
        return int(self.meta.get("every", 1))

    def has(self, clip_id: str, *, shard: str | None = None) -> bool:
        """Whether a clip was extracted (a clip that is too short was, with zero rows)."""
        return clip_id in self._find(shard)

    def rows(self, clip_id: str, *, shard: str | None = None) -> Float16Array:
        """A clip's latents, (num_rows, 32), a read-only view of the file.

        Args:
            clip_id: The clip.
            shard: Its shard (`clips-000000`) when known: then only that shard's files are opened.

        Raises:
            DatasetError: No latents were extracted for this clip.
        """
        try:
            return self._find(shard)[clip_id]
        except KeyError:
            raise DatasetError(f"{self.folder} holds no latents of clip {clip_id}.") from None

    def window(
        self, clip_id: str, *, first_frame: int, num_rows: int, shard: str | None = None
    ) -> Float16Array:
        """Latents of the `num_rows` transitions of a window that starts at `first_frame`.

        The frames of the window are `step` apart: rows first_frame, first_frame + step, ... .

        Raises:
            DatasetError: The window leaves the clip, or does not lie on the grid of `every`.
        """
        step = int(self.meta["step"])
        if first_frame % self.every or step % self.every:
            raise DatasetError(
                f"A window at frame {first_frame} with stride {step} does not lie on the grid of "
                f"every {self.every} frames that {self.folder} holds."
            )
        rows = self.rows(clip_id, shard=shard)
        first, stride = first_frame // self.every, step // self.every
        picked = rows[first : first + (num_rows - 1) * stride + 1 : stride]
        if len(picked) != num_rows:
            raise DatasetError(
                f"Clip {clip_id} has {len(rows)} latents in {self.folder}, too few for a window at "
                f"frame {first_frame} of {num_rows} transitions."
            )
        return picked

    def num_rows(self, shard: str) -> dict[str, int]:
        """Rows stored for each extracted clip of one shard."""
        return {clip_id: len(rows) for clip_id, rows in self._find(shard).items()}

    def _find(self, shard: str | None) -> Mapping[str, Float16Array]:
        if shard is None:
            if self._everything is None:
                self._everything = self._load(matches(self.folder, "*.rows.parquet"))
            return self._everything
        if shard not in self._shards:
            names = [f"{shard}.rows.parquet", *self._later_tables(shard)]
            paths = [self.folder / name for name in names]
            self._shards[shard] = self._load([path for path in paths if path.exists()])
            while len(self._shards) > _SHARDS_HELD:
                self._shards.popitem(last=False)
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def _later_tables(self, shard: str) -> list[str]:
        """Names of a shard's further tables: for clips that were kept after the first ones.

        Who asks for one shard of a bucket alone has the names that begin with it listed; for all
        others the whole folder is listed, once.
        """
        if self._later is None and not self._shards and isinstance(self.folder, ObjectPath):
            begun = (path.name for path in self.folder.beginning_with(f"{shard}."))
            return [name for name in begun if _LATER.match(name)]
        if self._later is None:
            self._later = {}
            for name in sorted(names_in(self.folder)):
                if found := _LATER.match(name):
                    self._later.setdefault(found[1], []).append(name)
        return self._later.get(shard, [])

    def _load(self, tables: Sequence[Location]) -> dict[str, Float16Array]:
        found: dict[str, Float16Array] = {}
        for path in tables:
            table, data = read_rows(path), map_latents(f16_path(path))
            columns = (table.column(name).to_pylist() for name in ROWS_SCHEMA.names)
            for clip_id, first_row, num_rows in zip(*columns, strict=True):
                if first_row + num_rows > len(data):
                    raise DatasetError(
                        f"{path} names rows up to {first_row + num_rows}, its .f16 file has "
                        f"{len(data)}.",
                        hint="Remove both files and run egodojo latents extract again.",
                    )
                found.setdefault(clip_id, data[first_row : first_row + num_rows])
        return found


def _damaged(path: Location) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read: it is damaged.",
        hint=f"Remove the folder {path.parent} and run egodojo latents extract again.",
    )


def map_latents(path: Location) -> Float16Array:
    """The rows (n, 32) of a `.f16` file, read-only; from a memory map where it is local.

    Raises:
        DatasetError: It is missing, or no whole number of rows.
    """
    if not path.exists():
        raise DatasetError(f"{path} is missing, its table of rows is there.")
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros((0, LATENT_WIDTH), dtype=np.float16)
    flat: Float16Array
    if isinstance(path, ObjectPath):
        flat = np.frombuffer(path.read_bytes(), dtype=np.float16)
    else:
        flat = np.memmap(path, dtype=np.float16, mode="r")
    if len(flat) % LATENT_WIDTH:
        raise DatasetError(f"{path} is no whole number of rows of {LATENT_WIDTH} float16 values.")
    return flat.reshape(-1, LATENT_WIDTH).view(np.ndarray)


def _token() -> str:
    return f"{os.getpid()}-{secrets.token_hex(4)}"
