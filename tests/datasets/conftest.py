"""A server that speaks S3 over HTTP on this machine, with the buckets of the settings."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from moto.server import ThreadedMotoServer

from shortlist.settings import (
    ColumnSettings,
    DatasetSettings,
    InputSettings,
    InteractionSettings,
    PathSettings,
    Settings,
    TransformColumnSettings,
    TransformSettings,
)
from shortlist.stores.objects import open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY, SECRET = "AKIDEXAMPLEEXAMPLE00", "a-secret-that-must-never-be-seen"


class S3:
    """The server, and a client of it that goes around the code under test."""

    def __init__(self, url: str) -> None:
        import botocore.session

        self.url = url
        self.client: Any = botocore.session.Session().create_client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )

    def put(self, key: str, content: str | bytes, bucket: str = "raw") -> None:
        body = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def get(self, key: str, bucket: str = "data") -> bytes:
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def all(self, bucket: str = "data", prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, by key."""
        listed = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
        return {each["Key"]: self.get(each["Key"], bucket) for each in listed}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3 with the empty buckets `raw` and `data`, and its key in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    requests.post(f"{s3_server}/moto-api/reset", timeout=30).raise_for_status()
    server = S3(s3_server)
    for bucket in ("raw", "data"):
        server.client.create_bucket(Bucket=bucket)
    yield server
    requests.post(f"{s3_server}/moto-api/reset-auth", data="inf", timeout=30)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Short names, two buckets, a folder of the jobs of its own."""
    (tmp_path / "jobs").mkdir()
    return Settings(
        paths=PathSettings(root=str(tmp_path / "project"), jobs=str(tmp_path / "jobs")),
        input=InputSettings(columns=ColumnSettings(weight="amount", title="title")),
        interactions=InteractionSettings(tolerated=("duplicate",), max_id_length=50),
        transform=TransformSettings(
            raw="s3://raw/events/",
            processed="s3://data/processed",
            viz="s3://data/viz",
            quarantine="s3://data/quarantine",
            timeout_seconds=5,
            max_rejected_share=0.5,
            columns=TransformColumnSettings(title="title"),
        ),
        datasets=DatasetSettings(remote="s3://data/versions", timeout_seconds=120),
    )


def with_transform(settings: Settings, **changes: Any) -> Settings:
    """The settings with other values in `[transform]`."""
    return replace(settings, transform=replace(settings.transform, **changes))


def folder(settings: Settings, name: str) -> Any:
    """One of the folders of `[transform]`, as the code under test sees it."""
    return open_folder(getattr(settings.transform, name), timeout_seconds=5)
