"""Every command of the README does what the README says."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.figures import with_figures
from deploykit.models.catalogue import MODELS
from tests.conftest import PHOTOS, Deploykit

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
UNUSED = (
    "*.npy",
    "*.npz",
    "*.xml",
    "*.txt",
    "*.json",
    "*.py*",
    "__pycache__",
    "*.fits",
    "*.tif*",
    "*.gif",
    "*.zarr",
    "text.png",
    "coffee.png",
    "chelsea.png",
)


@pytest.mark.timeout(900)  # it quantizes a network and measures one, one after the other
def test_every_deploykit_command_in_the_readme_runs(deploykit_here: Deploykit, tmp_path: Path, coffee: Path, chelsea: Path) -> None:
    shutil.copy(coffee, tmp_path)
    shutil.copy(chelsea, tmp_path)
    shutil.copytree(PHOTOS, tmp_path / "photos", ignore=shutil.ignore_patterns(*UNUSED))
    (tmp_path / "labelled.csv").write_text("coffee.png,espresso\nchelsea.png,tiger cat\n")
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    commands = [line.removeprefix("$ deploykit ").split() for block in blocks for line in block.splitlines()]
    assert len(commands) >= 8
    for command in commands:
        done = deploykit_here(*command, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)


def test_the_python_of_the_readme_runs(
    deploykit_here: Deploykit, tmp_path: Path, coffee: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(coffee, tmp_path)
    assert deploykit_here("export", "efficientnet_lite0", "--pretrained", cwd=tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 the README's own code is under test
    assert capsys.readouterr().out.splitlines() == ["espresso 0.95", "espresso (224, 224) True"]


def test_the_transcript_is_what_predict_prints(deploykit_here: Deploykit, tmp_path: Path, coffee: Path, chelsea: Path) -> None:
    shutil.copy(coffee, tmp_path)
    shutil.copy(chelsea, tmp_path)
    assert deploykit_here("export", "efficientnet_lite0", "--pretrained", "--no-explain", cwd=tmp_path).returncode == 0
    printed = deploykit_here("predict", "efficientnet_lite0", "coffee.png", "chelsea.png", cwd=tmp_path).stdout
    (shown,) = re.findall(r"```\n(coffee.png.*?)```", README, re.DOTALL)
    # Another processor may round the last digit otherwise.
    assert re.sub(r"\d\n", "\n", printed) == re.sub(r"\d\n", "\n", shown)


def test_the_readme_counts_the_models() -> None:
    assert f"`deploykit models` lists {len(MODELS)} networks" in README


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benchmarks/README.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert ((ROOT / document).parent / target).exists(), (document, target)


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    assert "| explain / predict |" in README
    assert with_figures(README) == README
