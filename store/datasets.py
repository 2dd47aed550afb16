"""Which videos exist: benchmarks, domains and data sets.

A benchmark is a folder with one CSV per domain. The built-in benchmarks stand in `data/manifests`, a user's
own in `./manifests` or in the folder that `--manifests` names. Every look-up sees both; `root` is the folder
of the user's own, `built_in` that of the built-in ones. A data set is what one downloads (`ucf101`), and
`datasets.csv` names the domain that it feeds (`ucf`). A domain that no row names is its own data set.
"""

from __future__ import annotations

from pathlib import Path

from store.errors import ManifestError, counted, printable, shortened
from store.ids import check_plain_name, clash_of
from store.manifest import Video, read_manifest
from store.options import check_type
from store.plain_csv import read_table
from store.program import program

_HERE = Path(__file__).resolve().parent
_INSTALLED = _HERE / "built_in"
"""Where a wheel puts the files of `data/manifests` (see setup.cfg); a checkout has no such folder."""
MANIFESTS = _INSTALLED if _INSTALLED.is_dir() else _HERE.parent / "data" / "manifests"
"""The folder of the built-in benchmarks. Nothing is ever written there."""
OWN_MANIFESTS = Path("manifests")
"""A user's own benchmarks; the folder need not exist."""


def benchmarks(
    root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS
) -> dict[str, tuple[str, ...]]:
    """Return benchmark name -> its domains, both sorted, of the built-in and the user's own benchmarks.

    Raises:
        ManifestError: both folders have a benchmark of one name, or something has a name that is not allowed.
    """
    return {
        name: tuple(path.stem for path in _tables(folder))
        for name, folder in sorted(_folders(root, built_in).items())
    }


def manifest_path(
    benchmark: str, domain: str, root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS
) -> Path:
    """Return the path of a domain's CSV. If there is no such benchmark, it is below `root`.

    Raises:
        ManifestError: as `benchmarks`.
    """
    return _folders(root, built_in).get(benchmark, root / benchmark) / f"{domain}.csv"


def fed_by(dataset: str, root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS) -> str:
    """Return the domain that a data set feeds, whether or not a benchmark has it: `ucf101` -> `ucf`.

    Raises:
        ManifestError: that is the name of a domain which another data set feeds, so that nothing would look
            for features under it.
    """
    table = dataset_table(root, built_in)
    if dataset not in table and dataset in table.values():
        raise ManifestError(
            f"{dataset} is a domain and no data set. Its videos are those of the data set "
            f"{dataset_of(dataset, root, built_in)}: name that one."
        )
    return table.get(dataset, dataset)


def domain_of(dataset: str, root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS) -> str:
    """Return the domain of a benchmark that a data set feeds; see `fed_by`.

    Raises:
        ManifestError: no benchmark has that domain; the message lists the known data sets.
    """
    table = dataset_table(root, built_in)
    known = {domain for domains in benchmarks(root, built_in).values() for domain in domains}
    domain = fed_by(dataset, root, built_in)
    if domain not in known:
        names = {name for name, fed in table.items() if fed in known}
        names |= known - set(table.values())
        raise ManifestError(
            f"There is no data set {shortened(dataset)}. Known: {', '.join(sorted(names))}. "
            f"{_looked_into(root)} Your own folders become one by: "
            f"{program()} manifest from-folder --benchmark mine --domain NAME=DIR --domain NAME=DIR"
        )
    return domain


def dataset_of(domain: str, root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS) -> str:
    """Return the data set to extract for a domain: `ucf` -> `ucf101`."""
    table = dataset_table(root, built_in)
    return next((name for name, fed in table.items() if fed == domain), domain)


def dataset_videos(
    dataset: str, root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS
) -> dict[str, int | None]:
    """Return the union of a data set's videos over all benchmarks, sorted by id: id -> published frames.

    Raises:
        ManifestError: the data set is unknown, or two benchmarks contradict each other.
    """
    domain = domain_of(dataset, root, built_in)
    union: dict[str, int | None] = {}
    listed_by: dict[str, str] = {}
    for benchmark, domains in benchmarks(root, built_in).items():
        if domain not in domains:
            continue
        for video in read_manifest(manifest_path(benchmark, domain, root, built_in)):
            known = union.get(video.id)
            if known is not None and video.frames not in (None, known):
                raise ManifestError(
                    f"{video.id} of {dataset} has {counted(known, 'frame')} in {listed_by[video.id]} and "
                    f"{video.frames} in {benchmark}."
                )
            union[video.id] = known if known is not None else video.frames
            listed_by.setdefault(video.id, benchmark)
    if clash := clash_of(union):
        raise ManifestError(
            f"Two benchmarks contradict each other about {dataset}: the id {clash.shown(clash.one)} of "
            f"{listed_by[clash.one]} {clash.what} {clash.shown(clash.other)} of {listed_by[clash.other]}, "
            f"and one store cannot hold both ({counted(clash.pairs, 'such pair')}). Rename the "
            "videos or the domain "
            "of one of them."
        )
    return dict(sorted(union.items()))


