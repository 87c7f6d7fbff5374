"""Which layout a folder has, told by its own marker files, and which of its videos are taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from manifests.errors import ConfigError, UsageError

from .egodex import SUFFIX as POSES_SUFFIX
from .egodex import check_reader, is_egodex, pose_file
from .lerobot import INFO, MODALITY, LeRobotFolder, open_lerobot
from .reference import LAYOUTS, Layout, Listing, SourceRef

UriOf = Callable[[str | Path], str]
NUM_LOOKED_AT = 16
"""HDF5 files of a folder that are searched for the names of EgoDex's groups."""


class SourceFinder:
    """Collects the videos of every layout met while folders are searched.

    Args:
        layout: What to look for: `auto` for every layout, `folder` for none.
        cameras: Cameras to take; empty: the first egocentric one.
        uri_of: How a path is written in the tables.
    """

    def __init__(self, layout: str, cameras: Sequence[str], uri_of: UriOf) -> None:
        if layout not in LAYOUTS:
            raise ConfigError(
                f"There is no layout {layout!r}.", hint=f"There are {', '.join(LAYOUTS)}."
            )
        self._layout, self._cameras, self._uri_of = layout, tuple(cameras), uri_of
        self._listings: dict[tuple[str, str], Listing] = {}

    @property
    def takes_plain_files(self) -> bool:
        """Whether videos outside every layout are inputs too."""
        return self._layout in ("auto", "folder")

    @property
    def listings(self) -> tuple[Listing, ...]:
        """What was taken, by folder."""
        return tuple(self._listings[key] for key in sorted(self._listings))

    @property
    def refs(self) -> dict[str, SourceRef]:
        """The reference of every video taken, by URI."""
        return {uri: ref for found in self._listings.values() for uri, ref in found.refs.items()}

    def enter(self, folder: str, files: Sequence[str]) -> bool:
        """Look at one folder; whether it is taken as a whole and not to be searched further.

        Raises:
            ConfigError: A dataset that cannot be read, or a camera that it does not have.
        """
        if self._layout in ("auto", "lerobot", "gr1") and os.path.isfile(Path(folder, INFO)):
            is_gr1 = os.path.isfile(Path(folder, MODALITY))
            if self._is_lerobot(folder) and (self._layout != "gr1" or is_gr1):
                layout: Layout = "gr1" if is_gr1 and self._layout != "lerobot" else "lerobot"
                self._add(list_lerobot(folder, layout, self._cameras, self._uri_of))
                return True
        if self._layout in ("auto", "egodex"):
            self._enter_egodex(folder, files)
        return False

    def check(self, inputs: Sequence[str]) -> None:
        """Refuse a layout or camera asked for that was nowhere found.

        Raises:
            ConfigError: Names what marks the layout.
        """
        markers = {
            "lerobot": INFO,
            "gr1": f"{INFO} and {MODALITY}",
            "egodex": "an .hdf5 file of poses beside each .mp4",
        }
        if self._layout in markers and not self._listings:
            raise ConfigError(
                f"No {self._layout} folder was found in {', '.join(inputs)}.",
                hint=f"It is known by {markers[self._layout]}.",
            )
        if self._cameras and not any(found.cameras for found in self._listings.values()):
            raise ConfigError(
                f"--camera {self._cameras[0]} was given, but no input has named cameras.",
                hint="Only lerobot and gr1 folders have them.",
            )

    def _is_lerobot(self, folder: str) -> bool:
        if self._layout != "auto":
            return True
        text = Path(folder, INFO).read_text(encoding="utf-8", errors="replace")
        return '"codebase_version"' in text

    def _enter_egodex(self, folder: str, files: Sequence[str]) -> None:
        """Take all videos with poses when one is EgoDex, so that a damaged file is not lost."""
        there = set(files)  # (to ask for what is not there takes long on a network's disk)
        stems = {name: os.path.splitext(name) for name in sorted(files)}
        videos = [name for name, (_, suffix) in stems.items() if suffix.lower() == ".mp4"]
        beside = [Path(folder, name) for name in videos if stems[name][0] + POSES_SUFFIX in there]
        pairs = [(video, poses) for video in beside if (poses := pose_file(video)) is not None]
        looked_at = [poses for _, poses in pairs[:NUM_LOOKED_AT]]
        if not pairs or not (self._layout == "egodex" or any(map(is_egodex, looked_at))):
            return
        check_reader(pairs[0][1])
        refs = {
            self._uri_of(video): SourceRef(layout="egodex", path=self._uri_of(poses))
            for video, poses in pairs
        }
        root = self._uri_of(folder)
        alone = len(videos) - len(pairs)
        self._add(Listing(layout="egodex", root=root, refs=refs, num_alone=alone))

    def _add(self, listing: Listing) -> None:
        self._listings[listing.layout, listing.root] = listing


