"""From YAML files and command-line overrides to a validated pydantic model, and back: one path for every config.

Every problem becomes one line: where (file or override), key path, value, what is allowed, nearest name. All at once.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hptransfer.errors import UserError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice instead of keeping the last, and a node that holds itself."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key_node.value!r} is written twice",
                        problem_mark=key_node.start_mark,
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


# At once and in depth: PyYAML's own constructors make the children later, which lets an alias close a circle.
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _sequence)


@dataclass
class Source:
    """A mapping and, for each of its leaves (dotted path), the file or override that set it."""

    name: str
    data: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    nulls: list[str] = field(default_factory=list)
    """Keys that were taken back to their default; a key that there is none of is an error all the same."""
    exclusive: Mapping[str, str] = field(default_factory=dict)
    """Keys that say the same thing in two ways: where a later layer gives one, an earlier layer's other is dropped."""

    def origin(self, path: str) -> str:
        """The origin of the leaf at or nearest above or below `path`."""
        near = [set_at for set_at in self.origins if _starts(path, set_at) or _starts(set_at, path)]
        return self.origins[max(near, key=len)] if near else self.name


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file; UserError where it can't be read or holds something else."""
    path = Path(path)
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_near_file(path)}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path}: cannot read: {getattr(problem, 'strerror', None) or problem}") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: expected a mapping of keys, got {'an empty file' if data is None else repr(data)[:60]}"
        )
    return data


def parse_yaml(text: str, name: str) -> Any:
    """YAML text as plain data; UserError with line and column where it is malformed."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {problem.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # ValueError: 2020-99-99 is no date
        raise UserError(f"{name}: not valid YAML: {str(problem).splitlines()[0]}") from None


def read_source(path: Path | str, overrides: Sequence[str] = (), exclusive: Mapping[str, str] | None = None) -> Source:
    """A config file with what it `extends` below it and the overrides (`a.b=v`, `--a.b=v`) on top."""
    source = _extended(Path(path), (), exclusive or {})
    for override in overrides:
        key, value = parse_override(override)
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(source, value, f"override {override.lstrip('-')}")
    return source


def parse_override(text: str) -> tuple[str, Any]:
    """`--a.b=v` or `a.b=v` as (dotted key, YAML value)."""
    match = re.fullmatch(r"(?:--)?([A-Za-z_][\w.]*)=(.*)", text, flags=re.DOTALL)
    if match is None:
        raise UserError(f"override {text!r}: expected a.b=value or --a.b=value")
    return match[1], parse_yaml(match[2], f"override {match[1]}")


def _extended(path: Path, below: tuple[Path, ...], exclusive: Mapping[str, str]) -> Source:
    """`path` merged over the file that its `extends` key names (relative to it); cycles are refused."""
    chain = (*below, path.resolve())
    if path.resolve() in below:
        raise UserError(f"{path}: extends: a cycle: {' -> '.join(p.name for p in chain)}")
    data = read_yaml(path)
    parent = data.pop("extends", None)
    if parent is not None and not isinstance(parent, str):
        raise UserError(f"{path}: extends: expected a file name, got {parent!r}")
    source = _extended(path.parent / parent, chain, exclusive) if parent else Source(str(path), {}, exclusive=exclusive)
    source.name = str(path)
    _merge(source, data, str(path))
    return source


def _merge(source: Source, update: Mapping[str, Any], origin: str) -> None:
    """Lays `update` over the source: mappings are merged, null takes a key back to its default."""

    def lay(target: dict[str, Any], layer: Mapping[Any, Any], prefix: str) -> None:
        for raw_key, value in layer.items():
            key = str(raw_key)
            path = f"{prefix}{key}"
            if isinstance(value, Mapping):
                if not isinstance(target.get(key), dict):
                    target[key] = {}
                    source.origins[path] = origin
                lay(target[key], value, f"{path}.")
                continue
            source.origins = {at: by for at, by in source.origins.items() if not _starts(at, path)}
            source.origins[path] = origin
            if value is None:
                target.pop(key, None)
                source.nulls.append(path)
                continue
            target[key] = value
            other = source.exclusive.get(path)
            if other is not None and source.origins.get(other, origin) != origin:
                target.pop(other.rpartition(".")[2], None)

    lay(source.data, update, "")


def validate(model: type[Model], source: Source) -> Model:
    """The typed config; UserError with one line per problem."""
    lines = list(_unknown_nulls(model, source))
    try:
        valid = model.model_validate(source.data)
    except ValidationError as problem:
        lines += [line for error in problem.errors(include_url=False) for line in _lines(model, source, error)]
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))
    return valid


def _unknown_nulls(model: type[BaseModel], source: Source) -> Iterator[str]:
    """A line for every key that was given as null and does not exist: a misspelling is one whatever its value.

    In a table whose keys are free, YAML's reading of `{readout:0}` is found by its colon: the key `readout:0` at null.
    """
    for path in source.nulls:
        *section, key = path.split(".")
        known = _fields_at(model, section)
        if known and key not in known:
            yield f"{source.origin(path)}: {path}: {_unknown_key(key, None, list(known))}"
        elif ":" in path:
            yield f"{source.origin(path)}: {path}: a key without a value; write a space after the colon"


def _unknown_key(key: str, value: Any, allowed: list[str]) -> str:
    return f"unknown key (= {_short(value)}){did_you_mean(key, allowed) or '; allowed: ' + ', '.join(allowed)}"


def _lines(model: type[BaseModel], source: Source, error: ErrorDetails) -> list[str]:
    """One pydantic error as lines: a check across sections may have found several problems, key path first."""
    if error["loc"] or error["type"] != "value_error":
        return [_line(model, source, error)]
    problems = error["msg"].removeprefix("Value error, ").splitlines()
    return [f"{source.origin(problem.partition(':')[0])}: {problem}" for problem in problems]


def _line(model: type[BaseModel], source: Source, error: ErrorDetails) -> str:
    """One pydantic error as one line."""
    names_a_key = error["type"] in ("missing", "extra_forbidden")
    location = _without_tags(source.data, error["loc"], names_a_key)
    path = ".".join(map(str, location))
    known = _fields_at(model, error["loc"][:-1])
    value = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            text = _unknown_key(str(location[-1]), value, list(known))
        case "missing":
            about = known[str(location[-1])].description if str(location[-1]) in known else None
            text = "missing" + (f": {about}" if about else "")
        case "union_tag_invalid":
            context = error.get("ctx", {})
            names = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
            tag, tag_key = str(context.get("tag")), _tag_key(model, error["loc"])
            path = f"{path}.{tag_key}"
            text = f"unknown value {tag!r}; allowed: {', '.join(names)}{did_you_mean(tag, names)}"
        case "literal_error":
            names = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
            text = f"got {_short(value)}; allowed: {', '.join(names)}{did_you_mean(str(value), names)}"
        case "model_type":
            text = f"expected a mapping of keys, got {_short(value)}"
        case "value_error":
            text = error["msg"].removeprefix("Value error, ")
        case _:
            text = f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {_short(value)}"
    subject = f"{path}: " if path else ""
    return f"{source.origin(path)}: {subject}{text}"


def _without_tags(data: Any, location: tuple[int | str, ...], names_a_key: bool) -> list[int | str]:
    """A pydantic location without the union tags in it; where it `names_a_key`, its last part is never a tag."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        inside = isinstance(data, Mapping) and part in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)):
            data = data[part]
        elif not (names_a_key and index == len(location) - 1):
            continue
        kept.append(part)
    return kept


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> dict[str, FieldInfo]:
    """The fields, by name, of the section at a pydantic location."""
    here: list[type[BaseModel]] = [model]
    for part in location:
        found = [
            section.model_fields[part] for section in here if isinstance(part, str) and part in section.model_fields
        ]
        if found:
            here = [section for f in found for section in _sections(f.annotation)]
        else:
            here = [section for section in here if part in _tags(section)] or here
    return {name: field for section in here for name, field in section.model_fields.items()}


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _tags(section: type[BaseModel]) -> list[str]:
    """The value that marks this section in a union."""
    return [field.default for field in section.model_fields.values() if get_args(field.annotation) == (field.default,)]


