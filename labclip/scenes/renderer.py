"""Images of scenes: glossy objects with soft shadows on a tinted ground, at any size.

A `Layout` holds everything an image depends on, in units of its width, so the same layout gives the same scene at 64
pixels for a model and at 256 for people. An object's signed distance gives its coverage (smooth edges without
supersampling) and, shifted along the light, its shadow; its normals give the shading under one light.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.shapes import DISTANCES, NORMALS, Array, Normal

# sRGB 0..255, in the order of `COLOURS`; told apart at a glance in light and in shade.
_PALETTE = np.array(
    [
        *((218, 30, 40), (255, 128, 10), (255, 222, 36), (34, 152, 54), (0, 186, 186), (28, 72, 222)),
        *((128, 44, 196), (255, 138, 196), (112, 66, 34), (255, 255, 255), (132, 134, 138), (28, 28, 32)),
    ],
    dtype=np.float32,
) / np.float32(255)
_CHUNK = 256  # scenes drawn at a time at 64 pixels: the working set stays in the cache
_REACH = 1.75  # half an object's patch, in its radii: the object, its turn and its shadow
_SHADOW, _SOFT = 0.30, 0.30  # how far a shadow falls and over what width it fades, in radii


@dataclass(frozen=True)
class Layout:
    """What an image depends on, for n scenes of k objects ordered left to right; lengths in units of its width.

    Attributes:
        colours: Index into `COLOURS`, [n, k].
        shapes: Index into `SHAPES`, [n, k]; different within a scene.
        centres: x from the left, y from the top, [n, k, 2].
        radii: [n, k].
        turns: Rotation in radians, counter-clockwise, [n, k].
        mirrored: Whether the object itself is mirrored, left for right, [n, k].
        tints: Factor on the object's colour channels, [n, k, 3].
        lights: Unit vector toward the light, x to the right, y up, z toward the viewer, [n, 3].
        grounds: Ground colour, sRGB 0..1, [n, 3].
    """

    colours: NDArray[np.int64]
    shapes: NDArray[np.int64]
    centres: Array
    radii: Array
    turns: Array
    mirrored: NDArray[np.bool_]
    tints: Array
    lights: Array
    grounds: Array

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Layout:
        """The layout of some of the scenes."""
        return Layout(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_layout(rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> Layout:
    """Place objects at random, [n, k] from left to right: no overlap, and clearly one left of the other.

    More than two objects are drawn smaller, to have room.
    """
    n, k = colours.shape
    scale = min(1.0, 2.3 / k)
    gap = min(0.17, 0.5 / k)
    radii = rng.uniform(0.165 * scale, 0.215 * scale, (n, k)).astype(np.float32)
    margin = 0.225 * scale
    centres = np.zeros((n, k, 2), dtype=np.float32)
    todo = np.arange(n)
    while len(todo):
        x = np.sort(rng.uniform(margin, 1 - margin - gap * (k - 1), (len(todo), k)), axis=1) + gap * np.arange(k)
        y = rng.uniform(margin, 1 - margin - 0.02, (len(todo), k))
        centres[todo] = np.stack([x, y], axis=-1)
        apart = np.linalg.norm(centres[todo, :, None] - centres[todo, None], axis=-1)
        touching = apart < 1.08 * (radii[todo, :, None] + radii[todo, None])
        todo = todo[(touching & ~np.eye(k, dtype=bool)).any(axis=(1, 2))]
    azimuth, elevation = rng.uniform(0.25, 0.75, n) * np.pi, rng.uniform(0.62, 0.85, n)
    lights = np.stack([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], 1)
    brightness, hue, strength = rng.uniform(0.52, 0.72, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1)), 0.045
    grounds = brightness + strength * np.cos(hue - 2 * np.pi / 3 * np.arange(3))
    return Layout(
        colours=colours,
        shapes=shapes,
        centres=centres,
        radii=radii,
        turns=rng.uniform(-0.6, 0.6, (n, k)).astype(np.float32),
        mirrored=rng.random((n, k)) < 0.5,
        tints=rng.uniform(0.95, 1.05, (n, k, 3)).astype(np.float32),
        lights=lights.astype(np.float32),
        grounds=grounds.astype(np.float32),
    )


def render(layout: Layout, size: int = 64) -> NDArray[np.uint8]:
    """Draw n scenes, `size` pixels wide and high: sRGB, uint8 [n, size, size, 3]."""
    if size < 8:
        raise ValueError(f"An image of {size} pixels shows nothing. Ask for at least 8, for example render(256).")
    images = np.empty((len(layout), size, size, 3), dtype=np.uint8)
    step = max(1, _CHUNK * 64**2 // size**2)
    for start in range(0, len(layout), step):
        images[start : start + step] = _render_chunk(layout[start : start + step], size)
    return images


@dataclass(frozen=True)
class _Patch:
    """A square around one object in each of m scenes."""

    at: tuple[NDArray[np.int64], ...]  # scenes [m, 1, 1], rows [m, h, 1], columns [m, 1, h] of the padded canvas
    x: Array  # [m, h, h], from the object's centre to the right, in radii
    y: Array  # [m, h, h], upwards
    radius: Array  # [m, 1, 1], pixels
    turn: Array  # [m, 1, 1]
    flip: Array  # [m, 1, 1], -1 where mirrored
    light: Array  # [m, 3]
    albedo: Array  # [m, 3]

    def distance(self, shape: int, x: Array, y: Array) -> Array:
        """Signed distance in radii, at points given in the image's directions."""
        c, s = np.cos(self.tilt(shape)), np.sin(self.tilt(shape))
        return DISTANCES[shape]((x * c + y * s) * self.flip, y * c - x * s, self.turn)

    def tilt(self, shape: int) -> Array:
        """Solids stand nearly upright: a cube turned in the image's plane would look like falling."""
        return self.turn if NORMALS[shape] is None else self.turn * np.float32(0.2)


