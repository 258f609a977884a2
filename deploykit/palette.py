"""Colours that people tell apart, whichever colours they see: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/."""

BLACK = "#000000"
BLUE = "#0072B2"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
VERMILLION = "#D55E00"
YELLOW = "#F0E442"

LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""For curves and bars on white, where yellow is hardly seen; neighbours differ most."""

GREY = "#707070"
GRID = "#E4E4E4"
"""What stands behind the colours."""


def rgb(colour: str) -> tuple[int, int, int]:
    """``#0072B2`` to (0, 114, 178)."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
