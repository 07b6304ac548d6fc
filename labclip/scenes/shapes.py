"""The ten shapes: signed distances and surface normals of objects with radius 1.

A distance function takes points [m, h, w] along the object's axes (x right, y up, in radii) and returns signed
distances, negative inside. They are nearly exact, so that edges, bevels and soft shadows are even. Solids (sphere,
cube, cone, cylinder, ring) also have a function for their normals. The others are bevelled plates, whose normals the
renderer derives from the distance. All arrays are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # always float32, but NumPy's type hints lose it in mixed arithmetic
Normal = tuple[Array, Array, Array]

_VIEW = math.radians(32.0)  # solids are seen from above at this angle
_SIN, _COS = math.sin(_VIEW), math.cos(_VIEW)
_SQRT2 = math.sqrt(2.0)


def _box(x: Array, y: Array, half_x: float, half_y: float) -> Array:
    dx, dy = np.abs(x) - half_x, np.abs(y) - half_y
    outside: Array = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


def _ellipse(x: Array, y: Array, half_x: float, half_y: float) -> Array:
    """First-order distance f / |grad f| to an ellipse."""
    level = np.hypot(x / half_x, y / half_y)
    slope = np.hypot(x / half_x**2, y / half_y**2)
    distance: Array = level * (level - 1) / np.maximum(slope, 1e-4)
    return distance


def _segment(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float]) -> Array:
    """Unsigned distance to a line segment."""
    ex, ey = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    distance: Array = np.hypot(px - along * ex, py - along * ey)
    return distance


def _unit(x: Array, y: Array, z: Array) -> Normal:
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


_SPHERE = 0.93


def _sphere(x: Array, y: Array, turn: Array) -> Array:
    return np.hypot(x, y) - _SPHERE


def _sphere_normal(x: Array, y: Array, turn: Array) -> Normal:
    x, y = x / _SPHERE, y / _SPHERE
    return _unit(x, y, np.sqrt(np.maximum(1 - x * x - y * y, 1e-4)))


_RING, _TUBE = 0.66, 0.29


def _ring(x: Array, y: Array, turn: Array) -> Array:
    return np.abs(np.hypot(x, y) - _RING) - _TUBE


def _ring_normal(x: Array, y: Array, turn: Array) -> Normal:
    radius = np.maximum(np.hypot(x, y), 1e-3)
    across = (radius - _RING) / _TUBE
    return _unit(across * x / radius, across * y / radius, np.sqrt(np.maximum(1 - across * across, 1e-4)))


_CUBE = 0.60  # half the edge


def _cube_axes(turn: Array) -> list[tuple[Array, Array, Array]]:
    """Outward normals of the three visible faces: x, y, and z toward the viewer, each [m, 1, 1]."""
    yaw = math.pi / 4 + turn * 0.55
    c, s, one = np.cos(yaw), np.sin(yaw), np.ones_like(yaw)
    return [(c, -s * _SIN, s * _COS), (-s, -c * _SIN, c * _COS), (0 * one, _COS * one, _SIN * one)]


def _cube(x: Array, y: Array, turn: Array) -> Array:
    axes = _cube_axes(turn)
    distance = np.full_like(x, -np.inf)
    for ax, ay, _ in axes:  # the outline is a hexagon whose sides are parallel to the projected edges
        length = np.hypot(ax, ay)
        nx, ny = ay / length, -ax / length
        support = sum(np.abs(nx * bx + ny * by) for bx, by, _ in axes) * _CUBE
        distance = np.maximum(distance, np.abs(nx * x + ny * y) - support)
    return distance


def _cube_normal(x: Array, y: Array, turn: Array) -> Normal:
    axes = _cube_axes(turn)
    depths = [(_CUBE - ax * x - ay * y) / az for ax, ay, az in axes]
    nearest = np.minimum(np.minimum(depths[0], depths[1]), depths[2])
    w0, w1, w2 = (np.exp(np.minimum((nearest - depth) * 22, 0)) for depth in depths)  # rounds the edges
    x, y, z = (w0 * a + w1 * b + w2 * c for a, b, c in zip(*axes, strict=True))
    return _unit(x, y, z)


_CYLINDER, _CYLINDER_HALF = 0.70, 0.66


def _cylinder(x: Array, y: Array, turn: Array) -> Array:
    past_rim = np.maximum(np.abs(y) - _CYLINDER_HALF * _COS, 0)
    return _ellipse(x, past_rim, _CYLINDER, _CYLINDER * _SIN)


def _cylinder_normal(x: Array, y: Array, turn: Array) -> Normal:
    across = np.clip(x / _CYLINDER, -1, 1)
    front = np.sqrt(np.maximum(1 - across * across, 1e-4))
    edge = _ellipse(x, y - _CYLINDER_HALF * _COS, _CYLINDER, _CYLINDER * _SIN)
    # Above the lid's centre there is no side.
    top = np.where(y > _CYLINDER_HALF * _COS, 1, np.clip(0.5 - edge * 12, 0, 1))
    side = 1 - top
    return _unit(side * across, top * _COS - side * front * _SIN, top * _SIN + side * front * _COS)


_CONE, _APEX, _BASE = 0.84, 0.98, -0.50


def _cone(x: Array, y: Array, turn: Array) -> Array:
    base = _ellipse(x, y - _BASE, _CONE, _CONE * _SIN)
    # The sides touch the base where a line from the apex is tangent to it.
    reach = (_APEX - _BASE) / _SIN
    touch_x = _CONE * math.sqrt(1 - (_CONE / reach) ** 2)
    touch_y = _BASE + _SIN * _CONE**2 / reach
    x = np.abs(x)
    side = _segment(x, y, (0.0, _APEX), (touch_x, touch_y))
    inside = (touch_x * (y - _APEX) < x * (touch_y - _APEX)) & (y > touch_y)
    return np.minimum(base, np.where(inside, -side, side)) - 0.02


def _cone_normal(x: Array, y: Array, turn: Array) -> Normal:
    # Each pixel is on a line from the apex to a point of the rim, on the side toward the viewer; `angle` is its angle.
    slope = x / np.maximum(_APEX - y, 1e-3)
    rim = np.hypot(_CONE, slope * _CONE * _SIN)
    angle = np.arccos(np.clip(slope * (_APEX - _BASE) / rim, -1, 1)) - np.arctan2(slope * _CONE * _SIN, _CONE)
    out, front = np.cos(angle), np.sin(angle)
    height = (_APEX - _BASE) / _COS
    slant = math.hypot(height, _CONE)  # length of the cone's side, which gives its angle to the axis
    out, front, up = out * (height / slant), front * (height / slant), _CONE / slant
    return _unit(out, up * _COS - front * _SIN, up * _SIN + front * _COS)


def _star(x: Array, y: Array, turn: Array) -> Array:
    sector = 2 * math.pi / 5
    radius = np.hypot(x, y)
    angle = np.arctan2(x, y)
    angle = np.abs(angle - sector * np.round(angle / sector))  # by symmetry, half of one tip is enough
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    tip, notch = 0.97, 0.47
    notch_x, notch_y = notch * math.cos(sector / 2), notch * math.sin(sector / 2)
    side = _segment(px, py, (tip, 0.0), (notch_x, notch_y))
    inside = (notch_x - tip) * py > notch_y * (px - tip)
    return np.where(inside, -side, side) - 0.07


def _heart(x: Array, y: Array, turn: Array) -> Array:
    # A square on its corner, with a disc on each upper side.
    half = 0.53
    x, y = np.abs(x), y + 0.14
    p, q = (x + y) / _SQRT2, (y - x) / _SQRT2
    square, disc = _box(p, q, half, half), np.hypot(p - half, q) - half
    return np.asarray(np.minimum(square, disc) - 0.05)


def _cross(x: Array, y: Array, turn: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return _box(np.maximum(x, y), np.minimum(x, y), 0.88, 0.26) - 0.07


_MOON, _BITE, _BITE_X = 0.93, 0.66, 0.56
_TIP_X = (_MOON**2 - _BITE**2 + _BITE_X**2) / (2 * _BITE_X)
_TIP_Y = math.sqrt(_MOON**2 - _TIP_X**2)


def _moon(x: Array, y: Array, turn: Array) -> Array:
    x, y = x + 0.12, np.abs(y)
    bite = np.hypot(x - _BITE_X, y) - _BITE
    crescent = np.maximum(np.hypot(x, y) - _MOON, -bite)
    # Beyond both arcs the tip is nearest. Without this case, the part cut out of the disc would cast a shadow.
    beyond = (y * _TIP_X < _TIP_Y * x) & ((_TIP_X - _BITE_X) * y <= _TIP_Y * (x - _BITE_X))
    return np.where(beyond, np.hypot(x - _TIP_X, y - _TIP_Y), crescent) - 0.03


def _arrow(x: Array, y: Array, turn: Array) -> Array:
    shaft = _box(x + 0.36, y, 0.54, 0.23)
    y = np.abs(y)
    tip, base, half = 0.90, -0.02, 0.76
    outline = np.minimum(_segment(x, y, (tip, 0.0), (base, half)), _segment(x, y, (base, 0.0), (base, half)))
    inside = (half * (x - tip) + (tip - base) * y < 0) & (x > base)
    return np.minimum(shaft, np.where(inside, -outline, outline)) - 0.07


# In the order of `SHAPES`: five solids, five plates.
DISTANCES: tuple[Callable[[Array, Array, Array], Array], ...] = (
    *(_sphere, _cube, _cone, _cylinder, _ring), *(_star, _heart, _cross, _moon, _arrow),
)  # fmt: skip
NORMALS: tuple[Callable[[Array, Array, Array], Normal] | None, ...] = (
    *(_sphere_normal, _cube_normal, _cone_normal, _cylinder_normal, _ring_normal), *[None] * 5,
)  # fmt: skip