def _render_chunk(layout: Layout, size: int) -> NDArray[np.uint8]:
    n = len(layout)
    half = int(np.ceil(_REACH * float(layout.radii.max()) * size)) + 1
    canvas = np.zeros((n, size + 2 * half, size + 2 * half, 3), dtype=np.float32)
    inner = slice(half, half + size)
    canvas[:, inner, inner] = _ground(layout, size)
    patches = [
        (shape, _patch(layout, *np.nonzero(layout.shapes == shape), size=size, half=half))
        for shape in np.unique(layout.shapes).tolist()
    ]
    for shape, patch in patches:  # all shadows before all objects: a shadow never falls on an object
        canvas[patch.at] *= _shade(shape, patch)[..., None]
    for shape, patch in patches:
        coverage, colour = _surface(shape, patch)
        below = canvas[patch.at]
        canvas[patch.at] = below + coverage[..., None] * (colour - below)
    visible = canvas[:, inner, inner]
    return np.asarray(np.clip(visible * 255 + 0.5, 0, 255)).astype(np.uint8)


def _ground(layout: Layout, size: int) -> Array:
    """A ground a little brighter toward the light and darker toward the corners: [n, size, size, 3]."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * 2
    x, y = axis[None, None, :], -axis[None, :, None]
    lit = 1 + 0.05 * (layout.lights[:, 0, None, None] * x + layout.lights[:, 1, None, None] * y)
    shade = lit - 0.075 * (x * x + y * y) / 2
    return np.asarray(shade[..., None] * layout.grounds[:, None, None, :], dtype=np.float32)


def _patch(layout: Layout, scenes: NDArray[np.int64], objects: NDArray[np.int64], *, size: int, half: int) -> _Patch:
    at = scenes, objects
    centres = layout.centres[at] * size  # pixels
    corner = np.floor(centres).astype(np.int64) - half
    steps = np.arange(2 * half)
    columns, rows = corner[:, 0, None] + steps, corner[:, 1, None] + steps  # [m, h]
    radius = (layout.radii[at] * size)[:, None, None]
    x = (columns[:, None, :] + np.float32(0.5) - centres[:, 0, None, None]).astype(np.float32) / radius
    y = (centres[:, 1, None, None] - rows[:, :, None] - np.float32(0.5)).astype(np.float32) / radius
    x, y = np.broadcast_arrays(x, y)
    return _Patch(
        at=(scenes[:, None, None], rows[:, :, None] + half, columns[:, None, :] + half),
        x=x,
        y=y,
        radius=radius,
        turn=layout.turns[at][:, None, None],
        flip=np.where(layout.mirrored[at], np.float32(-1), np.float32(1))[:, None, None],
        light=layout.lights[scenes],
        albedo=np.minimum(_PALETTE[layout.colours[at]] * layout.tints[at], 1),
    )


def _fade(distance: Array, width: float) -> Array:
    """1 well inside, exactly 0 from `width` outside on, smooth between."""
    t = np.clip((width - distance) / (2 * width), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _shade(shape: int, patch: _Patch) -> Array:
    """How much of the ground's light is left around an object: [m, h, h]."""
    lx, ly = patch.light[:, 0, None, None], patch.light[:, 1, None, None]
    cast = _fade(patch.distance(shape, patch.x + lx * _SHADOW, patch.y + ly * _SHADOW), _SOFT)
    return 1 - np.float32(0.46) * cast


