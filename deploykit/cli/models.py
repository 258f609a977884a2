"""``deploykit models``: what can be exported, with the figures that help to choose."""
