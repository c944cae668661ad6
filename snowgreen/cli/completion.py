"""``snowgreen completion``: what makes a shell complete commands, options, and the names of nodes."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

_PROGRAM = "snowgreen"
_VARIABLE = "_SNOWGREEN_COMPLETE"

# bash cuts words at the characters of COMP_WORDBREAKS, among them the @ and : of a node's name, and replaces
# only the last piece. So the line itself is looked at, and what bash holds for an earlier word is left out of
# the answer.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_LINE=${COMP_LINE:0:COMP_POINT} COMP_CURRENT=$2 %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """bash, for words with a colon or an @ in them."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """The script may be made on another machine than the one it is for."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)
        begun = bool(words) and not line[-1].isspace()
        return words[1:-1] if begun else words[1:], words[-1] if begun else ""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        incomplete, current = self.get_completion_args()[1], os.environ.get("COMP_CURRENT", "")
        held = len(incomplete) - len(current) if incomplete.endswith(current) else 0
        return f"{item.type},{item.value[held:]}"


add_completion_class(_Bash)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete the words of this command.

    \b
    bash:  snowgreen completion bash > ~/.local/share/bash-completion/completions/snowgreen
    zsh:   snowgreen completion zsh > a file _snowgreen in a directory of $fpath
    fish:  snowgreen completion fish > ~/.config/fish/completions/snowgreen.fish

    Make the directory first if it is not there. Or for one session of bash or zsh:
    eval "$(snowgreen completion bash)".
    """  # noqa: D301 - click takes the backspace itself for "leave this paragraph as it is"
    found = get_completion_class(shell)
    if found is None:  # click knows all three
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())
