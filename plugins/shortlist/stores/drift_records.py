"""What drift detection keeps: the reference inside a model version, and one small file for each decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shortlist.errors import ModelVersionError
from shortlist.recommender.drift import Reference
from shortlist.recommender.profiles import Edges
from shortlist.stores import files

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = "drift"
ITEMS: Final = f"{FOLDER}/items"

_REFERENCE = f"{FOLDER}/reference.json"
_BLOCKS = f"{FOLDER}/blocks"


def has_reference(version_path: str) -> bool:
    """Whether the version holds a complete reference."""
    return files.exists(f"{version_path}/{_REFERENCE}")


def save_reference(version_path: str, reference: Reference, edges: Edges) -> None:
    """Write the reference into a version, the file that makes it complete last."""
    import numpy as np

    for name, blocks in reference.blocks.items():
        cells = blocks.tocoo()
        _write_array(f"{version_path}/{_BLOCKS}/{name}.npy", np.column_stack([cells.row, cells.col, cells.data]))
    content = {
        "totals": {name: counts.tolist() for name, counts in reference.totals.items()},
        "values": {name: values.tolist() for name, values in reference.values.items()},
        "blocks": {name: list(blocks.shape) for name, blocks in reference.blocks.items()},
        "edges": {"weights": edges.weights.tolist(), "predictions": edges.predictions.tolist()},
    }
    files.write_json(f"{version_path}/{_REFERENCE}", content)


def load_reference(version_path: str) -> tuple[Reference, Edges]:
    """Read the reference of a version.

    Raises:
        ModelVersionError: If it is damaged.
    """
    import numpy as np
    from scipy.sparse import csr_array

    try:
        content = files.read_json(f"{version_path}/{_REFERENCE}")
        blocks = {}
        for name, shape in content["blocks"].items():
            row, column, rows = _read_array(f"{version_path}/{_BLOCKS}/{name}.npy").T
            blocks[name] = csr_array((rows, (row.astype(np.int64), column.astype(np.int64))), shape=shape)
        totals, values, edges = (
            {name: np.array(numbers, np.float64) for name, numbers in content[part].items()}
            for part in ("totals", "values", "edges")
        )
        return Reference(totals=totals, blocks=blocks, values=values), Edges(**edges)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelVersionError(
            f"{version_path}/{FOLDER} is damaged ({error}): remove the folder, the next run makes it anew"
        ) from None


def record(folder: str, name: str, decision: Mapping[str, Any]) -> None:
    """Keep a decision; a retry of the same run replaces its own."""
    files.write_json(f"{folder}/{name}.json", decision)


def history(folder: str, newest: int) -> list[dict[str, Any]]:
    """Return the newest decisions, oldest first."""
    from pyarrow import fs

    filesystem, path = files.resolve(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = sorted(file.base_name for file in found if file.base_name.endswith(".json"))
    return [files.read_json(f"{folder}/{name}") for name in names[-newest:]]


def _write_array(location: str, array: Any) -> None:  # noqa: ANN401 - an array of any type
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array)
    files.write_bytes(location, buffer.getvalue())


def _read_array(location: str) -> Any:  # noqa: ANN401 - an array of any type
    import io

    import numpy as np

    filesystem, path = files.resolve(location)
    with filesystem.open_input_stream(path) as stream:
        return np.load(io.BytesIO(stream.read()), allow_pickle=False)
