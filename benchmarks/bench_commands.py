"""What the commands over tables cost at 1e5 and 1e6 clips: CPU-seconds and peak memory of each.

A synthetic catalogue (rows of `bench_decide`, with videos, plan and units that fit, a decision and
a table of duplicates) is written once per size; each command runs on it in a process of its own.
Shards are written for `validate`, some twenty kilobytes each: what it costs beyond reading every
byte is measured, not the reading.

Prediction: everything is linear in clips, or in the rows that a command takes away; nothing but
`join`, which holds its file, needs more than 1 GB at 1e6 clips.

Found before anything was mended: `validate` and `delete` read the whole catalogue once per shard
(0.21 CPU-s each at 1e6 clips), `preview` held every clip with all its columns (3.1 GB), `delete`
copied the whole table of clips. Since then all of them stay within 0.9 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bench_decide import (
    CLIPS_PER_VIDEO,
    RECIPE,
    TIME_BASE,
    clips_table,
    duplicates_table,
    hexadecimal,
)
from bench_memory import own_peak_mb
from common import RESULTS, arguments, report

from manifests import schema, tables
from manifests.dataset import Dataset, DatasetSettings
from manifests.recipe import load_recipe
from manifests.records import shard_name
from manifests.shard_index import ClipIndex, Member, ShardIndex

SIZES = (100_000, 1_000_000)
VIDEOS_PER_UNIT = 4
CLIPS_PER_UNIT = VIDEOS_PER_UNIT * CLIPS_PER_VIDEO
ROWS_PER_FILE = 1250 * CLIPS_PER_UNIT
NUM_LISTED = 100_000
PACKETS = bytes(range(256)) * 2

Work = Callable[[Path], object]


# --- a catalogue of rows ----------------------------------------------------------------------


def write_catalogue(path: Path, num_clips: int) -> None:
    """A finished and decided dataset of so many clips; its shards are written apart."""
    from manifests.decide import decide

    recipe = load_recipe(RECIPE)
    dataset = Dataset.create(path, DatasetSettings(name="synthetic", gates=recipe.gates))
    catalog = path / "catalog"
    opened = {name: tables.open_table(catalog / name) for name in schema.TABLES}
    for first in range(0, num_clips, ROWS_PER_FILE):
        clips = _in_units(clips_table(first, min(ROWS_PER_FILE, num_clips - first)), first)
        rows = duplicates_table(clips.column("clip_id"), first)
        if first == 0:
            tables.create(catalog / "scores" / "duplicates", rows.schema)
            opened["duplicates"] = tables.open_table(catalog / "scores" / "duplicates")
        tables.append(opened["duplicates"], rows)
        tables.append(opened["clips"], clips)
        videos, parts = _videos(clips)
        tables.append(opened["videos"], videos)
        units = _units(clips, parts, first // CLIPS_PER_UNIT)
        tables.append(opened["plan"], units.select(schema.PLAN.names))
        tables.append(opened["units"], units)
    dataset.refresh()
    decide(dataset, recipe)


def _in_units(clips: pa.Table, first: int) -> pa.Table:
    """Clips whose unit holds whole videos."""
    numbers = np.arange(first, first + clips.num_rows) // CLIPS_PER_UNIT
    names, which = np.unique(numbers, return_inverse=True)
    unit_ids = np.array(hexadecimal([f"unit {n}" for n in names], 24))[which]
    shards = np.array([shard_name(int(n)) for n in names])[which]
    is_gated = clips.column("gate").is_valid().to_numpy()
    for name, column in (
        ("unit_id", pa.array(unit_ids)),
        ("shard", pa.array(shards, mask=is_gated)),
    ):
        place = clips.schema.get_field_index(name)
        clips = clips.set_column(place, clips.schema.field(place), column)
    return clips


def _videos(clips: pa.Table) -> tuple[pa.Table, pa.Array]:
    """Rows of `videos`, and the part of each."""
    firsts = clips.take(pa.array(np.arange(0, clips.num_rows, CLIPS_PER_VIDEO)))
    count = firsts.num_rows
    columns = {
        name: pa.nulls(count, schema.VIDEOS.field(name).type) for name in schema.VIDEOS.names
    }
    columns |= {name: firsts.column(name) for name in ("uri", "source", "embodiment", "video_id")}
    columns |= {
        "num_bytes": pa.array([1] * count),
        "state": pa.array(["readable"] * count),
        "duration_s": pa.array([20.0 * CLIPS_PER_VIDEO] * count),
        "num_frames_declared": pa.array([600 * CLIPS_PER_VIDEO] * count),
        "time_base": pa.array([TIME_BASE] * count),
        "reading": pa.array([json.dumps({"key": list(range(100))})] * count),
    }
    nothing = pa.nulls(count, pa.int64())
    parts = pa.StructArray.from_arrays(
        [*(firsts.column(n).combine_chunks() for n in ("uri", "video_id")), nothing, nothing],
        fields=list(schema.PART),
    )
    return pa.table(columns).cast(schema.VIDEOS), parts


def _units(clips: pa.Table, parts: pa.Array, first: int) -> pa.Table:
    starts = np.arange(0, clips.num_rows, CLIPS_PER_UNIT)
    heads = clips.take(pa.array(starts))
    is_gated = clips.column("gate").is_valid().to_numpy().astype(np.int64)
    gated = np.add.reduceat(is_gated, starts)
    total = np.diff([*starts, clips.num_rows])
    edges = np.minimum(np.arange(len(starts) + 1) * VIDEOS_PER_UNIT, len(parts)).astype(np.int32)
    count = len(starts)
    empty = pa.array([[]] * count, schema.UNITS.field("problems").type)
    return pa.table(
        {
            "number": pa.array(np.arange(first, first + count)),
            "unit_id": heads.column("unit_id"),
            "state": ["done"] * count,
            "parts": pa.ListArray.from_arrays(pa.array(edges), parts),
            "problems": empty,
            "num_clips": pa.array(total - gated),
            "num_gated": pa.array(gated),
            "shard": [shard_name(n) for n in range(first, first + count)],
            "shard_bytes": pa.array([1] * count, pa.int64()),
            "shard_sha256": ["0" * 64] * count,
        }
    ).cast(schema.UNITS)


# --- shards -----------------------------------------------------------------------------------


def write_shards(path: Path) -> None:
    """A tar with tiny members and its index for every unit; `units` says what they are."""
    dataset = Dataset.open(path)
    rows = dataset.sql(
        "SELECT shard, list(clip_id ORDER BY clip_id) AS ids FROM _clips WHERE gate IS NULL "
        "GROUP BY 1"
    )
    facts: dict[str, tuple[int, str]] = {}
    for batch in rows.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            facts[row["shard"]] = _write_shard(path / "shards" / row["shard"], row["ids"])
    units = dataset.table("units")
    found = [facts[shard] for shard in units.column("shard").to_pylist()]
    for name, column in (
        ("shard_bytes", pa.array([size for size, _ in found], pa.int64())),
        ("shard_sha256", pa.array([digest for _, digest in found])),
    ):
        units = units.set_column(units.schema.get_field_index(name), name, column)
    tables.replace(tables.open_table(path / "catalog" / "units"), units.cast(schema.UNITS))


def _write_shard(stem: Path, clip_ids: list[str]) -> tuple[int, str]:
    buffer, index = io.BytesIO(), []
    crc = zlib.crc32(PACKETS)
    for clip_id in clip_ids:
        header = tarfile.TarInfo(f"{clip_id}.mp4")
        header.size = len(PACKETS)
        buffer.write(header.tobuf(tarfile.USTAR_FORMAT))
        member = Member(suffix="mp4", offset=buffer.tell(), size=len(PACKETS), crc32=crc)
        buffer.write(PACKETS)
        index.append(
            ClipIndex(
                clip_id=clip_id, members=(member,), codec_config=b"avcC", time_base=TIME_BASE,
                data_offset=0, packet_sizes=np.full(1, len(PACKETS), np.int32),
                packet_pts=np.zeros(1, np.int64), is_key=np.ones(1, bool),
                gop_crc32=np.array([crc], np.uint32),
            )
        )  # fmt: skip
    buffer.write(bytes(1024))
    whole = buffer.getvalue()
    stem.with_name(f"{stem.name}.tar").write_bytes(whole)
    stem.with_name(f"{stem.name}.idx.parquet").write_bytes(ShardIndex.of(index).to_bytes())
    return len(whole), hashlib.sha256(whole).hexdigest()


# --- the commands -----------------------------------------------------------------------------


def _open(path: Path) -> object:
    return Dataset.open(path)


def _stats(path: Path) -> object:
    from manifests.stats import stats

    return stats(Dataset.open(path))


def _files(path: Path) -> object:
    query = "SELECT state, reason, count(*) FROM files GROUP BY ALL"
    return Dataset.open(path).sql(query).to_pylist()


def _decide(path: Path) -> object:
    from manifests.decide import decide

    return decide(Dataset.open(path), load_recipe("strict"), dry_run=True)


def _validate(path: Path) -> object:
    from manifests.validate import validate

    problems = validate(Dataset.open(path))
    assert not problems, problems[:3]
    return None


def _compact(path: Path) -> object:
    from manifests.compaction import compact

    return compact(Dataset.open(path), command="bench")


def _at_stake(path: Path) -> object:
    from manifests.compaction import versions_at_stake

    return versions_at_stake(Dataset.open(path))


def _delete_one(path: Path) -> object:
    return _delete(path, "uri LIKE '%/GX00000100.MP4'")


def _delete_percent(path: Path) -> object:
    return _delete(path, "uri LIKE '%kitchen-00%'")


def _delete(path: Path, where: str) -> object:
    from manifests.deletion import delete

    _, done = delete(Dataset.open(path), where, command="bench")
    assert done.num_clips, done
    return done


def _preview(path: Path) -> object:
    from curation.preview import write_preview

    return write_preview(Dataset.open(path), path.parent / "page.html")


def _score_plan(path: Path) -> object:
    from curation.scoring import plan_scoring

    scorer = Path(__file__).resolve().parent.parent / "examples" / "my_scorer.py"
    found = plan_scoring(path, f"{scorer}:Daylight")
    return sum(len(unit.clips) for unit in found.units())


def _join(path: Path) -> object:
    from manifests.join import join_columns

    file = path.parent / "ratings.parquet"
    return join_columns(Dataset.open(path), file, name="ratings", replace=True).num_clips_scored


def _join_spans(path: Path) -> object:
    from manifests.join import join_columns

    file = path.parent / "spans.parquet"
    return join_columns(Dataset.open(path), file, name="spans", replace=True).num_clips_scored


def _mixture(path: Path) -> object:
    from manifests.mixture.spec import MixtureSpec

    return MixtureSpec.load(path.parent / "mixture.yaml").plan()


COMMANDS: dict[str, Work] = {
    "open": _open,
    "stats": _stats,
    "files": _files,
    "decide --dry-run": _decide,
    "preview": _preview,
    "score, its plan": _score_plan,
    "join by clip_id": _join,
    "join by uri and span": _join_spans,
    "mixture plan": _mixture,
    "validate": _validate,
    "compact --dry-run": _at_stake,
    "compact": _compact,
    "delete one video": _delete_one,
    "delete 1 % of the videos": _delete_percent,
}
"""In this order on one dataset: the last ones change it."""


def write_inputs(path: Path) -> None:
    """Files that are joined, and a mixture."""
    import pyarrow.parquet as pq

    clips = Dataset.open(path).sql("SELECT clip_id, uri, start_s, end_s FROM _clips")
    stars = pa.array(np.arange(clips.num_rows) % 5)
    ratings = pa.table({"clip_id": clips.column("clip_id"), "stars": stars})
    pq.write_table(ratings, path.parent / "ratings.parquet")
    spans = clips.drop_columns(["clip_id"]).append_column("stars", stars)
    pq.write_table(spans, path.parent / "spans.parquet")
    (path.parent / "mixture.yaml").write_text(
        f"seed: 1\nsources:\n  one: {{dataset: {path}, weight: 1}}\n"
    )


def measure(name: str, path: Path) -> dict[str, float]:
    """One command in this process: CPU and wall seconds, peak memory."""
    before_mb, cpu, wall = own_peak_mb(), time.process_time(), time.monotonic()
    COMMANDS[name](path)
    return {
        "cpu_s": round(time.process_time() - cpu, 2),
        "wall_s": round(time.monotonic() - wall, 2),
        "peak_mb": round(own_peak_mb()),
        "imports_mb": round(before_mb),
        "load_1min": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Make each dataset and run the commands on it."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of clips")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="keep the datasets here, and use them again")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]))))
        return
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="egodojo-commands-") as temporary:
        for num_clips in args.sizes:
            path = Path(args.folder or temporary, str(num_clips), "dataset")
            if not path.exists():
                path.parent.mkdir(parents=True)
                write_catalogue(path, num_clips)
                write_shards(path)
                write_inputs(path)
            for name in args.commands:
                words = [sys.executable, __file__, "--measure", name, str(path)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
                table.setdefault(name, {})[str(num_clips)] = json.loads(done.stdout)
                print(num_clips, name, done.stdout.decode().strip(), file=sys.stderr, flush=True)
            if not args.folder:
                shutil.rmtree(path.parent)
    report("commands", {"result": _with_saved(table)}, args)


def _with_saved(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was measured now, beside the sizes and commands that an earlier run has saved."""
    saved = RESULTS / "commands.json"
    before = json.loads(saved.read_text(encoding="utf-8"))["result"] if saved.exists() else {}
    return {name: before.get(name, {}) | table.get(name, {}) for name in COMMANDS}


if __name__ == "__main__":
    main()
