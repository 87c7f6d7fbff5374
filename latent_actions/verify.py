"""`latents extract --verify`: stored latents drawn at random, made anew from their frames.

A row that is not what the model gives for its two frames, or a file that is not what was written,
is a failure with the clip and the step, or the file, in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from manifests.errors import DatasetError, EgodojoError, SampleError, UsageError
from manifests.latents import (
    LatentReader,
    f16_digest,
    f16_path,
    latent_dir,
    list_f16_files,
    list_latents,
    map_latents,
    missing_latents_error,
    read_rows,
    rows_digest,
)
from manifests.locations import Location, below
from pipeline.clips import ClipReader

from .extract import Extractor
from .extract_run import ExtractJob
from .model import LatentActionModel

TOLERANCE = {"float32": 2e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Allowed difference by number type, as a share of how large latents are: twice the rounding of a
stored float16, or what the noise of short numbers may differ by from machine to machine."""
PAIRS_AT_ONCE = 64

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """One stored latent and where it comes from."""

    clip_id: str
    shard: str
    step: int
    row: int
    """Number of the row among its clip's."""
    first_frame: int
    values: NDArray[np.float16]

    @property
    def name(self) -> str:
        """How a message calls it."""
        last = self.first_frame + self.step
        frames = f"frames {self.first_frame} and {last}"
        return f"row {self.row} ({frames}) of clip {self.clip_id} at step {self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification found."""

    num_stored: int
    """Rows there are, for all steps asked for."""
    num_checked: int
    """Rows made anew."""
    num_files: int
    """Files whose digests were taken: those the rows lie in."""
    max_difference: float
    """The largest difference of a number."""
    allowed: float
    """The largest difference that every row may have; one of large numbers may have more."""
    faults: list[str] = field(default_factory=list)
    """A sentence for each row or file that is wrong."""

    def raise_fault(self) -> None:
        """End in one sentence when anything is wrong.

        Raises:
            EgodojoError: With the first fault.
        """
        if self.faults:
            more = f" ({len(self.faults)} faults in all)" if len(self.faults) > 1 else ""
            raise EgodojoError(
                f"{self.faults[0]}{more}.",
                hint="Remove that shard's .f16 and .rows.parquet under latents/, then run "
                "`latents extract` again; it makes them anew.",
            )


def verify_latents(job: ExtractJob, *, num_rows: int, seed: int = 0) -> Verified:
    """Make stored latents anew in this process and compare them.

    Rows are drawn evenly over all that are stored for the job's steps; the digest of each file
    that one of them lies in is checked as well.

    Args:
        job: Model, steps, grid and precision; from `extract_run.make_job`.
        num_rows: How many rows to draw; all when there are fewer.
        seed: Another one draws other rows.

    Raises:
        DatasetError: Nothing is stored, or what is stored cannot be read.
        UsageError: `num_rows` is below 1.
    """
    if num_rows < 1:
        raise UsageError(f"--verify is {num_rows}; it must be at least 1.")
    files = _files(job)
    num_stored = sum(rows for _, _, rows in files)
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(num_stored, min(num_rows, num_stored), replace=False))
    faults: list[str] = []
    drawn = list(_drawn(job, files, chosen, faults))
    touched = len(np.unique(np.searchsorted(np.cumsum([n for *_, n in files]), chosen, "right")))
    found, made = _made_anew(job, drawn, faults)
    stored = np.array([row.values for row in found], np.float32).reshape(made.shape)
    differences = np.abs(stored - made).max(axis=1, initial=0)
    typical = float(np.sqrt(np.square(made).mean())) if len(made) else 0.0
    share = TOLERANCE[job.precision]
    allowed = np.maximum(np.abs(made).max(axis=1, initial=0), typical) * share
    for row, difference, most in zip(found, differences, allowed, strict=True):
        if not difference <= most:
            faults.append(
                f"The latent stored in {row.name} is off by {difference:.3g} from what "
                f"{job.model_id} gives, where {most:.2g} is allowed"
            )
    return Verified(
        num_stored=num_stored,
        num_checked=len(found),
        num_files=touched,
        max_difference=float(differences.max(initial=0)),
        allowed=typical * share,
        faults=faults,
    )


def _files(job: ExtractJob) -> list[tuple[int, Location, int]]:
    """(step, table of rows, number of rows) of all that is stored for the job's steps."""
    stored = set(list_latents(job.dataset))
    files = []
    for step in job.steps:
        if (job.model_id, step) not in stored:
            raise missing_latents_error(job.dataset, job.model_id, step)
        folder = latent_dir(job.dataset, job.model_id, step)
        files += [(step, path, rows) for path, rows in list_f16_files(folder)]
    return files


def _drawn(
    job: ExtractJob,
    files: list[tuple[int, Location, int]],
    chosen: NDArray[np.int64],
    faults: list[str],
) -> Iterator[StoredRow]:
    """The rows with these numbers, counted over all files; files that changed become faults."""
    begin = 0
    for step, path, num_rows in files:
        numbers = chosen[np.searchsorted(chosen, begin) : np.searchsorted(chosen, begin + num_rows)]
        numbers = numbers - begin
        begin += num_rows
        if not len(numbers):
            continue
        table, data = read_rows(path), map_latents(f16_path(path))
        if rows_digest(table) not in (None, f16_digest(f16_path(path))):
            name = below(f16_path(path), job.dataset)
            faults.append(f"{name} is not as it was written: its digest differs")
        every = LatentReader.open(job.dataset, job.model_id, step).every
        columns = (table.column(name).to_pylist() for name in ("clip_id", "first_row", "num_rows"))
        for clip_id, first, rows in zip(*columns, strict=True):
            for number in numbers[(numbers >= first) & (numbers < first + rows)].tolist():
                yield StoredRow(
                    clip_id=clip_id,
                    shard=path.name.partition(".")[0],
                    step=step,
                    row=number - first,
                    first_frame=(number - first) * every,
                    values=np.array(data[number]),
                )


def _made_anew(
    job: ExtractJob, drawn: list[StoredRow], faults: list[str]
) -> tuple[list[StoredRow], Rows]:
    """The rows whose frames can be read, and their latents as the model gives them now."""
    model = LatentActionModel.from_pretrained(job.model, encoder_only=True)
    extractor = Extractor(
        model, device=job.device, precision=job.precision, compiled=job.is_compiled
    )
    reader = ClipReader(job.dataset)
    found: list[StoredRow] = []
    made: list[Rows] = []
    for start in range(0, len(drawn), PAIRS_AT_ONCE):
        pairs = []
        for row in drawn[start : start + PAIRS_AT_ONCE]:
            try:
                wanted = (row.first_frame, row.first_frame + row.step)
                pairs.append(reader.frames(row.shard, row.clip_id, wanted))
            except (SampleError, DatasetError) as error:
                faults.append(f"{row.name} cannot be checked: {error.message}")
            except IndexError as error:
                faults.append(f"{row.name} belongs to no frames: {error}")
            else:
                found.append(row)
        made.append(extractor.extract_pairs(pairs).astype(np.float32))
    return found, np.concatenate(made) if made else np.zeros((0, 1), np.float32)
