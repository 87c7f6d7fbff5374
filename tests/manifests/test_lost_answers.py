"""Every write of every kind of commit to object storage fails once; the rows stay the same.

The n-th request fails before it was done, after it was done, or it is done only when the next one
comes: then a look whether it was done finds nothing yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from flaky_proxy import HELD
from object_storage import ChosenFaults, chosen_faults, make_bucket, use

from manifests import table_rewrite, tables
from manifests.locations import location

WRITES = ("PUT", "POST")
FAULTS = ("503", "500 after it was done", "dropped", "dropped after it was done", HELD)
MANY_WRITES = 40


@pytest.fixture(scope="module")
def storage(s3_port: int) -> Iterator[ChosenFaults]:
    make_bucket(s3_port, "lost-answers")
    with chosen_faults(s3_port) as found, pytest.MonkeyPatch.context() as patch:
        use(patch, found.port)
        yield found


def some(*names: str) -> pa.Table:
    return pa.table({"clip_id": list(names), "number": list(range(len(names)))})


COMMITS: dict[str, Callable[[DeltaTable], None]] = {
    "append": lambda table: tables.append(table, some("c")),
    "append to what was seen": lambda table: tables.append(table, some("c"), if_unchanged=True),
    "replace": lambda table: tables.replace(table, some("c", "d")),
    "replace by a reader": lambda table: tables.replace(table, some("c", "d").to_reader),
    "replace some": lambda table: tables.replace_where(
        table, some("c"), column="clip_id", values=["a"]
    ),
    "merge": table_rewrite.merge,
}


def found_rows(table: DeltaTable) -> list[str]:
    return sorted(map(repr, tables.dataset_of(table).to_table().to_pylist()))


def made(name: str) -> DeltaTable:
    path = location(f"s3://lost-answers/{name}")
    tables.create(path, some("a").schema)
    table = tables.open_table(path)
    for row in ("a", "b"):
        tables.append(table, some(row))
    return table


# The two faults that look most alike from outside and are not, for every commit; all for one.
CASES = [(fault, commit) for commit in COMMITS for fault in ("dropped after it was done", HELD)]
CASES += [(fault, "append") for fault in FAULTS[:3]]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "commit"), CASES)
def test_a_commit_whose_answer_is_lost_is_made_once(
    storage: ChosenFaults, commit: str, fault: str
) -> None:
    storage.choose({}, WRITES)
    table = made(f"{commit}/{fault}/0")
    storage.choose({}, WRITES)
    COMMITS[commit](table)
    num_writes = storage.choose({}, WRITES)
    want = found_rows(table)
    assert 2 <= num_writes < MANY_WRITES
    for number in range(1, num_writes + 1):
        table = made(f"{commit}/{fault}/{number}")
        storage.choose({number: fault}, WRITES)
        COMMITS[commit](table)
        assert storage.choose({}, WRITES) >= num_writes
        assert found_rows(table) == want, number
        assert found_rows(tables.open_table(tables.folder_of(table))) == want, number
