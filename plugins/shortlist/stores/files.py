"""Small files and folders, local or on object storage, by path or URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import fs


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of `location` and the path within it."""
    from pyarrow import fs

    if "://" in location:
        filesystem, path = fs.FileSystem.from_uri(location)
        return filesystem, path
    return fs.LocalFileSystem(), str(Path(location).absolute())


def exists(location: str) -> bool:
    """Whether a file or folder is there."""
    from pyarrow import fs

    filesystem, path = resolve(location)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def remove(location: str) -> None:
    """Delete a file or a folder with all it holds, if it is there."""
    from pyarrow import fs

    filesystem, path = resolve(location)
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.Directory:
        filesystem.delete_dir(path)
    elif kind == fs.FileType.File:
        filesystem.delete_file(path)


def replace(new: str, location: str) -> None:
    """Put the complete file or folder `new` in the place of `location`. Both lie on the same file system."""
    filesystem, path = resolve(location)
    remove(location)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    filesystem.move(resolve(new)[1], path)


def names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; none if it is not there."""
    from pyarrow import fs

    filesystem, path = resolve(folder)
    return sorted(info.base_name for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)))


def read_json(location: str) -> Any:  # noqa: ANN401 - JSON is anything
    """Read one JSON document."""
    return json.loads(read_bytes(location))


def read_bytes(location: str) -> bytes:
    """Read a small file."""
    filesystem, path = resolve(location)
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
    return content


def write_json(location: str, value: object) -> None:
    """Write one JSON document under a temporary name, then move it in place: never seen half-written."""
    write_bytes(location, json.dumps(value, indent=2, ensure_ascii=False).encode())


def write_bytes(location: str, content: bytes) -> None:
    """Write a small file under a temporary name, then move it in place: never seen half-written."""
    filesystem, path = resolve(location)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    new = resolve(hidden_name(location))[1]
    with filesystem.open_output_stream(new) as stream:
        stream.write(content)
    filesystem.move(new, path)


def hidden_name(location: str) -> str:
    """Return the name beside `location` under which it is written: readers of folders pass over it."""
    folder, slash, name = location.rpartition("/")
    return f"{folder}{slash}.{name}.tmp"
