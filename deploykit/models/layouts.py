"""How published checkpoints name their tensors, as data: the keys of a file in, deploykit's keys out. Needs no torch.

deploykit's own names are torchvision's. A layout says how another project names the same modules, and which conventions its
weights were trained with; a file's layout is found from its keys. Sources:

    torchvision          https://github.com/pytorch/vision
    timm, timm-tf        https://github.com/huggingface/pytorch-image-models (``efficientnet_*``, ``tf_efficientnet_*``)
    efficientnet-pytorch https://github.com/lukemelas/EfficientNet-PyTorch
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from deploykit.errors import UsageError, WeightsError

PADDINGS = ("symmetric", "same")


@dataclass(frozen=True)
class Conventions:
    """What the weights were trained with and their shapes do not tell.

    Args:
        padding: ``symmetric`` pads both sides of a strided convolution alike (PyTorch); ``same`` gives an odd pixel to the
            bottom and the right (TensorFlow). The two differ in strided convolutions alone.
        bn_eps: the epsilon of batch normalization.
    """

    padding: str = "symmetric"
    bn_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise UsageError(f"conventions: padding is {self.padding!r}, expected one of {', '.join(PADDINGS)}")
        if not 0 < self.bn_eps < 1:
            raise UsageError(f"conventions: bn_eps is {self.bn_eps!r}, expected a number between 0 and 1")


PYTORCH = Conventions("symmetric", 1e-5)
PYTORCH_EPS_3 = Conventions("symmetric", 1e-3)  # torchvision's B5 to B7: TensorFlow's epsilon, PyTorch's padding
TENSORFLOW = Conventions("same", 1e-3)


@dataclass(frozen=True)
class Layout:
    """One way to name the modules of a family.

    Args:
        name: as ``layout=`` takes it and a bundle records it.
        conventions: of the weights published under these names; None for deploykit's own names, where the model says.
        outer: modules outside the blocks, theirs to ours.
        block: prefix of a block's modules, with ``{stage}`` and ``{block}`` counted from 0, or ``{serial}`` through all blocks.
        plain: modules of a block that does not expand, theirs to a step of ours.
        expanded: the same for a block that expands.
        shares_keys_with: the layout with the same names and other conventions.
    """

    name: str
    conventions: Conventions | None = None
    outer: Mapping[str, str] | None = None
    block: str = ""
    plain: Mapping[str, str] | None = None
    expanded: Mapping[str, str] | None = None
    shares_keys_with: str | None = None


_TIMM_PLAIN = {
    "conv_dw": "depthwise.0",
    "bn1": "depthwise.1",
    "se.conv_reduce": "squeeze.fc1",
    "se.conv_expand": "squeeze.fc2",
    "conv_pw": "project.0",
    "bn2": "project.1",
}
_TIMM_EXPANDED = {
    "conv_pw": "expand.0",
    "bn1": "expand.1",
    "conv_dw": "depthwise.0",
    "bn2": "depthwise.1",
    "se.conv_reduce": "squeeze.fc1",
    "se.conv_expand": "squeeze.fc2",
    "conv_pwl": "project.0",
    "bn3": "project.1",
}
_TIMM_OUTER = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.8.0",
    "bn2": "features.8.1",
    "classifier": "classifier.1",
}
_TIMM_BLOCK = "blocks.{stage}.{block}"
_PLAIN_AND_EXPANDED = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_se_reduce": "squeeze.fc1",
    "_se_expand": "squeeze.fc2",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
TORCHVISION = Layout("torchvision")
TIMM = Layout("timm", PYTORCH, _TIMM_OUTER, _TIMM_BLOCK, _TIMM_PLAIN, _TIMM_EXPANDED, shares_keys_with="timm-tf")
TIMM_TF = Layout("timm-tf", TENSORFLOW, _TIMM_OUTER, _TIMM_BLOCK, _TIMM_PLAIN, _TIMM_EXPANDED, shares_keys_with="timm")
EFFICIENTNET_PYTORCH = Layout(
    "efficientnet-pytorch",
    TENSORFLOW,
    {
        "_conv_stem": "features.0.0",
        "_bn0": "features.0.1",
        "_conv_head": "features.8.0",
        "_bn1": "features.8.1",
        "_fc": "classifier.1",
    },
    "_blocks.{serial}",
    _PLAIN_AND_EXPANDED,
    _PLAIN_AND_EXPANDED,
)
# In the order of detection: of two layouts that share their keys, the first is assumed and the assumption told.
EFFICIENTNET_LAYOUTS = (TORCHVISION, TIMM, TIMM_TF, EFFICIENTNET_PYTORCH)

# The steps of one of our blocks: features.{stage + 1}.{block}.block.{position of the step}.
_PLAIN_STEPS = ("depthwise", "squeeze", "project")
_EXPANDED_STEPS = ("expand", "depthwise", "squeeze", "project")


def name_modules(layout: Layout, modules: Collection[str]) -> dict[str, str]:
    """The module names of one model, theirs to ours.

    Args:
        layout: how they are named in the file.
        modules: deploykit's names of the model's modules that hold tensors, such as ``features.0.0``.
    """
    if layout.outer is None:
        return {name: name for name in modules}
    table = {theirs: ours for theirs, ours in layout.outer.items() if ours in modules}
    for serial, (stage, block, steps) in enumerate(_blocks_of(modules)):
        prefix = layout.block.format(stage=stage - 1, block=block, serial=serial)
        for theirs, step in ((layout.expanded if "expand" in steps else layout.plain) or {}).items():
            kind, _, rest = step.partition(".")
            if kind in steps:
                table[f"{prefix}.{theirs}"] = f"features.{stage}.{block}.block.{steps.index(kind)}.{rest}"
    return table


def _blocks_of(modules: Collection[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    """Stage, index and steps of every block of an EfficientNet, in order, read off deploykit's module names."""
    depths: dict[tuple[int, int], int] = {}
    squeezes = any(name.endswith(".fc1") for name in modules)
    for name in modules:
        parts = name.split(".")
        if parts[0] == "features" and len(parts) > 4:  # features.STAGE.BLOCK.block.POSITION.REST
            stage, block, position = int(parts[1]), int(parts[2]), int(parts[4])
            depths[stage, block] = max(depths.get((stage, block), 0), position + 1)
    blocks = []
    for (stage, block), depth in sorted(depths.items()):
        steps = _PLAIN_STEPS if depth == 2 + squeezes else _EXPANDED_STEPS
        blocks.append((stage, block, tuple(step for step in steps if squeezes or step != "squeeze")))
    return blocks


