"""URLs as people type them, and web servers that send on, break off and say what they do not have."""

from __future__ import annotations

import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.utils import infer_storage_options
from remotes import contents, make_shards, pulled_from, serving

from adapt import environment
from store import remote as remote_module
from store.errors import ConfigError
from store.remote_fsspec import FsspecRemote
from store.remote_url import RemoteUrl, redacted, redacted_url


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "_PAUSE_SECONDS", 0.001)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "there")


SECRETS = ["s3cr3t", "s3'cr3t", 's3"cr3t', "s3@cr3t", "s3:cr3t", "s3%2Fcr3t", "s3+cr=3t"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("protocol", ["https", "sftp"])
def test_no_password_is_shown(secret: str, protocol: str) -> None:
    url = RemoteUrl.of(f"{protocol}://me:{secret}@host:80/a/b@2")
    assert str(url) == repr(url) == f"{protocol}://***@host:80/a/b@2"
    assert str(url.below("c")) == f"{protocol}://***@host:80/a/b@2/c"
    assert redacted(f"--features={url.secret}") == f"--features={url}"


@pytest.mark.parametrize("secret", ["s3 cr3t", "s3/cr3t", "s3 /cr3t", "12/cr3t'x"])
def test_a_password_that_must_be_encoded_is_refused_and_not_shown(cli, secret: str) -> None:
    url = f"https://me:pw{secret}@host/features"
    for arguments in (
        ("store", "pull", url),
        ("store", "push", ".", url),
        ("store", "list", "--features", url),
    ):
        result = cli(*arguments)
        assert result.exit_code == 2
        assert "cr3t" not in result.output and "https://***@host/features" in result.output
    assert "Write %20 for a space and %2F for a slash" in cli("store", "pull", url).output


def test_sftp_gets_the_password_that_was_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(fsspec.AbstractFileSystem):
        _strip_protocol = staticmethod(lambda path: infer_storage_options(path)["path"])

        @staticmethod
        def _get_kwargs_from_urls(path: str) -> dict[str, object]:  # as fsspec's class for SFTP
            options = infer_storage_options(path)
            return {n: v for n, v in options.items() if n not in ("path", "protocol")}

    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda protocol: Server)
    remote = FsspecRemote(RemoteUrl.of("sftp://me%40home:s3%2Fcr%203t@host:22/a%20b"))
    given = remote.fs.storage_options
    assert given == {"host": "host", "port": 22, "username": "me@home", "password": "s3/cr 3t"}
    assert remote.path == "/a%20b"


def test_links_may_begin_with_a_dot(cli, there: Path, tmp_path: Path) -> None:
    result, _ = pulled_from(cli, tmp_path, dotted=True)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)


def test_an_argument_too_many_is_repeated_without_its_password(cli) -> None:
    result = cli("store", "list", "features", "https://me:s3cr3t@host/features")
    assert result.exit_code == 2 and "https://***@host/features" in result.output
    assert "s3cr3t" not in result.output


def test_a_key_of_s3_is_refused_and_not_shown(cli) -> None:
    """AWS's secret keys hold slashes, so that the `@` does not stand before the first one."""
    result = cli("store", "pull", "s3://AKIA:wJal/K7MD+bPx@bucket/features")
    assert result.exit_code == 2 and "s3://***@bucket/features holds a user" in result.output
    assert "wJal" not in result.output and "K7MD" not in result.output


def test_what_is_no_password_is_shown() -> None:
    for url in (
        "hf://datasets/owner/name@refs/pr/1",
        "http://host:8000/a/me@home",
        "http://[::1]:8000/a@b",
        "s3://arn:aws:s3:us-west-2:123:accesspoint/name/key",
    ):
        assert str(RemoteUrl.of(url)) == url
        assert redacted(url) == url


