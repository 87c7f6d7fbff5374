"""The home of PyAV and decord: probing, exact decoding, encoding, random access.

Decoders and encoders use one thread: work is spread over processes, and the same input gives the
same frames and the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec.context import CodecContext, Flags
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from manifests.errors import SampleError, VideoError
from manifests.settings import EncodeSettings

from .clip_profile import ENCODER_DEFAULTS, ClipClock, x264_options
from .damage import DamageLog
from .facts import PartReading, VideoFacts, VideoProbe, describe, has_index
from .flaky import check_source
from .frames import DecodedFrame, DecodeReport, FrameStream, check_for_decord
from .hardware import opened_on
from .mp4 import index_mp4, open_error
from .packets import PacketLog, PacketTable
from .pictures import FrameScaler

__all__ = [
    "ClipEncoder", "DecodeReport", "DecodedFrame", "FrameScaler", "FrameStream",
    "VideoProbe", "decode", "decode_packets", "index_mp4", "key_frames", "part_ticks", "probe",
    "write_video",
]  # fmt: skip

_TEXT_CONTAINERS = frozenset({"tty", "bin", "xbin", "idf", "adf"})
_BITEXACT = {"fflags": "+bitexact"}
_FALLBACK_TIME_BASE = Fraction(1, 90_000)


def probe(path: Path | str) -> VideoProbe:
    """Read a video's packet table and header, and decode its first frame.

    Raises:
        VideoError: With reason `empty`, `missing`, `no_permission`, `not_video`, `no_index`,
            `damaged_header`, `no_video_stream`, `no_packets`, `undecodable` or `io_error`.
    """
    with _open(path) as container:
        if container.format.name in _TEXT_CONTAINERS:
            raise VideoError(f"{path} is text, not a video", reason="not_video")
        stream = _video_stream(container, path)
        codec = str(stream.codec_context.codec.canonical_name)
        packets, first, demux_error, decode_error = _read_packets(container, stream)
        if not len(packets):
            raise VideoError(f"{path} has a video stream without packets", reason="no_packets")
        if first is None:
            words = f"no frame of {path} can be decoded as {codec}: {decode_error or 'none came'}"
            raise VideoError(words, reason="undecodable")
        rate = stream.average_rate or stream.guessed_rate or 25
        return describe(
            packets,
            container=container.format.name,
            codec=codec,
            pix_fmt=first.format.name,
            stored_size=(first.width, first.height),
            sample_aspect=Fraction(stream.sample_aspect_ratio or 1),
            rotation=first.rotation,
            time_base=Fraction(stream.time_base or _FALLBACK_TIME_BASE),
            first_pts=first.pts,
            rate_from_header=Fraction(rate),
            num_frames_from_header=min(stream.frames, len(stream.index_entries) or stream.frames),
            demux_error=demux_error,
        )


def decode(
    path: Path | str,
    facts: VideoFacts | None = None,
    *,
    start_tick: int | None = None,
    end_tick: int | None = None,
    reading: PartReading | None = None,
    backend: str = "pyav",
    device: str | None = None,
) -> FrameStream:
    """Decode the frames whose tick lies in a half-open span, in display order, exactly.

    Edit lists are applied. The parts of a video, however cut, give the frames of the whole.

    Args:
        path: The video file.
        facts: What `probe` said about it; probed anew when neither a probe nor `reading` is given.
        start_tick, end_tick: The span in the stream's time base; None leaves a side open.
        reading: How the span is entered, which then stands in it; a part of a long file is read
            without a look at the rest.
        backend: `pyav`, or `decord`, which gives RGB frames and is refused for edit lists and AV1.
        device: What `pipeline.hardware.decoding_device` says: `cuda`, or None for software.

    Raises:
        VideoError: When nothing can be decoded although frames are expected (`undecodable`), when
            the file cannot be opened, or when decord would give wrong frames (`decord_refused`).
    """
    if facts is None or reading is None:
        probed = facts if isinstance(facts, VideoProbe) else probe(path)
        facts, reading = probed, probed.reading(start_tick, end_tick)
    troubles: Counter[str] = Counter()
    damage = DamageLog(start_tick=reading.start_tick, end_tick=reading.end_tick)
    if backend == "pyav":
        source = _pyav_frames(path, facts, reading, troubles, damage, device)
    elif backend == "decord":
        whole = facts if isinstance(facts, VideoProbe) else probe(path)
        source = _decord_frames(path, whole, reading.start_tick)
    else:
        raise ValueError(f"unknown decoding backend {backend!r}: use pyav or decord")
    return FrameStream(
        source, troubles, name=str(path), facts=facts, reading=reading, damage=damage
    )


def key_frames(
    path: Path | str, facts: VideoFacts, reading: PartReading, *, apart_s: float
) -> Generator[DecodedFrame, None, None]:
    """Decode a few key frames of a part and nothing else; their times are as the packets say.

    Packets that cannot be decoded are passed over, so this is a look, not a check.

    Args:
        path, facts, reading: As in `decode`.
        apart_s: Key frames closer than this to the last one decoded are left out.
    """
    step, due = int(apart_s / Fraction(facts.time_base)), reading.start_tick
    with contextlib.ExitStack() as stack:
        for packet in _packets_from(path, facts, reading, stack):
            tick = packet.dts if packet.pts is None else packet.pts
            if tick is None or not packet.is_keyframe or packet.is_discard:
                continue
            if reading.end_tick is not None and tick >= reading.end_tick:
                return
            if due is not None and tick < due:
                continue
            due = tick + step
            context = cast(VideoCodecContext, packet.stream.codec_context)
            with contextlib.suppress(FFmpegError):
                for frame in [*context.decode(packet), *context.decode(None)][:1]:
                    yield DecodedFrame(tick=tick, duration=0, frame=frame, rotation=facts.rotation)
            context.flush_buffers()


def part_ticks(path: Path | str, facts: VideoFacts, reading: PartReading) -> NDArray[np.int64]:
    """Display times of the shown packets of a part, in order; reads no further than its end."""
    start, end, ticks = reading.start_tick, reading.end_tick, []
    if isinstance(facts, VideoProbe):
        whole = facts.packets.shown_ticks
        first = 0 if start is None else int(np.searchsorted(whole, start))
        last = len(whole) if end is None else int(np.searchsorted(whole, end))
        return whole[first:last]
    with contextlib.ExitStack() as stack:
        for packet in _packets_from(path, facts, reading, stack):
            if end is not None and packet.dts is not None and packet.dts >= end:
                break
            tick = packet.dts if packet.pts is None else packet.pts
            if tick is None or not packet.size or packet.is_discard:
                continue
            if (start is None or tick >= start) and (end is None or tick < end):
                ticks.append(tick)
    return np.sort(np.array(ticks, np.int64))


class ClipEncoder:
    """Encodes one clip into an mp4 in memory, frame by frame, always to the same bytes.

    Colour tags are taken from the first frame; the range is always limited.

    Args:
        settings: Size, quality, preset and keyframe distance.
        fps: Nominal rate, a hint for the encoder; frames keep their own times.
        time_base: Seconds per tick of the offsets and durations, as "num/den".

    >>> encoder = ClipEncoder(settings, fps=30, time_base="1/15360")     # doctest: +SKIP
    >>> encoder.add(scaler.scale(frame), 0, 512)                         # doctest: +SKIP
    >>> mp4 = encoder.finish()                                           # doctest: +SKIP
    """

    def __init__(self, settings: EncodeSettings, fps: float | Fraction, time_base: str) -> None:
        self._settings = settings
        self._rate = Fraction(fps).limit_denominator(100_000) or Fraction(25)
        self._clock = ClipClock(time_base)
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4", options=_BITEXACT)
        self._stream: VideoStream | None = None
        self.num_frames = 0

    def add(self, frame: VideoFrame, tick_offset: int, duration: int) -> None:
        """Encode one picture.

        Args:
            frame: yuv420p of the settings' size.
            tick_offset: Its time since the clip's first frame.
            duration: How long it is shown.
        """
        if self._stream is None:
            self._stream = self._add_stream(frame)
        frame.pts, frame.time_base = self._clock.place(tick_offset, duration), self._clock.base
        frame.pict_type = PictureType.NONE
        self._mux(self._stream.encode(frame))
        self.num_frames += 1

    def finish(self) -> bytes:
        """Return the finished mp4."""
        assert self._stream is not None, "a clip needs at least one frame"
        self._mux(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue()

    def discard(self) -> None:
        """Drop what was encoded; the encoder is of no more use."""
        self._file = io.BytesIO()
        self._stream = None

    def _mux(self, packets: Iterable[Packet[Any]]) -> None:
        for packet in packets:
            packet.duration = self._clock.pop_duration(packet.pts)
            self._container.mux_one(packet)

    def _add_stream(self, frame: VideoFrame) -> VideoStream:
        settings = self._settings
        options = x264_options(settings)
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        context = stream.codec_context
        context.time_base, context.sample_aspect_ratio = self._clock.base, Fraction(1)
        context.thread_type, context.thread_count = "NONE", 1
        context.flags |= Flags.bitexact | Flags.closed_gop
        context.colorspace, context.color_range = frame.colorspace, ColorRange.MPEG
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        return stream


def decode_packets(
    codec_config: bytes, packets: Sequence[bytes], want: Sequence[int]
) -> NDArray[np.uint8]:
    """Decode H.264 packets without a container and return some of their frames.

    Args:
        codec_config: The avcC record.
        packets: Whole closed groups in order, without reordered frames.
        want: Which packets' frames to return, ascending; decoding stops after the last.

    Returns:
        uint8 RGB (len(want), H, W, 3).

    Raises:
        SampleError: With reason `undecodable`, when a wanted frame does not come out.
    """
    context = CodecContext.create("h264", "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = codec_config
    context.thread_type, context.thread_count = "NONE", 1
    place_of = {packet: place for place, packet in enumerate(want)}
    pictures: NDArray[np.uint8] | None = None
    reformatter = VideoReformatter()
    try:
        for number in range(want[-1] + 2):
            packet = Packet(packets[number]) if number <= want[-1] else None
            if packet is not None:
                packet.pts = packet.dts = number
            for frame in context.decode(packet):
                if frame.pts in place_of and not frame.is_corrupt:
                    if pictures is None:
                        pictures = np.empty((len(want), frame.height, frame.width, 3), np.uint8)
                    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                    pictures[place_of.pop(frame.pts)] = rgb.to_ndarray()
    except FFmpegError as error:
        raise SampleError(f"a packet cannot be decoded: {error}", reason="undecodable") from error
    if pictures is None or place_of:
        raise SampleError(f"no picture came out of packets {[*place_of]}", reason="undecodable")
    return pictures


def write_video(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    fps: float | Fraction,
    *,
    crf: int = 18,
    codec: str = "libx264",
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sample_aspect: Fraction = Fraction(1),
) -> int:
    """Write RGB pictures as an ordinary video file and return how many were written.

    The container follows the suffix of `path`. The same pictures give the same bytes.

    Args:
        path: The file to write; its folder must exist.
        frames: uint8 (H, W, 3) pictures, or one (T, H, W, 3) array; read one at a time.
        gop: Frames between keyframes.
        options: More encoder options, for instance `{"bf": "2"}`.
        ticks: Time of each frame in `time_base` units; default one frame interval apart.
        time_base: Seconds per tick; default `1 / fps`.
        sample_aspect: Width of a stored pixel over its height.
    """
    rate = Fraction(fps).limit_denominator(100_000)
    base = time_base or 1 / rate
    num_frames = 0
    with av.open(str(path), "w", options=_BITEXACT) as container:
        stream = None
        for number, picture in enumerate(frames):
            if stream is None:
                height, width = picture.shape[:2]
                wanted = {"crf": str(crf), "threads": "1", **ENCODER_DEFAULTS.get(codec, {})}
                wanted.update(_with_params(options or {}, wanted))
                stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=wanted))
                stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
                context = stream.codec_context
                context.time_base, context.gop_size = base, gop
                context.flags |= Flags.bitexact
                context.sample_aspect_ratio = sample_aspect
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = base
            container.mux(stream.encode(frame))
            num_frames += 1
        if stream is not None:
            container.mux(stream.encode(None))
    return num_frames


def _with_params(options: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Options whose `x264-params` or `x265-params` add to the default ones."""
    return {
        name: f"{defaults[name]}:{value}"
        if name.endswith("-params") and name in defaults
        else value
        for name, value in options.items()
    }


