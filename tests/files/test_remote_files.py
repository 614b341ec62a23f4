"""Test files that a URI names, in memory and on a local stand-in of S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sra_fast.files.remote_files import RemoteFileError, is_uri, local_copy, name_of, was_uri

fsspec = pytest.importorskip("fsspec", reason="needs the package fsspec")

TEXT = b'{"id": "a"}\n'


@pytest.mark.parametrize(
    ("place", "expected", "name"),
    [
        ("s3://bucket/in/chats.jsonl", True, "chats.jsonl"),
        ("simplecache::s3://bucket/chats.jsonl", True, "chats.jsonl"),
        ("memory://chats.jsonl", True, "chats.jsonl"),
        ("in/chats.jsonl", False, "chats.jsonl"),
        ("/in/chats.jsonl", False, "chats.jsonl"),
        ("C:/in/chats.jsonl", False, "chats.jsonl"),
        ("a:b.jsonl", False, "a:b.jsonl"),
    ],
)
def test_uris_are_told_from_paths(place: str, expected: bool, name: str) -> None:
    assert is_uri(place) is expected
    assert name_of(place) == name
    assert was_uri(Path(place)) is (expected and "::" not in place)


def test_a_path_is_given_as_it_is(tmp_path: Path) -> None:
    with local_copy(str(tmp_path / "a.jsonl")) as path:
        assert path == tmp_path / "a.jsonl"


def test_the_copy_of_a_remote_file_lasts_for_the_block() -> None:
    with fsspec.open("memory://in/chats.jsonl", "wb") as file:
        file.write(TEXT)
    with local_copy("memory://in/chats.jsonl") as path:
        assert path.name == "chats.jsonl"
        assert path.read_bytes() == TEXT
    assert not path.exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://in/nothing.jsonl", "memory://in/nothing.jsonl: there is no such file"),
        ("foo://bucket/a.jsonl", "no package is known that reads foo://.*copy the file here"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(uri: str, message: str) -> None:
    with pytest.raises(RemoteFileError, match=message), local_copy(uri):
        pass


def test_a_package_that_is_missing_for_a_protocol_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "open", missing)
    message = r"a package for s3:// is missing \(Install s3fs to access S3\)"
    with pytest.raises(RemoteFileError, match=message), local_copy("s3://bucket/a.jsonl"):
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a bucket on a server of this machine, which fsspec takes for S3."""
    for package in ("s3fs", "flask_cors"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    server = pytest.importorskip("moto.server", reason="needs the package moto")
    running = server.ThreadedMotoServer("127.0.0.1", 0)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stand-in")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stand-in")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("chats")
    yield "s3://chats"
    running.stop()


def test_a_bucket_is_read(bucket: str) -> None:
    with fsspec.open(f"{bucket}/in/chats.jsonl", "wb") as file:
        file.write(TEXT)
    with local_copy(f"{bucket}/in/chats.jsonl") as path:
        assert path.read_bytes() == TEXT
    with pytest.raises(RemoteFileError, match="there is no such file"):
        local_copy(f"{bucket}/in/nothing.jsonl").__enter__()
