"""One part of a unit: a video or a span of it, streamed once from decoder to shard.

A few frames at a time are decoded, scaled and measured; they wait two seconds, until it is known
whether a shot ends with them, and are then encoded into the open clip. Nothing is held but those
frames and one clip's bytes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.config import canonical_json
from manifests.errors import SampleError
from manifests.recipe import gate_of
from manifests.records import Clip, Part, UnitProblem, clip_id_of
from manifests.settings import DatasetSettings
from manifests.storage import Location
from pipeline.damage import Damage
from pipeline.facts import VideoFacts
from pipeline.flaky import SourceError, check_source
from pipeline.pictures import PictureFormat, picture_format
from pipeline.shards import ShardWriter
from pipeline.video import (
    ClipEncoder,
    DecodedFrame,
    FrameScaler,
    decode,
    index_mp4,
    part_ticks,
)

from .fingerprint import COLUMN as FINGERPRINT
from .fingerprint import Fingerprint
from .footage import on_disk, told
from .measures import ClipMeasures, FrameMeasures, FrameMeter
from .reading import reading_of
from .shots import Mark, ShotFinder
from .sidecars import Actions, Span, in_spans
from .small import PictureReducer, SmallPicture
from .sources.record import read_record
from .split import IDLE, NO_SPAN, TRANSITION, Edge, PieceSplitter

NUM_AT_ONCE = 32
"""Frames that take a step together: its code and tables are in the cache for all but the first."""

PIXELS_AT_ONCE = 2**25
"""So many decoded pixels wait for each other, 50 MB: 16 pictures of 1080 lines, 4 of 4K."""

_NOT_IN_JSON = ("gate", "unit_id", FINGERPRINT)


class StageError(Exception):
    """A part failed at a stage; the cause is chained."""

    def __init__(self, problem: UnitProblem) -> None:
        super().__init__(problem.error)
        self.problem = problem


class Sink:
    """Takes finished clips; opens the shard with the first one, so that no empty tar appears.

    Args:
        path: The shard; None drops everything (a trial).
        name: The shard's name in the tables.
        token: Names temporary files.
    """

    def __init__(self, path: Location | None, *, name: str, token: str) -> None:
        self.name = name
        self._path, self._token = path, token
        self._writer: ShardWriter | None = None

    def add(self, clip_id: str, members: Mapping[str, bytes]) -> None:
        """Write one clip's members; `mp4` is one of them."""
        if self._path is None:
            return
        if self._writer is None:
            self._writer = ShardWriter(self._path, self._token)
        self._writer.add(clip_id, members, index_mp4(members["mp4"]))

    def finish(self) -> dict[str, Any]:
        """Put the shard under its final name; the shard columns of the unit's row."""
        if self._writer is None:
            return {"shard": None, "shard_bytes": None, "shard_sha256": None}
        info = self._writer.finish()
        self._writer = None
        return {
            "shard": self.name,
            "shard_bytes": info.num_bytes,
            "shard_sha256": info.sha256,
        }

    def close(self) -> None:
        """Remove an unfinished shard."""
        if self._writer is not None:
            self._writer.discard()


class _Waiting(NamedTuple):
    """A measured frame in the delay line, and its picture if that is to be written."""

    tick: int
    time_s: float
    duration: int
    written: Any | None
    format: PictureFormat
    measures: FrameMeasures


@dataclass(slots=True, kw_only=True)
class _OpenClip:
    """The clip being collected."""

    edge: Edge
    start_tick: int
    format: PictureFormat
    num_format_changes: int
    encoder: ClipEncoder | None
    measures: ClipMeasures = field(default_factory=ClipMeasures)
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    ticks: list[int] = field(default_factory=list)
    cut_score: float = 0.0
    transition_score: float = 0.0


