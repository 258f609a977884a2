"""The colours of maps: from dark violet over magenta and orange to light yellow, even to the eye, computed in Oklab.

Equal steps of the map are equal steps of colour, and lightness only rises, so the order is seen in grey print and by people who
do not tell red from green. Oklab: Ottosson 2020, https://bottosson.github.io/posts/oklab/.
"""

import functools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LEVELS = 256
_LIGHTNESS = (0.27, 0.93)
_HUE_DEGREES = (285.0, 460.0)  # upwards through 360: violet, magenta, red, orange, yellow
_MOST_CHROMA = 0.19
_LMS_TO_SRGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)


def colour_map(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Colours of a map: any shape, 0 to 1, to uint8 [..., 3] sRGB. Values beyond the ends take the end's colour."""
    levels = np.rint(np.clip(values, 0, 1) * (_LEVELS - 1)).astype(np.intp)
    return np.asarray(colour_table()[levels])


@functools.cache
def colour_table() -> npt.NDArray[np.uint8]:
    """The colours as uint8 [256, 3], sRGB, darkest first."""
    path = _path(np.linspace(0, 1, 4 * _LEVELS))
    # Lightness and hue advance at one pace and chroma follows the gamut, so steps differ: walk the path at even length instead.
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, length[-1], _LEVELS)
    even = np.stack([np.interp(at, length, path[:, axis]) for axis in range(3)], axis=1)
    table = np.rint(255 * _encode(np.clip(_linear_srgb(even), 0, 1))).astype(np.uint8)
    table.flags.writeable = False
    return table


def to_linear(srgb: npt.NDArray[np.uint8] | Floats) -> Floats:
    """Linear light, 0 to 1, of sRGB values, 0 to 255 (IEC 61966-2-1)."""
    value = np.asarray(srgb, np.float64) / 255
    return np.asarray(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


def linear_to_oklab(linear: Floats) -> Floats:
    """Oklab coordinates [..., 3] of linear sRGB [..., 3]."""
    lms = linear @ np.linalg.inv(_LMS_TO_SRGB).T
    return np.asarray(np.cbrt(lms) @ np.linalg.inv(_LAB_TO_LMS).T)


def _path(t: Floats) -> Floats:
    """Oklab coordinates [n, 3] along the map: as colourful as screens allow, up to a limit."""
    lightness = _LIGHTNESS[0] + (_LIGHTNESS[1] - _LIGHTNESS[0]) * t
    hue = np.radians(_HUE_DEGREES[0] + (_HUE_DEGREES[1] - _HUE_DEGREES[0]) * t)
    low, high = np.zeros_like(t), np.full_like(t, _MOST_CHROMA)
    for _ in range(20):  # bisection: the gamut's border in chroma
        middle = (low + high) / 2
        inside = _is_on_screen(_lab(lightness, middle, hue))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return _lab(lightness, low, hue)


def _lab(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    return np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)


def _is_on_screen(lab: Floats) -> npt.NDArray[np.bool_]:
    rgb = _linear_srgb(lab)
    return np.asarray(((rgb >= 0) & (rgb <= 1)).all(-1))


def _linear_srgb(lab: Floats) -> Floats:
    return np.asarray(((lab @ _LAB_TO_LMS.T) ** 3) @ _LMS_TO_SRGB.T)


def _encode(linear: Floats) -> Floats:
    """sRGB's transfer function, IEC 61966-2-1."""
    return np.asarray(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
