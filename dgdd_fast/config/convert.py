"""Settings from nested dictionaries and back, checked; and settings with some of them changed."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar, cast

from ..messages import shortened, shown
from .bounds import Bound

ConfigT = TypeVar("ConfigT")


class Names:
    """Stands in the annotation of a text that must be one of some names; asked for anew at each check, since
    more may be registered. A text that goes on after one of `prefixes` may be any."""

    def __init__(self, names: Callable[[], typing.Iterable[str]], prefixes: tuple[str, ...] = ()) -> None:
        self.names = names
        self.prefixes = prefixes


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists of JSON values."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def from_dict(cls: type[ConfigT], values: dict[str, Any], name: str = "") -> ConfigT:
    """The configuration of type `cls` that `values` describe; missing keys keep their defaults.

    Raises ValueError for an unknown key, a wrong type or a value outside its choices or range, naming the
    key; `name` is what the whole is called there.
    """
    return cast(ConfigT, _converted(cls, values, name))


def checked(config: ConfigT, name: str = "") -> ConfigT:
    """`config` again, whatever it was made of. Raises ValueError as `from_dict` does."""
    shallow = {field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, config))}
    return cast(ConfigT, _converted(type(config), shallow, name))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _converted(annotation: Any, value: Any, path: str) -> Any:
    """`value` as `annotation` says; `path` is its name."""
    name = path or "the configuration"
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _configuration(annotation, value, path, name)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        value = _converted(arguments[0], value, path)
        for limit in arguments[1:]:
            _check_limit(limit, value, name)
        return value
    if origin is Literal:
        return _one_of(arguments, value, name)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (inner,) = [arm for arm in arguments if arm is not type(None)]
        return _converted(inner, value, path)
    if annotation is Any:
        return value
    if origin is tuple:  # tuple[T, ...]
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} must be a list, got {shown(value)}")
        return tuple(_converted(arguments[0], item, f"{name}[{index}]") for index, item in enumerate(value))
    if origin is dict:  # dict[str, T]
        return _mapping(arguments[1], value, name)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} must be a number below 1e308, got {shown(value)}") from None
    if not isinstance(value, annotation) or (annotation is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} must be {annotation.__name__}, got {shown(value)}")
    return value


def _configuration(cls: type, value: Any, path: str, name: str) -> Any:
    if dataclasses.is_dataclass(value) and isinstance(value, cls):
        return checked(value, path)
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping of settings, got {shown(value)}")
    value = getattr(cls, "renewed", lambda values: values)(value)  # as an earlier version wrote them
    hints = _hints(cls)
    for key in value:
        if key not in hints:
            where = f" in {path}" if path else ""
            raise ValueError(
                f"unknown setting {shown(key)}{where}; known settings: {', '.join(hints)}{_meant(key, hints)}"
            )
    for field in dataclasses.fields(cls):
        optional = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if not optional and field.name not in value:
            raise ValueError(f"{path}.{field.name} is missing" if path else f"{field.name} is missing")
    return cls(
        **{key: _converted(hints[key], item, f"{path}.{key}" if path else key) for key, item in value.items()}
    )


def _mapping(item_type: Any, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, got {shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{name} must have texts as keys, got {shown(key)}; put it in quotes")
    return {key: _converted(item_type, item, f"{name}.{key}") for key, item in value.items()}


def _check_limit(limit: Any, value: Any, name: str) -> None:
    if isinstance(limit, Names):
        if any(str(value).startswith(prefix) and value != prefix for prefix in limit.prefixes):
            return
        _one_of((*limit.names(), *(f"{prefix}NAME" for prefix in limit.prefixes)), value, name)
    elif isinstance(limit, Bound) and (fault := limit.fault(value)):
        raise ValueError(f"{name} must {fault}, got {shown(value)}")


def _one_of(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is False and "off" in choices:  # how YAML reads it
        return "off"
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return value


def _meant(name: Any, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(shortened(str(name)), known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def setting_names(cls: type, prefix: str = "") -> Iterator[str]:
    """The names of all settings of a configuration, written as surgery.alpha."""
    for key, annotation in _hints(cls).items():
        section = _section(annotation)
        if section is None:
            yield f"{prefix}{key}"
        else:
            yield from setting_names(section, f"{prefix}{key}.")


def _section(annotation: Any) -> type | None:
    """The dataclass that a field holds, or may hold."""
    for arm in (annotation, *typing.get_args(annotation)):
        if isinstance(arm, type) and dataclasses.is_dataclass(arm):
            return arm
    return None


def with_assignments(config: ConfigT, assignments: dict[str, Any], section: str = "") -> ConfigT:
    """`config` with the settings that `assignments` name at other values.

    Args:
        assignments: values by names such as surgery.alpha; where `section` is given, section.surgery.alpha.

    Raises ValueError as `from_dict` does; for an unknown name with those that look like it.
    """
    prefix = f"{section}." if section else ""
    known = list(setting_names(type(config), prefix))
    values = to_dict(config)
    for setting, value in assignments.items():
        if setting not in known:
            raise ValueError(f"there is no setting {shown(setting)}{_completed(setting, known)}")
        values = merged(values, nested(setting.removeprefix(prefix).split("."), value))
    return from_dict(type(config), values, section)


def _completed(setting: str, known: list[str]) -> str:
    """What may have been meant: names that begin or end like it, and names that look like it."""
    last = setting.rpartition(".")[2]
    found = [name for name in known if name.startswith(setting) or name.rpartition(".")[2].startswith(last)]
    found += [name for name in difflib.get_close_matches(shortened(setting), known, n=5) if name not in found]
    return f": did you mean {', '.join(found[:8])}?" if found else f"; there are {', '.join(known)}"


def override(config: ConfigT, **values: Any) -> ConfigT:
    """The dataclass `config` with those of `values` that are not None in place of its own."""
    given = {name: value for name, value in values.items() if value is not None}
    return cast(ConfigT, dataclasses.replace(cast(Any, config), **given))


def filled(config: ConfigT, **values: Any) -> ConfigT:
    """The dataclass `config` with those of `values` whose fields it leaves open (None)."""
    wanted = {name: value for name, value in values.items() if getattr(config, name) is None}
    return cast(ConfigT, dataclasses.replace(cast(Any, config), **wanted))


def nested(path: list[str], value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for the path a, b."""
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries with `changes` in place of what `values` has."""
    result = dict(values)
    for name, change in changes.items():
        old = result.get(name)
        result[name] = merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return result


def changed(config: ConfigT, changes: dict[str, Any], where: str, *, shared: bool = False) -> ConfigT:
    """`config` with the nested `changes`. With `shared`, a section that is None in `config` stays None.

    Raises ValueError naming `where` and the setting that is wrong.
    """
    values = to_dict(config)
    if shared:
        changes = {
            name: change
            for name, change in changes.items()
            if not (isinstance(change, dict) and name in values and values[name] is None)
        }
    try:
        return from_dict(type(config), merged(values, changes))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
