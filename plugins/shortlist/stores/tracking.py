"""MLflow: what each training did, and which registered version is the champion. A copy: the files are the truth."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shortlist.columns import ITEM, SCORE, USER
from shortlist.errors import TrackingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from shortlist.settings import PathSettings

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"

# The tag that finds what was logged of a version.
VERSION_TAG: Final = "version"

_FINGERPRINT_TAG: Final = "fingerprint"
_PATIENCE_SECONDS: Final = 5
_LONGEST_REASON: Final = 200

# What a logged ranker needs to run where this project is not.
_RANKER_PACKAGES: Final = ("mlflow-skinny", "catboost", "numpy", "pandas")
_RANKER_CODE: Final = (
    "__init__.py",
    "columns.py",
    "errors.py",
    "recommender/__init__.py",
    "recommender/ranking.py",
    "stores/__init__.py",
    "stores/ranker_model.py",
)


@dataclass(frozen=True)
class Training:
    """One training, as it is logged.

    Attributes:
        model: Name of the experiment and of the registered model.
        version: Name of the version.
        parameters: By flat name.
        metrics: By flat name, of letters, digits and `_-. /`.
        tags: Fingerprint of the data, version of the code and the like.
        summary: One sentence for the registered version.
        files: Plots and JSON, by path within the run.
        features: Of a ranker, in its order.
        ranker: A CatBoost model as bytes. Without it, what is registered is the signature and where the version lies.
        location: Folder or URL of the version.
    """

    model: str
    version: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    summary: str
    files: dict[str, bytes]
    location: str
    features: tuple[str, ...] = ()
    ranker: bytes | None = field(default=None, repr=False)


def tracking_uri(paths: PathSettings) -> str | None:
    """Return where to log: `$MLFLOW_TRACKING_URI`, else a local store in `models/mlflow`; `None` if there is neither.

    The local store is of files, so it is none where the project's folders are on object storage.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return None if "://" in paths.root else Path(paths.experiments).absolute().as_uri()


def log_training(uri: str, training: Training) -> None:
    """Log a run with its plots and model, register the model, and make it the challenger.

    What an earlier attempt logged of the same version is replaced.

    Raises:
        TrackingError: If MLflow cannot be reached, is silent for five seconds, or refuses.
    """
    with _connected(uri, _PATIENCE_SECONDS) as client, tempfile.TemporaryDirectory() as folder:
        import mlflow.entities

        experiment_id = _experiment(client, training.model)
        _forget(client, experiment_id, training)
        run = client.create_run(
            experiment_id, run_name=training.version, tags=training.tags | {VERSION_TAG: training.version}
        )
        now = time.time_ns() // 1_000_000
        client.log_batch(
            run.info.run_id,
            metrics=[mlflow.entities.Metric(name, value, now, 0) for name, value in training.metrics.items()],
            params=[mlflow.entities.Param(name, value) for name, value in training.parameters.items()],
        )
        _write_files(Path(folder), training.files)
        _write_model(Path(folder) / "model", training)
        client.log_artifacts(run.info.run_id, folder)
        _register(client, run, training)
        client.set_terminated(run.info.run_id)


def set_champion(uri: str, *, model: str, version: str, since: str, reason: str, seconds: int) -> None:
    """Let the alias `champion` name a version, with the reason as a tag. It is no challenger any more.

    Args:
        uri: From `tracking_uri`.
        model: The registered model.
        version: Name of the version.
        since: ISO time at which it became the champion.
        reason: Why.
        seconds: Patience with a silent server.

    Raises:
        TrackingError: If MLflow is away, refuses, or does not know the version.
    """
    with _connected(uri, seconds) as client:
        found = _registered(client, model, version)
        if not found:
            raise TrackingError(
                f"{version} is not registered as {model} at {uri}: it was trained while MLflow was away"
            )
        number = found[0].version
        client.set_registered_model_alias(model, CHAMPION, number)
        client.set_model_version_tag(model, number, "champion_since", since)
        client.set_model_version_tag(model, number, "champion_reason", reason)
        if str(client.get_registered_model(model).aliases.get(CHALLENGER)) == str(number):
            client.delete_registered_model_alias(model, CHALLENGER)


def find_run(uri: str, *, experiment: str, fingerprint: str) -> str | None:
    """Return the id of the complete run that was logged of some data, if there is one.

    Raises:
        TrackingError: If MLflow cannot be reached, is silent for five seconds, or refuses.
    """
    with _connected(uri, _PATIENCE_SECONDS) as client:
        runs = _complete_runs(client, experiment, f"tags.{_FINGERPRINT_TAG} = '{fingerprint}'")
        return str(runs[0].info.run_id) if runs else None


def newest_file(uri: str, *, experiment: str, name: str) -> bytes | None:
    """Return a file of the newest complete run; `None` if there is no run, or the run has no such file.

    Raises:
        TrackingError: As `find_run`.
    """
    with _connected(uri, _PATIENCE_SECONDS) as client, tempfile.TemporaryDirectory() as folder:
        for run in _complete_runs(client, experiment, "")[:1]:
            if any(file.path == name for file in client.list_artifacts(run.info.run_id)):
                return Path(client.download_artifacts(run.info.run_id, name, folder)).read_bytes()
        return None


