"""`egodojo score`: run a scorer over the clips of a dataset and fill `scores/<name>`.

One unit per shard; a clip that has a row is never scored again, so a rerun goes on. Shards are
only read. Several versions of a scorer stand side by side under names of their own.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import rows as row_checks
from manifests.config import to_dict
from manifests.dataset import Dataset, check_score_name
from manifests.errors import (
    DatasetError,
    EgodojoError,
    OverBudgetError,
    SampleError,
    UsageError,
)
from manifests.storage import Location
from pipeline.clips import ClipReader
from pipeline.runner import Engine, Outcome, engine_started, run_units

from .run_record import RunRecord
from .scorers.base import ClipFacts, ClipView, Resources, Row, Scorer, absolute_spec, build_scorer

log = logging.getLogger(__name__)

COMMIT_EVERY_S = 10.0
UNIT_TIMEOUT_S = 6 * 3600.0
NUM_FAILED_IN_A_ROW = 3
FAILURE_BUDGET_RATIO = 0.01

_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "list<double>": pa.list_(pa.float64()),
    "list<string>": pa.list_(pa.string()),
}
_FACTS = (
    "clip_id, shard, uri, coalesce(source, '') AS source, coalesce(embodiment, '') AS embodiment, "
    "start_s, end_s, num_frames, fps, text"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """What every worker needs to know: it makes the scorer itself, from the same words."""

    dataset: Location
    spec: str
    sets: tuple[str, ...]
    digest: str
    resources: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreUnit:
    """One unit of work: the clips of one shard that have no row yet."""

    shard: str
    clips: tuple[ClipFacts, ...]

    def one_by_one(self) -> Iterator[ScoreUnit]:
        """A unit for each of its clips."""
        for clip in self.clips:
            yield ScoreUnit(shard=self.shard, clips=(clip,))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePlan:
    """What is left to do, known before any work."""

    job: ScoreJob
    scorer: Scorer
    table: str
    clips: pa.Table
    """Clips without a row, by shard and id."""
    num_clips: int
    """Clips asked for, those with a row included."""
    num_left_out: int
    """Clips without a row that this command leaves for another, by the scorer's `max_clips`."""
    must_replace: bool
    """Whether the first commit takes the place of another version's rows."""

    @property
    def num_shards(self) -> int:
        """Units of this plan."""
        found: int = pc.count_distinct(self.clips.column("shard")).as_py()
        return found

    def units(self) -> Iterator[ScoreUnit]:
        """The units by shard, made as they are asked for."""
        shards = self.clips.column("shard").to_numpy(zero_copy_only=False)
        edges = [0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist(), len(shards)]
        for first, end in pairwise(edges):
            rows = self.clips.slice(first, end - first).to_pylist()
            if rows:
                clips = tuple(ClipFacts(**row) for row in rows)
                yield ScoreUnit(shard=rows[0]["shard"], clips=clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitScores:
    """What one unit gave."""

    rows: list[dict[str, Any]]
    problems: dict[str, str]
    notes: dict[str, float]


@dataclass(slots=True, kw_only=True)
class ScoreResult:
    """Counts of one command."""

    table: str
    scorer: str
    digest: str
    num_clips: int
    num_scored: int = 0
    """Rows written by this command."""
    num_present: int = 0
    """Clips that had their row before."""
    num_left: int = 0
    """Clips that a budget leaves without a row; a rerun takes them."""
    num_shards: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """Clip id -> why it has no row."""
    failures: list[str] = field(default_factory=list)
    """Shards that could not be worked on."""
    notes: dict[str, float] = field(default_factory=dict)
    run: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found: dict[str, Any] = to_dict(self)
        return found

    def check(self) -> None:
        """Say what is missing.

        Raises:
            EgodojoError: Shards failed.
            OverBudgetError: More clips than 1 % (and more than one) could not be scored.
        """
        if self.failures:
            raise EgodojoError(
                f"{len(self.failures)} of {self.num_shards} shards were not scored; the first, "
                f"{self.failures[0]}",
                hint="The other rows are stored; run the same command again for the rest.",
            )
        allowed = max(1, int(FAILURE_BUDGET_RATIO * self.num_clips))
        if len(self.problems) > allowed:
            clip_id, why = next(iter(self.problems.items()))
            raise OverBudgetError(
                f"{len(self.problems)} of {self.num_clips} clips have no score; the budget allows "
                f"{allowed}; the first, {clip_id}: {why}",
                hint=f"All are listed in {self.run}/problems.jsonl.",
            )


def plan_scoring(
    dataset_path: Location | str,
    spec: str,
    *,
    sets: Sequence[str] = (),
    table: str | None = None,
    every_written: bool = False,
    replace: bool = False,
    resources: Resources | None = None,
) -> ScorePlan:
    """Make the scorer and find the clips without a row.

    Args:
        dataset_path: The dataset folder.
        spec: Which scorer; see `build_scorer`.
        sets: Its settings.
        table: Name of the score table; default the scorer's.
        every_written: Cover dropped clips too.
        replace: Another version's rows of that name may be replaced.
        resources: What one worker may use; default one CPU.

    Raises:
        UsageError: No such scorer, or the table holds rows of another version.
        DatasetError: The dataset has no such clip.
    """
    dataset = Dataset.open(dataset_path)
    dataset.check_writable()
    scorer = build_scorer(spec, sets)
    name = table or scorer.name
    check_score_name(name)
    row_checks.score_schema(score_schema(scorer).empty_table(), name=name)
    other = _is_of_another_version(dataset, name, scorer, replace=replace)
    view = "clips WHERE gate IS NULL" if every_written else "kept WHERE gate IS NULL"
    num_clips = dataset.sql(f"SELECT count(*) AS n FROM {view}").column("n")[0].as_py()
    if not num_clips:
        raise DatasetError(
            f"{dataset.path} has no {'written' if every_written else 'kept'} clip.",
            hint="Run `egodojo curate` first."
            if every_written
            else "Decide with a milder recipe, or use --all.",
        )
    has_rows = name in dataset.scores and not other
    missing = f' AND clip_id NOT IN (SELECT clip_id FROM "{name}")' if has_rows else ""
    clips = dataset.sql(f"SELECT {_FACTS} FROM {view}{missing} ORDER BY shard, clip_id")
    limit = getattr(scorer, "max_clips", None)
    chosen = clips if limit is None else clips.slice(0, limit)
    return ScorePlan(
        job=ScoreJob(
            dataset=dataset.path,
            spec=absolute_spec(spec),
            sets=tuple(sets),
            digest=scorer.digest,
            resources=resources or Resources(num_cpus=1.0, num_gpus=0.0),
        ),
        scorer=scorer,
        table=name,
        clips=chosen,
        num_clips=num_clips,
        num_left_out=clips.num_rows - chosen.num_rows,
        must_replace=other,
    )


def score(
    plan: ScorePlan,
    *,
    engine: Engine = "ray",
    timeout_s: float = UNIT_TIMEOUT_S,
    command: str = "egodojo score",
    on_shard: Callable[[], None] | None = None,
) -> ScoreResult:
    """Do what a plan says; rows are committed every few seconds, also when it is interrupted.

    A shard that killed its worker or ran past its limit is scored again, clip by clip, so that one
    clip does not cost its neighbours their rows.

    Args:
        plan: From `plan_scoring`.
        engine: `inline` works in this process, without a time limit.
        timeout_s: For one shard, or one clip when clips are taken one by one.
        command: The command line, for the run record.
        on_shard: Called after each shard.

    Raises:
        EgodojoError: The scorer cannot be loaded, or several shards in a row failed.
    """
    with RunRecord(
        plan.job.dataset,
        token=uuid.uuid4().hex,
        command=command,
        texts={"scorer.json": json.dumps(metadata_of(plan), indent=2) + "\n"},
    ) as record:
        done = ScoreResult(
            table=plan.table,
            scorer=plan.scorer.name,
            digest=plan.job.digest,
            num_clips=plan.num_clips,
            num_present=plan.num_clips - plan.clips.num_rows - plan.num_left_out,
            num_left=plan.num_left_out,
            run=str(record.path),
        )
        started = engine_started(engine) if plan.clips.num_rows else nullcontext()
        try:
            with record.timed("score"), started, _Writer(plan, done) as writer:
                for outcome in _outcomes(plan, plan.units(), engine, timeout_s=timeout_s):
                    done.num_shards += 1
                    writer.take(outcome)
                    if on_shard is not None:
                        on_shard()
                for outcome in _outcomes(plan, writer.one_by_one(), engine, timeout_s=timeout_s):
                    writer.take(outcome)
        finally:
            lines = [json.dumps({"clip_id": k, "error": w}) for k, w in done.problems.items()]
            record.write_text("problems.jsonl", "".join(f"{line}\n" for line in lines))
            record.write_json("counts.json", done.to_json())
    return done


def load_worker(job: ScoreJob) -> tuple[Scorer, ClipReader]:
    """State of one worker: the scorer, loaded, and its reader.

    Raises:
        EgodojoError: The worker made another scorer than the driver.
    """
    scorer = build_scorer(job.spec, job.sets)
    if scorer.digest != job.digest:
        raise EgodojoError(
            f"A worker made the scorer {job.spec} with the digest {scorer.digest[:8]}, the driver "
            f"with {job.digest[:8]}.",
            hint="Put the same code and weights on every node, then rerun.",
        )
    load = getattr(scorer, "load", None)
    if load is not None:
        load(job.resources)
    return scorer, ClipReader(job.dataset)


def score_shard(worker: tuple[Scorer, ClipReader], unit: ScoreUnit) -> UnitScores:
    """Score the clips of one unit; a damaged clip costs itself only."""
    scorer, reader = worker
    schema = score_schema(scorer)
    rows: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    views = [ClipView(facts=facts, reader=reader) for facts in unit.clips]
    for clip_id, answer in _answers(scorer, views):
        if isinstance(answer, SampleError):
            problems[clip_id] = answer.message
            continue
        row = {"clip_id": clip_id, **answer}
        row_checks.checked_table(
            [row], schema, table=f"scores/{scorer.name}", required=("clip_id",)
        )
        rows.append(row)
    take_notes = getattr(scorer, "take_notes", None)
    return UnitScores(rows=rows, problems=problems, notes=take_notes() if take_notes else {})


def score_schema(scorer: Scorer) -> pa.Schema:
    """The Arrow schema of a scorer's table."""
    columns = [(name, _TYPES[kind]) for name, kind in scorer.columns.items()]
    return pa.schema([("clip_id", pa.string()), *columns])


def _answers(scorer: Scorer, views: Sequence[ClipView]) -> Iterator[tuple[str, Row | SampleError]]:
    score_clips = getattr(scorer, "score_clips", None)
    if score_clips is not None:
        yield from score_clips(views)
        return
    for view in views:
        try:
            yield view.facts.clip_id, scorer.score(view)
        except SampleError as error:
            yield view.facts.clip_id, error


def _outcomes(
    plan: ScorePlan, units: Iterable[ScoreUnit], engine: Engine, *, timeout_s: float
) -> Iterator[Outcome[ScoreUnit]]:
    if not plan.clips.num_rows:  # starts no Ray for nothing
        return iter(())
    return run_units(
        score_shard,
        units,
        engine=engine,
        slots=getattr(plan.scorer, "max_workers", None),
        setup=partial(load_worker, plan.job),
        num_cpus=plan.job.resources.num_cpus,
        num_gpus=plan.job.resources.num_gpus,
        timeout_s=timeout_s,
    )


class _Writer:
    """Counts finished units and appends their rows in batches.

    A commit reads all ids of the table, so there is not one per shard.
    """

    def __init__(self, plan: ScorePlan, done: ScoreResult) -> None:
        self._plan, self._done = plan, done
        self._schema = score_schema(plan.scorer)
        self._rows: list[dict[str, Any]] = []
        self._must_replace = plan.must_replace
        self._committed_at = time.monotonic()
        self._num_failed_in_a_row = 0
        self._lost: list[ScoreUnit] = []
        self._what = "shards"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._commit()

    def take(self, outcome: Outcome[ScoreUnit]) -> None:
        """Count one unit and keep its rows, or what it was lost to.

        Raises:
            EgodojoError: Too many units in a row failed: the rest would fail as well.
        """
        done, found, unit = self._done, outcome.result, outcome.unit
        if found is None:
            why = str(outcome.error)
            if outcome.kind not in ("died", "timeout"):
                done.failures.append(f"{unit.shard}: {why}")
            elif len(unit.clips) > 1:
                self._lost.append(unit)
            else:
                done.problems[unit.clips[0].clip_id] = why
            self._stop_in_time(f"{unit.shard}: {why}")
            return
        self._num_failed_in_a_row = 0
        self._rows += found.rows
        done.num_scored += len(found.rows)
        done.num_left += len(outcome.unit.clips) - len(found.rows) - len(found.problems)
        done.problems |= found.problems
        for key, value in found.notes.items():
            done.notes[key] = done.notes.get(key, 0) + value
        if time.monotonic() - self._committed_at > COMMIT_EVERY_S:
            self._commit()

    def one_by_one(self) -> list[ScoreUnit]:
        """The clips of units whose worker died or was stopped; counting in a row begins anew."""
        self._num_failed_in_a_row, self._what = 0, "clips"
        alone = [unit for lost in self._lost for unit in lost.one_by_one()]
        if alone:
            log.warning("Workers died or were stopped: %d clips are taken one by one.", len(alone))
        return alone

    def _stop_in_time(self, why: str) -> None:
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row == NUM_FAILED_IN_A_ROW:
            raise EgodojoError(
                f"{NUM_FAILED_IN_A_ROW} {self._what} in a row were not scored; the last, {why}",
                hint="What was scored before is stored; rerun when the cause is gone.",
            )

    def _commit(self) -> None:
        if self._rows:
            rows = pa.Table.from_pylist(self._rows, schema=self._schema)
            Dataset.open(self._plan.job.dataset).append_score(
                self._plan.table, rows, metadata=metadata_of(self._plan), replace=self._must_replace
            )
            self._must_replace = False
        self._rows = []
        self._committed_at = time.monotonic()


def metadata_of(plan: ScorePlan) -> dict[str, str]:
    """What each commit says about its rows."""
    return {
        "scorer": plan.scorer.name,
        "digest": plan.job.digest,
        "settings": json.dumps(list(plan.job.sets)),
    }


def _is_of_another_version(dataset: Dataset, name: str, scorer: Scorer, *, replace: bool) -> bool:
    """Whether a table of this name holds rows that this scorer would not make.

    Raises:
        UsageError: It does, and they may not be replaced.
    """
    if name not in dataset.scores:
        return False
    found = dataset.metadata(f"scores/{name}")
    if found.get("digest") == scorer.digest:
        return False
    if not replace:
        made_by = found.get("scorer", "another command")
        raise UsageError(
            f"scores/{name} holds rows of {made_by} with the digest "
            f"{found.get('digest', 'unknown')[:8]}, not of this version, {scorer.digest[:8]}.",
            hint="Give this version a name of its own with --name, or replace the rows with "
            "--replace.",
        )
    return True
