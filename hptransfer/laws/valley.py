"""The valley: how much loss is lost at a distance from the optimum, with slopes in closed form.

All distances are in natural logarithms, hyperparameter over its optimum; `excess` is loss over the floor, minus 1: a
of bowls, each of a distance s and an asymmetry k,

    bowl(s) = (exp(k s) - 1 - k s) / k^2,

which is s^2 / 2 near its bottom, and for k > 0 rises exponentially on the high side but only linearly on the low side.
With u, v, t the distances of lr, batch and timescale:

    excess = curvature * exp(taper v) * bowl(u + tilt_b v + bend v^2 / 2 + tilt_t t)    the lr, measured from the ridge,
                                                               which is the best lr at that batch and timescale
           + wall * bowl(u)         instability: it depends on the lr itself, whatever the batch; steep
           + the batch's and the timescale's own curvature * bowl(v), curvature * bowl(t)

Every parameter is free of sign and bound; curvatures and the wall are held as logarithms.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

COORDINATES = ("lr", "batch_tokens", "timescale")
PARAMETERS = {
    "lr": ("curvature", "asymmetry", "wall", "steepness"),
    "batch_tokens": ("curvature", "asymmetry", "tilt", "bend", "taper"),
    "timescale": ("curvature", "asymmetry", "tilt"),
}
REACH = 2.5
"""Beyond this distance (a factor of 12) of the batch, bend and taper stay at what they are there."""
FURTHEST = 12.0
"""Exponents are held below this; the excess is astronomical there."""


@dataclass(frozen=True)
class Slopes:
    """A valley at points (...): values, and derivatives with one more axis, coordinates or shape parameters."""

    excess: Floats
    ridge: Floats
    excess_at: Floats
    excess_shape: Floats
    ridge_at: Floats
    ridge_shape: Floats


def shape_names(coordinates: tuple[str, ...]) -> tuple[str, ...]:
    """The shape parameters of a valley over these coordinates, in order."""
    tilted = "lr" in coordinates
    return tuple(
        f"{coordinate} {parameter}"
        for coordinate in coordinates
        for parameter in PARAMETERS[coordinate]
        if tilted or parameter in ("curvature", "asymmetry", "wall", "steepness")
    )


def bowl(distance: Floats, asymmetry: Floats) -> tuple[Floats, Floats, Floats]:
    """(exp(k s) - 1 - k s) / k^2 with its derivatives in s and in k; s^2 / 2 + k s^3 / 6 where k is nearly 0."""
    small = np.abs(asymmetry) < 1e-3
    k = np.where(small, 1.0, asymmetry)
    steep = np.clip(k * distance, -FURTHEST, FURTHEST)
    rise = np.expm1(steep)
    value = (rise - steep) / k**2
    in_k = (distance * rise - 2 * k * value) / k**2
    near = distance**2 / 2 + asymmetry * distance**3 / 6
    slope = distance + asymmetry * distance**2 / 2
    return np.where(small, near, value), np.where(small, slope, rise / k), np.where(small, distance**3 / 6, in_k)


def ridge_offset(parameters: dict[str, Floats], distance: dict[str, Floats]) -> Floats:
    """How far below the joint optimum (in ln lr) the ridge lies at this distance of the batch and timescale."""
    zero = np.zeros(())
    v, t = distance.get("batch_tokens", zero), distance.get("timescale", zero)
    near = np.clip(v, -REACH, REACH)
    get = parameters.get
    return (
        get("batch_tokens tilt", zero) * v
        + get("batch_tokens bend", zero) * near**2 / 2
        + get("timescale tilt", zero) * t
    )


def evaluate(coordinates: tuple[str, ...], shape: Floats, at: Floats) -> Slopes:
    """The valley at distances `at` (..., coordinates); `shape` (parameters, ...) broadcasts with them."""
    names = shape_names(coordinates)
    parameters = dict(zip(names, shape, strict=True))
    distance = {name: at[..., j] for j, name in enumerate(coordinates)}
    points = np.broadcast_shapes(at.shape[:-1], shape.shape[1:])
    in_distance = {name: np.zeros(points) for name in coordinates}
    in_shape = {name: np.zeros(points) for name in names}
    ridge_at, ridge_shape = dict.fromkeys(coordinates, np.zeros(points)), dict.fromkeys(names, np.zeros(points))
    v = distance.get("batch_tokens", np.zeros(()))
    near, inside = np.clip(v, -REACH, REACH), np.abs(v) < REACH
    taper = parameters.get("batch_tokens taper", np.zeros(()))
    excess, ridge = np.zeros(points), np.zeros(points)

    for name in coordinates:
        along = distance[name] + (ridge_offset(parameters, distance) if name == "lr" else 0.0)
        curvature = np.exp(parameters[f"{name} curvature"] + (taper * near if name == "lr" else 0.0))
        value, slope, in_k = bowl(along, parameters[f"{name} asymmetry"])
        part = curvature * value
        excess = excess + part
        in_distance[name] = in_distance[name] + curvature * slope
        in_shape[f"{name} curvature"] = np.broadcast_to(part, points)
        in_shape[f"{name} asymmetry"] = np.broadcast_to(curvature * in_k, points)
        if name == "lr":
            ridge, lr_part = np.broadcast_to(along, points), part

    if "lr" in coordinates:
        wall = np.exp(parameters["lr wall"])
        value, wall_slope, in_k = bowl(distance["lr"], parameters["lr steepness"])
        excess = excess + wall * value
        in_shape["lr wall"] = np.broadcast_to(wall * value, points)
        in_shape["lr steepness"] = np.broadcast_to(wall * in_k, points)
        ridge_at["lr"] = np.ones(points)
        if "batch_tokens" in coordinates:
            bend = parameters["batch_tokens bend"]
            ridge_at["batch_tokens"] = parameters["batch_tokens tilt"] + bend * near * inside + np.zeros(points)
            ridge_shape["batch_tokens tilt"] = v + np.zeros(points)
            ridge_shape["batch_tokens bend"] = near**2 / 2 + np.zeros(points)
            in_distance["batch_tokens"] = in_distance["batch_tokens"] + taper * lr_part * inside
            in_shape["batch_tokens taper"] = lr_part * near
        if "timescale" in coordinates:
            ridge_at["timescale"] = parameters["timescale tilt"] + np.zeros(points)
            ridge_shape["timescale tilt"] = distance["timescale"] + np.zeros(points)
        in_lr = in_distance["lr"]
        for name in coordinates[1:]:
            in_distance[name] = in_distance[name] + in_lr * ridge_at[name]
        for name in names:
            in_shape[name] = in_shape[name] + in_lr * ridge_shape[name]
        in_distance["lr"] = in_lr + wall * wall_slope
    return Slopes(
        excess,
        ridge,
        np.stack([in_distance[name] for name in coordinates], -1),
        np.stack([in_shape[name] for name in names], -1),
        np.stack([ridge_at[name] for name in coordinates], -1),
        np.stack([ridge_shape[name] for name in names], -1),
    )