def log_run(
    uri: str, *, experiment: str, name: str, fingerprint: str, metrics: dict[str, float], files: dict[str, bytes]
) -> str:
    """Log figures and files of some data, in the place of what an attempt that did not get to its end logged of it.

    Args:
        uri: From `tracking_uri`.
        experiment: Made if it is not there.
        name: Of the run.
        fingerprint: Of the data; `find_run` finds it.
        metrics: By flat name, of letters, digits and `_-. /`.
        files: By path within the run.

    Returns:
        The id of the run.

    Raises:
        TrackingError: As `find_run`.
    """
    with _connected(uri, _PATIENCE_SECONDS) as client, tempfile.TemporaryDirectory() as folder:
        import mlflow.entities

        experiment_id = _experiment(client, experiment)
        for unfinished in client.search_runs([experiment_id], f"tags.{_FINGERPRINT_TAG} = '{fingerprint}'"):
            client.delete_run(unfinished.info.run_id)
        run = client.create_run(experiment_id, run_name=name, tags={_FINGERPRINT_TAG: fingerprint})
        now = time.time_ns() // 1_000_000
        client.log_batch(
            run.info.run_id,
            metrics=[mlflow.entities.Metric(key, value, now, 0) for key, value in metrics.items()],
        )
        _write_files(Path(folder), files)
        client.log_artifacts(run.info.run_id, folder)
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def _complete_runs(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    """The newest first."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    conditions = " and ".join(filter(None, ("attributes.status = 'FINISHED'", condition)))
    return list(client.search_runs([found.experiment_id], conditions, order_by=["attributes.start_time DESC"]))


@contextmanager
def _connected(uri: str, seconds: int) -> Iterator[MlflowClient]:
    """Give a client; MLflow reads its settings from the environment, which is as before after the `with` block."""
    chosen = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        # The data of a shop are nobody else's business, nor is how it uses MLflow.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # The local store is of files: it needs no schema that a new MLflow would have to migrate.
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    before = {name: os.environ.get(name) for name in (*chosen, "MLFLOW_TRACKING_URI")}
    os.environ.update({name: before[name] or value for name, value in chosen.items()}, MLFLOW_TRACKING_URI=uri)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            yield MlflowClient()
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {uri}: {_in_short(error)}") from None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_short(error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first if len(first) <= _LONGEST_REASON else first[:_LONGEST_REASON] + '…'}"


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _forget(client: MlflowClient, experiment_id: str, training: Training) -> None:
    for run in client.search_runs([experiment_id], f"tags.{VERSION_TAG} = '{training.version}'"):
        client.delete_run(run.info.run_id)
    for earlier in _registered(client, training.model, training.version):
        client.delete_model_version(training.model, earlier.version)


def _registered(client: MlflowClient, model: str, version: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{model}' and tags.{VERSION_TAG} = '{version}'"))


def _register(client: MlflowClient, run: Run, training: Training) -> None:
    if not client.search_registered_models(f"name = '{training.model}'"):
        client.create_registered_model(training.model)
    created = client.create_model_version(
        training.model,
        source=f"{run.info.artifact_uri}/model",
        run_id=run.info.run_id,
        tags={VERSION_TAG: training.version, "location": training.location},
        description=training.summary,
        await_creation_for=0,
    )
    client.set_registered_model_alias(training.model, CHALLENGER, created.version)


def _write_files(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _write_model(folder: Path, training: Training) -> None:
    """Write a model in MLflow's format, with its signature.

    Of stage one that is the signature and where the version lies: the factors of a large shop are gigabytes, and stay.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    def schema(columns: dict[str, str]) -> Schema:
        return Schema([ColSpec(kind, name) for name, kind in columns.items()])

    asked, answered = {USER: "string"}, {ITEM: "string", SCORE: "float"}
    if training.ranker is not None:
        asked, answered = dict.fromkeys(training.features, "double"), {SCORE: "double"}
    model = Model(
        signature=ModelSignature(schema(asked), schema(answered)),
        metadata={VERSION_TAG: training.version, "location": training.location},
    )
    contents = {}
    if training.ranker is not None:
        mlflow.pyfunc.add_to_model(
            model,
            loader_module="shortlist.stores.ranker_model",
            data="ranker.cbm",
            code="code",
            python_env="python_env.yaml",
        )
        packages = "".join(f"{name}=={library_version(name)}\n" for name in _RANKER_PACKAGES)
        contents = {
            "ranker.cbm": training.ranker,
            "requirements.txt": packages.encode(),
            "python_env.yaml": f"python: {platform.python_version()}\ndependencies: [-r requirements.txt]\n".encode(),
        } | {f"code/shortlist/{name}": (Path(__file__).parents[1] / name).read_bytes() for name in _RANKER_CODE}
    _write_files(folder, contents)
    model.save(str(folder / "MLmodel"))
