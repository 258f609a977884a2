"""``deploykit completion``: the script that makes a shell complete verbs and options."""

import click
from click.shell_completion import get_completion_class

from deploykit.cli import console
from deploykit.cli.main import cli


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the shell's completion script.

    \b
    bash:  deploykit completion bash > ~/.local/share/bash-completion/completions/deploykit
    zsh:   deploykit completion zsh > "${fpath[1]}/_deploykit"
    fish:  deploykit completion fish > ~/.config/fish/completions/deploykit.fish
    """
    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 click has all three
    console.result(complete(cli, {}, "deploykit", "_DEPLOYKIT_COMPLETE").source())
