"""The plan of a benchmark: which runs are asked for, and where they lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapt import methods
from adapt.config import AdaptConfig, unmet
from adapt.methods import Method
from adapt.plan_options import refuse_never_read, refuse_unread, value_of
from adapt.published import FIRST, LAST, PUBLISHED, Direction
from store.datasets import benchmarks, manifest_path
from store.errors import ConfigError, printable
from store.manifest import has_no_labels, read_manifest
from store.options import type_name

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks for.

    Attributes:
        methods: names, or `all`.
        presets: names, or `all`; None for each method's default one.
        changes: options for every method that reads them, name -> text.
        bare: domains that came without labels, on which no bound can train.
    """

    benchmark: str
    directions: Sequence[Direction]
    methods: Sequence[str]
    presets: Sequence[str] | None
    seeds: Sequence[int]
    changes: Mapping[str, str]
    bare: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the plan."""

    config: AdaptConfig
    folder: Path

    @property
    def direction(self) -> Direction:
        """Source and target."""
        return self.config.source, self.config.target

    @property
    def row(self) -> tuple[str, str]:
        """Method and preset: the row of the table that the run belongs to."""
        return self.config.method, self.config.preset

    @property
    def epochs(self) -> int:
        """How many epochs it has; a fit without gradients counts as one."""
        return int(self.config.as_dict().get("epochs", 1))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs that are asked for, direction by direction and seed by seed.

    Attributes:
        notes: sentences about what was asked for and is not done as asked.
        broken: methods whose files cannot be used -> the reason.
    """

    jobs: Sequence[Job]
    notes: Sequence[str] = ()
    broken: Mapping[str, str] = field(default_factory=dict)


def directions_of(
    benchmark: str, source: str | None, target: str | None, *, both: bool, root: Path
) -> list[Direction]:
    """The pair of domains, and with `both` the way back.

    A pair that is not given is the benchmark's two domains, in the order of the paper's tables or else
    of their names; one that came without labels is the target.

    Raises:
        ConfigError: no such benchmark or domain, or the pair cannot be known.
    """
    known = benchmarks(root)
    if benchmark not in known:
        raise ConfigError(
            f"There is no benchmark {printable(benchmark)!r}. Choose one of {', '.join(known)}, or make "
            "your own with: manifest from-folder."
        )
    domains = known[benchmark]
    for name, domain in (("--source", source), ("--target", target)):
        if domain is not None and domain not in domains:
            raise ConfigError(
                f"{name} {printable(domain)} is no domain of {benchmark}, which has "
                f"{', '.join(domains)}."
            )
    if source is None and target is None and len(domains) == 2:
        published = PUBLISHED.get(benchmark)
        if published:
            source, target = published.directions[0]
        else:
            source, target = sorted(domains, key=lambda name: came_bare(benchmark, name, root))
    elif len(domains) == 2:
        source = source or next(d for d in domains if d != target)
        target = target or next(d for d in domains if d != source)
    if source is None or target is None:
        raise ConfigError(
            f"{benchmark} has {len(domains)} domains, {', '.join(domains)}. Say which two with --source "
            "and --target."
        )
    if source == target:
        raise ConfigError(f"--source and --target are both {source}. Give two domains.")
    return [(source, target), (target, source)] if both else [(source, target)]


def came_bare(benchmark: str, domain: str, root: Path) -> bool:
    """Whether a domain came without labels, so that it can only be a target and no bound can train on it.

    Raises:
        ManifestError: its manifest breaks a rule.
    """
    return has_no_labels(read_manifest(manifest_path(benchmark, domain, root)))


def make_plan(asked: Asked, folder: Path) -> Plan:
    """Resolve the config of every run that is asked for.

    A method that has none of the presets asked for is trained with its default one, and the plan's notes
    say so. A method whose file cannot be used is left out and named in `broken`.

    Raises:
        ConfigError: a method, preset or option that nothing has, or a value that a method refuses.
    """
    found, broken = _usable(asked.methods)
    notes: list[str] = []
    found = _without_bounds(found, asked, notes)
    chosen = {m.name: _presets(m, asked.presets, notes) for m in found}
    _refuse_unknown_presets(asked.presets, found)
    refuse_unread(asked.changes, found, notes)
    left_out: dict[str, dict[str, None]] = {}
    jobs = [
        _job(m, preset, asked, direction, seed, folder, left_out)
        for direction in asked.directions
        for seed in asked.seeds
        for m in found
        for preset in chosen[m.name]
    ]
    refuse_never_read(left_out, (job.row for job in jobs), notes)
    return Plan(jobs=jobs, notes=notes, broken=broken)


