"""A colour for every class, as far apart as screens allow, for people who see all colours and for those who do not.

Okabe & Ito's eight colours come first (https://jfly.uni-koeln.de/color/); each further one is the colour of the sRGB cube that lies
farthest from those before it, where the distance of two colours is the least of their distances in Oklab as everyone sees them and
as protanopes and deuteranopes, the two common kinds of colour blindness, do. Their sight: Machado, Oliveira & Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 2009, table 1 at severity 1.0.
"""

import functools

import numpy as np
import numpy.typing as npt

from deploykit.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW, rgb
from deploykit.runtime.colours import linear_to_oklab, to_linear

Colours = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

OKABE_ITO = tuple(rgb(colour) for colour in (GREEN, ORANGE, SKY, VERMILLION, BLUE, YELLOW, PURPLE))
"""Without black, which is hardly seen on photos."""

_SIGHTS = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}
_LIGHTNESS = (0.42, 0.94)  # darker and lighter ones are lost on the photo's shadows and lights
_STEPS = np.arange(0, 256, 17)


@functools.cache
def class_colours(count: int) -> Colours:
    """Colours for so many classes: uint8 [count, 3] sRGB. A class keeps its colour however many follow it."""
    chosen = list(OKABE_ITO[:count])
    candidates = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), -1).reshape(-1, 3).astype(np.uint8)
    lightness = seen_as(candidates)[0, :, 0]
    candidates = candidates[(lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1])]
    seen = seen_as(candidates)
    nearest = np.full(len(candidates), np.inf)
    for colour in chosen:
        nearest = np.minimum(nearest, _distances(seen, seen_as(np.array([colour], np.uint8))))
    while len(chosen) < count:
        best = int(nearest.argmax())
        red, green, blue = (int(value) for value in candidates[best])
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, _distances(seen, seen[:, best : best + 1]))
    colours = np.array(chosen, np.uint8).reshape(-1, 3)
    colours.flags.writeable = False
    return colours


def seen_as(colours: Colours) -> Floats:
    """Oklab coordinates [3, n, 3] of colours [n, 3] as everyone, protanopes and deuteranopes see them."""
    linear = to_linear(colours)
    sights = [linear, *(np.clip(linear @ np.array(matrix).T, 0, 1) for matrix in _SIGHTS.values())]
    return np.stack([linear_to_oklab(sight) for sight in sights])


def _distances(seen: Floats, one: Floats) -> Floats:
    """The least distance, over the kinds of sight, of colours [3, n, 3] from one [3, 1, 3]."""
    return np.asarray(np.linalg.norm(seen - one, axis=-1).min(0))
