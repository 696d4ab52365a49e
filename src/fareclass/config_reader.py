"""YAML text -> frozen msgspec structs, keeping the line of everything, with all mistakes told at once.

The structs are the schema. Scalars stay text until their field's type is known, so a price
never passes through a float. Secrets are never written in the file: a field `api_key` of
type `Secret` is given as `api_key_env` or `api_key_file`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from msgspec import inspect

from fareclass.core.tiers import ALIASES, BY_WORD, Tier

_MAX_FILE_BYTES = 1024 * 1024
_NULL = "tag:yaml.org,2002:null"
_NOWHERE = yaml.Mark("", -1, 0, 0, "", 0)
"""The line of what no file holds comes out as 0."""
_BAD = object()


class ConfigError(Exception):
    """Settings that can't be used. `problems` are complete lines: where, what is wrong, what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Secret:
    """Text that must not show up in a log or a traceback; `value` is the text itself."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(…)"


class _Place(NamedTuple):
    """Where a setting was written; `line` is 0 outside a file."""

    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a small file can't stand for a huge one, and every value has one line."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: yaml.AliasEvent = self.get_event()  # type: ignore[no-untyped-call]
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise ConfigError([f"{_Place(self.name, line)}: aliases (*name) can't be used here"])
        return super().compose_node(parent, index)


class Reader:
    """One reading of one file. Call `override` and `default`, then `convert`, then `finish`."""

    def __init__(self, file: Path | None, env: Mapping[str, str]) -> None:
        self._name = str(file) if file else "built-in settings"
        self._env = env
        self._folder = (file.parent if file else Path.cwd()).absolute()
        self._problems: list[tuple[int, str]] = []
        self._origins: dict[str, _Place] = {}
        self._top: dict[str, tuple[_Place, yaml.Node]] = {}
        if file:
            root = self._compose(file)
            if not isinstance(root, yaml.MappingNode):
                raise ConfigError([f"{self._name}: must be settings of the form `name: value`"])
            self._top = self._entries(root, "")

    def override(self, key: str, variable: str, *, by_name: bool = False) -> None:
        """Let an environment variable, if set and not empty, replace a setting of the first level.

        `by_name` puts its name there.
        """
        if self._env.get(variable):
            self._top.pop(key.replace("_env", "_file"), None)
            self._top[key] = _Place(variable), _node(variable if by_name else self._env[variable])

    def default(self, key: str, value: object) -> None:
        """A setting of the first level for where it is not given."""
        if key not in self._top:
            self._top[key] = _Place(self._name), _node(value)

    def convert(self, struct: type[Any]) -> Any:
        """The settings as this struct.

        Raises:
            ConfigError: what was found so far, where the struct can't be made.
        """
        schema = inspect.type_info(struct)
        assert isinstance(schema, inspect.StructType)
        value = self._fields(self._top, schema, "")
        if value is _BAD:
            self.finish()
        return value

    def folder_of(self, path: str) -> Path:
        """What a relative file name in this setting is relative to: the file's folder, or where we were started."""
        place = self._origins.get(path)
        return self._folder if place is None or place.name == self._name else Path.cwd()

    def from_file(self, path: str) -> bool:
        """Whether this setting stands in the file, rather than in the environment or nowhere."""
        return path in self._origins and self._origins[path].line > 0

    def complain(self, path: str, message: str) -> None:
        """Note a mistake; it is told at the line of the setting, or of what it would stand in."""
        known = path
        while known not in self._origins and known:
            known = known[: max(known.rfind("."), known.rfind("["), 0)]
        place = self._origins.get(known, _Place(self._name))
        self._problems.append((place.line, f"{place}: {path}: {message}" if path else f"{place}: {message}"))

    def finish(self) -> None:
        """Raises:
        ConfigError: if there was any mistake, in the order of the lines.
        """
        if self._problems:
            raise ConfigError([text for _, text in sorted(self._problems, key=lambda problem: problem[0])])

    def _compose(self, file: Path) -> yaml.Node | None:
        try:
            with file.open("rb") as stream:
                raw = stream.read(_MAX_FILE_BYTES + 1)
            if len(raw) > _MAX_FILE_BYTES:
                raise ConfigError([f"{file}: is larger than {_MAX_FILE_BYTES} bytes"])
            loader = _Loader(raw.decode("utf-8-sig"))
            loader.name = self._name
            return loader.get_single_node()
        except OSError as error:
            raise ConfigError([f"{file}: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([f"{file}: is not UTF-8 text (byte {error.start})"]) from error
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError([f"{file}{line}: {error.problem}"]) from error
        except yaml.YAMLError as error:
            raise ConfigError([f"{file}: {str(error).splitlines()[0]}"]) from error
        except RecursionError as error:
            raise ConfigError([f"{file}: is nested too deeply"]) from error

    def _place(self, node: yaml.Node) -> _Place:
        return _Place(self._name, node.start_mark.line + 1)

    def _entries(self, node: yaml.MappingNode, path: str) -> dict[str, tuple[_Place, yaml.Node]]:
        entries: dict[str, tuple[_Place, yaml.Node]] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            inner = f"{path}.{name}" if path else name
            if name in entries:
                self._origins[inner] = self._place(key)
                self.complain(inner, f"is there twice (first on line {entries[name][0].line})")
                continue
            entries[name] = self._place(key), value
        return entries

    def _value(self, kind: inspect.Type, node: yaml.Node, path: str) -> Any:
        if isinstance(kind, inspect.UnionType):
            return self._union(node, kind.types, path)
        if isinstance(kind, inspect.StructType):
            return self._struct(node, kind, path)
        if isinstance(kind, inspect.DictType):
            return self._dict(node, kind, path)
        if isinstance(kind, inspect.VarTupleType):
            return self._tuple(node, kind, path)
        return self._scalar(node, kind, path)

    def _union(self, node: yaml.Node, kinds: tuple[inspect.Type, ...], path: str) -> Any:
        if node.tag == _NULL and any(isinstance(kind, inspect.NoneType) for kind in kinds):
            return None
        rest = [kind for kind in kinds if not isinstance(kind, inspect.NoneType)]
        if len(rest) == 1:
            return self._value(rest[0], node, path)
        return self._tagged(node, {kind.tag: kind for kind in rest if isinstance(kind, inspect.StructType)}, path)

    def _tagged(self, node: yaml.Node, kinds: Mapping[Any, inspect.StructType], path: str) -> Any:
        field = next(iter(kinds.values())).tag_field
        entries = self._entries(node, path) if isinstance(node, yaml.MappingNode) else {}
        tag = entries[field][1].value if field in entries else None
        if tag in kinds:
            return self._fields({name: entry for name, entry in entries.items() if name != field}, kinds[tag], path)
        if field in entries:
            self._origins[f"{path}.{field}"] = entries[field][0]
        return self._bad(f"{path}.{field}", f"must be {' or '.join(map(str, kinds))}")

    def _struct(self, node: yaml.Node, kind: inspect.StructType, path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._bad(path, "must be settings of the form `name: value`")
        return self._fields(self._entries(node, path), kind, path)

    def _fields(self, entries: Mapping[str, tuple[_Place, yaml.Node]], kind: inspect.StructType, path: str) -> Any:
        prefix = f"{path}." if path else ""
        readers = dict(self._readers(kind))
        values: dict[str, Any] = {}
        for name, (place, node) in entries.items():
            self._origins[prefix + name] = place
            if name not in readers:
                values[name] = self._bad(prefix + name, f"there is no such setting{_did_you_mean(name, readers)}")
                continue
            target, read = readers[name]
            if target in values:
                values[target] = self._bad(prefix + name, "is given twice, by variable and by file")
            else:
                values[target] = read(node, prefix + name)
        for field in kind.fields:
            if field.required and field.name not in values:
                values[field.name] = self._bad(prefix + field.name, "is missing")
        return _BAD if any(value is _BAD for value in values.values()) else kind.cls(**values)

    def _readers(self, kind: inspect.StructType) -> Iterator[tuple[str, tuple[str, Callable[[yaml.Node, str], Any]]]]:
        """For every name that may be written: the field that it sets, and what reads it."""
        for field in kind.fields:
            if _is_secret(field.type):
                yield f"{field.name}_env", (field.name, self._secret_env)
                yield f"{field.name}_file", (field.name, self._secret_file)
                yield field.name, (field.name, self._secret_literal)
            else:
                yield field.name, (field.name, partial(self._value, field.type))

    def _dict(self, node: yaml.Node, kind: inspect.DictType, path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._bad(path, "must be entries of the form `name: value`")
        result: dict[Any, Any] = {}
        for name, (place, value) in self._entries(node, path).items():
            inner = f"{path}.{name}"
            self._origins[inner] = place
            key = self._scalar(yaml.ScalarNode("", name), kind.key_type, inner)
            if key in result:
                self.complain(inner, "is there twice, under two names")
            result[key] = self._value(kind.value_type, value, inner)
        return _BAD if _BAD in result or any(value is _BAD for value in result.values()) else result

    def _tuple(self, node: yaml.Node, kind: inspect.VarTupleType, path: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            return self._bad(path, "must be a list")
        items = []
        for index, item in enumerate(node.value):
            self._origins[f"{path}[{index}]"] = self._place(item)
            items.append(self._value(kind.item_type, item, f"{path}[{index}]"))
        return _BAD if any(item is _BAD for item in items) else tuple(items)

    def _scalar(self, node: yaml.Node, kind: inspect.Type, path: str) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
            return self._bad(path, f"must be {_expected(kind)}")
        try:
            return _parse(node.value, kind, self.folder_of(path))
        except (ValueError, ArithmeticError):
            return self._bad(path, f"must be {_expected(kind)}, not {node.value[:80]!r}")

    def _secret_env(self, node: yaml.Node, path: str) -> Any:
        name = node.value if isinstance(node, yaml.ScalarNode) else ""
        value = self._env.get(name, "").strip()
        return Secret(value) if value else self._bad(path, f"the environment variable {name!r} is not set")

    def _secret_file(self, node: yaml.Node, path: str) -> Any:
        file = self.folder_of(path) / str(node.value)
        try:
            value = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            return self._bad(path, f"can't read {file}: {getattr(error, 'strerror', 'not text')}")
        return Secret(value) if value else self._bad(path, f"{file} is empty")

    def _secret_literal(self, _node: yaml.Node, path: str) -> Any:
        return self._bad(
            path, f"a secret must not stand in this file: use {path}_env or {path}_file".replace("..", ".")
        )

    def _bad(self, path: str, message: str) -> Any:
        self.complain(path, message)
        return _BAD


def _node(value: object) -> yaml.Node:
    if isinstance(value, Mapping):
        return yaml.MappingNode("", [(_node(key), _node(item)) for key, item in value.items()], _NOWHERE)
    return yaml.ScalarNode("", str(value), _NOWHERE)


def _is_secret(kind: inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return any(isinstance(one, inspect.CustomType) and one.cls is Secret for one in kinds)


def _parse(text: str, kind: inspect.Type, folder: Path) -> Any:
    """Raises:
    ValueError: the text is no value of this type.
    """
    if isinstance(kind, inspect.BoolType):
        return {"true": True, "false": False}[text.lower()] if text.lower() in {"true", "false"} else _raise(text)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        number = int(text) if isinstance(kind, inspect.IntType) else float(text)
        return number if math.isfinite(number) and _within(number, kind) else _raise(text)
    if isinstance(kind, inspect.DecimalType):
        amount = Decimal(text)
        return amount if amount.is_finite() and amount >= 0 else _raise(text)
    if isinstance(kind, inspect.EnumType):
        tier = BY_WORD.get(text, ALIASES.get(text))
        return _raise(text) if tier is None else tier
    if isinstance(kind, inspect.CustomType):
        return folder / Path(text).expanduser()
    return text.strip() or _raise(text)


def _raise(text: str) -> Any:
    raise ValueError(text)


def _within(number: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or number >= kind.ge)
        and (kind.gt is None or number > kind.gt)
        and (kind.le is None or number <= kind.le)
    )


def _expected(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        bounds = [("at least", kind.ge), ("more than", kind.gt), ("at most", kind.le)]
        words = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"{'a whole number' if isinstance(kind, inspect.IntType) else 'a number'}{words and ', ' + words}"
    if isinstance(kind, inspect.EnumType):
        return f"one of {', '.join(tier.word for tier in Tier)}"
    if isinstance(kind, inspect.CustomType):
        return "a file name"
    return {inspect.BoolType: "true or false", inspect.DecimalType: "an amount, such as 0.60"}.get(type(kind), "text")


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
