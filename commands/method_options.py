"""The options of commands that train: one per field of the configs, in groups, for the chosen method.

Which options there are depends on `--method`, so they are made when the command is called. Only then
are the methods' files read, which takes torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import cloup
from cloup import OptionGroup

from adapt.config import DEFAULT_METHOD, SHARED_FIELDS
from adapt.settings import BENCHMARKS
from commands.options import GivenText
from store.errors import ConfigError, printable
from store.options import flag, type_name

Field = dataclasses.Field[Any]
_TYPES: dict[str, Any] = {"int": int, "float": float, "str": GivenText()}


class MethodCommand(click.Command):
    """A command with the options of all methods, of which the chosen one reads some.

    Args:
        run_options: makes the options that decide where things lie, by group (`DATA` or `RUN`).
        leave_out: names of config fields that are no options of this command.
        only: the one method that the command trains, if it does not take `--method`.
        preset: the one that it trains with unless another is named, if it is not the method's first.
    """

    def __init__(
        self,
        name: str,
        callback: Callable[..., Any],
        run_options: Callable[[], dict[str, list[click.Option]]],
        *,
        leave_out: Sequence[str] = (),
        only: str | None = None,
        preset: str | None = None,
    ) -> None:
        super().__init__(name, callback=callback, help=callback.__doc__)
        self._run_options, self._leave_out, self._only = run_options, set(leave_out), only
        self._preset = preset

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of a command whose options are made for these arguments."""
        return self.made_for(args).make_context(info_name, args, parent, **extra)

    def made_for(self, args: Sequence[str]) -> cloup.Command:
        """The command with its options; help shows those that `--method` reads, or else all."""
        from adapt import methods

        named = self._only or _method_named(args)
        shown = [methods.find(named)] if named else [methods.find(n) for n in methods.names()]
        first = methods.find(named or DEFAULT_METHOD)
        every = [first, *(methods.find(n) for n in methods.names() if n != first.name)]
        owners = {name: m for m in reversed(every) for name in m.own}
        shared = [name for name in SHARED_FIELDS if name not in self._leave_out]
        options = {
            name: self._option(SHARED_FIELDS[name], first, every, named) for name in shared
        } | {
            name: self._option(m.options.__dataclass_fields__[name], m, [m], named)
            for name, m in owners.items()
            if name not in self._leave_out
        }
        groups: dict[str, list[click.Option]] = {}
        for name in shared:
            if any(name in m.reads for m in shown):
                groups.setdefault(SHARED_FIELDS[name].metadata["group"], []).append(options[name])
        run_options = self._run_options()
        for title, made in run_options.items():
            groups[title] += made
        for m in shown:
            # The same flag may be an option of several methods, each with its own help.
            fields = [m.options.__dataclass_fields__[name] for name in m.own]
            groups[f"Method {m.name}"] = [self._option(f, m, [m], named) for f in fields]
        params = [option for made in run_options.values() for option in made]
        command = cloup.Command(
            self.name,
            callback=self.callback,
            params=[*params, *options.values()],
            help=_help(self.help or "", methods.find(named) if named else None),
            formatter_settings={"max_width": 110, "col1_max_width": 34},
        )
        summaries = {f"Method {m.name}": m.summary for m in shown}
        command.option_groups = [
            _group(title, made, summaries.get(title)) for title, made in groups.items() if made
        ]
        command.ungrouped_options = []
        return command

    def _option(
        self, f: Field, method: Any, methods: Sequence[Any], named: str | None
    ) -> click.Option:
        preset = self._preset or ""
        if preset not in method.settings:
            preset = method.default_preset
        return _option_of(f, method, methods, named, preset)


def _help(text: str, method: Any | None) -> str:
    """The command's help, and what the chosen method is where no group of its own options says it."""
    text = inspect.cleandoc(text)
    if method is None or method.own:
        return text
    return f"{text}\n\nMethod {method.name}. {method.summary}"