def list_lerobot(folder: str, layout: Layout, cameras: Sequence[str], uri_of: UriOf) -> Listing:
    """The videos of the chosen cameras of one dataset.

    Raises:
        ConfigError: The dataset cannot be read, or lacks a camera.
    """
    root = uri_of(folder)
    opened = open_lerobot(root)
    chosen = opened.choose_cameras(cameras)
    refs: dict[str, SourceRef] = {}
    num_missing = 0
    for camera in chosen:
        for path in opened.videos(camera):
            if os.path.isfile(path):
                refs[uri_of(path)] = SourceRef(layout=layout, path=root, camera=camera)
            else:
                num_missing += 1
    return Listing(
        layout=layout,
        root=root,
        refs=refs,
        cameras=chosen,
        other_cameras=tuple(key for key in opened.cameras if key not in chosen),
        num_other=max(0, _count_videos(opened) - len(refs)),
        num_missing=num_missing,
    )


def refuse_layouts(folder: str, uris: Sequence[str], layout: str) -> None:
    """Refuse to take a published layout in object storage for plain files without a word.

    Raises:
        UsageError: Names the file that marks it.
    """
    if layout == "folder":
        return
    videos = {os.path.splitext(uri)[0] for uri in uris if uri.lower().endswith(".mp4")}
    for uri in uris:
        stem, suffix = os.path.splitext(uri)
        if uri.endswith(f"/{INFO}") or (suffix == ".hdf5" and stem in videos):
            raise UsageError(
                f"{folder} holds {uri}: layouts other than plain folders are read from a disk.",
                hint="Copy it to a disk, or take its videos alone with --layout folder.",
            )


def check_columns(listings: Sequence[Listing], action_names: Sequence[str] | None) -> None:
    """Refuse, before any work, recorded actions that nobody could name or find.

    Args:
        listings: The folders of this command.
        action_names: The embodiment's columns; None when no embodiment was named.

    Raises:
        ConfigError: Actions without an embodiment, or columns that the dataset does not have.
    """
    for listing in listings:
        if not listing.refs:
            continue
        if listing.layout == "egodex":
            if action_names is None:
                raise ConfigError(
                    f"{listing.root} holds poses, but no embodiment says which are its actions.",
                    hint="--embodiment human_hands takes hands and fingertips, --embodiment human "
                    "pictures and texts alone.",
                )
            continue
        folder = open_lerobot(listing.root)
        if folder.has_actions and action_names is None:
            robot = f" (robot_type {folder.robot_type})" if folder.robot_type else ""
            raise ConfigError(
                f"{listing.root} holds recorded actions{robot}, but no embodiment says what its "
                "columns are.",
                hint="Name the body with --embodiment; --embodiment unknown takes pictures and "
                "texts alone.",
            )
        folder.columns(action_names or ())


def _count_videos(folder: LeRobotFolder) -> int:
    return sum(1 for _ in folder.root.rglob("*.mp4"))
