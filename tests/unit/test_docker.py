"""The images' files: linted, pinned, and shaped as the README of docker/ says. No Docker daemon is needed, so none is built."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
SERVING = [path for path in DOCKERFILES if path.name != "build.Dockerfile"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def test_the_three_images_are_there() -> None:
    assert [path.name for path in DOCKERFILES] == ["build.Dockerfile", "cpu.Dockerfile", "runtime.Dockerfile"]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    command = [str(HADOLINT), "--config", str(DOCKER / ".hadolint.yaml"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_under_this_configuration_finds_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.Dockerfile"
    bad.write_text("FROM python\nRUN cd /tmp && sudo ls | cat\n")
    command = [str(HADOLINT), "--config", str(DOCKER / ".hadolint.yaml"), str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert {"DL3003", "DL3004", "DL3006", "DL4006"} <= set(re.findall(r"DL\d+", done.stdout))


def test_every_image_is_named_by_a_version(compose: dict[str, Any]) -> None:
    bases = [base for path in DOCKERFILES for base in re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)]
    bases.append(compose["services"]["prometheus"]["image"])
    readme = (DOCKER / "README.md").read_text()
    for base in bases:
        name, _, tag = base.partition(":")
        assert re.match(r"v?\d+\.\d+", tag), base
        assert f"`{name}`" in readme
        assert f"`{tag}`" in readme


def test_the_plans_that_are_built_are_those_that_run() -> None:
    built = re.search(r"ARG TENSORRT=(\S+)", (DOCKER / "build.Dockerfile").read_text())
    run = re.findall(r"ARG TENSORRT=(\S+)", (DOCKER / "runtime.Dockerfile").read_text())
    assert built is not None
    assert len(set(run)) == 1
    assert run[0].startswith(f"{built[1]}.")


@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.name)
def test_an_image_that_serves_lets_no_torch_in_and_asks_its_health_as_nobody(path: Path) -> None:
    text = path.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert "for module in torch onnx; do" in last
    assert 'echo "$module can be imported" >&2; exit 1' in last
    assert re.search(r"HEALTHCHECK .*\\\n +CMD \[.*/v2/health/ready", last)
    assert re.search(r"^USER 10001$", last, re.MULTILINE)
    assert last.index("USER 10001") > last.rindex("RUN ")
    assert "DEPLOYKIT_CACHE=/tmp/" in last


def test_what_the_images_copy_is_let_into_the_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for path in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE):
            copied |= set(line.split()[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


def packages_of(extras: set[str]) -> set[str]:
    """What an installation of deploykit with these extras brings, by the metadata of what is installed here."""
    found: set[str] = set()
    left = [("deploykit", extras)]
    while left:
        name, wanted = left.pop()
        for line in requires(name) or ():
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (wanted or {""})):
                key = one.name.lower().replace("_", "-")
                if key not in found and key != "deploykit":
                    found.add(key)
                    left.append((one.name, set(one.extras)))
    return found


def test_what_the_cpu_image_installs_answers_and_holds_no_exporter() -> None:
    assert '"/source[cpu,serve]"' in (DOCKER / "cpu.Dockerfile").read_text()
    found = packages_of({"cpu", "serve"})
    assert {"onnxruntime", "numpy", "pillow", "uvicorn", "starlette", "prometheus-client"} <= found
    assert not {"torch", "onnx", "onnxscript", "safetensors", "tensorrt"} & found
    assert "torch" in packages_of({"export"})  # the walk would have found it


def test_the_compose_file_has_the_shape_of_the_compose_specification(compose: dict[str, Any]) -> None:
    """The keys are those of https://github.com/compose-spec/compose-spec."""
    assert set(compose) == {"name", "services", "volumes"}
    known = {"image", "build", "command", "environment", "ports", "volumes", "read_only", "tmpfs", "cap_drop", "security_opt"}
    known |= {"restart", "stop_grace_period", "profiles", "deploy", "depends_on"}
    for name, service in compose["services"].items():
        assert set(service) <= known, name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])
        for volume in service["volumes"]:
            assert volume["type"] in ("bind", "volume")
            assert volume["type"] == "bind" or volume["source"] in compose["volumes"]
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        if "build" in service:
            context = DOCKER / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
            assert service["command"][0] == "serve"


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize("arguments", [(), ("--profile", "gpu")])
def test_docker_compose_takes_the_compose_file(arguments: tuple[str, ...], compose: dict[str, Any], tmp_path: Path) -> None:
    """Version 1 knows all of it but the project's name, which the specification got later; it needs no daemon for this."""
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in compose.items() if key != "name"}))
    command = ["docker-compose", "-f", str(file), *arguments, "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "BUNDLE": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert {"deploykit", "prometheus"} <= set(yaml.safe_load(done.stdout)["services"])
    without = {name: value for name, value in os.environ.items() if name != "BUNDLE"}
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=without)
    assert refused.returncode != 0
    assert "the folder of a bundle" in refused.stderr


def test_serve_takes_the_options_that_compose_gives_it(compose: dict[str, Any]) -> None:
    serve = pytest.importorskip("deploykit.cli.serve", reason="the server is not installed")
    options = {name for parameter in serve.command.params for name in parameter.opts}
    for name in ("deploykit", "deploykit-gpu"):
        assert {word for word in compose["services"][name]["command"] if word.startswith("--")} <= options


def test_prometheus_reads_the_server_where_compose_puts_it(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (host, port) = job["static_configs"][0]["targets"][0].split(":")
    assert job["metrics_path"] == "/metrics"
    assert compose["services"][host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    mounted = compose["services"]["prometheus"]["volumes"][0]
    assert (DOCKER / mounted["source"]).is_file()
    assert f"--config.file={mounted['target']}" in compose["services"]["prometheus"]["command"]
