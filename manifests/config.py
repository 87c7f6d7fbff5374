"""Configuration as frozen dataclasses: YAML fills them, `--set a.b=value` adjusts them.

Everything is checked before any work starts; an unknown key names its path and the nearest one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

try:  # (ten times as fast, where PyYAML was built with it)
    from yaml import CSafeLoader as _Loader
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

from .errors import ConfigError
from .locations import Location, location

T = TypeVar("T")


def load_config(
    cls: type[T],
    *,
    file: Path | str | None = None,
    values: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    where: str = "config",
) -> T:
    """Build a configuration dataclass from a YAML file, a mapping and `key.path=value` settings.

    Later sources win: `values` over `file`, `sets` over both.

    Raises:
        ConfigError: Unknown key, wrong type, missing required field, unreadable file.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged = _merge(merged, read_yaml(file))
        where = str(file)
    if values is not None:
        merged = _merge(merged, values)
    for item in sets:
        _apply_set(merged, item)
    built: T = _build(cls, merged, where, "")
    return built


def read_yaml(file: Location | str) -> dict[str, Any]:
    """Read a YAML mapping; an unreadable, malformed or non-mapping file is a ConfigError.

    So is a key that stands twice in one mapping, of which YAML would keep the last.
    """
    try:
        text = location(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Cannot read the configuration file {file}: {error}.",
            hint="Check the path; names of shipped files are listed in the command's --help.",
        ) from error
    try:
        data = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"{file} is not valid YAML: {first}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{file} must hold a mapping of keys, not a {type(data).__name__}.")
    return data


class _UniqueKeys(_Loader):
    """Plain values only, and no key twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} stands twice, again in line {line}")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean` sentence for a name that is not among `known`."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return "Known names: " + ", ".join(sorted(known)) + "." if known else ""


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars of a configuration, ready for YAML or JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    return config


def to_yaml(config: Any) -> str:
    """YAML text of a configuration, keys in field order."""
    text: str = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    return text


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and ASCII only: the text that digests are taken of."""
    return json.dumps(
        to_dict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest(value: Any) -> str:
    """64 hex digits: SHA-256 over the canonical JSON of a configuration or mapping."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _apply_set(values: dict[str, Any], item: str) -> None:
    path, found, text = item.partition("=")
    keys = path.strip().split(".")
    if not found or not all(keys):
        raise ConfigError(
            f"--set {item!r} is not of the form key=value.",
            hint="Write for instance --set encode.crf=23.",
        )
    try:
        value = yaml.load(text, Loader=_Loader) if text.strip() else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {item!r}: the value is not valid YAML.") from error
    node = values
    for key in keys[:-1]:
        child = node.get(key)
        node[key] = dict(child) if isinstance(child, Mapping) else {}
        node = node[key]
    node[keys[-1]] = value


def _build(cls: Any, data: Any, where: str, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {path or 'the top level'} must be a mapping of keys.")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in fields:
            full = _join(path, str(key))
            raise ConfigError(f"{where}: unknown key {full!r}.", hint=nearest(str(key), [*fields]))
    hints = get_type_hints(cls)
    kwargs = {
        key: _convert(hints[key], value, where, _join(path, key)) for key, value in data.items()
    }
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in kwargs:
            raise ConfigError(f"{where}: the required key {_join(path, name)!r} is missing.")
    try:
        return cls(**kwargs)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
    except ValueError as error:
        raise ConfigError(f"{where}: {path + ': ' if path else ''}{error}.") from error


def _convert(hint: Any, value: Any, where: str, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where, path)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where, path)
    if origin is Literal:
        if value in args:
            return value
        known = [str(a) for a in args]
        raise ConfigError(
            f"{where}: {path} is {value!r}, must be one of {', '.join(known)}.",
            hint=nearest(str(value), known),
        )
    if origin in (tuple, list, Sequence) or hint in (tuple, list):
        return _convert_sequence(hint, args, value, where, path)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(where, path, value, "a mapping")
        item = args[1] if args else Any
        return {str(k): _convert(item, v, where, _join(path, str(k))) for k, v in value.items()}
    return _convert_scalar(hint, value, where, path)


def _convert_union(args: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [a for a in args if a is not type(None)]
    errors = []
    for choice in choices:
        try:
            return _convert(choice, value, where, path)
        except ConfigError as error:
            errors.append(error)
    raise errors[-1]


def _convert_sequence(
    hint: Any, args: tuple[Any, ...], value: Any, where: str, path: str
) -> tuple[Any, ...] | list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong_type(where, path, value, "a list")
    is_list = (get_origin(hint) or hint) is list
    if args and not is_list and args[-1] is not Ellipsis and get_origin(hint) is tuple:
        if len(args) != len(value):
            raise _wrong_type(where, path, value, f"a list of {len(args)} values")
        kinds = list(args)
    else:
        kinds = [args[0] if args else Any] * len(value)
    items = [
        _convert(kind, item, where, f"{path}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return items if is_list else tuple(items)


def _convert_scalar(hint: Any, value: Any, where: str, path: str) -> Any:
    is_bool = isinstance(value, bool)
    if hint is bool and is_bool:
        return value
    if hint is int and isinstance(value, int) and not is_bool:
        return value
    if hint is float and isinstance(value, (int, float, str)) and not is_bool:
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # YAML 1.1 reads 1e-4 (no dot) as text
            if math.isfinite(number):
                return number
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise _wrong_type(where, path, value, names.get(hint, getattr(hint, "__name__", str(hint))))


def _wrong_type(where: str, path: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{where}: {path} is {value!r}, must be {wanted}.")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
