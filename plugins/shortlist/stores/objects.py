"""Folders of objects: in anything that speaks S3, or on this machine. Every object has a tag that changes with it.

Unlike `files`, which goes through Arrow: that tells no tags, waits without end and asks Amazon for regions. Credentials
come from the environment alone: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; AWS_ENDPOINT_URL and
AWS_REGION say where.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shortlist.errors import ObjectStorageError
from shortlist.redaction import redact
from shortlist.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE: Final = 1024 * 1024
_ATTEMPTS: Final = 4
_DEFAULT_REGION: Final = "us-east-1"

_UNKNOWN_KEY: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure")
_GONE: Final = ("NoSuchKey", "404", "NotFound", "PreconditionFailed", "412")


@dataclass(frozen=True)
class StoredObject:
    """One object as it was when it was listed. `key` is relative to the folder; `tag` differs for other content."""

    key: str
    bytes: int
    tag: str


class Folder(ABC):
    """A folder of objects. Every method raises `ObjectStorageError` when storage is away, silent or refuses."""

    def __init__(self, location: str) -> None:
        self.location = location

    @abstractmethod
    def make(self) -> None:
        """Make the folder, and the bucket that it lies in, if it is not there."""

    @abstractmethod
    def objects(self, *, most: int | None = None) -> list[StoredObject]:
        """List all objects in the folder and below, or some, sorted by key; none if there is no such folder."""

    @abstractmethod
    def download(self, key: str, path: Path, *, tag: str | None = None) -> bool:
        """Copy an object into a file. Returns False if it is not there, or is not the one with that tag."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a file into an object, which is seen as a whole or not at all."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """Read a small object; None if it is not there."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Write a small object, which is seen as a whole or not at all."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Delete an object, if it is there."""


def open_folder(location: str, *, timeout_seconds: float) -> Folder:
    """Return the folder behind `s3://bucket/prefix`, or behind a path, relative to the project or absolute.

    Args:
        location: As above; a slash at its end changes nothing.
        timeout_seconds: S3 that is silent for so long is away.

    Raises:
        ObjectStorageError: If it is no such location, or the environment has no credentials for S3.
    """
    if location.startswith("s3://"):
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        return _S3Folder(location, bucket, prefix.strip("/"), timeout_seconds)
    if "://" in location:
        raise ObjectStorageError(f"{location} is no folder of objects: write s3://bucket/prefix or a path")
    return _LocalFolder(str(PROJECT_ROOT / location))


