"""YAML text -> frozen msgspec structs, keeping the line of everything, with all mistakes told at once.

The structs are the schema: types, bounds (`msgspec.Meta`), and `config_values.must_be` for
what neither can say. Scalars stay text until their field's type is known, so a price never passes
through a float. Secrets are never written in the file: a field `api_key` of type `Secret`
is given as `api_key_env` or `api_key_file`.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from msgspec import inspect

from fareclass.config_values import Rule, expanded, expected, parse
from fareclass.core.limits import SECRET_BYTES

_MAX_FILE_BYTES = 1024 * 1024
_SHOWN_CHARS = 120
_NULL = "tag:yaml.org,2002:null"
_NOWHERE = yaml.Mark("", -1, 0, 0, "", 0)
"""The line of what no file holds comes out as 0."""
UNKNOWN: Any = object()
"""Stands in a struct for a setting that could not be read. What was wrong with it has been noted."""
T = TypeVar("T")


def known(*settings: object) -> bool:
    """Whether all of these could be read."""
    return UNKNOWN not in settings


def given(setting: T, default: T) -> T:
    """The setting, or this where it could not be read."""
    return default if setting is UNKNOWN else setting


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
    """YAML without aliases and tags: a small file can't stand for a huge one, and text means what it says."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.tag is not None:
            place = _Place(self.name, event.start_mark.line + 1)
            raise ConfigError([f"{place}: aliases (*name) and tags (!name) can't be used here; write the value itself"])
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
        """The settings as this struct, `UNKNOWN` where one could not be read. To be used only after `finish`."""
        schema = inspect.type_info(struct)
        assert isinstance(schema, inspect.StructType)
        return self._fields(self._top, schema, "")

    def file(self, path: str, name: str) -> Path:
        """A file that this setting names: relative to the settings file's folder, or to where we were started."""
        return (Path.cwd() if self.from_variable(path) else self._folder) / expanded(name)

    def from_variable(self, path: str) -> bool:
        """Whether an environment variable gave this setting."""
        return path in self._origins and self._origins[path].name != self._name

    def complain(self, path: str, message: str) -> None:
        """Note a mistake; it is told at the line of the setting, or of what it would stand in."""
        nearest = path
        while nearest not in self._origins and nearest:
            nearest = nearest[: max(nearest.rfind("."), nearest.rfind("["), 0)]
        place = self._origins.get(nearest, _Place(self._name))
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
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigError([f"{file}:{line}: is not UTF-8 text"]) from error
        except yaml.reader.ReaderError as error:
            line = raw.decode("utf-8-sig").count("\n", 0, error.position) + 1
            raise ConfigError([f"{file}:{line}: must be plain text, without control characters"]) from error
        except yaml.MarkedYAMLError as error:
            place = _Place(self._name, error.problem_mark.line + 1 if error.problem_mark else 0)
            raise ConfigError([f"{place}: {_syntax(error)}"]) from error
        except RecursionError as error:
            raise ConfigError([f"{file}: is nested too deeply"]) from error

    def _place(self, node: yaml.Node) -> _Place:
        return _Place(self._name, node.start_mark.line + 1)

    def _entries(self, node: yaml.MappingNode, path: str) -> dict[str, tuple[_Place, yaml.Node]]:
        entries: dict[str, tuple[_Place, yaml.Node]] = {}
        for key, value in node.value:
            named = isinstance(key, yaml.ScalarNode) and key.tag != _NULL and key.value.isprintable()
            name = key.value if named else "?"
            inner = f"{path}.{name}" if path else name
            if not named:
                self._origins[inner] = self._place(key)
                self.complain(inner, "a name must be plain text")
            elif name in entries:
                self._origins[inner] = self._place(key)
                self.complain(inner, f"is there twice (first on line {entries[name][0].line})")
            else:
                entries[name] = self._place(key), value
        return entries

    def _value(self, kind: inspect.Type, node: yaml.Node, path: str, rule: Rule | None = None) -> Any:
        if isinstance(kind, inspect.Metadata):
            return self._value(kind.type, node, path, (kind.extra or {}).get("rule"))
        if isinstance(kind, inspect.UnionType):
            return self._union(node, kind.types, path)
        if isinstance(kind, inspect.StructType):
            return self._struct(node, kind, path)
        if isinstance(kind, inspect.DictType):
            return self._dict(node, kind, path)
        if isinstance(kind, inspect.VarTupleType):
            return self._tuple(node, kind, path)
        return self._scalar(node, kind, path, rule)

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
        tag = str(entries[field][1].value) if field in entries else None
        if tag in kinds:
            return self._fields({name: entry for name, entry in entries.items() if name != field}, kinds[tag], path)
        if field in entries:
            self._origins[f"{path}.{field}"] = entries[field][0]
        return self._bad(
            f"{path}.{field}", f"must be {' or '.join(map(str, kinds))}, as in {{{field}: {next(iter(kinds))}}}"
        )

    def _struct(self, node: yaml.Node, kind: inspect.StructType, path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            self.complain(path, "must be settings of the form `name: value`")
            return kind.cls(**{field.name: UNKNOWN for field in kind.fields})
        return self._fields(self._entries(node, path), kind, path)

    def _fields(self, entries: Mapping[str, tuple[_Place, yaml.Node]], kind: inspect.StructType, path: str) -> Any:
        prefix = f"{path}." if path else ""
        readers = dict(self._readers(kind))
        values: dict[str, Any] = {}
        for name, (place, node) in entries.items():
            self._origins[prefix + name] = place
            if name not in readers:
                self.complain(prefix + name, f"there is no such setting{_did_you_mean(name, readers)}")
                continue
            target, read = readers[name]
            if target in values:
                self.complain(prefix + name, "is given twice, by variable and by file")
            else:
                values[target] = read(node, prefix + name)
        for field in kind.fields:
            if field.required and field.name not in values:
                values[field.name] = self._bad(prefix + field.name, "is missing")
        return kind.cls(**values)

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
        if not self._countable(node, kind, path):
            return UNKNOWN
        result: dict[Any, Any] = {}
        for name, (place, value) in self._entries(node, path).items():
            inner = f"{path}.{name}"
            self._origins[inner] = place
            key = self._value(kind.key_type, yaml.ScalarNode("", name), inner)
            item = self._value(kind.value_type, value, inner)
            if key in result:
                self.complain(inner, "is there twice, under two names")
            elif known(key):
                result[key] = item
        return result

    def _tuple(self, node: yaml.Node, kind: inspect.VarTupleType, path: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            return self._bad(path, "must be a list")
        if not self._countable(node, kind, path):
            return UNKNOWN
        items: list[Any] = []
        for index, item in enumerate(node.value):
            inner = f"{path}[{index}]"
            self._origins[inner] = self._place(item)
            value = self._value(kind.item_type, item, inner)
            if isinstance(item, yaml.ScalarNode) and known(value) and value in items:
                self.complain(inner, f"{item.value!r} is there twice")
            items.append(value)
        return tuple(items) if known(*items) else UNKNOWN

    def _countable(self, node: yaml.CollectionNode, kind: inspect.DictType | inspect.VarTupleType, path: str) -> bool:
        count = len(node.value)
        if count < (kind.min_length or 0):
            self.complain(path, f"must have at least {kind.min_length} entry")
        elif kind.max_length and count > kind.max_length:
            self.complain(path, f"may have at most {kind.max_length} entries, not {count}")
        else:
            return True
        return False

    def _scalar(self, node: yaml.Node, kind: inspect.Type, path: str, rule: Rule | None) -> Any:
        words = rule.words if rule else expected(kind)
        if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
            return self._bad(path, f"must be {words}")
        value: Any = node.value
        try:
            value = parse(node.value, kind, partial(self.file, path))
            right = rule is None or rule.holds(value)
        except (ValueError, ArithmeticError):
            right = False
        if right:
            return value
        found = value if isinstance(value, Path) else node.value
        return self._bad(
            path, f"must be {words}" + ("" if rule and not rule.shown else f", not {_short(str(found))!r}")
        )

    def _secret_env(self, node: yaml.Node, path: str) -> Any:
        value = self._env.get(node.value, "") if isinstance(node, yaml.ScalarNode) else ""
        return self._secret(value, path, "the environment variable named here is not set, or")

    def _secret_file(self, node: yaml.Node, path: str) -> Any:
        file = self._scalar(node, inspect.CustomType(Path), path, None)
        if file is UNKNOWN:
            return UNKNOWN
        try:
            with file.open("rb") as stream:
                text = stream.read(SECRET_BYTES + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            return self._bad(path, f"can't read {file}: {getattr(error, 'strerror', 'not text')}")
        return self._secret(text, path, str(file))

    def _secret(self, text: str, path: str, source: str) -> Any:
        value = text.strip()
        if not value:
            return self._bad(path, f"{source} is empty")
        if not value.isprintable() or len(text) > SECRET_BYTES:
            return self._bad(path, f"the secret must be one line of plain text, of at most {SECRET_BYTES} bytes")
        return Secret(value)

    def _secret_literal(self, _node: yaml.Node, path: str) -> Any:
        return self._bad(path, f"a secret must not stand in this file: use {path}_env or {path}_file")

    def _bad(self, path: str, message: str) -> Any:
        self.complain(path, message)
        return UNKNOWN


def _node(value: object) -> yaml.Node:
    if isinstance(value, Mapping):
        return yaml.MappingNode("", [(_node(key), _node(item)) for key, item in value.items()], _NOWHERE)
    return yaml.ScalarNode("", str(value), _NOWHERE)


def _is_secret(kind: inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return any(isinstance(one, inspect.CustomType) and one.cls is Secret for one in kinds)


def _short(text: str) -> str:
    """With both ends: of a path, the last part says most."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS // 2]}…{text[-_SHOWN_CHARS // 2 :]}"


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _syntax(error: yaml.MarkedYAMLError) -> str:
    hint = "; indent with spaces, not tabs" if "\\t" in (error.problem or "") else ""
    return f"{error.problem}{error.context and f' ({error.context})'}{hint}"
