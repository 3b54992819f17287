"""`python -m vlora completion SHELL`: prints a completion script for the command `vlora`; it needs no Python."""

import argparse
import functools
import importlib
from collections.abc import Callable, Mapping

import attrs

from ..recipe.parse import all_keys
from .arguments import Parser
from .arguments import make_parser as make_plain_parser
from .packaged_recipes import list_recipes
from .screen import Screen
from .status import DONE

EXAMPLES = (
    "completion bash > ~/.vlora-completion.bash # sourced by ~/.bashrc",
    "completion zsh > ~/.zfunc/_vlora # with `fpath+=~/.zfunc` before compinit",
    "completion fish > ~/.config/fish/completions/vlora.fish",
)


BASH_OF_MODULE = """# `python -m vlora` as the command; anything else that python is given, as before.
_vlora_module() {
    if [[ $COMP_CWORD -gt 2 && ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == vlora ]]; then
        COMP_WORDS=(vlora "${COMP_WORDS[@]:3}")
        ((COMP_CWORD -= 2))
        compopt +o bashdefault +o default 2>/dev/null
        _vlora
    else
        COMPREPLY=()
        if [[ -n $_vlora_of_python ]]; then "$_vlora_of_python" "$@"; fi
    fi
}
_vlora_found=$(complete -p python 2>/dev/null)
_vlora_found=${_vlora_found##*-F }
_vlora_found=${_vlora_found%% *}
[[ $_vlora_found != _vlora_module ]] && _vlora_of_python=$_vlora_found
complete -o bashdefault -o default -F _vlora_module python python3"""
"""What completes `python -m vlora` in bash, too."""


@attrs.frozen
class Words:
    """The words that can be completed.

    Attributes:
        commands: What each command does.
        options: Of each command, with what each option does.
        keys: What `--set` takes.
        recipes: What `init --recipe` takes.
    """

    commands: Mapping[str, str]
    options: Mapping[str, Mapping[str, str]]
    keys: tuple[str, ...]
    recipes: tuple[str, ...]


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Print what completes commands, options, recipes and the keys of --set in a shell, for the command `vlora` and "
        "for `python -m vlora`. In zsh the latter completes once the former has."
    )
    parser = make_plain_parser("completion", about, EXAMPLES)
    parser.add_argument("shell", choices=tuple(WRITERS), help="which one")
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    return functools.partial(show_script, parsed.shell)


def show_script(shell: str, console: Screen) -> int:
    """Print the script of a shell.

    Returns:
        0.
    """
    # It imports this file by its name.
    commands = importlib.import_module(".main", __package__).COMMANDS
    script = WRITERS[shell](find_words(commands))
    console.tell("Completion", shell=shell, script=script)
    with console.result():
        console.out(script, highlight=False)
    return DONE


def find_words(commands: Mapping[str, str]) -> Words:
    """Collect the words that can be completed.

    Args:
        commands: What each command does.
    """
    modules = {name: importlib.import_module(f".{name}", __package__) for name in commands}
    return Words(
        commands=commands,
        options={name: module.make_parser().describe_options() for name, module in modules.items()},
        keys=tuple(all_keys()),
        recipes=tuple(list_recipes()),
    )


def write_bash(words: Words) -> str:
    """Write the script of bash."""
    names = " ".join(words.commands)
    options = "\n".join(f"        {name}) options='{' '.join(of)}' ;;" for name, of in words.options.items())
    return f"""# Completes `vlora` in bash.
_vlora() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command=train named=no options given
    for given in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {names} " in *" $given "*) command=$given named=yes; break ;; esac
    done
    case $command in
{options}
    esac
    COMPREPLY=()
    if [[ $before == --set ]]; then
        COMPREPLY=($(compgen -S = -W '{" ".join(words.keys)}' -- "$word"))
        compopt -o nospace 2>/dev/null
    elif [[ $before == --recipe ]]; then
        COMPREPLY=($(compgen -W '{" ".join(words.recipes)}' -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
    elif [[ $command == completion ]]; then
        COMPREPLY=($(compgen -W '{" ".join(WRITERS)}' -- "$word"))
    else
        [[ $named == no ]] && COMPREPLY=($(compgen -W '{names}' -- "$word"))
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -X '!*.toml' -- "$word") $(compgen -d -S / -- "$word"))
        [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == */ ]] && compopt -o nospace 2>/dev/null
    fi
    return 0
}}
complete -F _vlora vlora
{BASH_OF_MODULE}"""


