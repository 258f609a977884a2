"""The colours of maps are even to the eye and in order in grey print."""

import numpy as np

from deploykit.runtime.colours import colour_map, colour_table


def cielab_lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L* of sRGB colours, by its own formula and not by Oklab's."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y))


def test_lightness_rises_from_dark_to_light_without_a_step_back() -> None:
    lightness = cielab_lightness(colour_table())
    assert lightness[0] < 20
    assert lightness[-1] > 85
    # A grey level is 1/255 of the scale and whole numbers round: a step may seem to stand still, never to fall.
    assert (np.diff(lightness) > -0.35).all()
    assert (np.diff(lightness[::8]) > 0).all()


def test_equal_steps_of_the_map_are_equal_steps_to_the_eye() -> None:
    rgb = colour_table()[::16].astype(np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Oklab forwards, from its author's matrices; the module computes backwards.
    lms = (
        linear
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    lab = (
        np.cbrt(lms)
        @ np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        ).T
    )
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() < 1.08 * steps.min()  # 8-bit rounding: 0.002 on steps of 0.06, and chords of a bent path


def test_values_beyond_the_ends_take_the_end_s_colour() -> None:
    assert (colour_map(np.array([-1.0, 0, 1, 2])) == colour_table()[[0, 0, 255, 255]]).all()
