"""Images of scenes: glossy objects with soft shadows on a tinted ground, at any size.

A `Layout` has everything that an image depends on, in units of its width, so the same scene can be drawn with 64 pixels
for a model and with 256 for people. Objects are drawn from their signed distance: it gives the coverage of each pixel
(smooth edges without supersampling) and, shifted along the light, the shadow. Normals give the shading.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from labclip.scenes.shapes import DISTANCES, NORMALS, Array, Normal

# sRGB 0..255, in the order of `COLOURS`. They can be told apart in light and in shade.
_PALETTE = np.array(
    [
        *((218, 30, 40), (255, 128, 10), (255, 222, 36), (34, 152, 54), (0, 186, 186), (28, 72, 222)),
        *((128, 44, 196), (255, 138, 196), (112, 66, 34), (255, 255, 255), (132, 134, 138), (28, 28, 32)),
    ],
    dtype=np.float32,
) / np.float32(255)
_CHUNK = 256  # scenes of 64 pixels drawn at a time, so that the arrays fit in the processor's cache
_REACH = 1.75  # half the side of an object's patch, in radii: it contains the turned object and its shadow
_SHADOW, _SOFT = 0.30, 0.30  # offset of a shadow and width of its edge, in radii


@dataclass(frozen=True)
class Layout:
    """Everything that the images of n scenes of k objects depend on, from left to right. Lengths are image widths."""

    colours: NDArray[np.int64]  # indices into `COLOURS`, [n, k]
    shapes: NDArray[np.int64]  # indices into `SHAPES`, [n, k]; different within a scene
    centres: Array  # x from the left, y from the top, [n, k, 2]
    radii: Array  # [n, k]
    turns: Array  # rotation in radians, counter-clockwise, [n, k]
    mirrored: NDArray[np.bool_]  # whether left and right of the object are mirrored, [n, k]
    tints: Array  # factors of the object's colour channels, [n, k, 3]
    lights: Array  # unit vector toward the light: x to the right, y up, z toward the viewer, [n, 3]
    grounds: Array  # ground colour, sRGB 0..1, [n, 3]

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Layout:
        """The layout of some of the scenes."""
        return Layout(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_layout(rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> Layout:
    """Place objects, [n, k], at random: without overlap, and each clearly to the right of the one before.

    More than two objects are smaller, to leave room.
    """
    n, k = colours.shape
    scale = min(1.0, 2.3 / k)
    gap = min(0.17, 0.5 / k)
    radii = rng.uniform(0.165 * scale, 0.215 * scale, (n, k)).astype(np.float32)
    margin = 0.225 * scale
    centres = np.zeros((n, k, 2), dtype=np.float32)
    rows = np.arange(n)  # scenes whose objects have no place yet
    while len(rows):
        x = np.sort(rng.uniform(margin, 1 - margin - gap * (k - 1), (len(rows), k)), axis=1) + gap * np.arange(k)
        y = rng.uniform(margin, 1 - margin - 0.02, (len(rows), k))
        centres[rows] = np.stack([x, y], axis=-1)
        distance = np.linalg.norm(centres[rows, :, None] - centres[rows, None], axis=-1)
        touching = distance < 1.08 * (radii[rows, :, None] + radii[rows, None])
        rows = rows[(touching & ~np.eye(k, dtype=bool)).any(axis=(1, 2))]
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
        raise ValueError(f"size is {size}, too small to show a scene. Pass 8 or more, for example render(256).")
    images = np.empty((len(layout), size, size, 3), dtype=np.uint8)
    step = max(1, _CHUNK * 64**2 // size**2)
    for start in range(0, len(layout), step):
        images[start : start + step] = _render_chunk(layout[start : start + step], size)
    return images


class _Patch:
    """Square patches around the m objects of one shape. Arrays are [m, h, h] unless a comment gives another shape."""

    def __init__(self, layout: Layout, shape: int, size: int, half: int) -> None:
        objects = scenes, _ = np.nonzero(layout.shapes == shape)
        centres = layout.centres[objects] * size  # pixels
        corner = np.floor(centres).astype(np.int64) - half
        columns, rows = (corner[:, axis, None] + np.arange(2 * half) for axis in (0, 1))  # [m, h]
        self.index = scenes[:, None, None], rows[:, :, None] + half, columns[:, None, :] + half  # of the padded canvas
        self.radius = (layout.radii[objects] * size)[:, None, None]  # pixels, [m, 1, 1]
        x = (columns[:, None, :] + np.float32(0.5) - centres[:, 0, None, None]).astype(np.float32) / self.radius
        y = (centres[:, 1, None, None] - rows[:, :, None] - np.float32(0.5)).astype(np.float32) / self.radius
        self.x, self.y = np.broadcast_arrays(x, y)  # from the object's centre to the right and upwards, in radii
        self.turn = layout.turns[objects][:, None, None]
        self.flip = np.where(layout.mirrored[objects], np.float32(-1), np.float32(1))[:, None, None]
        self.light = [layout.lights[scenes, axis, None, None] for axis in range(3)]  # three [m, 1, 1]
        self.albedo = np.minimum(_PALETTE[layout.colours[objects]] * layout.tints[objects], 1)[:, None, None]
        self._distance, self._surface = DISTANCES[shape], NORMALS[shape]
        # Solids stand nearly upright, because a cube that is turned in the image plane seems to fall.
        tilt = self.turn if self._surface is None else self.turn * np.float32(0.2)
        self._cos, self._sin = np.cos(tilt), np.sin(tilt)

    def _to_object(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Convert points from the image's axes to the object's."""
        return (x * self._cos + y * self._sin) * self.flip, y * self._cos - x * self._sin

    def shade(self) -> Array:
        """The fraction of light that reaches the ground around the object."""
        lx, ly, _ = self.light
        distance = self._distance(*self._to_object(self.x + lx * _SHADOW, self.y + ly * _SHADOW), self.turn)
        t = np.clip((_SOFT - distance) / (2 * _SOFT), 0, 1)  # 1 deep in the shadow, 0 from distance `_SOFT` on
        return 1 - np.float32(0.46) * np.asarray(t * t * (3 - 2 * t))

    def surface(self) -> tuple[Array, Array]:
        """The object's coverage of each pixel, and its shaded colour, [m, h, h, 3]."""
        distance = self._distance(*self._to_object(self.x, self.y), self.turn)
        coverage = np.clip(0.5 - distance * self.radius, 0, 1)
        nx, ny, nz = self._normals(distance)
        lx, ly, lz = self.light
        diffuse = np.maximum(nx * lx + ny * ly + nz * lz, 0)
        bx, by, bz = lx, ly, lz + 1  # the direction halfway between the light and the viewer
        halfway = np.maximum((nx * bx + ny * by + nz * bz) / np.sqrt(bx * bx + by * by + bz * bz), 0)
        gloss = halfway**2
        for _ in range(4):  # halfway ** 32, several times faster than a general power
            gloss = gloss * gloss
        edge = 1 - nz
        light = 0.47 + 0.10 * ny + 0.64 * diffuse
        white = (0.50 * gloss + 0.14 * edge * edge * edge)[..., None]
        return coverage, light[..., None] * self.albedo * (1 - 0.35 * white) + white

    def _normals(self, distance: Array) -> Normal:
        """Unit normals along the image's axes."""
        if self._surface is not None:
            nx, ny, nz = self._surface(*self._to_object(self.x, self.y), self.turn)
            nx = nx * self.flip
            return nx * self._cos - ny * self._sin, nx * self._sin + ny * self._cos, nz
        # A plate with a quarter-round edge and a slightly domed face, so that its brightness varies.
        rise_y, rise_x = np.gradient(distance, axis=(1, 2))
        rise_x, rise_y = rise_x * self.radius, -rise_y * self.radius
        steep = np.clip(1 + distance * np.float32(1 / 0.20), 0, 1)
        nx, ny = steep * rise_x + np.float32(0.14) * self.x, steep * rise_y + np.float32(0.14) * self.y
        return nx, ny, np.sqrt(1 - np.minimum(nx * nx + ny * ny, np.float32(0.97)))


