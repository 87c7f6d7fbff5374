"""Inputs: which files a command means, and one probed row of `videos` for each.

A file is hashed once and demuxed once. Probing runs in worker processes, because a decoder that
crashes on a hostile file must not take the command with it.
"""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.errors import SampleError, UsageError, VideoError
from manifests.locations import is_remote
from manifests.records import video_id_of
from pipeline.flaky import SourceError, check_source, patiently

from .footage import RemoteFile, list_remote, on_disk, path_of, size_of, told, uri_of
from .sidecars import Sidecars, find_sidecars
from .sources.find import SourceFinder, refuse_layouts
from .sources.record import text_of
from .sources.reference import Listing, SourceRef

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".flv", ".wmv", ".3gp", ".ogv", ".gif",
)  # fmt: skip
"""Suffixes, in any case, that make a file in a folder an input."""

UNKNOWN_EMBODIMENT = "unknown"
NOT_READ = "not_read"
_ACCESS_REASONS = ("not_accessible", "missing", "no_permission", "io_error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Files a command was given.

    Attributes:
        uris: Absolute resolved paths (or URIs) as text, sorted, each once.
        num_ignored: Files in the given folders that are no video by their suffix.
        refs: What a video belongs to, by URI; none for a plain file.
        listings: Folders of a published layout among them.
        objects: What the listing said of those in object storage, by URI.
    """

    uris: tuple[str, ...]
    num_ignored: int
    refs: Mapping[str, SourceRef] = field(default_factory=dict)
    listings: tuple[Listing, ...] = ()
    objects: Mapping[str, RemoteFile] = field(default_factory=dict)

    def size_of(self, uri: str) -> int | None:
        """Bytes of an input, without asking again for what was listed; None when it is gone."""
        return self.objects[uri].num_bytes if uri in self.objects else size_of(uri)

    def sidecars_of(self, uri: str) -> tuple[str, ...] | None:
        """Names of the sidecars beside an object that was listed."""
        return self.objects[uri].sidecars if uri in self.objects else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTask:
    """Some inputs to hash and probe in one go."""

    uris: tuple[str, ...]
    source: str
    embodiment: str
    unit_len_s: float = 600.0
    refs: Mapping[str, SourceRef] = field(default_factory=dict)


def find_inputs(
    names: Sequence[str], *, layout: str = "auto", cameras: Sequence[str] = ()
) -> Inputs:
    """Resolve files, folders (searched through) and glob patterns.

    A file that is named itself is an input whatever its suffix; in folders and patterns the
    suffix decides. A folder of a published layout gives what the layout lists. A URI is an object,
    a prefix below which objects are looked for, or a pattern.

    Args:
        names: What the command was given.
        layout: What to recognise in folders (`sources.reference.LAYOUTS`).
        cameras: Cameras to take where a layout has several.

    Raises:
        UsageError: A name that is no file, no folder and matches nothing; a layout or a camera
            that is nowhere found.
    """
    finder = SourceFinder(layout, cameras, uri_of)
    found: set[str] = set()
    ignored: set[str] = set()
    objects: dict[str, RemoteFile] = {}
    links: list[str] = []
    for name in names:
        if is_remote(name):
            listed = list(list_remote(name))
            refuse_layouts(name, [each.uri for each in listed], layout)
            for each in listed:
                is_input = each.uri == name or _is_video(each.uri)
                (found if is_input else ignored).add(each.uri)
            objects.update((each.uri, each) for each in listed)
            continue
        for path in _named(name):
            if os.path.isdir(path):
                for file in _walk(path, finder.enter):
                    is_input = _is_video(file) and finder.takes_plain_files
                    is_link = os.path.islink(file)
                    uri = uri_of(file, is_resolved=not is_link)
                    (found if is_input else ignored).add(uri)
                    links += [file] if is_input and is_link else []
            elif path == name or _is_video(path):
                found.add(uri_of(path))
                links += [path] if os.path.islink(path) else []
            else:
                ignored.add(uri_of(path))
    finder.check(names)
    refs = _beside_links(links) | finder.refs
    found.update(refs)
    return Inputs(
        uris=tuple(sorted(found)),
        num_ignored=len(ignored - found),
        refs=refs,
        listings=finder.listings,
        objects={uri: objects[uri] for uri in found & objects.keys()},
    )


def probe_inputs(task: ProbeTask) -> list[dict[str, Any]]:
    """Hash and probe files: one row of `videos` each, in the order given; no file raises.

    A file whose storage fails again and again gives a row of the state `NOT_READ`, for no table.
    """
    return [
        probe_input(
            uri,
            source=task.source,
            embodiment=task.embodiment,
            unit_len_s=task.unit_len_s,
            reference=task.refs.get(uri),
        )
        for uri in task.uris
    ]


def probe_input(
    uri: str,
    *,
    source: str,
    embodiment: str,
    unit_len_s: float = 600.0,
    reference: SourceRef | None = None,
) -> dict[str, Any]:
    """Hash and probe one file, a long one cut into parts; see `probe_inputs`."""
    try:
        return patiently(lambda: _probed_row(uri, source, embodiment, unit_len_s, reference))
    except SourceError as error:
        row = _empty_row(uri, source, embodiment)
        row.update(state=NOT_READ, detail=error.message)
        return row


def _probed_row(
    uri: str, source: str, embodiment: str, unit_len_s: float, reference: SourceRef | None
) -> dict[str, Any]:
    from pipeline.video import probe

    from .reading import reading_text

    row, path = _empty_row(uri, source, embodiment), Path(uri)
    try:
        with on_disk(uri) as path:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device would never end
                raise VideoError(f"{path} is not a regular file", reason="not_video")
            row["num_bytes"] = status.st_size
            row["video_id"] = video_id_of(path)
            facts = probe(path)
            row.update(facts.columns(), reading=reading_text(facts, unit_len_s))
            row.update(_caption(reference, path))
            row["sidecar"] = None if reference is None else reference.to_text()
            row["state"] = "readable"
    except SampleError as error:
        detail = told(error.message, path, uri)
        row.update(state="unreadable", reason=error.reason, detail=detail)
    except OSError as error:
        check_source(path, error)
        row.update(state="unreadable", reason="not_accessible", detail=told(str(error), path, uri))
    return row


def _caption(reference: SourceRef | None, path: Path) -> dict[str, str | None]:
    """The text of a video; one that cannot be read leaves a note, and the video without text.

    Raises:
        SourceError: The storage is at fault: the input is tried again.
    """
    try:
        return {"text": text_of(reference, path)}
    except SampleError as error:
        return {"text": None, "detail": error.message}
    except OSError as error:
        check_source(path, error)
        cause = error.strerror or str(error)
        return {"text": None, "detail": f"The caption beside {path} cannot be read: {cause}."}


def crashed_row(uri: str, *, source: str, embodiment: str, error: str) -> dict[str, Any]:
    """The row of a file whose probe killed its process."""
    row = _empty_row(uri, source, embodiment)
    row.update(state="unreadable", reason="probe_died", detail=error)
    with suppress(FileNotFoundError), on_disk(uri) as path:
        if path.is_file():
            row.update(num_bytes=path.stat().st_size, video_id=video_id_of(path))
    return row


def was_unread(video: Mapping[str, Any]) -> bool:
    """Whether access to a file failed, which says nothing of it: the next run tries it again."""
    is_open = video["video_id"] is None or video["reason"] in _ACCESS_REASONS
    return video["state"] == "unreadable" and is_open


def _empty_row(uri: str, source: str, embodiment: str) -> dict[str, Any]:
    from manifests.schema import VIDEOS

    known = {"uri": uri, "source": source, "embodiment": embodiment, "num_bytes": 0}
    return {**dict.fromkeys(VIDEOS.names), **known}


def _named(name: str) -> list[str]:
    if os.path.exists(name):
        return [name]
    if glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        if matches:
            return matches
        raise UsageError(
            f"The pattern {name!r} matches no file.", hint="Quote patterns, or check the folder."
        )
    raise UsageError(f"There is no file or folder {name!r}.", hint="Check the path.")


def _walk(folder: str, is_taken: Callable[[str, Sequence[str]], bool]) -> Iterator[str]:
    """Files below a folder, in real folders: links to these are followed, each is visited once.

    A folder that `is_taken` as a whole gives none. A file may be a link; only then is it worth
    resolving, which looks at every folder above it.

    Raises:
        UsageError: The folder cannot be read; one below it is named in a warning.
    """
    visited: set[str] = set()

    def refuse(error: OSError) -> None:
        """What lies in a folder that cannot be read must not be missing without a word."""
        if error.filename == folder:
            raise UsageError(f"The folder {folder!r} cannot be read: {error.strerror}.")
        log.warning("%s cannot be read (%s): no input", error.filename, error.strerror)

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        if is_taken(parent, files):
            folders.clear()
            continue
        yield from (os.path.join(real, file) for file in files)


def _beside_links(paths: Iterable[str]) -> dict[str, SourceRef]:
    """Videos met through links whose sidecars lie beside the link, none beside the file itself.

    A cache of downloads is a tree of links to files without names of their own. Of several links
    to one file the smallest path counts.
    """
    found: dict[str, SourceRef] = {}
    for path in sorted(paths, reverse=True):
        uri, link = uri_of(path), os.path.abspath(path)
        if link.isprintable() and _has_sidecars(Path(link)) and not _has_sidecars(path_of(uri)):
            found[uri] = SourceRef(layout="link", path=link)
    return found


def _has_sidecars(video: Path) -> bool:
    try:
        return find_sidecars(video) != Sidecars(caption=None, spans=None, actions=None)
    except SampleError:  # two lists of spans: the work on the video will say so
        return True


def _is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_SUFFIXES)
