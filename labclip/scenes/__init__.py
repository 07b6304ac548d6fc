"""The embedded scenes: rendered images, their captions, and the colour-shape pairs that a fit may see.

Only NumPy is needed. The scripts that made the embedded model are in `weights/`.
"""

from labclip.scenes.renderer import render
from labclip.scenes.vocabulary import COLOURS, SHAPES
from labclip.scenes.world import Scenes, sample

__all__ = ["COLOURS", "SHAPES", "Scenes", "render", "sample"]
