"""How published checkpoints name their tensors, as data: the keys of a file in, deploykit's keys out. Needs no torch.

deploykit's own names are torchvision's, or timm's where torchvision has no such model. A layout says how another project names the
same modules, and which conventions its weights were trained with; a file's layout is found from its keys. Sources:

    torchvision          https://github.com/pytorch/vision
    torchvision-old      its DenseNets' files, https://github.com/pytorch/vision/blob/main/torchvision/models/densenet.py
    timm, timm-tf        https://github.com/huggingface/pytorch-image-models (``efficientnet_*``, ``tf_efficientnet_*``)
    efficientnet-pytorch https://github.com/lukemelas/EfficientNet-PyTorch
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

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
    """One way to name the modules of a family. With a name alone: deploykit's own.

    Args:
        name: as ``layout=`` takes it and a bundle records it.
        conventions: of the weights published under these names; None where the model says.
        outer: modules by their whole names, theirs to ours; ``{last}`` is the number of the last part of ``features``.
        block: prefix of a block's modules, with ``{stage}`` and ``{block}`` counted from 0, or ``{serial}`` through all blocks.
        steps: modules of a block, theirs to a step of ours, by the steps that the block has; squeeze-and-excitation goes without
            saying.
        endings: the last parts of names, theirs to ours, where all else is named alike.
        shares_keys_with: the layout with the same names and other conventions.
    """

    name: str
    conventions: Conventions | None = None
    outer: Mapping[str, str] | None = None
    block: str = ""
    steps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    endings: Mapping[str, str] = field(default_factory=dict)
    shares_keys_with: str | None = None


# The steps of one of our blocks, features.{stage}.{block}.block.{position of the step}: by whether the model squeezes, and by how
# many steps the block has. A fused step is a plain convolution in place of expansion and depthwise convolution.
_STEPS: Mapping[tuple[bool, int], tuple[str, ...]] = {
    (False, 2): ("depthwise", "project"),
    (False, 3): ("expand", "depthwise", "project"),
    (True, 1): ("fused",),
    (True, 2): ("fused", "project"),
    (True, 3): ("depthwise", "squeeze", "project"),
    (True, 4): ("expand", "depthwise", "squeeze", "project"),
}
_TIMM_STEPS = {
    "depthwise, project": {
        "conv_dw": "depthwise.0",
        "bn1": "depthwise.1",
        "se.conv_reduce": "squeeze.fc1",
        "se.conv_expand": "squeeze.fc2",
        "conv_pw": "project.0",
        "bn2": "project.1",
    },
    "expand, depthwise, project": {
        "conv_pw": "expand.0",
        "bn1": "expand.1",
        "conv_dw": "depthwise.0",
        "bn2": "depthwise.1",
        "se.conv_reduce": "squeeze.fc1",
        "se.conv_expand": "squeeze.fc2",
        "conv_pwl": "project.0",
        "bn3": "project.1",
    },
    "fused": {"conv": "fused.0", "bn1": "fused.1"},
    "fused, project": {"conv_exp": "fused.0", "bn1": "fused.1", "conv_pwl": "project.0", "bn2": "project.1"},
}
_TIMM_OUTER = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.{last}.0",
    "bn2": "features.{last}.1",
    "classifier": "classifier.1",
}
_TIMM_BLOCK = "blocks.{stage}.{block}"
_EFFICIENTNET_PYTORCH_STEPS = {
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
TIMM = Layout("timm", PYTORCH, _TIMM_OUTER, _TIMM_BLOCK, _TIMM_STEPS, shares_keys_with="timm-tf")
TIMM_TF = Layout("timm-tf", TENSORFLOW, _TIMM_OUTER, _TIMM_BLOCK, _TIMM_STEPS, shares_keys_with="timm")
EFFICIENTNET_PYTORCH = Layout(
    "efficientnet-pytorch",
    TENSORFLOW,
    {
        "_conv_stem": "features.0.0",
        "_bn0": "features.0.1",
        "_conv_head": "features.{last}.0",
        "_bn1": "features.{last}.1",
        "_fc": "classifier.1",
    },
    "_blocks.{serial}",
    {"depthwise, project": _EFFICIENTNET_PYTORCH_STEPS, "expand, depthwise, project": _EFFICIENTNET_PYTORCH_STEPS},
)
# In the order of detection: of two layouts that share their keys, the first is assumed and the assumption told. Of EfficientNetV2
# only weights with TensorFlow's conventions were published under timm's keys.
EFFICIENTNET_LAYOUTS = (TORCHVISION, TIMM, TIMM_TF, EFFICIENTNET_PYTORCH)
EFFICIENTNET_V2_LAYOUTS = (TORCHVISION, TIMM_TF, TIMM)

# torchvision's DenseNets had a module "norm.1" until names with dots were forbidden; the published files still do.
TORCHVISION_OLD = Layout("torchvision-old", endings={"norm.1": "norm1", "conv.1": "conv1", "norm.2": "norm2", "conv.2": "conv2"})
DENSENET_LAYOUTS = (TORCHVISION, TORCHVISION_OLD)

TIMM_OWN = Layout("timm")  # of families that carry timm's names in deploykit too
# MobileNetV2: torchvision counts its blocks through all stages, timm within each.
_MOBILENET_V2_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
_MOBILENET_V2_PLAIN = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_MOBILENET_V2_EXPANDED = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
_MOBILENET_V2_BLOCKS = [(stage, block) for stage, depth in enumerate(_MOBILENET_V2_DEPTHS) for block in range(depth)]
TIMM_MOBILENET_V2 = Layout(
    "timm",
    PYTORCH,
    _TIMM_OUTER
    | {
        f"blocks.{stage}.{block}.{theirs}": f"features.{serial}.conv.{ours}"
        for serial, (stage, block) in enumerate(_MOBILENET_V2_BLOCKS, start=1)
        for theirs, ours in (_MOBILENET_V2_PLAIN if serial == 1 else _MOBILENET_V2_EXPANDED).items()
    },
)
MOBILENET_V2_LAYOUTS = (TORCHVISION, TIMM_MOBILENET_V2)


def name_modules(layout: Layout, modules: Collection[str]) -> dict[str, str]:
    """The module names of one model, theirs to ours.

    Args:
        layout: how they are named in the file.
        modules: deploykit's names of the model's modules that hold tensors, such as ``features.0.0``.
    """
    if layout.outer is None:
        return {_with_their_ending(name, layout.endings): name for name in modules}
    parts = [name.split(".") for name in modules]
    last = max((int(part[1]) for part in parts if part[0] == "features"), default=0)
    table = {theirs: ours.format(last=last) for theirs, ours in layout.outer.items() if ours.format(last=last) in modules}
    for serial, (stage, block, steps) in enumerate(_blocks_of(modules) if layout.block else ()):
        prefix = layout.block.format(stage=stage - 1, block=block, serial=serial)
        for theirs, step in layout.steps.get(", ".join(step for step in steps if step != "squeeze"), {}).items():
            kind, _, rest = step.partition(".")
            if kind in steps:
                table[f"{prefix}.{theirs}"] = f"features.{stage}.{block}.block.{steps.index(kind)}.{rest}"
    return table


def _with_their_ending(name: str, endings: Mapping[str, str]) -> str:
    prefix, dot, last = name.rpartition(".")
    theirs = next((theirs for theirs, ours in endings.items() if ours == last), last)
    return f"{prefix}{dot}{theirs}"


def _blocks_of(modules: Collection[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    """Stage, index and steps of every block of an EfficientNet, in order, read off deploykit's module names."""
    depths: dict[tuple[int, int], int] = {}
    squeezes = any(name.endswith(".fc1") for name in modules)
    for name in modules:
        parts = name.split(".")
        if parts[0] == "features" and len(parts) > 4:  # features.STAGE.BLOCK.block.POSITION.REST
            stage, block, position = int(parts[1]), int(parts[2]), int(parts[4])
            depths[stage, block] = max(depths.get((stage, block), 0), position + 1)
    return [(stage, block, _STEPS[squeezes, depth]) for (stage, block), depth in sorted(depths.items())]


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