def test_one_slash_is_no_path(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a path it would be a folder with a password as its name."""
    monkeypatch.chdir(tmp_path)
    make_shards(tmp_path / "features")
    result = cli("store", "push", "features", "https:/me:s3cr3t@host/x")
    assert result.exit_code == 2 and "has one slash after the colon" in result.output
    assert "s3cr3t" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


@pytest.mark.parametrize("port", ["abc", "65536", "-1", "9" * 20])
def test_a_port_that_is_none_is_refused_at_once(port: str) -> None:
    with pytest.raises(ConfigError, match=f"names the port {port}, and a port is a number"):
        RemoteUrl.of(f"http://host:{port}/features")


def test_a_recorded_command_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["adapt", "--features=https://me:s3'cr3t@host/x"])
    import torch

    recorded = environment.environment(torch.device("cpu"))["command"]
    assert recorded == ["adapt", "--features=https://***@host/x"]
    assert redacted_url("https://me:s3 cr3t@host/x") == "https://***@host/x"


@pytest.mark.parametrize("folder", ["my features", "Übung", "50%25", "a+b~c"])
def test_folders_with_spaces_and_accents_are_found(cli, tmp_path: Path, folder: str) -> None:
    name = folder.replace("%25", "%")
    there = make_shards(tmp_path / "served" / name)
    with serving(tmp_path / "served") as (_, url):
        result = cli("store", "pull", f"{url}/{folder}", tmp_path / "here")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)


def test_a_page_of_folders_that_breaks_off_leaves_no_store_out(
    cli, there: Path, tmp_path: Path
) -> None:
    """Half of a page would be a list of fewer stores."""
    result, server = pulled_from(cli, tmp_path, page_breaks=True)
    assert result.exit_code == 1, result.output
    assert "has no readable list of its folders: the server does not answer" in result.output
    assert sum(path == "/" for path, _ in server.log) == 6  # tried again


def test_a_page_in_the_place_of_a_shard_is_refused_at_once(
    cli, there: Path, tmp_path: Path
) -> None:
    """As a server that asks for a login answers: whole, and shorter than the shard."""
    for path in there.glob("*.h5"):
        path.write_text("<html>Log in")
    result, _ = pulled_from(cli, tmp_path, ranges=False)
    assert result.exit_code == 1
    assert "shard-00000.h5 is 12 bytes long, the index says" in result.output
    assert not list((tmp_path / "here").rglob("[!.]*.h5"))


def test_a_password_follows_to_the_same_server_alone(cli, there: Path, tmp_path: Path) -> None:
    place = f"/mine/{there.name}/index.json"
    with (
        serving(tmp_path / "there") as (other, elsewhere),
        serving(tmp_path / "there") as (one, url),
    ):
        one.password = "Basic bWU6czNjcjN0"  # me:s3cr3t
        one.moved = {f"/old{place}": place}
        secret = url.replace("://", "://me:s3cr3t@")
        assert cli("store", "pull", f"{secret}/mine", tmp_path / "here").exit_code == 0
        result = cli("store", "pull", f"{secret}/old/mine/{there.name}", tmp_path / "other")
        assert "has no videos.csv" in result.output  # the index was read where it has moved to
        one.moved = {place: f"{elsewhere}{place}"}
        assert cli("store", "pull", f"{secret}/mine", tmp_path / "third").exit_code == 0
        assert other.authorised == [None] and set(one.authorised) == {one.password}


def test_a_server_sends_on_to_web_servers_alone(cli, there: Path, tmp_path: Path) -> None:
    result, _ = pulled_from(cli, tmp_path, moved={"/index.json": "ftp://127.0.0.1:1/index.json"})
    assert result.exit_code == 1
    assert "The server sends on to ftp://, which is not read." in result.output


def test_a_user_without_a_password_has_an_empty_one(cli, there: Path, tmp_path: Path) -> None:
    """RFC 7617: the colon is always there. Services take a token in the place of the user."""
    with serving(tmp_path / "there") as (server, url):
        server.password = "Basic dG9rZW46"  # token:
        result = cli("store", "pull", url.replace("://", "://token@"), tmp_path / "here")
    assert result.exit_code == 0, result.output
