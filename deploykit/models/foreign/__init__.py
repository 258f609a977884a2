"""Models that deploykit does not define: timm's, torchvision's, and any function that returns a module.

names.py      what a user types, taken apart
libraries.py  timm and torchvision: their modules, weights and image specs
factory.py    package.module:function and file.py:function
outputs.py    one tensor of logits out of whatever a module returns
load.py       all of it together: the same `LoadedModel` that deploykit's own registry gives
"""

from deploykit.models.foreign.load import ForeignChoices, load_foreign
from deploykit.models.foreign.names import Reference, parse_reference

__all__ = ["ForeignChoices", "Reference", "load_foreign", "parse_reference"]
