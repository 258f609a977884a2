"""What a user types for a model that deploykit does not define, taken apart. Needs no torch."""

import re
from dataclasses import dataclass

from deploykit.errors import UsageError

LIBRARIES = ("timm", "torchvision")

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Reference:
    """A model of somebody else's.

    Args:
        source: ``timm``, ``torchvision``, a module's dotted path, or a file ending in ``.py``.
        name: the model's name in the library, or the function in the module or file.
    """

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"

    @property
    def is_library(self) -> bool:
        """Whether timm or torchvision has it."""
        return self.source in LIBRARIES

    @property
    def folder(self) -> str:
        """A name for a bundle's folder."""
        return re.sub(r"[^\w.-]+", "_", self.name)


def parse_reference(text: str) -> Reference | None:
    """``timm:resnet18``, ``torchvision:resnet18``, ``package.module:function`` or ``path/file.py:function``; None for a plain name.

    Raises:
        UsageError: a colon, and not one of these.
    """
    source, colon, name = text.rpartition(":")
    if not colon:
        return None
    if not name or not source:
        raise UsageError(
            f"model is {text!r}, and {'nothing stands behind' if source else 'nothing stands before'} its colon", _HINT
        )
    if source in LIBRARIES or source.endswith(".py"):
        return Reference(source, name)
    if not _MODULE.fullmatch(source):
        raise UsageError(
            f"model is {text!r}, and {source!r} is neither timm, torchvision, a module's dotted path nor a .py file", _HINT
        )
    return Reference(source, name)


_HINT = "write timm:NAME, torchvision:NAME, package.module:function or path/to/file.py:function"
