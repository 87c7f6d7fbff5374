"""Full explicit schemas of the catalogue's tables: fixed names in a fixed order, measures last."""

from __future__ import annotations

import pyarrow as pa

from .measures import MEASURES

FORMAT_VERSION = 1

FIRST_FREE_NUMBER = "first_free_number"
"""Metadata of commits to `units`: no unit and no shard below this number may be made any more."""

_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_MEASURE_TYPES = {"double": _F, "int64": _I, "list<int64>": pa.list_(_I)}

PART = pa.struct([("uri", _S), ("video_id", _S), ("start_tick", _I), ("end_tick", _I)])
PROBLEM = pa.struct(
    [
        ("video_id", _S),
        ("stage", _S),
        ("error", _S),
        ("num_frames_expected", _I),
        ("num_frames_decoded", _I),
    ]
)

VIDEOS = pa.schema(
    [
        ("uri", _S),
        ("source", _S),
        ("embodiment", _S),
        ("video_id", _S),
        ("num_bytes", _I),
        ("state", _S),
        ("reason", _S),
        ("detail", _S),
        ("container", _S),
        ("codec", _S),
        ("pix_fmt", _S),
        ("width", _I),
        ("height", _I),
        ("rotation", _I),
        ("fps", _F),
        ("is_variable_rate", _B),
        ("time_base", _S),
        ("start_tick", _I),
        ("num_packets", _I),
        ("num_frames_declared", _I),
        ("duration_s", _F),
        ("sample_aspect", _S),
        ("max_gop_frames", _I),
        ("has_b_frames", _B),
        ("license", _S),
        ("text", _S),
        ("sidecar", _S),
        ("reading", _S),
    ]
)
PLAN = pa.schema([("number", _I), ("unit_id", _S), ("parts", pa.list_(PART))])
UNITS = pa.schema(
    [
        ("number", _I),
        ("unit_id", _S),
        ("state", _S),
        ("parts", pa.list_(PART)),
        ("problems", pa.list_(PROBLEM)),
        ("num_clips", _I),
        ("num_gated", _I),
        ("shard", _S),
        ("shard_bytes", _I),
        ("shard_sha256", _S),
    ]
)
CLIP_FACTS = pa.schema(
    [
        ("clip_id", _S),
        ("video_id", _S),
        ("uri", _S),
        ("source", _S),
        ("embodiment", _S),
        ("start_tick", _I),
        ("end_tick", _I),
        ("time_base", _S),
        ("start_s", _F),
        ("end_s", _F),
        ("num_frames", _I),
        ("fps", _F),
        ("shot_index", _I),
        ("ends_at", _S),
        ("text", _S),
        ("gate", _S),
        ("unit_id", _S),
        ("shard", _S),
        ("scale_ratio", _F),
    ]
)
CLIPS = pa.schema(
    [*CLIP_FACTS, *(pa.field(name, _MEASURE_TYPES[m.type]) for name, m in MEASURES.items())]
)
DECISIONS = pa.schema([("clip_id", _S), ("verdict", _S), ("reason", _S)])

TABLES: dict[str, pa.Schema] = {
    "videos": VIDEOS,
    "plan": PLAN,
    "units": UNITS,
    "clips": CLIPS,
    "decisions": DECISIONS,
}

REQUIRED: dict[str, tuple[str, ...]] = {
    "videos": ("uri", "source", "embodiment", "num_bytes", "state"),
    "plan": ("number", "unit_id", "parts"),
    "units": ("number", "unit_id", "state", "parts", "problems", "num_clips", "num_gated"),
    "clips": tuple(f.name for f in CLIP_FACTS if f.name not in {"text", "gate", "shard"}),
    "decisions": ("clip_id", "verdict"),
}
"""Columns that are never NULL. `videos.video_id` is NULL for a file that cannot be read at all."""
