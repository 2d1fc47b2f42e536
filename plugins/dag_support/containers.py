"""Tasks that run a container of their own, by way of the filter before the engine (`docker_proxy/`).

The one worker that can reach the filter takes the queue `containers`; the pool of that name bounds how many containers
run at once. A step of one's own needs an image that `config/containers.toml` lists, and no more than

    JobOperator(task_id="score", image="my-scorer", command=["score", "--all"], network="jobs")

What it prints is the task's log. `{"result": …}` as its last line on stdout becomes the XCom; the exit code 99 skips
the task, any other but 0 fails it, with the last line as the reason.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.log import mask_secret
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import Mount

from dag_support.templates import RUN_KEY
from shortlist.errors import JobError
from shortlist.redaction import redact, secrets
from steps.containers import is_yes, read_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow.sdk import Context

QUEUE: Final = "containers"
POOL: Final = "containers"
NOTHING_TO_DO: Final = 99

_KILLED: Final = "the task was killed"

# The XCom with those of the sentences listened for that were in the log.
SAID: Final = "said"

HOME: Final = "/opt/airflow"
JOBS_DATA: Final = f"{HOME}/jobs-data"

# Of the worker's environment, what every job of the project may know.
_COMMON: Final = ("SHORTLIST_CONFIG", "SHORTLIST_VERSION", "DATA_ROOT")

# For `job_task(…, **S3)` and `**DATASETS`: what a job needs that speaks to S3, and to the repository of the data sets.
_S3_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
S3: Final[dict[str, Any]] = {
    "network": "jobs",
    "secrets": _S3_SECRETS,
    "variables": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
}
DATASETS: Final[dict[str, Any]] = S3 | {"secrets": (*_S3_SECRETS, "DATASETS_TOKEN")}

_LONGEST_LINE = 64 * 1024
_KILL_SECONDS = 10
_REMOVE_SECONDS = 30
_WAIT_SECONDS = 60
_KILLED_CODE = 137
_CONFLICT = 409


class JobOperator(DockerOperator):
    """Runs a container on the engine behind the filter, and leaves none behind.

    Of the arguments of `DockerOperator`, those are heeded that the filter lets through.

    Args:
        image: That `config/containers.toml` lists.
        command: Of the container.
        network: `jobs` has a way out, `stores` leads to PostgreSQL, Elasticsearch and the service.
        secrets: Names of the worker's environment variables that the container gets and nobody sees: they stand in no
            rendered field, no log and no error. One that is not set is left out.
        variables: The same for variables that need not be hidden.
        environment: Further variables, for all to see; may hold templates.
        skip_when: Name of an Airflow variable; while it is `true`, `1` or `yes`, the task is skipped.
        listen_for: Sentences; the XCom `said` lists those that were in the log.
        options: Of `DockerOperator`.
    """

    template_ext: Sequence[str] = ()  # a command may end in .sh

    def __init__(
        self,
        *,
        image: str,
        command: list[str] | str | None = None,
        network: str,
        secrets: Iterable[str] = (),
        variables: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        skip_when: str | None = None,
        listen_for: Iterable[str] = (),
        **options: Any,  # noqa: ANN401
    ) -> None:
        fixed: dict[str, Any] = {
            "network_mode": f"{project()}_{network}",
            "queue": QUEUE,
            "pool": POOL,
            "mount_tmp_dir": False,
            "auto_remove": "force",
            "skip_on_exit_code": NOTHING_TO_DO,
        }
        super().__init__(image=image, command=command, environment=dict(environment or {}), **(fixed | options))
        self.secrets = tuple(secrets)
        self.variables = tuple(variables)
        self.skip_when = skip_when
        self.listen_for = tuple(listen_for)
        self._heard = _Heard(self.listen_for)
        self._attempt = ""
        self._killed = False

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Run the container to its end.

        Returns:
            What it gave as its result, `None` if it gave none.

        Raises:
            AirflowSkipException: If there was nothing to do, or the variable `skip_when` says so.
            AirflowFailException: If this worker does not know the filter.
            JobError: If the container failed, the engine refused it or was lost.
        """
        if self.skip_when and is_yes(Variable.get(self.skip_when, default="")):
            self._skip(f"the variable {self.skip_when} is set")
        if str(self.docker_url).startswith("unix:"):  # what DockerOperator takes where nothing is set
            raise AirflowFailException(
                "DOCKER_HOST is not set: container tasks run on the worker of the profile containers, which reaches the"
                " engine through docker-proxy. Start it with COMPOSE_PROFILES=containers"
            )
        for value in secrets(*self.secrets):
            mask_secret(value)
        self._private_environment = {
            name: os.environ[name] for name in (*self.variables, *self.secrets) if os.environ.get(name)
        }
        ti = context["ti"]
        # One process may run a task several times, as `dag.test()` does.
        self._heard = _Heard(self.listen_for)
        self.container = None  # type: ignore[assignment]
        self._attempt = str(ti.id)
        self.container_name = container_name(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        self.labels = {
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "task_id": ti.task_id,
            "try_number": str(ti.try_number),
            "attempt": self._attempt,
        }
        with self._engine("look for a container that an earlier attempt left behind"):
            self._remove_leftover(int(ti.try_number))
        with self._engine(f"find the image {self.image}"):
            result = super().execute(context)
        if self.listen_for:
            ti.xcom_push(key=SAID, value=self._heard.said)
        return result

    def on_kill(self) -> None:
        """Kill and remove the container, whatever the task is doing.

        It runs in a signal handler: what the interrupted code holds, such as a connection or the lock of a log, would
        never get free. Hence a connection of its own, and no word.
        """
        self._killed = True
        if not self._attempt or not self.hook.client_created:
            return
        with suppress(DockerException, OSError):
            self._remove_own(APIClient(base_url=self.docker_url, version=self.cli.api_version, timeout=_KILL_SECONDS))

    def _run_image(self) -> Any:  # noqa: ANN401
        """Create, follow, judge and remove the container; `DockerOperator.execute` calls it when the image is there."""
        state: dict[str, Any] = {}
        try:
            with self._engine(f"create a container of {self.image}"):
                self.container = self._create()
            container = self.container["Id"]
            self.log.info("container %s of %s", self.container_name, self.image)
            if self._killed:  # while the engine was creating it
                raise JobError(_KILLED)
            with self._engine("start the container"):
                stream = self.cli.attach(container, stdout=True, stderr=True, stream=True, demux=True)
                self.cli.start(container)
            with self._engine("follow the container's log"):
                for line in self._heard.lines(stream):
                    self.log.info("%s", redact(line, *self.secrets))
            with self._engine("learn how the container ended"):
                code = int(self.cli.wait(container, timeout=_WAIT_SECONDS)["StatusCode"])
                if code == _KILLED_CODE:
                    state = self.cli.inspect_container(container)["State"]
        finally:
            self._clean_up()
        return self._judge(code, out_of_memory=bool(state.get("OOMKilled")))

    def _create(self) -> dict[str, Any]:
        host = self.cli.create_host_config(
            mounts=self.mounts,
            network_mode=self.network_mode,
            mem_limit=self.mem_limit,
            shm_size=self.shm_size,
            cpu_shares=round(self.cpus * 1024),
        )
        created: dict[str, Any] = self.cli.create_container(
            image=self.image,
            command=self.format_command(self.command),
            entrypoint=self.format_command(self.entrypoint),
            name=self.container_name,
            environment={**self.environment, **self._private_environment},
            working_dir=self.working_dir,
            user=self.user,
            labels=self.labels,
            host_config=host,
        )
        return created

    def _judge(self, code: int, *, out_of_memory: bool) -> Any:  # noqa: ANN401
        reason = redact(self._heard.reason, *self.secrets)
        if self._killed:
            raise JobError(_KILLED)
        if code == NOTHING_TO_DO:
            self._skip(reason or "the container said nothing of the reason")
        if out_of_memory:
            raise JobError(
                f"the container of {self.image} needed more memory than it may have and was killed: {reason}"
            )
        if code:
            raise JobError(f"the container of {self.image} ended with exit code {code}: {reason}")
        return read_result(redact(self._heard.last_output, *self.secrets))

    def _skip(self, reason: str) -> NoReturn:
        self.log.info("nothing to do: %s", reason)  # Airflow itself does not say why a task is skipped
        raise AirflowSkipException(reason)

    def _remove_leftover(self, try_number: int) -> None:
        left = self._inspect(self.cli, self.container_name)
        if not left:
            return
        tried = (left["Config"].get("Labels") or {}).get("try_number", "")
        if tried.isdigit() and int(tried) > try_number:
            raise JobError(f"attempt {tried} of this task is at work: attempt {try_number}, long given up, gives way")
        self.log.info("removing the container %s, which attempt %s left behind", self.container_name, tried or "?")
        deadline = time.monotonic() + _REMOVE_SECONDS
        while not _remove(self.cli, left["Id"]) and self._inspect(self.cli, left["Id"]):
            if time.monotonic() > deadline:
                raise JobError(f"the engine does not get rid of the container {self.container_name}")
            time.sleep(0.5)

    def _clean_up(self) -> None:
        """Leave no container; that it cannot be removed now is no reason to forget how it ended."""
        try:
            self._remove_own(self.cli)
        except (DockerException, OSError) as error:
            self.log.warning(
                "the container %s could not be removed, the next attempt or docker-proxy will: %s",
                self.container_name,
                self._told(error),
            )

    def _remove_own(self, client: APIClient) -> None:
        """Remove the container of this attempt, also if the engine has not told its id, and never one of another."""
        if self.container:
            _remove(client, self.container["Id"])
            return
        found = self._inspect(client, self.container_name)
        if found and (found["Config"].get("Labels") or {}).get("attempt") == self._attempt:
            _remove(client, found["Id"])

    @staticmethod
    def _inspect(client: APIClient, container: str | None) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = client.inspect_container(container)
        except NotFound:
            return None
        return found

    @contextmanager
    def _engine(self, doing: str) -> Iterator[None]:
        """Turn what the engine or the way to it says into one sentence without secrets: requests hold them."""
        try:
            yield
        except (DockerException, OSError) as error:
            raise JobError(_KILLED if self._killed else f"could not {doing}: {self._told(error)}") from None
        except AirflowException as error:
            if self.hook.client_created:
                raise
            raise JobError(f"no answer from the container engine at {self.docker_url}: {error}") from None

    def _told(self, error: Exception) -> str:
        explanation = error.explanation if isinstance(error, APIError) else None
        return redact(str(explanation or f"{type(error).__name__}: {error}"), *self.secrets)


class _Heard:
    """What a container says, as lines.

    Attributes:
        said: Those of the sentences listened for that it has said.
        last_output: Its last line on stdout that is not empty.
    """

    def __init__(self, listen_for: Iterable[str]) -> None:
        self.said: list[str] = []
        self.last_output = ""
        self._last_error = ""
        self._listen_for = tuple(listen_for)

    @property
    def reason(self) -> str:
        """The last line on stderr, where there is none that on stdout: why the container ended."""
        return self._last_error or self.last_output

    def lines(self, stream: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[str]:
        """Yield each line as soon as it is complete. One that is very long comes in pieces.

        Args:
            stream: Pieces of stdout and of stderr, cut anywhere.
        """
        texts = (_Text(), _Text())
        for pieces in stream:
            for text, piece in zip(texts, pieces, strict=True):
                for line in text.add(piece or b""):
                    yield self._hear(line, is_output=text is texts[0])
        for text in texts:
            for line in text.end():
                yield self._hear(line, is_output=text is texts[0])

    def _hear(self, line: str, *, is_output: bool) -> str:
        line = line.rstrip()
        self.said += [phrase for phrase in self._listen_for if phrase in line and phrase not in self.said]
        if line and is_output:
            self.last_output = line
        elif line:
            self._last_error = line
        return line


class _Text:
    """Makes lines of bytes that are cut anywhere, also within a letter."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def add(self, piece: bytes) -> list[str]:
        *lines, self._rest = (self._rest + self._decoder.decode(piece)).split("\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = ""
        return lines

    def end(self) -> list[str]:
        rest = self._rest + self._decoder.decode(b"", final=True)
        return [rest] if rest else []


def job_task(
    task_id: str,
    job: str,
    *args: str,
    network: str,
    variables: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    **options: Any,  # noqa: ANN401
) -> JobOperator:
    """Return a task that runs one of the project's own jobs: `python -m jobs <job>`, in the image of the jobs.

    Args:
        task_id: Of the task.
        job: A key of `jobs.__main__.JOBS`.
        args: Further arguments of the job; may hold templates.
        network: As of `JobOperator`, and so `variables`, `environment` and `options`.
        variables: Beside those that every job may know.
        environment: Beside what every job needs.
        options: Of `JobOperator`.
    """
    return JobOperator(
        task_id=task_id,
        image=os.environ.get("JOBS_IMAGE") or f"{project()}-jobs",
        command=["python", "-m", "jobs", job, "--run-key", RUN_KEY, *args],
        network=network,
        variables=(*_COMMON, *variables),
        environment={
            "JOBS_DATA": JOBS_DATA,
            "PYTHONPATH": f"{HOME}/plugins",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",  # noqa: S108 - the only folder that can be written to
            **(environment or {}),
        },
        working_dir=HOME,
        mounts=[
            *(
                Mount(f"{HOME}/{folder}", f"{HOME}/{folder}", type="bind", read_only=True)
                for folder in ("plugins", "jobs", "config", "models")
            ),
            Mount(JOBS_DATA, f"{project()}_jobs-data", type="volume"),
        ],
        **options,
    )


def said_by(task_id: str) -> str:
    """Return a template of what a `JobOperator` heard of the sentences it listened for; empty if it never ran."""
    return f"{{{{ (ti.xcom_pull(task_ids='{task_id}', key='{SAID}') or []) | join(', ') }}}}"


def project() -> str:
    """Return the name of the stack, which its images, networks, volumes and containers begin with."""
    return os.environ.get("COMPOSE_PROJECT_NAME") or "shortlist"


def container_name(dag_id: str, run_id: str, task_id: str, map_index: int | None = -1) -> str:
    """Return the name of the container of a task, the same for all its attempts.

    Args:
        dag_id: Of the run.
        run_id: Of the run.
        task_id: Of the task.
        map_index: Of a mapped task.
    """
    key = "\n".join((dag_id, run_id, task_id, str(map_index)))
    return f"{project()}-job-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _remove(client: APIClient, container: str) -> bool:
    """Kill and remove a container; returns whether it is gone, which it is not while another removes it."""
    try:
        client.remove_container(container, v=True, force=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != _CONFLICT:
            raise
        return False
    return True
