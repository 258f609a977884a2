"""The project on disk, and whose folder it is.

    DIR/CMakeLists.txt, README.md, deploykit.json         how to build it, what it is, which files deploykit wrote
    DIR/include/NAME.h, include/deploykit/*.h             what a service includes
    DIR/src, tests                                        programs; src/model_header.h names the model for them
    DIR/data/manifest.json, golden.bin, fixtures.bin      what the checks are held against
    DIR/plans/FOLDER/*.plan, plan.json                    the bundle's plans

Written beside its place and swapped in by one step. Files that deploykit did not write (a build folder, notes) are kept.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from deploykit import __version__
from deploykit.errors import BundleError
from deploykit.integrations import own_folder
from deploykit.integrations.cpp.arrays import pack_arrays
from deploykit.integrations.cpp.header import ModelFacts, header_text
from deploykit.integrations.own_folder import RECORD_NAME, Content, Kind, all_files, own_files, write_folder
from deploykit.plan import PLAN_NAME

TESTS = ("constants", "sha256", "json", "manifest", "golden", "image", "maps")
_KIND = Kind("c++ project", "C++ project", takes_others=True)

check_place = partial(own_folder.check_place, kind=_KIND)
"""Say whether a project may be put at ``path``: `deploykit.integrations.own_folder.check_place`."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Project:
    """What a project is made of.

    Args:
        name: an identifier, the header's name without ``.h``. namespace: of its constants.
        facts: for the header.
        manifest: manifest.json as it stands in the bundle. golden: golden.bin.
        fixtures: what the tests of preprocessing and maps are held against; see template/tests.
        colours: uint8 [256, 3], the colours of maps, weakest first.
    """

    name: str
    namespace: str
    facts: ModelFacts
    manifest: bytes
    golden: bytes
    fixtures: Arrays
    colours: npt.NDArray[Any]


def write_project(path: Path, project: Project, *, replace: bool) -> None:
    """Write a project.

    Args:
        replace: a project that deploykit wrote may be replaced.

    Raises:
        BundleError: see `check_place`; or the disk refused.
    """
    facts = {"manifest": project.facts.manifest_sha256}
    write_folder(path, _KIND, _contents(project), facts, replace=replace, finish=partial(_keep_others, path))


def _contents(project: Project) -> dict[str, Content]:
    contents: dict[str, Content] = {}
    words = _words(project)
    for name, data in _template().items():
        # Only these two differ from bundle to bundle; in a header an @ would stand for itself.
        contents[name] = _replace(data, words) if name in ("CMakeLists.txt", "README.md") else data
    contents[f"include/{project.name}.h"] = header_text(project.facts, project.namespace).encode()
    contents["include/deploykit/colours.h"] = _colours_header(project.colours).encode()
    contents["src/model_header.h"] = _model_header(project).encode()
    contents |= {"data/manifest.json": project.manifest, "data/golden.bin": project.golden}
    contents["data/fixtures.bin"] = pack_arrays(project.fixtures)
    for folder in project.facts.plans:
        for name in (*folder.record.files, PLAN_NAME):
            contents[f"plans/{folder.name}/{name}"] = folder.path / name
    return contents


def _template() -> dict[str, bytes]:
    """The files that are the same for every bundle, by their path in the project."""
    template = Path(__file__).parent / "template"
    return {file.relative_to(template).as_posix(): file.read_bytes() for file in sorted(template.rglob("*")) if file.is_file()}


def _replace(data: bytes, words: Mapping[str, str]) -> bytes:
    text = data.decode()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text.encode()


def _words(project: Project) -> dict[str, str]:
    """What stands for @WORD@ in CMakeLists.txt and README.md."""
    facts, manifest = project.facts, project.facts.manifest
    plans = [
        f"- `plans/{folder.name}`: {', '.join(folder.record.files)} for {folder.record.sm}"
        f"{f' ({folder.record.gpu.name})' if folder.record.gpu else ''}, {folder.record.backend} {folder.record.version}, "
        f"batch {folder.record.batch}"
        for folder in facts.plans
    ]
    none = "- None yet: see [Plans](#plans) for how to build them."
    untrained = "**Its weights are random (untrained): its answers mean nothing.**\n\n" if not manifest.weights.trained else ""
    image = manifest.image
    shape = (
        f"uint8 [N, {image.height}, {image.width}, 3]"
        if manifest.input == "pixels"
        else f"float32 [N, 3, {image.height}, {image.width}]"
    )
    return {
        "TITLE": f"{project.name} in {facts.precision}",
        "NAME": project.name,
        "NAMESPACE": project.namespace,
        "TARGET": f"deploykit_{project.name}",
        "TESTS": " ".join(TESTS),
        "VERSION": __version__,
        "UNTRAINED": untrained,
        "PLANS": "\n".join(plans) or none,
        "PLAN_FOLDER": facts.plans[0].name if facts.plans else "FOLDER",
        "PRECISION": str(facts.precision),
        "INPUT": shape,
        "CLASSES": f"{manifest.model.num_classes:,}",
        "EXPLAINS": "predict and explain" if facts.explain is not None else "predict alone: the bundle explains nothing",
    }


def _model_header(project: Project) -> str:
    return (
        "// Names the model for the programs and tests here; a service includes its header itself.\n"
        "#ifndef DEPLOYKIT_MODEL_HEADER_H\n#define DEPLOYKIT_MODEL_HEADER_H\n\n"
        f'#include "{project.name}.h"\n\nnamespace deploykit_programs {{\n\n'
        f"inline constexpr const ::deploykit::Model& model = ::{project.namespace}::model;\n\n"
        "}  // namespace deploykit_programs\n\n#endif\n"
    )


def _colours_header(colours: npt.NDArray[Any]) -> str:
    rows = [f"{{{', '.join(str(int(level)) for level in colour)}}}" for colour in colours]
    lines = [", ".join(rows[start : start + 6]) for start in range(0, len(rows), 6)]
    return (
        "// The colours of maps, sRGB, weakest evidence first. Written by deploykit, whose own overlays have the same.\n"
        "#ifndef DEPLOYKIT_COLOURS_H\n#define DEPLOYKIT_COLOURS_H\n\n#include <cstdint>\n\nnamespace deploykit {\n\n"
        f"inline constexpr std::uint8_t colour_table[{len(rows)}][3] = {{\n    " + ",\n    ".join(lines) + "};\n\n"
        "}  // namespace deploykit\n\n#endif\n"
    )


def _keep_others(path: Path, folder: Path) -> None:
    """Link into the new folder what deploykit did not write of the old one."""
    own = (own_files(path, _KIND) or set()) | {RECORD_NAME}
    for file in sorted(all_files(path)):
        name = file.relative_to(path).as_posix()
        if name in own:
            continue
        target = folder / name
        if target.exists():
            raise BundleError(f"{file} would be overwritten, and deploykit did not write it", hint="move it away")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(file, target, follow_symlinks=False)
