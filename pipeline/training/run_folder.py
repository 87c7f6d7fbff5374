"""The folder of one training run: held by one process, bound to the configuration it began with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from manifests.config import read_yaml
from manifests.errors import ConfigError, UsageError

from ..file_lock import file_lock

CONFIG_NAME = "config.resolved.yaml"
_held: set[Path] = set()


@contextlib.contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the hold ends with the process, however it ends.

    A process may hold a folder again inside its own hold.

    Raises:
        LockedError: Another process trains in this folder.
        UsageError: It is a file, or a dataset.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"Run folder {folder} is a file.", hint="Choose another --out.")
    if (folder / "dataset.yaml").exists():
        raise UsageError(
            f"Run folder {folder} is a dataset, and runs are kept apart from datasets.",
            hint="Choose another --out.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / "LOCK"
    if path in _held:
        yield
        return
    hint = "Wait for it to end, or choose another --out."
    with file_lock(path, what=f"Run folder {folder}", hint=hint):
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)


def bind_config(
    folder: Path,
    config: Mapping[str, Any],
    *,
    may_change: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Write the resolved configuration of a new run, or compare it with the one the run began with.

    Args:
        folder: The run folder.
        config: Plain mapping, as from `manifests.config.to_dict`.
        may_change: Dotted fields that a resumed run may change, for instance `loop.steps`.
        defaults: Values of fields that are younger than the run.

    Raises:
        ConfigError: A field differs from the run's first configuration, which the message names,
            or the file that holds it is damaged.
    """
    path = folder / CONFIG_NAME
    if path.exists():
        known = read_yaml(path)
        foreign = sorted(known.keys() - config.keys())
        if foreign and config.keys() - known.keys():
            raise ConfigError(
                f"The run in {folder} is of another kind: its configuration has "
                f"{', '.join(foreign)}.",
                hint="Choose another --out.",
            )
        old, new = _flat(_plain(defaults or {})) | _flat(known), _flat(_plain(config))
        for field in sorted(old.keys() | new.keys()):
            if old.get(field) != new.get(field) and field not in may_change:
                raise ConfigError(
                    f"{field} is {new.get(field)!r}, but the run in {folder} was started with "
                    f"{old.get(field)!r}.",
                    hint="Set it back to resume this run, or choose another --out.",
                )
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump(_plain(config), sort_keys=False), encoding="utf-8")
    os.replace(part, path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else key))
    return flat
