"""Laws as a readable YAML file."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.config import read_yaml, to_yaml
from hptransfer.errors import UserError
from hptransfer.files import write_atomic
from hptransfer.laws.evidence import Cell, Features
from hptransfer.laws.laws import FittedCell, Laws, LeftOut
from hptransfer.laws.loss import LossLaw
from hptransfer.laws.pooled import Noise
from hptransfer.laws.valley import COORDINATES

FORMAT = "hptransfer laws"
VERSION = 2
END = "complete"
"""The last key; a file without it was cut off."""

COMMENTS = {
    "data.hash": "of the numbers fitted, whatever their order",
    "features.reference": "ln(value / reference) is what the exponents multiply",
    "exponents": "value, then 95 % interval; for reading, predictions use coefficients and covariance",
    "coefficients": "levels are natural logarithms at the reference",
    "covariance": "of the coefficients, rows in their order",
    "spread": "sd of a cell's own ln floor and ln optimum about the law",
    "validated": "decades beyond the runs that leaving out the largest size has validated",
}


def save(laws: Laws, path: Path, overwrite: bool = True) -> None:
    """Writes the file whole or not at all; UserError where it may not be overwritten and holds something else."""
    text = to_yaml(to_plain(laws), COMMENTS)
    if path.exists() and not overwrite and path.read_bytes() != text.encode():
        raise UserError(f"{path}: exists and is not overwritten; name another file with -o")
    write_atomic(path, text)


def load(path: Path) -> Laws:
    """UserError, one line, where the file is cut off, of another format or version, or damaged."""
    try:
        plain = read_yaml(path)
    except UserError as problem:
        cut = path.is_file() and path.read_bytes().startswith(f"format: {FORMAT}".encode())
        raise UserError(
            f"{problem}; the file is cut off or damaged, fit the runs again" if cut else str(problem)
        ) from None
    if plain.get("format") != FORMAT:
        raise UserError(
            f"{path}: format: {plain.get('format')!r}; expected {FORMAT!r}: is this a file that `fit` wrote?"
        )
    if plain.get("version") != VERSION:
        raise UserError(
            f"{path}: version: {plain.get('version')!r}; this hptransfer reads version {VERSION}; fit the runs again"
        )
    if plain.get(END) is not True:
        raise UserError(f"{path}: the file is cut off (its last line is {END}: true); fit the runs again")
    try:
        return from_plain(plain)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UserError(f"{path}: damaged: {type(problem).__name__}: {problem}; fit the runs again") from None


def to_plain(laws: Laws) -> dict[str, Any]:
    """Nested plain data in the order in which a reader wants it."""
    loss = laws.loss
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": dict(laws.recipe),
        "data": dict(laws.data),
        "settings": dict(laws.settings),
        "warnings": list(laws.warnings),
        "coordinates": list(laws.coordinates),
        "exponents": {name: [round(value, 4) for value in values] for name, values in laws.exponents.items()},
        "checks": dict(laws.checks),
        "validated": dict(laws.validated),
        "validation": {f"{i}": asdict(one) for i, one in enumerate(laws.validation)},
        "spread": dict(laws.spread),
        "noise": asdict(laws.noise),
        "features": {"names": list(laws.features.names), "reference": dict(laws.features.reference)},
        "coefficients": dict(zip(laws.names, map(float, laws.coefficients), strict=True)),
        "covariance": {name: row.tolist() for name, row in zip(laws.names, laws.covariance, strict=True)},
        "applied": dict(laws.applied),
        "loss": None
        if loss is None
        else {
            "chinchilla": loss.chinchilla,
            "values": loss.values.tolist(),
            "covariance": loss.covariance.tolist(),
            "params": loss.params,
            "tokens": loss.tokens,
            "scatter": loss.scatter,
        },
        "cells": {f"{i}": asdict(one) for i, one in enumerate(laws.cells)},
        END: True,
    }


def from_plain(plain: Mapping[str, Any]) -> Laws:
    """The inverse of `to_plain`; KeyError, TypeError or ValueError where something is missing or of the wrong kind."""
    coordinates = tuple(plain["coordinates"])
    if not set(coordinates) <= set(COORDINATES):
        raise ValueError(f"coordinates {coordinates}")
    loss = plain["loss"]
    laws = Laws(
        recipe=dict(plain["recipe"]),
        data=dict(plain["data"]),
        settings=dict(plain["settings"]),
        coordinates=coordinates,
        features=Features(tuple(plain["features"]["names"]), dict(plain["features"]["reference"])),
        coefficients=_array(plain["coefficients"].values()),
        covariance=_array(plain["covariance"].values()).reshape(len(plain["coefficients"]), -1),
        spread=dict(plain["spread"]),
        noise=Noise(**plain["noise"]),
        cells=tuple(_cell(one) for one in plain["cells"].values()),
        validation=tuple(LeftOut(**one) for one in plain["validation"].values()),
        validated=dict(plain["validated"]),
        applied=dict(plain["applied"]),
        loss=None
        if loss is None
        else LossLaw(
            _array(loss["values"]), _array(loss["covariance"]), loss["params"], loss["tokens"], loss["scatter"]
        ),
        warnings=tuple(plain["warnings"]),
        checks=dict(plain.get("checks", {})),
    )
    if tuple(plain["coefficients"]) != laws.names:
        raise ValueError("coefficients do not match coordinates and features")
    return laws


def _array(values: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array(list(values), dtype=float)


def _cell(plain: Mapping[str, Any]) -> FittedCell:
    cell = Cell(**{one.name: plain["cell"][one.name] for one in fields(Cell)})
    return FittedCell(**{**plain, "cell": cell})