def _tag_key(model: type[BaseModel], location: Sequence[int | str]) -> str:
    known = _fields_at(model, location).items()
    return next((name for name, field in known if get_args(field.annotation) == (field.default,)), "name")


def to_yaml(data: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """Nested mappings as YAML; `comments` maps a dotted key to the remark behind its line."""
    return "".join(_emit(data, comments or {}, "", 0))


def _emit(data: Mapping[str, Any], comments: Mapping[str, str], prefix: str, depth: int) -> Iterator[str]:
    for key, value in data.items():
        path = f"{prefix}{key}"
        remark = "".join(f"  # {line}" for line in comments.get(path, "").split("\n") if line)
        nested = isinstance(value, Mapping) and value
        name = _scalar(str(key))
        yield f"{'  ' * depth}{name}:{'' if nested else ' ' + _scalar(value)}{remark}\n"
        if nested:
            yield from _emit(value, comments, f"{path}.", depth + 1)


def _scalar(value: Any) -> str:
    """A scalar or a list in YAML's flow style, on one line, such that PyYAML reads back the same value and type."""
    options: dict[str, Any] = {"default_flow_style": True, "width": math.inf, "sort_keys": False}
    text: str = yaml.safe_dump(value, allow_unicode=True, **options).removesuffix("\n").removesuffix("\n...")
    if len(text.splitlines()) > 1:  # only the double-quoted style escapes the ends of lines
        text = yaml.safe_dump(value, default_style='"', **options).removesuffix("\n")
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _starts(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}.")


def _near_file(path: Path) -> str:
    """A hint at a file beside a missing one."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, names)
