"""What part each tensor plays, from module types, orientation and growth. What cannot be told is an error by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hptransfer.errors import UserError, did_you_mean
from hptransfer.foreign.growth import Owner, Shape, Tensor
from hptransfer.parametrization import KINDS


@dataclass(frozen=True)
class Placed:
    """A tensor with its role and why."""

    tensor: Tensor
    role: str
    why: str
    out_axis: int
    """Axis of the fan-out; all others are fan-in."""
    tied: bool = False
    """A readout that also embeds the inputs: a factor on the logits must not reach its tensor."""

    @property
    def is_bias(self) -> bool:
        """Added, where a gain multiplies."""
        return self.tensor.name.endswith("bias")

    def oriented(self, shape: Shape) -> Shape:
        """The shape as a parametrization's rules read it: (out, in, ...), tables of an embedding (in, out)."""
        if self.role.startswith("vector"):
            return shape
        inner = shape[: self.out_axis] + shape[self.out_axis + 1 :]
        if not self.role.startswith("embedding") or self.role.startswith("embedding.patch"):
            return (shape[self.out_axis], *inner)
        return (prod(inner), shape[self.out_axis])


class _Doubt(Exception):
    """Why a tensor cannot be placed."""


def place_all(tensors: tuple[Tensor, ...], roles: Mapping[str, str]) -> tuple[Placed, ...]:
    """Every tensor with a role: the user's by name pattern, else what its modules say; UserError for all in doubt."""
    _check(roles, tensors)
    readouts = _readouts(tensors)
    placed: list[Placed] = []
    doubts: dict[str, str] = {}
    for tensor in tensors:
        given = {role for name, role in roles.items() if fnmatchcase(tensor.name, name)}
        try:
            if len(given) > 1:
                raise _Doubt(f"roles= gives it {' and '.join(sorted(given))}")
            role, why = (given.pop(), "given in roles=") if given else _infer(tensor, readouts)
            placed.append(Placed(tensor, role, why, _out_axis(_main(tensor, role))))
        except _Doubt as doubt:
            doubts.setdefault(f"{tensor.pattern} {_growth(tensor)}: {doubt}", tensor.pattern)
    if not doubts and not any(each.role.startswith("readout") for each in placed):
        doubts["no readout: no matrix outside of repeated blocks has a growing fan-in and a fixed fan-out"] = "head.*"
    if doubts:
        raise UserError(
            "\n".join(f"parametrize: {line}" for line in doubts)
            + f"\nparametrize: say what they are: roles={{{next(iter(doubts.values()))!r}: 'hidden'}}, "
            f"by name pattern; a role begins with {', '.join(KINDS)}"
        )
    embedded = any(each.role.startswith(("embedding.token", "embedding.patch")) for each in placed)
    return tuple(_with_ties(each, embedded) for each in placed)


def _with_ties(each: Placed, embedded: bool) -> Placed:
    """A readout is tied where two modules hold it, or where no other tensor could embed the inputs."""
    if not each.role.startswith("readout"):
        return each
    if len(each.tensor.owners) > 1 or embedded:
        return replace(each, tied=len(each.tensor.owners) > 1)
    return replace(each, tied=True, why=f"{each.why}; no other tensor embeds the inputs: taken to be tied")


def is_norm(module: nn.Module) -> bool:
    """A normalisation, ours or anybody's."""
    known = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
    return isinstance(module, known) or "norm" in type(module).__name__.lower()


def _is_transposed(module: nn.Module) -> bool:
    """Stores its weight (in, out): Conv1D of transformers, transposed convolutions."""
    return isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D"


def _is_matrix(owner: Owner) -> bool:
    """The tensor multiplies what comes in."""
    if isinstance(owner.module, nn.MultiheadAttention):
        return owner.attribute.endswith("proj_weight")
    linear = isinstance(owner.module, (nn.Linear, _ConvNd)) or type(owner.module).__name__ == "Conv1D"
    return linear and owner.attribute == "weight"


def _out_axis(owner: Owner) -> int:
    return 1 if isinstance(owner.module, nn.Embedding) or _is_transposed(owner.module) else 0


def _main(tensor: Tensor, role: str) -> Owner:
    """The module that decides on the orientation: of a tied tensor the readout, where it is one."""
    matrices = [owner for owner in tensor.owners if _is_matrix(owner)]
    return matrices[0] if matrices and not role.startswith("embedding") else tensor.owners[0]


def _infer(tensor: Tensor, readouts: Mapping[str, int]) -> tuple[str, str]:
    matrices = [owner for owner in tensor.owners if _is_matrix(owner)]
    tables = [owner for owner in tensor.owners if isinstance(owner.module, nn.Embedding)]
    if matrices and tables:
        return _tied(tensor, matrices[0])
    if tables:
        return _table(tensor, readouts)
    if tensor.name in readouts and len(readouts) > 1:
        raise _Doubt("one of several matrices outside of repeated blocks whose fan-out does not grow: is it a readout?")
    if matrices:
        return _matrix(tensor, matrices[0])
    return _vector(tensor, tensor.owners[0])


