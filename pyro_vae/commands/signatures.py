"""Parsers of the command line, made from functions: a parameter is an option, and its default stands there alone.

``def sample(run: str, num_samples: int = 64)`` becomes ``pyro-vae sample RUN --num-samples 64``. The help is the
function's docstring. The parsers are jsonargparse's, which hold values against the annotations, on the command line and
in the file of ``--config`` alike.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse
import yaml

__all__ = ["ConfigFile", "Parser", "add_parameters"]

_NOT_OPTIONS = ("pyro_vae", "torch", "table", "levels")  # what config.json has beside options: versions, of the data


def _settings(text: str, **_: Any) -> Any:
    """Read options by name; of a run's config.json what is no option is left out: versions, and what is not set."""
    found = yaml.safe_load(text)
    if not isinstance(found, dict):
        return found
    options = {str(name).replace("-", "_"): value for name, value in found.items() if value is not None}
    return {name: value for name, value in options.items() if name not in _NOT_OPTIONS}


jsonargparse.set_loader("settings", _settings, (yaml.YAMLError,))


class _Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that keeps line breaks, and adds a default only to an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_none = any(action.default is none for none in (None, False, argparse.SUPPRESS))
        if has_none or not action.option_strings:
            return action.help or ""
        return f"{action.help} (default: {action.default})"


class ConfigFile(jsonargparse.ActionConfigFile):  # type: ignore[name-defined]
    """Options from a file, which the parser remembers, so that an error can name it."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            options = _settings(Path(values).read_text(encoding="utf-8"))
            if not isinstance(options, dict):
                raise ValueError(f"found {type(options).__name__}, expected options by name")
            known = {action.dest for action in parser._actions}
            if unknown := [name for name in options if name not in known]:
                raise ValueError(f"found the option {unknown[0]!r}, which there is not, expected those of --help")
            parser.file = str(values), options  # now, as what follows may end by an error of the parser
            super().__call__(parser, cfg, values, option_string)
        except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
            raise TypeError(f"{values}: {error}") from error


class Parser(jsonargparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage, and exits with status 2."""

    file: tuple[str, dict[str, Any]] = ("", {})  # of --config, and the options in it

    def __init__(self, *args: Any, **keywords: Any) -> None:
        keywords["formatter_class"] = _Help
        super().__init__(*args, parser_mode="settings", **keywords)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        line = re.sub(r'Parser key "([\w.]+)": ?', lambda key: f"--{key[1].replace('_', '-')}: ", line)
        line = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"found \2, expected \1", line)
        path, options = self.file
        option = re.match(r"(?:argument )?--([\w-]+): (?:argument --[\w-]+: )?", line)
        if option is not None and (value := options.get(option[1].replace("-", "_"))) is not None:
            values = value if isinstance(value, list) else [value]
            if any(str(each) in line[option.end() :] for each in values):  # and not what the command line has instead
                line = f"{path}: {line}"
        print(f"{self.prog.replace(' [options]', '')}: {line}", file=sys.stderr)
        sys.exit(2)


def add_parameters(parser: Parser, function: Callable[..., Any]) -> None:
    """Give a parser the parameters of a function: those without a default by position, others as options."""
    told = {each.arg_name: each.description for each in docstring_parser.parse(function.__doc__ or "").params}
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        option = {"help": told[name]} | _kind(hints[name], parameter.default)
        if parameter.default is parameter.empty:
            parser.add_argument(name, metavar=name.upper(), **option)
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", **option)


def _kind(hint: Any, default: Any) -> dict[str, Any]:
    """Return what ``add_argument`` takes for an annotation; None is a default alone, and cannot be given."""
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint), "default": default}
    kind = next(each for each in get_args(hint) or (hint,) if each is not type(None))
    return {"type": kind} if default is inspect.Parameter.empty else {"type": kind, "default": default}
