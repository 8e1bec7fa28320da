"""From a model's name in a config to its code: models/NAME.py of ours, or `path/to/file.py:build` of the user's.

A user's file is found from the current folder, as data.path is, and named by the hash of its content in a run's
identity. It stands alone: what it imports has to be installed, since no hash would speak for a file beside it.
"""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hptransfer.errors import UserError, did_you_mean
from hptransfer.rules import KINDS, Multipliers
from hptransfer.shapes import Shape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The code behind a model's name; the same object for as long as the code is the same."""

    file: str
    builder: Callable[[Shape, Any], "nn.Module"]
    roles: Mapping[str, str]
    ours: bool = False

    def build(self, shape: Shape, multipliers: Multipliers) -> "nn.Module":
        """The model. A shape without heads has no attention to scale: its multipliers have no `attention` to read."""
        known = {name: value for name, value in vars(multipliers).items() if name != "attention" or has_heads(shape)}
        with self.running("build" if has_heads(shape) else "build (neither model.heads nor model.head_dim is given)"):
            model = self.builder(shape, Shape(**known))
        if not hasattr(model, "named_parameters"):
            raise UserError(f"{self.file}: build: returned {type(model).__name__}, expected a torch.nn.Module")
        return model

    @contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Turns what a user's code raises into one line; our own models' errors are ours."""
        try:
            yield
        except (Exception, SystemExit) as problem:
            if self.ours or isinstance(problem, UserError):
                raise
            raise UserError(f"{_where(self.file, problem)}: {what}: {_said(problem)}") from problem


def has_heads(shape: Shape) -> bool:
    """Whether the shape says how large an attention head is."""
    return hasattr(shape, "head_dim")


def is_file(name: str) -> bool:
    """Whether a model's name is that of a user's file."""
    return ".py" in name


def content_hash(name: str) -> str:
    """SHA-256 of the user's file behind `name`."""
    return hashlib.sha256(_content(_split(name)[0])).hexdigest()


def find_model(name: str) -> ModelFile:
    """The code behind a model's name; UserError with one line where a user's file is not what it has to be."""
    if not is_file(name):
        return _ours(name)
    path, function = _split(name)
    return _users(path, function, _content(path))


@lru_cache
def _ours(name: str) -> ModelFile:
    module = importlib.import_module(f"models.{name}")
    return ModelFile(f"models/{name}.py", module.build, module.ROLES, ours=True)


@lru_cache
def _users(path: str, function: str, content: bytes) -> ModelFile:
    module = _run(path, content)
    builder, roles = getattr(module, function, None), getattr(module, "ROLES", None)
    if not callable(builder):
        functions = [name for name, value in vars(module).items() if callable(value)]
        raise UserError(
            f"model.name: {path} has no function {function!r}{did_you_mean(function, functions)}; "
            "a model file has build(shape, multipliers) and ROLES"
        )
    return ModelFile(path, builder, _checked(roles, path))


def _run(path: str, content: bytes) -> ModuleType:
    """The file as a module, registered under its content's hash: dataclasses and torch.compile look modules up."""
    module = ModuleType(f"hptransfer_model_{hashlib.sha256(content).hexdigest()[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        exec(compile(content, path, "exec"), vars(module))
    except (Exception, SystemExit) as problem:
        del sys.modules[module.__name__]
        raise UserError(f"model.name: {_where(path, problem)}: cannot be imported: {_said(problem)}") from problem
    return module


def _checked(roles: Any, path: str) -> Mapping[str, str]:
    if not isinstance(roles, Mapping) or not roles:
        raise UserError(f"model.name: {path} has no ROLES: a dict from name patterns of parameters to their roles")
    for pattern, role in roles.items():
        kind = str(role).split(".")[0]
        if kind not in KINDS:
            known = f"{', '.join(KINDS)}{did_you_mean(kind, list(KINDS))}"
            raise UserError(f"{path}: ROLES[{pattern!r}]: unknown role {role!r}; a role begins with {known}")
    return roles


def _split(name: str) -> tuple[str, str]:
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise UserError(f"model.name: {name!r}: expected path/to/file.py:build")
    return path, function


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise UserError(f"model.name: {path}: cannot read: {problem.strerror} (from {Path.cwd()})") from None


def _where(path: str, problem: BaseException) -> str:
    """The file, with the last line in it that was on the way to the problem."""
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == path]
    line = lines[-1] if lines else getattr(problem, "lineno", None)
    return f"{path}:{line}" if line else path


def _said(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"