def _ends(tensor: Tensor, owner: Owner) -> tuple[bool, bool]:
    """(fan-in grows, fan-out grows)."""
    out = _out_axis(owner)
    return any(grows for axis, grows in enumerate(tensor.grows) if axis != out), tensor.grows[out]


def _tied(tensor: Tensor, matrix: Owner) -> tuple[str, str]:
    if tensor.inside or _ends(tensor, matrix) != (True, False):
        raise _Doubt("shared by an embedding and a matrix, but no readout")
    return "readout", f"one tensor for embedding and readout ({matrix.name})"


def _table(tensor: Tensor, readouts: Mapping[str, int]) -> tuple[str, str]:
    if tensor.inside:
        raise _Doubt("an embedding inside a repeated block")
    if tensor.grows[0]:
        raise _Doubt("an embedding with a growing number of rows")
    if tensor.shape[0] in readouts.values():
        return "embedding.token", "nn.Embedding with a row for every output of the readout"
    return "embedding.position", "nn.Embedding with other rows than the vocabulary's"


def _matrix(tensor: Tensor, owner: Owner) -> tuple[str, str]:
    kind, (grows_in, grows_out) = type(owner.module).__name__, _ends(tensor, owner)
    conv = ".conv" if isinstance(owner.module, _ConvNd) else ""
    where = "in a repeated block" if tensor.inside else "outside of repeated blocks"
    if isinstance(owner.module, _ConvNd) and owner.module.groups > 1:
        if _is_transposed(owner.module):
            raise _Doubt("a transposed convolution in groups")
        if grows_out and not grows_in:
            outer = "" if tensor.inside else ".outer"
            return f"vector{outer}.depthwise", f"{kind} {where} with a growing number of groups"
    if grows_in and grows_out:
        stored = ", stored (in, out)" if _is_transposed(owner.module) else ""
        role = f"hidden{conv}.{owner.leaf}" if tensor.inside else f"hidden.outer{conv}"
        return role, f"{kind} {where}, both fans grow{stored}"
    if tensor.inside:
        raise _Doubt(f"{kind} in a repeated block whose {'fan-out' if grows_in else 'fan-in'} does not grow")
    if grows_in:
        return "readout", f"{kind} {where}, only its fan-in grows"
    return "embedding.patch", f"{kind} {where}, its fan-in does not grow"


def _vector(tensor: Tensor, owner: Owner) -> tuple[str, str]:
    kind = type(owner.module).__name__
    norm, bias = is_norm(owner.module), owner.attribute.endswith("bias")
    if len(tensor.shape) != 1 or not (norm or bias):
        raise _Doubt(f"a parameter of {kind}, which is no layer that is known here")
    what = f"{'bias' if bias else 'gain'} of {kind}"
    if not tensor.inside:
        return "vector.outer", f"{what} outside of repeated blocks"
    if norm and not any(tensor.grows):
        return "vector.qk_gain", f"{what} in a repeated block, of a size that does not grow: shared over heads"
    return f"vector.{'bias' if bias else 'gain'}", f"{what} in a repeated block"


def _readouts(tensors: tuple[Tensor, ...]) -> dict[str, int]:
    """Fan-out, by name, of the matrices outside of repeated blocks whose fan-in alone grows."""
    return {
        tensor.name: tensor.shape[_out_axis(owner)]
        for tensor in tensors
        for owner in tensor.owners
        if not tensor.inside and _is_matrix(owner) and _ends(tensor, owner) == (True, False)
    }


def _growth(tensor: Tensor) -> str:
    """(64 -> 256, 3)."""
    axes = (f"{b} -> {s}" if g else str(s) for s, b, g in zip(tensor.shape, tensor.base, tensor.grows, strict=True))
    return f"({', '.join(axes)})"


def _check(roles: Mapping[str, str], tensors: tuple[Tensor, ...]) -> None:
    """UserError for a role that there is none of, and for a pattern that no parameter matches."""
    names = [tensor.name for tensor in tensors]
    for name, role in roles.items():
        kind = role.split(".")[0]
        if kind not in KINDS:
            known = f"{', '.join(KINDS)}{did_you_mean(kind, list(KINDS))}"
            raise UserError(f"parametrize: roles[{name!r}]: unknown role {role!r}; a role begins with {known}")
        if not any(fnmatchcase(each, name) for each in names):
            raise UserError(f"parametrize: roles[{name!r}]: no parameter has such a name{did_you_mean(name, names)}")
