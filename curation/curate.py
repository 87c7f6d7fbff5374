"""`egodojo curate`: inputs -> probed, planned, worked on, committed, decided; a rerun continues.

The driver is the only writer. Order: units left by an earlier run, then new inputs are probed and
planned, then their units; the decision and the preview come last.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.config import to_dict, to_yaml
from manifests.dataset import Dataset
from manifests.decide import check_recipe, decide
from manifests.embodiment import load_embodiment
from manifests.errors import ConfigError, EgodojoError, SampleError
from manifests.recipe import Recipe, check_gates, load_recipe
from manifests.rows import rows_of
from manifests.settings import (
    SETTINGS_FILE,
    DatasetSettings,
    check_same_settings,
    read_settings,
)
from manifests.stats import stats
from manifests.storage import Location
from manifests.writer import Writer
from pipeline.progress import Progress
from pipeline.runner import Engine, engine_started, run_isolated, run_units

from .config import CurateConfig, check_decoder, resolve_config, split_sets
from .curate_report import CurateReport
from .dedup import dedup
from .footage import actions_beside, sidecars_on_disk
from .ingest import (
    NOT_READ,
    UNKNOWN_EMBODIMENT,
    Inputs,
    ProbeTask,
    crashed_row,
    find_inputs,
    probe_inputs,
    was_unread,
)
from .planning import places_of, places_to_plan, plan_units
from .reading import edges_of
from .run_record import RunRecord
from .sources.find import check_columns
from .sources.record import record_digests
from .units import UnitRun, action_columns, finish_units

log = logging.getLogger(__name__)

PROBES_PER_TASK = 8
COMMIT_EVERY_S = 5.0
COMMIT_EVERY_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateRequest:
    """What a command asks for.

    Attributes:
        inputs: Files, folders and patterns.
        out: The dataset folder.
        recipe: Name or YAML file.
        source: Value of the column `source`; default the dataset's name.
        embodiment: Name or YAML file of the body; None leaves it unknown.
        layout: What to recognise in input folders (`sources.reference.LAYOUTS`).
        cameras: Cameras to take from a layout that has several.
        sets: `key=value` items for the configuration and the recipe.
        engine: `ray` or `inline`.
        command: The command line, for the lock and the record.
        quiet: No progress.
    """

    inputs: tuple[str, ...]
    out: Location
    recipe: str = "egocentric"
    source: str | None = None
    embodiment: str | None = None
    layout: str = "auto"
    cameras: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    engine: Engine = "ray"
    command: str = "egodojo curate"
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that passed every check there is before work."""

    request: CurateRequest
    inputs: Inputs
    config: CurateConfig
    recipe: Recipe
    settings: DatasetSettings
    embodiment: str
    is_new: bool


def prepare(request: CurateRequest) -> Prepared:
    """Check everything that can be checked before work: inputs, configuration, recipe, dataset.

    Raises:
        UsageError, ConfigError: What the user gave cannot work.
        EgodojoError: There is no input.
    """
    inputs = find_inputs(request.inputs, layout=request.layout, cameras=request.cameras)
    if not inputs.uris:
        raise EgodojoError(
            f"No video was found in {', '.join(request.inputs)} "
            f"({inputs.num_ignored} other files).",
            hint="Inputs are known by suffix (mp4, mov, mkv, webm, avi, ...); a file named "
            "itself is always one.",
        )
    config_sets, recipe_sets = split_sets(request.sets)
    is_new = not (request.out / SETTINGS_FILE).is_file()
    if is_new:
        Dataset.check_new(request.out)
    existing = None if is_new else read_settings(request.out)
    config = resolve_config(config_sets, existing)
    recipe = load_recipe(request.recipe, recipe_sets)
    check_gates(recipe.gates)
    check_decoder(config, request.engine)
    settings = config.settings(name=request.out.resolve().name, recipe=recipe)
    if existing is not None:
        check_same_settings(existing, settings, request.out)
    _check_rules(request.out, settings, recipe, is_new=is_new)
    body = UNKNOWN_EMBODIMENT
    if request.embodiment is not None:
        named = load_embodiment(request.embodiment)
        body = named.name
        check_columns(inputs.listings, named.action_names)
    else:
        check_columns(inputs.listings, None)
        _refuse_unnamed_actions(inputs, _unknown(inputs.uris, request.out, is_new=is_new))
    return Prepared(
        request=request,
        inputs=inputs,
        config=config,
        recipe=recipe,
        settings=settings,
        embodiment=body,
        is_new=is_new,
    )


