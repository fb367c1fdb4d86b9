"""The parser of the command line, whose errors are one line, and the completion scripts that it gives to shells."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from palate.copies import COPIES
from palate.errors import InputError, did_you_mean
from palate.store.places import has_scheme

T = TypeVar("T")

SHELLS = ("bash", "zsh", "fish")


class Parser(argparse.ArgumentParser):
    """Raises `InputError` for a wrong command, option or value: the place, the value, what it expects.

    argparse would print the usage, a screen for some commands, and exit. Options are written in full: else a command
    without `--json` would take it for `--json-logs`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all words; a word that no argument takes is an error here, where its command is known."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            option = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
            what = f"argument {rest[0]!r}" if option is None else f"option {option!r}"
            near = "" if option is None else did_you_mean(option, self._option_string_actions)
            if option == "--ratings" and self.prog != "palate":  # a command whose argument the log is
                near = f", the log is its argument: {self.prog} ratings.csv;"
            raise InputError(f"{self.prog} has no {what}{near or ';'} {self.prog} --help lists all")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        near = did_you_mean(str(value), action.choices)
        if isinstance(action, argparse._SubParsersAction):
            raise InputError(f"no command {value!r}{near or ';'} {self.prog} --help lists all")
        choices = ", ".join(map(str, action.choices))
        raise argparse.ArgumentError(action, f"is {value!r}, expected one of {choices}{near}")

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message, with the option at its start."""
        message = message.replace("the following arguments are required:", "missing")
        message = re.sub(r"^argument ", "", re.sub(r"\bargument$", "value", message))
        raise InputError(message if message.startswith("-") else f"{message}; {self.prog} --help shows the usage")


def local(text: str) -> Path:
    """The type of an option whose value is a path, or the URL of what a command works on in a copy."""
    return COPIES.path(text) if has_scheme(text) else Path(text)


def number(kind: Callable[[str], T], expected: str) -> Callable[[str], T]:
    """The type of an option whose value `kind` reads; `1k`, `1,024` or `5%` is refused with the number it means."""

    def read(text: str) -> T:
        try:
            return kind(text)
        except ValueError:
            message = f"is {text!r}, expected {expected}{meant(text)}"
        raise argparse.ArgumentTypeError(message)

    def meant(text: str) -> str:
        written = re.fullmatch(r"(\d+(?:,\d{3})*(?:\.\d+)?)([km%]?)", text.lower())
        if written is None:
            return ""
        value = float(written[1].replace(",", "")) * {"k": 1e3, "m": 1e6, "%": 0.01, "": 1}[written[2]]
        try:
            return f", did you mean {kind(f'{value:.10g}')}?"
        except ValueError:  # a share where a count is expected
            return ""

    return read


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script that completes commands, options and choices in a shell; files complete everything else."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    help_of = {action.dest: action.help or "" for action in commands._choices_actions}
    if shell == "fish":
        return "".join(_fish(commands.choices, help_of))
    options = {name: " ".join(_names(sub)) for name, sub in commands.choices.items()}
    choices = {
        f"{name} {option}": " ".join(map(str, action.choices))
        for name, sub in commands.choices.items()
        for action in sub._actions
        for option in action.option_strings or ("",)
        if action.choices
    }
    script = BASH.replace("@COMMANDS@", " ".join([*commands.choices, *_names(parser)]))
    script = script.replace("@OPTIONS@", _cases(options)).replace("@CHOICES@", _cases(choices))
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + script


BASH = """\
_palate() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" words="" n
  for ((n = 1; n < COMP_CWORD; n++)); do
    if [[ ${COMP_WORDS[n]} != -* ]]; then command="${COMP_WORDS[n]}"; break; fi
  done
  if [[ -z $command ]]; then
    words="@COMMANDS@"
  elif [[ $word == -* ]]; then
    case "$command" in
@OPTIONS@
    esac
  else
    [[ $before == -* ]] || before=""
    case "$command $before" in
@CHOICES@
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _palate palate
"""


def _cases(words: dict[str, str]) -> str:
    return "\n".join(f"      {shlex.quote(name)}) words={shlex.quote(found)} ;;" for name, found in words.items())


def _names(parser: argparse.ArgumentParser) -> Sequence[str]:
    return [name for action in parser._actions for name in action.option_strings]


def _fish(commands: dict[str, argparse.ArgumentParser], help_of: dict[str, str]) -> Iterator[str]:
    for name, sub in commands.items():
        yield f"complete -c palate -f -n __fish_use_subcommand -a {name} -d {shlex.quote(help_of[name])}\n"
        for action in sub._actions:
            names = [f"-{'l' if n.startswith('--') else 's'} {n.lstrip('-')}" for n in action.option_strings]
            values = f"-x -a {shlex.quote(' '.join(map(str, action.choices)))}" if action.choices else ""
            needs = "-r" if action.option_strings and action.nargs != 0 and not values else ""
            if names or values:
                words = " ".join([*names, values, needs, f"-d {shlex.quote(action.help or '')}"])
                yield f"complete -c palate -n '__fish_seen_subcommand_from {name}' {words}\n"
