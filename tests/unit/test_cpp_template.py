"""The C++ that is the same for every bundle, held against the Python it stands for."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from deploykit.image.limits import DecodeLimits
from deploykit.integrations import cpp
from deploykit.integrations.cpp.project import TESTS
from deploykit.plan import COMPAT_LEVELS, PlanRecord
from deploykit.plan.record import SCHEMA_VERSION
from deploykit.runtime import overlay
from deploykit.spec import COLOUR_ORDERS, INTERPOLATIONS, RESIZE_RULES, Precision

TEMPLATE = Path(cpp.__file__).parent / "template"
SOURCES = sorted(path for path in TEMPLATE.rglob("*") if path.suffix in (".h", ".cpp"))


def header(name: str) -> str:
    return (TEMPLATE / "include/deploykit" / name).read_text()


def test_the_reader_of_plan_json_knows_every_field_that_deploykit_writes() -> None:
    """A field that is added to `PlanRecord` may say where a plan must not run: the C++ must be taught what it means."""
    listed = re.search(r"allow_only\(\{(.*?)\}\)", header("plan_record.h"), re.DOTALL)
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == {field.name for field in fields(PlanRecord)} | {"schema_version"}
    assert f"plan_schema_version = {SCHEMA_VERSION};" in header("plan_record.h")


def test_words_of_the_image_spec_and_of_plans_are_pythons() -> None:
    for kind, words in (("ResizeRule", RESIZE_RULES), ("Interpolation", INTERPOLATIONS), ("ColourOrder", COLOUR_ORDERS)):
        assert f"enum class {kind} : std::uint8_t {{ {', '.join(words)} }};" in header("model.h")
    for word in (*COMPAT_LEVELS, *Precision):
        assert f'!= "{word}"' in header("plan_record.h")


def test_limits_and_the_strength_of_colours_are_pythons() -> None:
    limits = DecodeLimits()
    assert limits.max_pixels == limits.max_resized_pixels == number("image.h", "most_pixels")
    assert limits.max_aspect_ratio == number("image.h", "most_aspect_ratio")
    assert f"most_opacity = {overlay._MOST_OPACITY}F, unseen_light = {overlay._UNSEEN_LIGHT}F" in header("overlay.h")


def number(name: str, constant: str) -> int:
    found = re.search(rf"\b{constant} = ([0-9']+);", header(name))
    assert found is not None
    return int(found[1].replace("'", ""))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_source_says_what_it_is_for_and_keeps_to_the_page(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("// ")
    assert text.endswith("\n")
    assert max(map(len, text.splitlines())) <= 132
    if path.suffix == ".h":  # #pragma once would not do: two projects in one service bring two copies of each
        guard = f"DEPLOYKIT_{path.stem.upper()}_H"
        assert re.search(rf"^#ifndef {guard}\n#define {guard}$", text, re.MULTILINE)


def test_every_test_of_a_project_is_run() -> None:
    assert {path.stem for path in TEMPLATE.glob("tests/*.cpp")} == {f"test_{name}" for name in TESTS}