def dry_run(prepared: Prepared) -> dict[str, Any]:
    """What a run would begin with; reads no video and writes nothing."""
    out = prepared.request.out
    new = _unknown(prepared.inputs.uris, out, is_new=prepared.is_new)
    num_pending = 0 if prepared.is_new else len(Dataset.open(out).pending_units())
    return {
        "dataset": str(out),
        "is_new": prepared.is_new,
        "num_inputs": len(prepared.inputs.uris),
        "num_ignored": prepared.inputs.num_ignored,
        "sources": [found.to_json() for found in prepared.inputs.listings],
        "num_new": len(new),
        "num_bytes_new": sum(prepared.inputs.size_of(uri) or 0 for uri in new),
        "num_units_pending": num_pending,
        "recipe": prepared.recipe.name,
        "config": to_dict(prepared.config),
    }


def curate(prepared: Prepared) -> CurateReport:
    """Run a prepared request to its end.

    Raises:
        LockedError: Another command writes the dataset.
        EgodojoError: Units could not be finished; the rest is committed.
    """
    return _Curation(prepared).run()


class _Curation:
    """The driver of one run."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._request = prepared.request
        self._dataset = Dataset.open_or_create(prepared.request.out, prepared.settings)
        self._changed: list[str] = []
        self._retried: dict[str, dict[str, Any]] = {}
        self._num_units = 0

    def run(self) -> CurateReport:
        prepared = self._prepared
        texts = {
            "config.resolved.yaml": to_yaml(prepared.config),
            "recipe.yaml": prepared.recipe.text,
        }
        with ExitStack() as stack:
            writer = stack.enter_context(self._dataset.writer(self._request.command))
            record = stack.enter_context(
                RunRecord(
                    self._dataset.path,
                    token=writer.token,
                    command=self._request.command,
                    texts=texts,
                )
            )
            self._work(writer, record)
            with record.timed("tidy"):
                writer.tidy()
            with record.timed("dedup"):
                self._dedup()
            with record.timed("decide"):
                decide(self._dataset, prepared.recipe)
            with record.timed("preview"):
                from .preview import write_preview

                preview = write_preview(self._dataset)
            report = self._report(record, preview)
            record.write_json("summary.json", report.to_json())
        return report

    def _work(self, writer: Writer, record: RunRecord) -> None:
        new = self._new_inputs()
        pending = self._dataset.pending_units()
        with engine_started(self._request.engine if new or pending else "inline"):
            with record.timed("work"):
                self._finish(writer, record)
            with record.timed("probe"):
                self._probe(new, writer)
            with record.timed("plan"):
                self._plan(writer)
            with record.timed("work"):
                self._finish(writer, record)

    def _dedup(self) -> None:
        """Look for near-duplicates, unless the dataset is too large to do so in passing."""
        count = "SELECT count(*) AS n FROM clips WHERE gate IS NULL"
        num_clips = self._dataset.sql(count)["n"][0].as_py()
        limit = self._prepared.config.dedup_max_clips
        if num_clips > limit:
            log.warning(
                "%d clips are more than dedup_max_clips=%d: no near-duplicates were looked for; "
                "run egodojo dedup %s, then egodojo decide",
                num_clips,
                limit,
                self._dataset.path,
            )
            return
        dedup(self._dataset)

    def _new_inputs(self) -> list[str]:
        """Inputs to probe: those without a row, and those whose bytes nobody has seen yet."""
        known = self._dataset.table("videos")
        uris = self._prepared.inputs.uris
        refused = rows_of(known.filter(pc.equal(known["state"], "unreadable")))
        unread = {row["uri"]: row for row in refused if was_unread(row)}
        self._retried = {uri: unread[uri] for uri in uris if uri in unread}
        sizes = known["num_bytes"].to_numpy()
        new = []
        for uri, place in zip(uris, places_of(uris, known["uri"]), strict=True):
            if place < 0 or uri in self._retried:
                new.append(uri)
            elif self._prepared.inputs.size_of(uri) not in (None, sizes[place]):
                self._changed.append(uri)
                log.warning("%s has changed since it was probed and is not read again", uri)
        return new

    def _finish(self, writer: Writer, record: RunRecord) -> None:
        bodies = self._dataset.sql("SELECT DISTINCT embodiment FROM videos")["embodiment"]
        self._num_units += finish_units(
            UnitRun(
                dataset=self._dataset,
                writer=writer,
                config=self._prepared.config,
                engine=self._request.engine,
                action_names=action_columns(bodies.to_pylist(), self._request.embodiment),
                quiet=self._request.quiet,
                note=lambda row: record.add_line("units.jsonl", row),
            )
        )

    def _probe(self, uris: Sequence[str], writer: Writer) -> None:
        """Probe new inputs and commit their rows now and then.

        Raises:
            EgodojoError: The storage of some failed; nothing is planned without them, since the
                plan depends on which videos there are.
        """
        if not uris:
            return
        waiting: list[dict[str, Any]] = []
        not_read: list[str] = []
        last_commit = time.monotonic()
        with (
            Progress(len(uris), "files probed", quiet=self._request.quiet) as progress,
            closing(self._probed(uris)) as batches,
        ):
            for rows in batches:
                progress.advance(len(rows))
                not_read += [row["detail"] for row in rows if row["state"] == NOT_READ]
                waiting += [row for row in rows if row["state"] != NOT_READ]
                is_due = time.monotonic() - last_commit >= COMMIT_EVERY_S
                if is_due or len(waiting) >= COMMIT_EVERY_ROWS:
                    self._commit_videos(writer, waiting)
                    waiting, last_commit = [], time.monotonic()
        self._commit_videos(writer, waiting)
        if not_read:
            raise EgodojoError(
                f"{len(not_read)} of {len(uris)} new inputs could not be probed: {not_read[0]}",
                hint="The others are probed. Mend the storage, or take the file away, then rerun "
                "the same command.",
            )

    def _probed(self, uris: Sequence[str]) -> Generator[list[dict[str, Any]], None, None]:
        """Rows of `videos`, some at a time."""
        outcomes = run_units(
            probe_inputs,
            (
                self._probe_task(uris[start : start + PROBES_PER_TASK])
                for start in range(0, len(uris), PROBES_PER_TASK)
            ),
            engine=self._request.engine,
            slots=self._prepared.config.slots,
            attempts=1,
            timeout_s=self._prepared.config.timeout_s,
        )
        with closing(outcomes):
            for outcome in outcomes:
                if outcome.kind == "raised":
                    raise EgodojoError(f"Probing failed: {outcome.error}")
                yield outcome.result or [self._probe_alone(uri) for uri in outcome.unit.uris]

    def _commit_videos(self, writer: Writer, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows of new inputs; a retried one's row takes the place of the old, if it differs."""
        old = self._retried
        writer.append_videos([row for row in rows if row["uri"] not in old])
        tried = [row for row in rows if row["uri"] in old]
        writer.replace_videos([row for row in tried if row != old[row["uri"]]])

    def _probe_task(self, uris: Sequence[str]) -> ProbeTask:
        source = self._request.source or self._dataset.settings.name
        refs = self._prepared.inputs.refs
        return ProbeTask(
            uris=tuple(uris),
            source=source,
            embodiment=self._prepared.embodiment,
            unit_len_s=self._dataset.settings.unit_len_s,
            refs={uri: refs[uri] for uri in uris if uri in refs},
        )

    def _probe_alone(self, uri: str) -> dict[str, Any]:
        task = self._probe_task([uri])
        outcome = run_isolated(probe_inputs, task, self._prepared.config.timeout_s)
        if outcome.result is not None:
            row: dict[str, Any] = outcome.result[0]
            return row
        error = outcome.error or "its process died"
        return crashed_row(uri, source=task.source, embodiment=task.embodiment, error=error)

    def _plan(self, writer: Writer) -> None:
        """Plan every readable video that is in no plan row yet, in one commit."""
        query = "SELECT DISTINCT part.video_id FROM (SELECT unnest(parts) AS part FROM plan)"
        planned = self._dataset.sql(query)["video_id"]
        videos = self._dataset.table("videos").combine_chunks()
        places = places_to_plan(videos, planned)
        bodies = pc.unique(videos["embodiment"].take(pa.array(places))).to_pylist()
        columns = action_columns(bodies, self._request.embodiment)
        settings = self._dataset.settings
        units = plan_units(
            rows_of(videos, places),
            unit_len_s=settings.unit_len_s,
            first_number=self._dataset.first_free_number(),
            settings_digest=settings.digest,
            edges_of=lambda row: edges_of(row, settings.unit_len_s),
            digests_of=lambda row: self._digests(row, columns.get(row["embodiment"], ())),
        )
        writer.append_plan(units)

    def _digests(self, video: Mapping[str, Any], action_names: Sequence[str]) -> list[str]:
        """Digests of what belongs to a video."""
        uri = video["uri"]
        with sidecars_on_disk(uri, sidecars=self._prepared.inputs.sidecars_of(uri)) as path:
            return record_digests(video, path, action_names)

    def _report(self, record: RunRecord, preview: Location) -> CurateReport:
        changed = set(self._changed)
        mine = [uri for uri in self._prepared.inputs.uris if uri not in changed]
        files = self._dataset.sql("SELECT uri, state FROM files")
        places = places_of(mine, files["uri"])
        counts = pc.value_counts(files["state"].take(pa.array(places[places >= 0]))).to_pylist()
        by_state = {found["values"]: found["counts"] for found in counts}
        ratio = self._prepared.config.failure_budget_ratio
        return CurateReport(
            dataset=self._dataset.path,
            inputs={
                "num_inputs": len(self._prepared.inputs.uris),
                "num_ignored": self._prepared.inputs.num_ignored,
                "sources": [found.to_json() for found in self._prepared.inputs.listings],
                "by_state": dict(sorted(by_state.items())),
                "changed": self._changed,
            },
            stats=stats(self._dataset),
            num_units=self._num_units,
            seconds=record.seconds,
            preview=preview,
            run=record.path,
            num_failed_allowed=max(1, int(ratio * len(mine))),
        )