def _usable(asked: Sequence[str]) -> tuple[list[Method], dict[str, str]]:
    """The methods in the order of the table, and those whose files cannot be used."""
    known = methods.names()
    unknown = [name for name in asked if name != ALL and name not in known]
    if unknown:
        raise ConfigError(
            f"--methods must be {ALL} or some of {', '.join(known)}, got {printable(unknown[0])!r}."
        )
    found, broken = [], {}
    for name in known if ALL in asked else dict.fromkeys(asked):
        try:
            found.append(methods.find(name))
        except Exception as error:  # whatever a file of the user's raises when it is imported
            broken[name] = f"{type(error).__name__}: {error}"
    return sorted(found, key=_place), broken


def _without_bounds(found: list[Method], asked: Asked, notes: list[str]) -> list[Method]:
    """Leave out the methods that `all` names and no target here has the labels for."""
    bare = [target for _, target in asked.directions if target in asked.bare]
    kept = [
        m for m in found if not (bare and m.reads_target_labels and m.name not in asked.methods)
    ]
    notes += [
        f"{method.name} is left out: it learns from the target's labels, and {bare[0]} came without."
        for method in found
        if method not in kept
    ]
    return kept


def _place(method: Method) -> tuple[bool, int, str]:
    """Where a row stands: as in the paper, the others between, a bound at the end."""
    order = [*FIRST, None, *LAST]
    at = order.index(method.name if method.name in order else None)
    return method.reads_target_labels, at, method.name


def _presets(method: Method, asked: Sequence[str] | None, notes: list[str]) -> list[str]:
    if asked is None:
        return [method.default_preset]
    if ALL in asked:
        return list(method.settings)
    having = [name for name in dict.fromkeys(asked) if name in method.settings]
    lacking = " or ".join(name for name in dict.fromkeys(asked) if name not in method.settings)
    if lacking:
        instead = "" if having else f": it is trained with {method.default_preset}"
        notes.append(f"{method.name} has no preset {lacking}{instead}.")
    return having or [method.default_preset]


def _refuse_unknown_presets(asked: Sequence[str] | None, found: Sequence[Method]) -> None:
    offered = dict.fromkeys(name for m in found for name in m.settings)
    for name in asked or ():
        if found and name != ALL and name not in offered:
            raise ConfigError(
                f"--settings must be {ALL} or some of {', '.join(offered)}, got {printable(name)!r}."
            )


def _job(
    method: Method,
    preset: str,
    asked: Asked,
    direction: Direction,
    seed: int,
    folder: Path,
    left_out: dict[str, dict[str, None]],
) -> Job:
    """Resolve one run's config, and note its row in `left_out` under each option that it cannot read."""
    source, target = direction
    given = {"source": source, "target": target, "method": method.name, "seed": seed}

    def make(more: Mapping[str, object]) -> AdaptConfig:
        return AdaptConfig.make(benchmark=asked.benchmark, preset=preset, given={**given, **more})

    fields = method.options.__dataclass_fields__
    changes = {
        name: value_of(name, type_name(fields[name]), text)
        for name, text in asked.changes.items()
        if name in method.reads
    }
    # An option that is read only with another's value is left out where that value is not set.
    base = {**dataclasses.asdict(make({})), **changes}
    for name in [name for name in changes if unmet(base, fields[name])]:
        left_out.setdefault(name, {})[f"{method.name} ({preset})"] = None
        del changes[name]
    try:
        config = make(changes)
    except ConfigError as error:
        raise ConfigError(f"{method.name} ({preset}): {error}") from error
    place = folder / f"{source}-{target}" / f"{method.name}-{preset}" / f"seed{seed}"
    return Job(config=config, folder=place)
