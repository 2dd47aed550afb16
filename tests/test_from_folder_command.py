"""`manifest from-folder`: what it writes, what it prints, and a disk that refuses."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, fill, touch
from test_from_folders import splits

from store.manifest import read_manifest


def arguments(pair: dict[str, Path], root: Path, *more: object) -> list[object]:
    domains = (f"--domain={name}={folder}" for name, folder in pair.items())
    return ["manifest", "from-folder", "--benchmark", "mine", "--manifests", root, *domains, *more]


def test_the_command(pair: dict[str, Path], tmp_path: Path, cli) -> None:
    root = tmp_path / "manifests"
    made = cli(*arguments(pair, root))
    assert made.exit_code == 0, made.output
    rows = read_manifest(root / "mine" / "phone.csv")
    train = sum(v.split == "train" for v in rows)
    assert f"{root / 'mine' / 'phone'}.csv: {train} train, {24 - train} eval\n" in made.output
    assert "classes: run, walk\nNext:\n" in made.output
    assert f"python cli.py extract --dataset phone --videos {pair['phone']}" in made.output
    assert f"adapt --source phone --target cctv --manifests {root}" in made.output
    again = cli(*arguments(pair, root))
    assert again.exit_code == 1 and "exists. Choose another --benchmark, or" in again.output
    assert cli(*arguments(pair, root, "--overwrite")).exit_code == 0
    wrong = cli(*arguments(pair, root, "--overwrite", "--update"))
    assert wrong.exit_code == 2 and "Give either --update, which keeps recorded" in wrong.output
    assert cli(*arguments(pair, root, "--domain=../x=/tmp")).exit_code == 2
    taken = cli(*arguments(pair, root, "--benchmark", "ucf-olympic"))
    assert taken.exit_code == 1 and "'ucf-olympic' is taken by a benchmark" in taken.output
    none = cli(*arguments(pair, root, "--benchmark", "new", "--update"))
    assert none.exit_code == 1 and "There is no benchmark" in none.output

    (pair["phone"] / "run" / "001.mp4").rename(pair["phone"] / "run" / "001.xyz")
    places = ("--videos", pair["phone"], "--manifests", root)
    check = cli("manifest", "check", "--dataset", "phone", *places)
    assert check.exit_code == 3
    assert "23 of 24 listed videos are in" in check.output
    assert (
        "1 video is missing (first: run/001): there is only run/001.xyz, and files" in check.output
    )
    assert "1 file is left out for the suffix: .xyz (1) (first: run/001.xyz)" in check.output


def test_the_command_updates(pair: dict[str, Path], tmp_path: Path, cli) -> None:
    root = tmp_path / "manifests"
    assert cli(*arguments(pair, root, "--split-seed", 3)).exit_code == 0
    before = splits(read_manifest(root / "mine" / "phone.csv"))
    fill(pair["phone"], "run", count=15)
    (pair["phone"] / "walk" / "000.mp4").unlink()
    updated = cli(*arguments({"phone": pair["phone"]}, root, "--update"))
    assert updated.exit_code == 0, updated.output
    assert "(3 added, 1 removed, 23 kept)" in updated.output
    assert "eval (not read again)" in updated.output
    assert "WARNING" not in updated.output
    assert "adapt --source phone --target cctv" in updated.output
    after = splits(read_manifest(root / "mine" / "phone.csv"))
    assert {v: after[v] for v in before if v in after} == {
        v: before[v] for v in before if v in after
    }
    for domain in pair.values():
        fill(domain, "sit")
    updated = cli(*arguments(pair, root, "--update"))
    assert "WARNING: the classes changed (sit is new), and labels follow" in updated.output
    assert "Features stay valid; runs that were trained before do not fit" in updated.output


def test_overwriting_removes_former_domains(pair: dict[str, Path], tmp_path: Path, cli) -> None:
    root = tmp_path / "manifests"
    assert (
        cli(*arguments({**pair, "web": fill(tmp_path / "w", "run", "walk")}, root)).exit_code == 0
    )
    assert cli(*arguments(pair, root, "--overwrite")).exit_code == 0
    assert {path.name for path in (root / "mine").iterdir()} == {"phone.csv", "cctv.csv"}


@pytest.mark.parametrize("name", ["my videos", "it's $HOME", 'a"b', "line\nbreak", "tab\\t"])
def test_the_next_commands_can_be_pasted(tmp_path: Path, cli, name: str) -> None:
    pair = {d: fill(tmp_path / name / d, "run", "walk") for d in ("phone", "cctv")}
    made = cli(*arguments(pair, tmp_path / "m n", "--input", "videos"))
    assert made.exit_code == 0, made.output
    [line] = [line for line in made.output.splitlines() if "extract --dataset phone" in line]
    if "\n" in name:
        assert "$'" in line and "line\\nbreak" in line
    else:
        words = shlex.split(line)
        assert words[words.index("--videos") + 1] == str(pair["phone"])
        assert words[words.index("--manifests") + 1] == str(tmp_path / "m n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    "name", ["no\xa0break", "soft\xadhyphen", "thin\u202fspace", "line\nbreak"]
)
def test_bash_finds_a_folder_whose_name_cannot_be_printed(tmp_path: Path, cli, name: str) -> None:
    pair = {d: fill(tmp_path / name / d, "run", "walk") for d in ("phone", "cctv")}
    made = cli(*arguments(pair, tmp_path / "m"))
    [line] = [line for line in made.output.splitlines() if "extract --dataset phone" in line]
    words = line[line.index("--videos") :]
    found = subprocess.run(["bash", "-c", f"printf '%s' {words} | cat"], capture_output=True)
    assert os.fsencode(pair["phone"]) in found.stdout


def test_own_benchmarks_stand_in_the_working_folder(
    pair: dict[str, Path], tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    domains = (f"--domain={domain}={domain}" for domain in pair)
    made = cli("manifest", "from-folder", "--benchmark", "mine", *domains)
    assert made.exit_code == 0, made.output
    assert (tmp_path / "manifests" / "mine" / "cctv.csv").is_file()
    assert made.output.endswith(
        "Next:\n  python cli.py extract --dataset phone --videos phone\n"
        "  python cli.py extract --dataset cctv --videos cctv\n"
        "  python cli.py adapt --source phone --target cctv\n"
    )
    listed = cli("manifest", "list").output
    assert "\nmine                 cctv " in listed and "\nucf-olympic " in listed
    check = cli("manifest", "check", "--dataset", "cctv", "--videos", "cctv")
    assert check.exit_code == 0 and "24 of 24 listed videos are in cctv" in check.output


def test_a_folder_that_is_not_utf8(tmp_path: Path, cli) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    pair = {domain: fill(root / domain, "run", "walk") for domain in ("phone", "cctv")}
    made = cli(*arguments(pair, root / "m"))
    assert made.exit_code == 0, made.output
    assert f"--videos $'{tmp_path}/caf\\xe9/phone' --manifests $'" in made.output
    assert "caf\\xe9/m/mine exists" in cli(*arguments(pair, root / "m")).output


def test_frames_are_said_in_the_next_commands(tmp_path: Path, cli) -> None:
    names = [f"{c}/{i:02}/1.png" for c in ("run", "walk") for i in range(12)]
    pair = {d: touch(tmp_path / d, *names) for d in ("phone", "cctv")}
    made = cli(*arguments(pair, tmp_path / "m", "--input", "frames"))
    assert f"--videos {pair['phone']} --input frames --manifests" in made.output


def test_own_domains_do_not_take_the_names_of_data_sets(
    pair: dict[str, Path], tmp_path: Path, cli
) -> None:
    for name in ("ucf101", "kinetics", "ucf"):
        made = cli(*arguments({name: pair["phone"], "cctv": pair["cctv"]}, tmp_path / "m"))
        assert made.exit_code == 1 and f"The name '{name}' is taken by other videos" in made.output
    assert not (tmp_path / "m").exists()


def test_a_disk_that_is_full_is_explained_and_leaves_what_was_there(
    pair: dict[str, Path], tmp_path: Path, cli
) -> None:
    """The kernel refuses files of more than 100 bytes, as it refuses any where a disk is full."""
    root = tmp_path / "manifests"
    assert cli(*arguments(pair, root)).exit_code == 0
    before = {path.name: path.read_bytes() for path in (root / "mine").iterdir()}
    fill(pair["phone"], "run", count=40)
    refused = subprocess.run(
        [sys.executable, "cli.py", *map(str, arguments(pair, root, "--overwrite"))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert refused.returncode == 1
    assert refused.stderr == (
        f"Error: Cannot write {root / 'mine'}: File too large. Make room, or give another --manifests, "
        "then run the same command again.\n"
    )
    assert {path.name: path.read_bytes() for path in (root / "mine").iterdir()} == before


def test_a_folder_that_cannot_be_written_is_explained(pair: dict[str, Path], cli) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("no folder here that refuses everybody")
    made = cli(*arguments(pair, Path("/proc/own")))
    assert made.exit_code == 1
    assert made.output == (
        "Error: Cannot write /proc/own/mine: No such file or directory. Make room, or give another "
        "--manifests, then run the same command again.\n"
    )


@pytest.mark.parametrize("name", ["con", "COM1", "lpt9.old", "a/b", "-x"])
def test_names_that_no_folder_can_have_everywhere_are_refused(
    tmp_path: Path, cli, name: str
) -> None:
    """Windows has no folder `con`, whatever its suffix; `contest` and `com10` are names as any other."""
    pair = {d: fill(tmp_path / d, "run", "walk") for d in ("phone", "cctv")}
    for domains, benchmark in (
        ({"phone": pair["phone"], name: pair["cctv"]}, "mine"),
        (pair, name),
    ):
        given = [word for d, folder in domains.items() for word in ("--domain", f"{d}={folder}")]
        made = cli(
            "manifest",
            "from-folder",
            f"--benchmark={benchmark}",
            *given,
            "--manifests",
            tmp_path / "m",
        )
        assert made.exit_code == 2 and f"'{name}' is no name" in made.output, made.output
        assert not (tmp_path / "m").exists()
    usual = {"contest": pair["phone"], "com10": pair["cctv"]}
    assert cli(*arguments(usual, tmp_path / "m")).exit_code == 0
