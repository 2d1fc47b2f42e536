"""Tasks that run a container of their own, by way of the filter before the engine (`docker_proxy/`).

The one worker that can reach the filter takes the queue `containers`; the pool of that name bounds how many containers
run at once. A step of one's own needs an image that `config/containers.toml` lists, and no more than

    JobOperator(task_id="score", image="my-scorer", command=["score", "--all"], network="jobs")

What it prints is the task's log. `{"result": …}` as its last line on stdout becomes the XCom; the exit code 99 skips the
task, any other but 0 fails it, with the last line as the reason.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.log import mask_secret
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import Mount

from shortlist.errors import JobError
from shortlist.redaction import redact, secrets
from steps.containers import is_yes, read_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow.sdk import Context

QUEUE: Final = "containers"
POOL: Final = "containers"
NOTHING_TO_DO: Final = 99

# The XCom with those of the sentences listened for that were in the log.
SAID: Final = "said"

HOME: Final = "/opt/airflow"
JOBS_DATA: Final = f"{HOME}/jobs-data"

# Of the worker's environment, what every job of the project may know.
_COMMON: Final = ("SHORTLIST_CONFIG", "SHORTLIST_VERSION", "DATA_ROOT")

# What a job needs that speaks to S3 and to the repository of data sets.
S3_SECRETS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
S3_VARIABLES: Final = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")

_LONGEST_LINE = 64 * 1024
_KEPT_LINES = 1000
_KILL_SECONDS = 10
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
        super().__init__(
            image=image,
            command=command,
            environment=dict(environment or {}),
            **{
                "network_mode": f"{project()}_{network}",
                "queue": QUEUE,
                "pool": POOL,
                "mount_tmp_dir": False,
                "auto_remove": "force",
                "skip_on_exit_code": NOTHING_TO_DO,
            }
            | options,
        )
        self.secrets = tuple(secrets)
        self.variables = tuple(variables)
        self.skip_when = skip_when
        self.listen_for = tuple(listen_for)
        self._killed = False
        self._attempt = ""

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
        if self.docker_url.startswith("unix:"):  # what DockerOperator takes where nothing is set
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
        self._attempt = str(ti.id)
        self.container_name = container_name(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        self.labels = {
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "task_id": ti.task_id,
            "try_number": str(ti.try_number),
            "attempt": self._attempt,
        }
        with self._engine("reach the container engine"):
            self.cli.ping()
        self._remove_leftover(ti.try_number)
        with self._engine("find the image"):
            result = super().execute(context)
        return result

    def on_kill(self) -> None:
        """Kill and remove the container, whatever the task was doing; silent and with a connection of its own.

        It runs in a signal handler: what the interrupted code holds, such as the lock of a log, would never be free.
        """
        self._killed = True
        if not self._attempt or not self.hook.client_created:
            return
        with suppress(DockerException, OSError):
            client = APIClient(base_url=self.docker_url, version=self.cli.api_version, timeout=_KILL_SECONDS)
            self._remove_own(client)

    def _run_image(self) -> Any:  # noqa: ANN401
        """Create, follow, judge and remove the container; `DockerOperator.execute` calls it when the image is there."""
        heard = _Heard(self.listen_for)
        try:
            with self._engine(f"create a container of {self.image}"):
                self.container = self._create()
            container = self.container["Id"]
            if self._killed:
                raise JobError("the task was killed before its container started")
            with self._engine("start the container"):
                stream = self.cli.attach(container=container, stdout=True, stderr=True, stream=True, demux=True)
                self.cli.start(container)
            with self._engine("follow the container's log"):
                for line in heard.lines(stream):
                    self.log.info("%s", redact(line, *self.secrets))
            with self._engine("learn how the container ended"):
                code = int(self.cli.wait(container, timeout=_WAIT_SECONDS)["StatusCode"])
                state = self.cli.inspect_container(container)["State"] if code == _KILLED_CODE else {}
        finally:
            # A timeout comes between any two lines, also before the engine has told the container's id.
            self._clean_up()
        if self.listen_for:
            self.xcom_push_said(heard.said)
        return self._judge(code, heard, out_of_memory=bool(state.get("OOMKilled")))