class _LocalFolder(Folder):
    def make(self) -> None:
        with self._errors("made"):
            Path(self.location).mkdir(parents=True, exist_ok=True)

    def objects(self, *, most: int | None = None) -> list[StoredObject]:
        root = Path(self.location)
        home = os.path.join(os.path.realpath(root), "")
        found = []
        with self._errors("listed"):
            for path in sorted(root.rglob("*")):
                if not path.is_file():
                    continue
                if not os.path.realpath(path).startswith(home):
                    raise ObjectStorageError(f"{path} is a link that leaves {self.location}: put the file itself there")
                status = path.stat()
                tag = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
                found.append(StoredObject(path.relative_to(root).as_posix(), status.st_size, tag))
                if len(found) == most:
                    break
        return sorted(found, key=lambda each: each.key)

    def download(self, key: str, path: Path, *, tag: str | None = None) -> bool:
        source = Path(self.location, key)
        with self._errors("read"):
            try:
                with source.open("rb") as stream, path.open("wb") as target:
                    status = os.fstat(stream.fileno())
                    while piece := stream.read(_PIECE):
                        target.write(piece)
                    after = os.fstat(stream.fileno())
            except FileNotFoundError:
                return False
        same = (status.st_size, status.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        return same and tag in (None, f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}")

    def upload(self, path: Path, key: str) -> None:
        self.write(key, path.read_bytes())

    def read(self, key: str) -> bytes | None:
        with self._errors("read"):
            try:
                return Path(self.location, key).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, key: str, content: bytes) -> None:
        target = Path(self.location, key)
        hidden = target.with_name(f".{target.name}.tmp")
        with self._errors("written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            hidden.write_bytes(content)
            hidden.replace(target)

    def remove(self, key: str) -> None:
        with self._errors("cleared"):
            Path(self.location, key).unlink(missing_ok=True)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ObjectStorageError(f"{self.location} cannot be {done}: {error}") from error


class _S3Folder(Folder):
    def __init__(self, location: str, bucket: str, prefix: str, timeout_seconds: float) -> None:
        super().__init__(location)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._timeout = timeout_seconds
        with self._errors("opened"):
            self._client = _client(timeout_seconds)

    def make(self) -> None:
        from botocore.exceptions import ClientError

        region = self._client.meta.region_name
        where = {} if region == _DEFAULT_REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with self._errors("made"):
            try:
                self._client.create_bucket(Bucket=self._bucket, **where)
            except ClientError as error:
                if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                    raise

    def objects(self, *, most: int | None = None) -> list[StoredObject]:
        found = []
        with self._errors("listed"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                for each in page.get("Contents", ()):
                    key = each["Key"].removeprefix(self._prefix)
                    if key and not key.endswith("/"):  # the mark of a folder
                        found.append(StoredObject(key, each["Size"], each["ETag"].strip('"')))
        return sorted(found, key=lambda each: each.key)

    def download(self, key: str, path: Path, *, tag: str | None = None) -> bool:
        condition = {"IfMatch": f'"{tag}"'} if tag else {}
        with self._errors("read"):
            for attempt in range(1, _ATTEMPTS + 1):
                body = self._body(key, condition)
                if body is None:
                    return False
                try:
                    with path.open("wb") as target:
                        while piece := body.read(_PIECE):
                            target.write(piece)
                    return True
                except _broken_streams():
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def upload(self, path: Path, key: str) -> None:
        with self._errors("written"), path.open("rb") as stream:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=stream)

    def read(self, key: str) -> bytes | None:
        with self._errors("read"):
            body = self._body(key, {})
            return None if body is None else bytes(body.read())

    def write(self, key: str, content: bytes) -> None:
        with self._errors("written"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)

    def remove(self, key: str) -> None:
        with self._errors("cleared"):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def _body(self, key: str, condition: dict[str, str]) -> Any:  # noqa: ANN401 - botocore has no types
        from botocore.exceptions import ClientError

        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **condition)["Body"]
        except ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                return None
            raise

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise ObjectStorageError(f"{self.location} cannot be {done}: {self._refusal(error.response)}") from None
        except (BotoCoreError, ValueError) as error:
            raise ObjectStorageError(f"{self.location} cannot be {done}: {self._absence(error)}") from None

    def _refusal(self, response: dict[str, Any]) -> str:
        code = str(response.get("Error", {}).get("Code", "unknown"))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _UNKNOWN_KEY:
            return f"S3{_endpoint()} refuses the login ({code}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY anew"
        if code == "NoSuchBucket":
            return f"S3{_endpoint()} has no bucket {self._bucket!r}. Create it, or name another one"
        if status in (401, 403):
            return f"S3{_endpoint()} does not allow that ({code}). Give the key of AWS_ACCESS_KEY_ID the right to it"
        return f"S3{_endpoint()} answers {code}, HTTP status {status}"

    def _absence(self, error: Exception) -> str:
        name = type(error).__name__
        if "Timeout" in name:
            return f"S3{_endpoint()} is silent for {self._timeout:g} seconds. Is it up? AWS_ENDPOINT_URL says where"
        if name in ("EndpointConnectionError", "ConnectionError", "ConnectionClosedError", "HTTPClientError"):
            return f"S3{_endpoint()} cannot be reached. Is it up? AWS_ENDPOINT_URL says where"
        return redact(f"{name}: {error}")


def _client(timeout_seconds: float) -> Any:  # noqa: ANN401 - botocore has no types
    import botocore.session
    from botocore.config import Config

    if not (os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")):
        raise ObjectStorageError("there is no key for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    session = botocore.session.Session()
    # Nothing but the environment counts: neither files in a home folder nor the metadata of a cloud's machine.
    session.set_credentials(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_SESSION_TOKEN") or None,
    )
    session.set_config_variable("config_file", os.devnull)
    session.set_config_variable("credentials_file", os.devnull)
    return session.create_client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION,
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None,
        config=Config(
            connect_timeout=min(timeout_seconds, 10),
            read_timeout=timeout_seconds,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            # A bucket's own host name exists at Amazon; elsewhere the name of the endpoint is the only one.
            s3={"addressing_style": "path" if _endpoint() else "auto"},
            # Checksums beyond what the protocol asks for are not known everywhere.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _endpoint() -> str:
    """` at host:port`, without what a URL may hold beside; empty for Amazon's own."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return " at what AWS_ENDPOINT_URL names"
    return f" at {parts.hostname}{port}" if url else ""


def _broken_streams() -> tuple[type[Exception], ...]:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    return IncompleteReadError, ReadTimeoutError, ResponseStreamingError