def detect_layout(keys: Collection[str], layouts: Sequence[Layout], modules: Collection[str]) -> Layout:
    """The layout that names most of the keys; the first of equals.

    Args:
        keys: of the checkpoint.
        layouts: that the model's family knows.
        modules: deploykit's names of the model's modules that hold tensors.

    Raises:
        WeightsError: no layout names a single key of the file.
    """
    counts = []
    for layout in layouts:
        theirs = name_modules(layout, modules)
        counts.append(sum(key.rpartition(".")[0] in theirs for key in keys))
    if not max(counts):
        seen = ", ".join(sorted(keys)[:3])
        raise WeightsError(
            f"no key of the checkpoint belongs to this model: it holds {seen}, ...",
            hint=f"is this the model that was trained? Layouts known here: {', '.join(layout.name for layout in layouts)}",
        )
    return layouts[counts.index(max(counts))]


def rename_keys(keys: Collection[str], layout: Layout, modules: Collection[str]) -> dict[str, str]:
    """Each key of the file to deploykit's key; a key of no known module keeps its name.

    Raises:
        WeightsError: two keys of the file mean the same tensor.
    """
    table = name_modules(layout, modules)
    renamed = {}
    for key in keys:
        module, _, tensor = key.rpartition(".")
        renamed[key] = f"{table[module]}.{tensor}" if module in table else key
    if len(set(renamed.values())) < len(renamed):
        twice = next(key for key, ours in renamed.items() if key != ours and ours in keys)
        raise WeightsError(f"the checkpoint holds the same tensor twice, as {twice} and as {renamed[twice]}")
    return renamed


def find_layout(name: str, layouts: Sequence[Layout]) -> Layout:
    """The layout of that name.

    Raises:
        UsageError: the family has no such layout.
    """
    for layout in layouts:
        if layout.name == name:
            return layout
    raise UsageError(f"layout is {name!r}, expected one of {', '.join(layout.name for layout in layouts)}")
