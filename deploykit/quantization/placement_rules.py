"""The rules of Q/DQ placement, each with its reason; shown to users and written out in PLACEMENT.md."""

from collections.abc import Mapping

RULES: Mapping[str, str] = {}