def _check_rules(out: Location, settings: DatasetSettings, recipe: Recipe, *, is_new: bool) -> None:
    """Refuse a recipe that could not decide, before the dataset is made or touched."""
    if not is_new:
        check_recipe(Dataset.open(out), recipe)
        return
    with tempfile.TemporaryDirectory(prefix="egodojo-") as folder:
        check_recipe(Dataset.create(Path(folder, "empty"), settings), recipe)


def _unknown(uris: Sequence[str], out: Location, *, is_new: bool) -> list[str]:
    """Inputs without a row in the dataset."""
    if is_new:
        return list(uris)
    places = places_of(uris, Dataset.open(out).table("videos").column("uri"))
    return [uri for uri, place in zip(uris, places, strict=True) if place < 0]


def _refuse_unnamed_actions(inputs: Inputs, uris: Sequence[str]) -> None:
    """Recorded actions of a body that is not named would be lost without a word."""
    for uri in uris:
        try:
            ref = inputs.refs.get(uri)
            place = ref.path if ref is not None and ref.layout == "link" else uri
            actions = actions_beside(place, inputs.sidecars_of(uri))
        except SampleError:
            continue
        if actions is not None:
            raise ConfigError(
                f"{actions} holds recorded actions, but no embodiment says what its columns are.",
                hint="Name the body with --embodiment, or move the file away.",
            )