def _surface(shape: int, patch: _Patch) -> tuple[Array, Array]:
    """Coverage [m, h, h] and shaded colour [m, h, h, 3] of an object."""
    distance = patch.distance(shape, patch.x, patch.y)
    coverage = np.clip(0.5 - distance * patch.radius, 0, 1)
    nx, ny, nz = _normals(shape, patch, distance)
    lx, ly, lz = (patch.light[:, i, None, None] for i in range(3))
    facing = nx * lx + ny * ly + nz * lz
    diffuse = np.maximum(facing, 0)
    bx, by, bz = lx, ly, lz + 1  # the direction halfway between the light and the viewer
    halfway = np.maximum((nx * bx + ny * by + nz * bz) / np.sqrt(bx * bx + by * by + bz * bz), 0)
    gloss = halfway**2
    for _ in range(4):  # ** 32, several times faster than a general power
        gloss = gloss * gloss
    edge = 1 - nz
    light = 0.47 + 0.10 * ny + 0.64 * diffuse
    white = 0.50 * gloss + 0.14 * edge * edge * edge
    colour = light[..., None] * patch.albedo[:, None, None, :] * (1 - 0.35 * white[..., None]) + white[..., None]
    return coverage, colour


def _normals(shape: int, patch: _Patch, distance: Array) -> Normal:
    """Unit normals in the image's directions, each [m, h, h]."""
    surface = NORMALS[shape]
    if surface is not None:
        tilt = patch.tilt(shape)
        c, s = np.cos(tilt), np.sin(tilt)
        nx, ny, nz = surface((patch.x * c + patch.y * s) * patch.flip, patch.y * c - patch.x * s, patch.turn)
        nx = nx * patch.flip
        return nx * c - ny * s, nx * s + ny * c, nz
    # A plate with a quarter-round edge, slightly domed so that its face catches the light unevenly.
    rise_y, rise_x = np.gradient(distance, axis=(1, 2))
    rise_x, rise_y = rise_x * patch.radius, -rise_y * patch.radius
    steep = np.clip(1 + distance * np.float32(1 / 0.20), 0, 1)
    nx, ny = steep * rise_x + np.float32(0.14) * patch.x, steep * rise_y + np.float32(0.14) * patch.y
    flat = np.minimum(nx * nx + ny * ny, np.float32(0.97))
    return nx, ny, np.sqrt(1 - flat)