def _render_chunk(layout: Layout, size: int) -> NDArray[np.uint8]:
    half = int(np.ceil(_REACH * float(layout.radii.max()) * size)) + 1
    canvas = np.zeros((len(layout), size + 2 * half, size + 2 * half, 3), dtype=np.float32)
    inner = slice(half, half + size)
    canvas[:, inner, inner] = _ground(layout, size)
    patches = [_Patch(layout, shape, size, half) for shape in np.unique(layout.shapes).tolist()]
    for patch in patches:  # all shadows are drawn before all objects, so that they fall on the ground only
        canvas[patch.index] *= patch.shade()[..., None]
    for patch in patches:
        coverage, colour = patch.surface()
        background = canvas[patch.index]
        canvas[patch.index] = background + coverage[..., None] * (colour - background)
    return np.asarray(np.clip(canvas[:, inner, inner] * 255 + 0.5, 0, 255)).astype(np.uint8)


def _ground(layout: Layout, size: int) -> Array:
    """The ground, a little brighter toward the light and darker toward the corners, [n, size, size, 3]."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * 2
    x, y = axis[None, None, :], -axis[None, :, None]
    brightness = 1 + 0.05 * (layout.lights[:, 0, None, None] * x + layout.lights[:, 1, None, None] * y)
    brightness = brightness - 0.075 * (x * x + y * y) / 2
    return np.asarray(brightness[..., None] * layout.grounds[:, None, None, :], dtype=np.float32)