def _open(path: Path | str, device: str | None = None) -> InputContainer:
    name, handle = f"file:{os.fspath(path)}", None
    try:
        name.encode()
    except UnicodeEncodeError:  # not UTF-8, which FFmpeg's names must be
        handle = os.open(path, os.O_RDONLY)
        name = f"/proc/self/fd/{handle}"
    try:
        return av.open(name, metadata_errors="replace", hwaccel=opened_on(device))
    except FFmpegError as error:
        raise open_error(path, error) from error
    finally:
        if handle is not None:
            os.close(handle)


def _video_stream(container: InputContainer, path: Path | str) -> VideoStream:
    """Return the first video stream that is no cover picture, set to one thread."""
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue
        if cast(object, stream.codec_context) is None:
            raise VideoError(f"{path} has a codec nothing here decodes", reason="undecodable")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        return stream
    raise VideoError(f"{path} has no video stream", reason="no_video_stream")


def _read_packets(
    container: InputContainer, stream: VideoStream
) -> tuple[PacketTable, VideoFrame | None, str, str]:
    """Read every packet, decoding until the first frame appears; also what went wrong."""
    log, first, demux_error, decode_error = PacketLog(), None, "", ""
    try:
        for packet in container.demux(stream):
            if first is None:
                try:
                    first = next(iter(packet.decode()), None)
                except FFmpegError as error:
                    decode_error = error.strerror or str(error)
            if packet.size:
                log.add(
                    pts=packet.pts, dts=packet.dts, duration=packet.duration, size=packet.size,
                    pos=packet.pos, is_key=packet.is_keyframe, is_discarded=packet.is_discard,
                )  # fmt: skip
    except FFmpegError as error:
        check_source(container.name, error)
        demux_error = error.strerror or str(error)
    return log.table(), first, demux_error, decode_error