def write_zsh(words: Words) -> str:
    """Write the script of zsh."""
    names = " ".join(words.commands)
    described = " ".join(_quote(f"{name}:{what}") for name, what in words.commands.items())
    options = "\n".join(
        f"        {name}) options=({' '.join(_quote(f'{flag}:{_short(what)}') for flag, what in of.items())}) ;;"
        for name, of in words.options.items()
    )
    return f"""#compdef vlora
# Completes `vlora` in zsh.
_vlora() {{
    local command=train named=no given
    local -a commands options
    commands=({described})
    for given in ${{words[2,CURRENT-1]}}; do
        if [[ " {names} " == *" $given "* ]]; then command=$given; named=yes; break; fi
    done
    case $command in
{options}
    esac
    if [[ ${{words[CURRENT-1]}} == --set ]]; then
        compadd -S = -- {" ".join(words.keys)}
    elif [[ ${{words[CURRENT-1]}} == --recipe ]]; then
        compadd -- {" ".join(words.recipes)}
    elif [[ ${{words[CURRENT]}} == -* ]]; then
        _describe option options
    elif [[ $command == completion ]]; then
        compadd -- {" ".join(WRITERS)}
    else
        [[ $named == no ]] && _describe command commands
        _files -g '*.toml'
    fi
}}
# `python -m vlora` as the command; anything else that python is given, as before.
_vlora_module() {{
    if [[ $CURRENT -gt 3 && "${{words[2]}} ${{words[3]}}" == "-m vlora" ]]; then
        words=(vlora "${{(@)words[4,-1]}}")
        ((CURRENT -= 2))
        _vlora
    else
        _python "$@"
    fi
}}
compdef _vlora_module python python3
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _vlora "$@"; else compdef _vlora vlora; fi"""


def write_fish(words: Words) -> str:
    """Write the script of fish."""
    others = " ".join(name for name in words.commands if name != "train")
    lines = [
        "# Completes `vlora` in fish.",
        "complete -c vlora -f",
        "complete -c vlora -k -a '(__fish_complete_suffix .toml)'",
    ]
    none = f"not __fish_seen_subcommand_from {' '.join(words.commands)}"
    lines += [f"complete -c vlora -n '{none}' -a {name} -d {_quote(what)}" for name, what in words.commands.items()]
    for name, options in words.options.items():
        seen = f"not __fish_seen_subcommand_from {others}" if name == "train" else f"__fish_seen_subcommand_from {name}"
        for flag, what in options.items():
            takes = {"--set": words.keys, "--recipe": words.recipes}.get(flag)
            given = (
                "" if takes is None else f" -x -a '{' '.join(f'{key}=' if flag == '--set' else key for key in takes)}'"
            )
            kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            lines.append(f"complete -c vlora -n '{seen}' {kind}{given} -d {_quote(_short(what))}")
    lines.append(f"complete -c vlora -n '__fish_seen_subcommand_from completion' -a '{' '.join(WRITERS)}'")
    # `python -m vlora` as the command.
    lines += [
        "function __vlora_is_module",
        "    set -l words (commandline -opc)",
        "    test (count $words) -ge 3; and test \"$words[2] $words[3]\" = '-m vlora'",
        "end",
    ]
    typed = r"(complete -C (commandline -cp | string replace -r '^\S+\s+-m\s+vlora' vlora))"
    lines += [f'complete -c {name} -n __vlora_is_module -f -a "{typed}"' for name in ("python", "python3")]
    return "\n".join(lines)


def _short(what: str) -> str:
    """Return the description that a shell shows beside an option."""
    return what.partition(";")[0].partition(" (")[0]


def _quote(text: str) -> str:
    """Quote for zsh and fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "'\"'\"'") + "'"


WRITERS: Mapping[str, Callable[[Words], str]] = {"bash": write_bash, "zsh": write_zsh, "fish": write_fish}