def manifests_of(
    dataset: str, benchmark: str | None, root: Path = OWN_MANIFESTS, *, remedy: str = ""
) -> dict[str, tuple[Video, ...]]:
    """Return the rows of a data set's domain, by benchmark: of all that have it, or of the named one.

    Args:
        remedy: a sentence that is added where the named one does not have it, after a space.

    Raises:
        ManifestError: the named one does not have it.
    """
    domain = fed_by(dataset, root)
    having = [name for name, domains in benchmarks(root).items() if domain in domains]
    if benchmark is not None and benchmark not in having:
        raise ManifestError(
            f"No benchmark {shortened(benchmark)} lists videos of {printable(dataset)}. Those that do: "
            f"{', '.join(having) or 'none'}.{remedy}"
        )
    chosen = having if benchmark is None else [benchmark]
    return {name: read_manifest(manifest_path(name, domain, root)) for name in chosen}


def choose_benchmark(
    source: str,
    target: str,
    name: str | None = None,
    root: Path = OWN_MANIFESTS,
    built_in: Path = MANIFESTS,
) -> str:
    """Return the benchmark `name`, or, of those that have the domains, the one with the most videos.

    Args:
        source: a domain, or several with commas between them.

    Raises:
        ConfigError: a domain is not a text, as in a file of options.
        ManifestError: no benchmark, or not the named one, has both domains.
    """
    for option, domain in (("source", source), ("target", target)):
        check_type(option, "str", domain)
    known = benchmarks(root, built_in)
    asked = {*source.split(","), target}
    having = [b for b, domains in known.items() if asked <= set(domains)]
    pairs = "; ".join(f"{b}: {', '.join(d)}" for b, d in known.items())
    listing = f"Domains are: {pairs}. {_looked_into(root)}"
    if source == target:
        raise ManifestError(f"Source and target are both {source!r}. {listing}")
    if target in source.split(","):
        raise ManifestError(
            f"{target!r} is the target and one of the sources {source!r}. {listing}"
        )
    if name is not None:
        if name not in having:
            raise ManifestError(
                f"Benchmark {name!r} does not have both {source!r} and {target!r}. {listing}"
            )
        return name
    if not having:
        raise ManifestError(f"No benchmark has both {source!r} and {target!r}. {listing}")

    def size(benchmark: str) -> int:
        paths = (manifest_path(benchmark, d, root, built_in) for d in asked)
        return sum(len(read_manifest(path)) for path in paths)

    return having[0] if len(having) == 1 else max(having, key=size)


def dataset_table(root: Path = OWN_MANIFESTS, built_in: Path = MANIFESTS) -> dict[str, str]:
    """Return data set -> the domain that it feeds, from the `datasets.csv` of both folders.

    Raises:
        ManifestError: a row contradicts another, or a domain has the name of another domain's data set.
    """
    table: dict[str, str] = {}
    stands: dict[str, str] = {}
    for home in _homes(root, built_in):
        path = home / "datasets.csv"
        rows = read_table(path, ("dataset", "domain")) if path.exists() else []
        for where, row in rows:
            dataset, domain = row["dataset"], row["domain"]
            check_plain_name(dataset, where)
            check_plain_name(domain, where)
            if dataset in table or domain in table.values():
                other = stands.get(dataset) or stands[domain]
                raise ManifestError(
                    f"{where}: {dataset},{domain} contradicts {other}. A data set feeds one domain, and a "
                    "domain has one data set."
                )
            table[dataset] = domain
            stands[dataset] = stands[domain] = where
    for benchmark, domains in benchmarks(root, built_in).items():
        taken = [d for d in domains if table.get(d, d) != d]
        if taken:
            path = manifest_path(benchmark, taken[0], root, built_in)
            raise ManifestError(
                f"{printable(path)}: {taken[0]} is the data set of the domain {table[taken[0]]} "
                f"({stands[taken[0]]}). Rename the file."
            )
    return table


def _looked_into(root: Path) -> str:
    there = "" if root.is_dir() else ", which is not there"
    return f"Your own benchmarks are looked for in {printable(root)}{there}."


def _homes(root: Path, built_in: Path) -> list[Path]:
    homes = [home for home in (built_in, root) if home.is_dir()]
    if not homes:
        raise ManifestError(
            f"The built-in benchmarks are not in {printable(built_in)}. Install this program again, or "
            "clone its repository again."
        )
    return homes[:1] if len(homes) == 2 and root.samefile(built_in) else homes


def _folders(root: Path, built_in: Path) -> dict[str, Path]:
    """Return benchmark name -> its folder. A folder without a CSV is no benchmark."""
    folders: dict[str, Path] = {}
    for home in _homes(root, built_in):
        for folder in home.iterdir():
            if folder.name.startswith(".") or not folder.is_dir() or not _tables(folder):
                continue
            check_plain_name(folder.name, f"The benchmark {printable(folder)}")
            if folder.name in folders:
                raise ManifestError(
                    f"There are two benchmarks {folder.name}: {printable(folders[folder.name])}, which is "
                    f"built in, and {printable(folder)}. Rename the latter."
                )
            folders[folder.name] = folder
    return folders


def _tables(folder: Path) -> list[Path]:
    """Return the CSVs of a benchmark, sorted, without hidden ones (`._x.csv`)."""
    paths = [path for path in sorted(folder.glob("*.csv")) if not path.name.startswith(".")]
    for path in paths:
        check_plain_name(path.stem, f"The manifest {printable(path)}")
    return paths
