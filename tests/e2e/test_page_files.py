"""The page's files: the command line's colours, nothing inline, nothing from elsewhere, nothing that is missing."""

import re
from pathlib import Path

import numpy as np

import deploykit
from deploykit.image.formats import FORMATS
from deploykit.runtime import overlay
from deploykit.runtime.cam import METHODS
from deploykit.runtime.colours import colour_table
from deploykit.runtime.explain_graphs import ALL_METHODS, INPUT_METHODS, takes_layer

PAGE = Path(deploykit.__file__).parent / "server" / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))


def read(name: str) -> str:
    return (PAGE / name).read_text("utf-8")


def test_the_page_has_the_command_lines_colours_and_strengths() -> None:
    written = "".join(re.findall(r'"([0-9a-f]{12,})"', read("colours.js")))
    assert bytes.fromhex(written) == colour_table().tobytes()
    picture = read("picture.js")
    assert float(re.findall(r"MOST_OPACITY = ([\d.]+);", picture)[0]) == overlay._MOST_OPACITY
    ease = float(re.findall(r"\bEASE = ([\d.]+);", picture)[0])
    values = np.array([0.1, 0.5, 1], np.float32)
    np.testing.assert_allclose(overlay._ease(values), values**ease, rtol=1e-6)  # float32's rounding


def test_every_method_has_a_name_and_those_without_a_layer_are_known() -> None:
    names = set(re.findall(r'^  "?([a-z+-]+)"?: "', read("words.js"), re.M))
    assert names == set(ALL_METHODS)
    answers = read("answers.js")
    without = re.findall(r'"([a-z-]+)"', re.findall(r"AT_THE_PICTURE = \[(.*?)\]", answers)[0])
    assert set(without) == {method for method in ALL_METHODS if not takes_layer(method)}
    fine = re.findall(r'"([a-z-]+)"', re.findall(r"FINE = \[(.*?)\]", answers)[0])
    assert {*fine, *without} == set(INPUT_METHODS)
    assert set(re.findall(r'"([a-z-]+)"', re.findall(r"SAME_FOR_ALL = \[(.*?)\]", answers)[0])) <= set(METHODS)


def test_the_formats_that_can_be_chosen_are_those_that_are_read() -> None:
    """Phones turn other formats into the first of these when they are chosen."""
    (accepted,) = re.findall(r'id="file"[^>]*accept="([^"]+)"', read("index.html"))
    assert set(accepted.split(",")) == {f"image/{name.lower()}" for name in FORMATS}


def test_nothing_is_inline_so_that_a_strict_policy_holds() -> None:
    html = read("index.html")
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", html)
    for script in SCRIPTS:
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script.read_text("utf-8")), (
            script.name
        )


def test_nothing_comes_from_another_host() -> None:
    for path in (*SCRIPTS, PAGE / "index.html", PAGE / "page.css"):
        assert re.findall(r"https?:|[\"']//|@import|\burl\(", path.read_text("utf-8")) == [], path.name


def test_what_the_files_refer_to_is_there() -> None:
    linked = set(re.findall(r'"/page/([\w.]+)"', read("index.html")))
    imported = {name for script in SCRIPTS for name in re.findall(r'from "\./([\w.]+)"', script.read_text("utf-8"))}
    there = {path.name for path in PAGE.iterdir()}
    assert linked | imported <= there
    assert there - {"index.html"} == linked | imported  # no file that nothing uses
    identifiers = set(re.findall(r'\bid="([\w-]+)"', read("index.html")))
    used = {name for script in SCRIPTS for name in re.findall(r'byId\("([\w-]+)"\)', script.read_text("utf-8"))}
    assert used <= identifiers
