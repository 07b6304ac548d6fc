"""The embedded world: rendered scenes, what is said about them, and which colour-shape pairs a fit may see.

Needs NumPy only; nothing here imports torch. Models trained on these scenes and their scripts live in `weights/`.
"""

from labclip.scenes.renderer import render
from labclip.scenes.vocabulary import COLOURS, SHAPES
from labclip.scenes.world import Scenes, sample

__all__ = ["COLOURS", "SHAPES", "Scenes", "render", "sample"]