def _pyav_frames(
    path: Path | str,
    facts: VideoFacts,
    reading: PartReading,
    troubles: Counter[str],
    damage: DamageLog,
    device: str | None,
) -> Generator[VideoFrame, None, None]:
    with contextlib.ExitStack() as stack:
        for packet in _packets_from(path, facts, reading, stack, device):
            frames, error = _decoded(packet)
            if packet.size and not packet.is_discard:
                tick = packet.dts if packet.pts is None else packet.pts
                damage.packet(tick, is_decodable=not error)
            if error:
                troubles["{n} packet{s} could not be decoded: " + error] += 1
            for frame in frames:
                if frame.is_corrupt:
                    troubles["{n} frame{s} decoded with visible damage"] += 1
                yield frame
        if facts.demux_error:
            troubles[f"reading stopped before the end of the file: {facts.demux_error}"] += 1


def _decoded(packet: Packet[Any]) -> tuple[list[Any], str]:
    """Frames that come out after a packet, and why it could not be decoded."""
    try:
        return list(packet.decode()), ""
    except FFmpegError as error:
        return [], error.strerror or "?"


def _packets_from(
    path: Path | str,
    facts: VideoFacts,
    reading: PartReading,
    stack: contextlib.ExitStack,
    device: str | None = None,
) -> Iterator[Packet[Any]]:
    """Yield packets from the keyframe at which a part is entered (checked), or from the start."""
    container = stack.enter_context(_open(path, device))
    stream = _video_stream(container, path)
    for tick in reading.seek_ticks if has_index(facts.container) else ():
        with contextlib.suppress(FFmpegError):
            container.seek(tick, stream=stream, backward=True)
            packets = container.demux(stream)
            first = next(packets, None)
            if first is not None and (first.pts, first.size) == (reading.key_pts, reading.key_size):
                yield from _until_unreadable(itertools.chain([first], packets), stream)
                return
    if reading.seek_ticks:
        container = stack.enter_context(_open(path, device))
        stream = _video_stream(container, path)
    yield from _until_unreadable(container.demux(stream), stream)


def _until_unreadable(packets: Iterable[Packet[Any]], stream: VideoStream) -> Iterator[Packet[Any]]:
    """Yield packets until the file ends or breaks off, then the one that flushes the decoder."""
    try:
        yield from packets
    except FFmpegError as error:
        check_source(stream.container.name, error)
        flush: Packet[Any] = Packet()
        flush.stream = stream
        yield flush


def _decord_frames(
    path: Path | str, facts: VideoProbe, start_tick: int | None
) -> Generator[VideoFrame, None, None]:
    import decord

    check_for_decord(path, facts)
    reader, ticks = decord.VideoReader(str(path), num_threads=1), facts.packets.shown_ticks
    check_for_decord(path, facts, num_frames=len(reader))
    first = 0 if start_tick is None else int(np.searchsorted(ticks, start_tick))
    for number in range(first, len(ticks)):
        frame = VideoFrame.from_ndarray(reader[number].asnumpy(), format="rgb24")
        frame.pts = int(ticks[number])
        yield frame