def _group(title: str, options: Sequence[click.Option], summary: str | None) -> OptionGroup:
    group = OptionGroup(title, help=summary)
    group.options = options
    return group


def _method_named(args: Sequence[str]) -> str | None:
    """The value of `--method` in the arguments, or in the file of `--config`."""
    found: dict[str, str] = {}
    for at, word in enumerate(args):
        for name in ("--method", "--config"):
            if word == name and at + 1 < len(args):
                found[name] = args[at + 1]
            elif word.startswith(f"{name}="):
                found[name] = word.partition("=")[2]
    if "--method" in found or not found.get("--config"):
        return found.get("--method")
    return str(read_config_file(Path(found["--config"])).get("method", DEFAULT_METHOD))


def _option_of(
    f: Field, method: Any, methods: Sequence[Any], named: str | None, preset: str
) -> click.Option:
    name, choices = flag(f.name), f.metadata.get("choices")
    if f.name == "method":
        choices = sorted(m.name for m in methods)
    elif f.name == "preset":
        shown = methods if named is None else [method]
        choices = list(dict.fromkeys(p for m in shown for p in m.settings))
    default = f.metadata.get("default_text") or _defaults(f, method, named, preset)
    names = [f"{name}/--no-{name[2:]}" if type_name(f) == "bool" else name]
    if f.name == "preset":
        names.append("--settings")
    return click.Option(
        [*names, f.name],
        type=None if type_name(f) == "bool" else _TYPES[type_name(f)],
        default=None,
        metavar=f"[{'|'.join(choices)}]" if choices else None,
        help=f.metadata["help"] + (f"  [{default}]" if default else ""),
    )


def _defaults(f: Field, method: Any, named: str | None, preset: str) -> str:
    """The default of an option under the preset that is the default, and under the method's other presets."""
    if f.metadata.get("required"):
        return "required"
    if f.name == "preset":
        return f"default: {preset}" if named else "default: the method's first"
    base = f.default
    if named is None and f.name in SHARED_FIELDS:
        return f"default: {base}"  # with --method NAME its presets are shown
    by_preset = {p: values.get(f.name, base) for p, values in method.settings.items()}
    first = by_preset[preset]
    others = [f"{p}: {value}" for p, value in by_preset.items() if value != first]
    if f.name not in method.settings[preset]:  # presets win over benchmarks
        for benchmark in dict.fromkeys([*BENCHMARKS, *method.benchmarks]):
            sets = {**BENCHMARKS.get(benchmark, {}), **method.benchmarks.get(benchmark, {})}
            others += [f"{benchmark}: {sets[f.name]}"] if f.name in sets else []
    return "; ".join([f"default: {first}", *others])


def read_config_file(path: Path) -> dict[str, Any]:
    """The options in a file that `--show-config` printed, or in a run's config.json.

    Raises:
        ConfigError: it cannot be read, or holds no options.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    if isinstance(value, dict) and "config" in value:
        value = value["config"]
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"--config {path} holds no options, expected what --show-config prints.")
    return value


def resolve_given(given: dict[str, Any], config_file: Path | None) -> dict[str, Any]:
    """What the user gave: the options of `--config`, overridden by those of the command line.

    Raises:
        click.MissingParameter: source or target is given nowhere.
        ConfigError: the file is of another preset, whose values it has.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if config_file is not None:
        filed = read_config_file(config_file)
        asked, had = given.get("preset"), filed.get("preset")
        if asked is not None and had not in (None, asked):
            raise ConfigError(
                f"--config {printable(config_file)} has the values of the preset {printable(str(had))}, so "
                f"--preset {asked} would change its name alone. Leave one of them out."
            )
        given = {**filed, **given}
    for name in ("source", "target"):
        if name not in given:
            raise click.MissingParameter(param_hint=f"'{flag(name)}'", param_type="option")
    return given
