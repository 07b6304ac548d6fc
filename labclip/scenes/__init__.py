"""The embedded scenes: rendered images, their captions, and which colour-shape pairs a fit may see.

It needs NumPy only. The model of these scenes and the scripts that make it are in `weights/`.
"""

from labclip.scenes.renderer import render
from labclip.scenes.vocabulary import COLOURS, SHAPES
from labclip.scenes.world import Scenes, sample

__all__ = ["COLOURS", "SHAPES", "Scenes", "render", "sample"]