class PartWorker:
    """Turns one part into clip rows and shard members.

    Args:
        part: What to decode.
        video: Its row of `videos`.
        settings: Of the dataset.
        action_names: Columns to take from an actions file beside the video; empty: none.
        unit_id: For the rows.
        sink: Takes the written clips.
        is_trial: Only measure: the same rows, no encoding, nothing for the sink.
        encodes: False makes the same rows without writing the clips that pass the gates.
        device: What decodes (`pipeline.hardware`); None: software.
    """

    def __init__(
        self,
        *,
        part: Part,
        video: Mapping[str, Any],
        settings: DatasetSettings,
        action_names: tuple[str, ...],
        unit_id: str,
        sink: Sink,
        is_trial: bool = False,
        encodes: bool = True,
        device: str | None = None,
    ) -> None:
        self._part, self._video, self._settings = part, video, settings
        self._is_trial, self._encodes, self._device = is_trial, encodes and not is_trial, device
        self._action_names, self._unit_id, self._sink = action_names, unit_id, sink
        self._stage = "open"
        self._clip: _OpenClip | None = None
        self._reducer, self._meter = PictureReducer(), FrameMeter()
        self._rows: list[dict[str, Any]] = []
        self._end_tick = 0
        self._format: PictureFormat | None = None
        self._num_format_changes = 0
        self.notes: list[UnitProblem] = []

    def run(self) -> list[dict[str, Any]]:
        """Work on the part and return its rows of `clips`, in order of time.

        Raises:
            StageError: The video failed; names the stage.
            StorageError, MemoryError: The shard could not be written or the video not be read
                for reasons of the machine, or memory ran out.
        """
        self._path = Path(self._part.uri)
        try:
            with on_disk(self._part.uri) as self._path:
                return self._run(self._path)
        except Exception as error:
            if self._stage == "shard" or isinstance(error, MemoryError | SourceError):
                raise  # the machine's fault, not the video's
            check_source(self._path, error)
            raise StageError(self._problem(error)) from error

    def _run(self, path: Path) -> list[dict[str, Any]]:
        self._check_size(path)
        facts, self._reading = reading_of(self._video, self._part, path)
        self._facts = facts
        self._time_base = Fraction(facts.time_base)
        self._stage = "sidecar"
        self._spans, self._actions = self._read_sidecars(path)
        self._splitter = PieceSplitter(
            time_base=self._time_base,
            first_tick=facts.start_tick,
            clip_len_s=self._settings.clip_len_s,
            spans=self._spans,
        )
        encode = self._settings.encode
        self._scaler = scaler = FrameScaler(facts, encode.width, encode.height)
        num_pixels = facts.stored_width * facts.stored_height
        self._num_decoded = max(1, min(NUM_AT_ONCE, PIXELS_AT_ONCE // num_pixels))
        self._stage = "decode"
        stream = decode(path, facts, reading=self._reading, device=self._device)
        self._damage = stream.damage
        frames = thin(stream, facts, encode.max_fps)
        finder = ShotFinder(idle_min_s=self._settings.idle_min_s)
        line = deque[_Waiting]()
        while measured := self._measure(itertools.islice(frames, NUM_AT_ONCE), scaler):
            line += [waiting for waiting, _ in measured]
            final = [finder.add(picture, waiting.time_s) for waiting, picture in measured]
            for mark in itertools.chain.from_iterable(final):
                self._take(line.popleft(), mark)
            self._stage = "decode"
        for mark in finder.finish():
            self._take(line.popleft(), mark)
        if self._clip is not None:
            ends_at = "end" if self._part.end_tick is None else "unit"
            self._close(self._end_tick, ends_at, damage=stream.damage.take(None))
        self._note(stream.report)
        if self._video.get("detail"):  # a readable video has one when its caption is not
            self._add_note("caption", self._video["detail"])
        return self._rows

    def _measure(
        self, frames: Iterable[DecodedFrame], scaler: FrameScaler
    ) -> list[tuple[_Waiting, SmallPicture]]:
        """Scale and reduce frames, some that are decoded at a time, then measure them together."""
        taken = []
        frames = iter(frames)
        while some := list(itertools.islice(frames, self._num_decoded)):
            self._stage = "scale"
            for decoded in some:
                time_s = self._seconds(decoded.tick)
                written = None if self._is_trial else scaler.scale(decoded)
                self._reducer.add(scaler.small(decoded, written), time_s)
                taken.append(
                    (decoded.tick, time_s, decoded.duration, written, picture_format(decoded.frame))
                )
            some.clear()  # their memory is for those that are decoded next
            self._stage = "decode"
        self._stage = "measure"
        small = self._reducer.take()
        measures = self._meter.measure(small)
        return [
            (_Waiting(*facts, found), picture)
            for facts, found, picture in zip(taken, measures, small, strict=True)
        ]

    def _check_size(self, path: Path) -> None:
        num_bytes = path.stat().st_size
        if num_bytes != self._video["num_bytes"]:
            raise SampleError(
                f"{path} has {num_bytes} bytes now, {self._video['num_bytes']} when it was probed.",
                reason="changed",
            )

    def _read_sidecars(self, path: Path) -> tuple[tuple[Span, ...] | None, Actions | None]:
        found = read_record(self._video, path, self._action_names)
        if found.actions is not None:
            ticks = part_ticks(path, self._facts, self._reading)
            if found.spans is not None:
                ticks = ticks[in_spans(found.spans, self._times_s(ticks))]
            self._rows_of(found.actions, ticks)  # what does not fit fails before the work
        return found.spans, found.actions

    def _rows_of(self, actions: Actions, ticks: Any) -> NDArray[np.float32]:
        interval_s = float(self._facts.nominal_duration * self._time_base)
        return actions.at(self._times_s(ticks), frame_interval_s=interval_s)

    def _times_s(self, ticks: Any) -> NDArray[np.float64]:
        times_s = (np.asarray(ticks, np.float64) - self._facts.start_tick) * float(self._time_base)
        return np.asarray(times_s, np.float64)

    def _take(self, frame: _Waiting, mark: Mark) -> None:
        """Measure and encode a frame, after closing the clip that ends before it."""
        self._stage = "measure"
        is_cut = mark.is_cut
        if self._format is not None and frame.format != self._format:
            is_cut = True
            self._num_format_changes += 1
        self._format = frame.format
        aside = TRANSITION if mark.in_transition else IDLE if mark.is_idle else None
        edge = self._splitter.add(frame.tick, is_cut=is_cut, aside=aside)
        if edge is not None:
            if self._clip is not None:
                assert edge.ended_at is not None
                damage = self._damage.take(frame.tick)
                self._close(frame.tick, edge.ended_at, damage=damage)
            self._clip = self._open(frame, edge)
        assert self._clip is not None
        clip = self._clip
        if clip.ticks:
            clip.cut_score = max(clip.cut_score, mark.cut_score)
            clip.transition_score = max(clip.transition_score, mark.transition_score)
        clip.measures.add(frame.measures, frame.time_s)
        clip.fingerprint.add(frame.measures, frame.time_s)
        clip.ticks.append(frame.tick)
        self._stage = "encode"
        if clip.encoder is not None and frame.written is not None:
            clip.encoder.add(frame.written, frame.tick - clip.start_tick, frame.duration)
        self._end_tick = frame.tick + frame.duration

    def _open(self, frame: _Waiting, edge: Edge) -> _OpenClip:
        encoder = None
        if self._gate_of_edge(edge) is None and self._encodes:
            encoder = ClipEncoder(self._settings.encode, self._facts.fps, self._facts.time_base)
        return _OpenClip(
            edge=edge,
            start_tick=frame.tick,
            format=frame.format,
            num_format_changes=self._num_format_changes,
            encoder=encoder,
        )

    def _gate_of_edge(self, edge: Edge) -> str | None:
        """The gate of a piece that is no clip from its first frame on."""
        if self._spans is not None and edge.span_index is None:
            return NO_SPAN
        return edge.aside

    def _close(self, end_tick: int, ends_at: str, *, damage: Damage) -> None:
        """Decide about the open clip and write it, or drop its bytes."""
        clip = self._clip
        assert clip is not None
        self._clip = None
        self._stage = "measure"
        row = self._row(clip, end_tick, ends_at, damage)
        row["gate"] = self._gate_of_edge(clip.edge) or self._gate(row)
        if row["gate"] is None and clip.encoder is not None:
            self._stage = "encode"
            members = {"mp4": clip.encoder.finish()}
            row["shard"] = self._sink.name
            members["json"] = self._json(row)
            if self._actions is not None:
                self._stage = "sidecar"
                members["actions.npy"] = npy_bytes(self._rows_of(self._actions, clip.ticks))
            self._stage = "shard"
            self._sink.add(row["clip_id"], members)
        elif clip.encoder is not None:
            clip.encoder.discard()
        self._rows.append(row)

    def _gate(self, row: Mapping[str, Any]) -> str | None:
        settings = self._settings
        return gate_of(
            settings.gates,
            row,
            min_frames=settings.min_frames,
            min_duration_s=settings.min_duration_s,
        )

    def _row(self, clip: _OpenClip, end_tick: int, ends_at: str, damage: Damage) -> dict[str, Any]:
        start_s, end_s = self._seconds(clip.start_tick), self._seconds(end_tick)
        span = None
        if self._spans and clip.edge.span_index is not None:
            span = self._spans[clip.edge.span_index]
        video, facts, size = self._video, self._facts, clip.format[:2]
        width, height = facts.displayed_size(*size)
        measures = clip.measures.row(end_s=end_s)
        return Clip(
            clip_id=clip_id_of(video["video_id"], clip.start_tick, end_tick, facts.time_base),
            video_id=video["video_id"],
            uri=video["uri"],
            source=video["source"],
            embodiment=video["embodiment"],
            start_tick=clip.start_tick,
            end_tick=end_tick,
            time_base=facts.time_base,
            start_s=start_s,
            end_s=end_s,
            num_frames=len(clip.ticks),
            fps=len(clip.ticks) / (end_s - start_s),
            shot_index=clip.edge.shot_index,
            ends_at=ends_at,
            text=(span and span.text) or video["text"],
            unit_id=self._unit_id,
            scale_ratio=self._scaler.scale_ratio(*size),
            measures={
                "source_width_px": width,
                "source_height_px": height,
                "is_hdr": int(clip.format.is_hdr),
                "num_format_changes": clip.num_format_changes,
                **damage_measures(damage, facts.nominal_duration),
                **measures,
                "shot_cut_score": clip.cut_score,
                "transition_score": clip.transition_score,
                FINGERPRINT: clip.fingerprint.words(),
            },
        ).row()

    def _json(self, row: Mapping[str, Any]) -> bytes:
        facts = {name: value for name, value in row.items() if name not in _NOT_IN_JSON}
        settings = self._settings.encode
        facts |= {"width": settings.width, "height": settings.height}
        if self._actions is not None:
            facts["action_names"] = list(self._action_names)
        return (canonical_json(facts) + "\n").encode("ascii")

    def _seconds(self, tick: int) -> float:
        base = self._time_base
        return (tick - self._facts.start_tick) * base.numerator / base.denominator

    def _note(self, report: Any) -> None:
        """Record what decoding found wrong with the file; a fact, no failure."""
        num_missing = report.num_frames_expected - report.num_frames_decoded
        if not report.problems and num_missing <= 0:
            return
        words = "; ".join(report.problems)
        if num_missing > 0:
            of = f"{num_missing} of {report.num_frames_expected} declared frames were not there"
            words = f"{of}; {words}" if words else of
        only_times = report.problems and not any("decode" in text for text in report.problems)
        self._add_note(
            "timestamps" if only_times and num_missing <= 0 else "damaged",
            words,
            num_frames_expected=report.num_frames_expected,
            num_frames_decoded=report.num_frames_decoded,
        )

    def _add_note(self, stage: str, error: str, **counts: int) -> None:
        video_id = self._video["video_id"]
        self.notes.append(UnitProblem(video_id=video_id, stage=stage, error=error, **counts))

    def _problem(self, error: Exception) -> UnitProblem:
        text = (
            error.message if isinstance(error, SampleError) else f"{type(error).__name__}: {error}"
        )
        stage = error.reason if isinstance(error, SampleError) else self._stage
        text = " ".join(told(text, self._path, self._part.uri).split())
        return UnitProblem(video_id=self._video["video_id"], stage=stage, error=text)


def damage_measures(damage: Damage, nominal_duration: int) -> dict[str, int | float | None]:
    """Columns about what was lost in a clip's span."""
    longest = damage.longest_ticks
    return {
        "missing_frames_ratio": damage.missing_ratio,
        "corrupt_frames_ratio": damage.num_corrupt / max(1, damage.num_decoded),
        "num_undecodable_packets": damage.num_undecodable,
        "longest_gap_frames": None if longest is None else longest / nominal_duration,
    }


def thin(
    frames: Iterator[DecodedFrame], facts: VideoFacts, max_fps: float | None
) -> Iterator[DecodedFrame]:
    """Leave out frames beyond a rate; those kept are shown until the next kept one.

    Which frames stay depends on their file times alone, not on where a part begins, except that a
    part's first frame always stays.
    """
    if max_fps is None:
        yield from frames
        return
    rate = Fraction(str(max_fps)) * Fraction(facts.time_base)
    pending: DecodedFrame | None = None
    end_tick, slot = 0, -1
    for frame in frames:
        at = int((frame.tick - facts.start_tick) * rate + Fraction(1, 4))
        end_tick = frame.tick + frame.duration
        if pending is not None and at == slot:
            continue
        if pending is not None:
            yield _lasting(pending, frame.tick)
        pending, slot = frame, at
    if pending is not None:
        yield _lasting(pending, end_tick)


def npy_bytes(rows: NDArray[np.float32]) -> bytes:
    """A float32 (frames, columns) array as the bytes of an `.npy` file."""
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(rows), version=(1, 0))
    return buffer.getvalue()


def _lasting(frame: DecodedFrame, end_tick: int) -> DecodedFrame:
    return replace(frame, duration=end_tick - frame.tick)
