"""The first service of the stack: checks the surroundings and makes the secrets, before anything else starts.

Runs once at every `docker compose up`, as root, with nothing but the right to hand files to the stack's own user.
Each volume below `/run/secrets` holds what one group of services may know, one file a variable; docker-compose.yaml
says who mounts which. What `.env` leaves empty is made up on the first start and stays.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

VOLUMES = Path("/run/secrets")
PROJECT = Path("/opt/airflow")
MOUNTS = Path("/proc/self/mountinfo")
MEMORY = Path("/proc/meminfo")

# Where containers write. On a fresh clone the engine has just created those that were missing, for root.
WRITTEN = ("data", "logs", "models", "postgres_data", "reports")

DEFAULT_UID = 50000

# What is encrypted with the key, or was created with the password, could not be read with another one.
_MADE_ONCE = ("FERNET_KEY", "JWT_SECRET", "POSTGRES_PASSWORD", "REDIS_PASSWORD")

# Who got a password after the first version.
_LATER = ("FEATURES_REDIS", "SERVICE_REDIS", "ELASTIC", "KIBANA", "ITEMS_SEARCH", "SERVICE_SEARCH", "LOGS_SEARCH")

# What services need beyond the others, by profile, in GiB.
_MEMORY_OF_PROFILES = {
    "containers": 2.0,
    "examples": 0.5,
    "search": 2.5,
    "flower": 0.0,
    "tools": 0.0,
    "debug": 0.0,
    # Of the light stack, for what it leaves out.
    "celery": 0.0,
    "cluster": 0.0,
    "*": 5.0,
}

# The example's S3 takes any.
_EXAMPLE_S3 = {
    "AWS_ENDPOINT_URL": "http://example-s3:5000",
    "AWS_ACCESS_KEY_ID": "shortlist-example-key",
    "AWS_SECRET_ACCESS_KEY": "shortlist-example-secret",
}
_S3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")

# Spark's workers run anybody's code: what they know of Redis opens the features and nothing else.
_FEATURES_MAY = (
    "+ping +select +info +time +get +set +del +unlink +scan +hset +hgetall +expireat +memory|usage"
    " +watch +unwatch +multi +exec +discard"
)

# The service keeps the recent events of users, and takes a user who is to be forgotten out of the features.
_SERVICE_MAY = (
    "~recent:* &recent -@all +ping +select +client|setname +lpush +ltrim +lrange +expire +del +unlink +scan"
    " +multi +exec +discard +publish +subscribe +unsubscribe (~features:* +get +exists +del +unlink)"
)


class SetupError(Exception):
    """Says what is wrong with the surroundings and what to do about it."""


def main() -> int:
    """Check, then write the secrets.

    Returns:
        The exit code.
    """
    try:
        profiles = profiles_of(os.environ.get("COMPOSE_PROFILES", ""), light=bool(os.environ.get("WITHOUT_REDIS")))
        needed = float(os.environ["MEMORY_NEEDED_GIB"]) + sum(_MEMORY_OF_PROFILES.get(name, 0.0) for name in profiles)
        check_memory(MEMORY, needed_gib=needed)
        uid = airflow_uid(os.environ.get("AIRFLOW_UID", ""))
        with suppress(OSError):  # the attempt to write to data/ tells
            (PROJECT / "data" / "service").mkdir(exist_ok=True)
        for name in WRITTEN:
            make_writable(PROJECT / name, uid)
        kept = keep_secrets(VOLUMES / "kept", clone=clone_of_mounts(MOUNTS), given=dict(os.environ))
        for volume, values in secrets_of_services(kept, given=dict(os.environ)).items():
            write_secrets(VOLUMES / volume, values)
    except SetupError as problem:
        print(f"shortlist: {problem}", file=sys.stderr)
        return 1
    return 0


def check_memory(meminfo: Path, *, needed_gib: float) -> None:
    """Make sure that the engine has the memory the stack needs.

    Raises:
        SetupError: If it has not.
    """
    kibibytes = next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:"))
    if kibibytes / 1024**2 < needed_gib:
        raise SetupError(
            f"the container engine has {kibibytes / 1024**2:.1f} GiB of memory and these services need"
            f" {needed_gib:g}: give it more (Docker Desktop: Settings, Resources), or run the light stack with"
            " COMPOSE_FILE=docker-compose.yaml:docker-compose.light.yaml in .env"
        )


def profiles_of(value: str, *, light: bool) -> list[str]:
    """Return the profiles that are on. Names that no service has are told.

    Args:
        value: Of `COMPOSE_PROFILES`, separated by commas.
        light: Whether this is the light stack.

    Raises:
        SetupError: If the light stack is to have what it cannot.
    """
    profiles = _names(value)
    if unknown := [name for name in profiles if name not in _MEMORY_OF_PROFILES]:
        print(
            f"shortlist: COMPOSE_PROFILES in .env has {', '.join(unknown)}, which no service here knows. There are:"
            f" {', '.join(name for name in _MEMORY_OF_PROFILES if name not in ('celery', 'cluster', '*'))}"
        )
    if light and "containers" in profiles:
        raise SetupError(
            "the light stack runs no container tasks: its one process for all tasks would have to reach the engine, and"
            " only a worker of its own may. Take containers out of COMPOSE_PROFILES in .env, or run the whole stack"
            " with COMPOSE_FILE=docker-compose.yaml"
        )
    return profiles


def airflow_uid(value: str) -> int:
    """Return the user id that the containers run as.

    Raises:
        SetupError: If `AIRFLOW_UID` is no number, or root's.
    """
    if not value:
        print(
            f"shortlist: AIRFLOW_UID is not set, so files that containers write belong to user {DEFAULT_UID}."
            ' On Linux, to make them yours: echo "AIRFLOW_UID=$(id -u)" >> .env'
        )
        return DEFAULT_UID
    if not value.isdecimal() or int(value) == 0:
        raise SetupError(
            f'AIRFLOW_UID={value} must be the number of a user other than root: echo "AIRFLOW_UID=$(id -u)" >> .env'
            f" as a normal user, or leave it empty for {DEFAULT_UID}"
        )
    return int(value)


def make_writable(folder: Path, uid: int) -> None:
    """Let the containers' user, who is in group 0, write to a folder and the folders in it. Owners stay.

    Raises:
        SetupError: If that user still cannot.
    """
    try:
        for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
            status = inner.stat()
            if status.st_uid != uid and (status.st_gid != 0 or status.st_mode & stat.S_IRWXG != stat.S_IRWXG):
                os.chown(inner, -1, 0)
                inner.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRWXG)
    except OSError:
        pass  # the attempt below tells
    if not _can_write(folder, uid):
        raise SetupError(
            f"{folder.name}/ cannot be written by user {uid}, as whom the containers run: on the host, in the"
            f" project's folder, run  sudo chown -R {uid}:0 {folder.name}  (or set AIRFLOW_UID to the owner); a"
            " read-only file system or a full disk looks the same"
        )


def clone_of_mounts(mountinfo: Path) -> str:
    """Return where the project's folder lies on its disk, as the kernel tells it of what is mounted as `data`."""
    for line in mountinfo.read_text().splitlines():
        _, _, _, root, mounted, *_ = line.split(" ")
        if mounted == str(PROJECT / "data"):
            return str(Path(root).parent)
    return ""


def keep_secrets(volume: Path, *, clone: str, given: dict[str, str]) -> dict[str, str]:
    """Return the secrets of this stack; make them up on its first start.

    Args:
        volume: Where they are kept; nobody but this program reads it.
        clone: Of `clone_of_mounts`.
        given: The environment; what `.env` sets is taken rather than made up.

    Raises:
        SetupError: If the volumes belong to another clone, or `.env` contradicts what they were made with.
    """
    file = volume / "secrets.json"
    if file.exists():
        kept: dict[str, str] = json.loads(file.read_text())
        if kept["clone"] != clone:
            raise SetupError(
                f"the volumes of this stack belong to another copy of the project, in {kept['clone']} (this one is in"
                f" {clone}). Both have one project name: choose another for this one,"
                " COMPOSE_PROJECT_NAME=… in .env, and other ports, and start the other one again. If you moved the"
                " folder, run  docker compose run --rm setup python /opt/shortlist/setup.py adopt"
            )
        for name in _MADE_ONCE:
            if given.get(name) not in (None, "", kept[name]):
                raise SetupError(
                    f"{name} in .env is not the one that this stack was made with: put the old one back or leave it"
                    " empty (`make credentials` shows it), or start anew with  docker compose down --volumes, which"
                    " forgets all tables"
                )
    else:
        kept = {
            "clone": clone,
            "FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "JWT_SECRET": secrets.token_urlsafe(64),
            "API_SECRET": secrets.token_urlsafe(64),
            "ADMIN_PASSWORD": secrets.token_urlsafe(12),
        }
        for name in ("POSTGRES", "AIRFLOW_DB", "RECS_DB", "MLFLOW_DB", "REDIS"):
            kept[f"{name}_PASSWORD"] = secrets.token_urlsafe(24)
        kept |= {name: given[name] for name in _MADE_ONCE if given.get(name)}
        _check_strength(kept)
    # Also for a stack that is older than these passwords: Redis takes them at its next start.
    for name in _LATER:
        kept.setdefault(f"{name}_PASSWORD", secrets.token_urlsafe(24))
    kept["SERVICE_API_KEY"] = given.get("SERVICE_API_KEY") or kept.get("SERVICE_API_KEY") or secrets.token_urlsafe(24)
    _check_key(kept["SERVICE_API_KEY"])
    if bool(given.get("AWS_ACCESS_KEY_ID")) != bool(given.get("AWS_SECRET_ACCESS_KEY")):
        raise SetupError("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in .env, set both or none")
    kept["ADMIN_USER"] = given.get("_AIRFLOW_WWW_USER_USERNAME") or "admin"
    kept["ADMIN_PASSWORD"] = given.get("_AIRFLOW_WWW_USER_PASSWORD") or kept["ADMIN_PASSWORD"]
    _write(file, json.dumps(kept), mode=0o400)
    return kept


def secrets_of_services(kept: dict[str, str], *, given: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return, for each volume, the variables that its readers get. The secret matrix of the stack."""
    broker = f"redis://:{kept['REDIS_PASSWORD']}@redis:6379"
    service = "" if given.get("WITHOUT_REDIS") else f"redis://service:{kept['SERVICE_REDIS_PASSWORD']}@redis:6379"
    recs = given.get("RECS_DATABASE_URL") or f"postgresql://recs:{kept['RECS_DB_PASSWORD']}@postgres:5432/recs"
    return {
        "postgres": {
            "POSTGRES_PASSWORD": kept["POSTGRES_PASSWORD"],
            "AIRFLOW_DB_PASSWORD": kept["AIRFLOW_DB_PASSWORD"],
            "RECS_DB_PASSWORD": kept["RECS_DB_PASSWORD"],
            "MLFLOW_DB_PASSWORD": kept["MLFLOW_DB_PASSWORD"],
        },
        "redis": {
            "REDISCLI_AUTH": kept["REDIS_PASSWORD"],
            "redis.conf": (
                f"requirepass {kept['REDIS_PASSWORD']}\n"
                f"user features on >{kept['FEATURES_REDIS_PASSWORD']} resetchannels ~features:* -@all {_FEATURES_MAY}\n"
                f"user service on >{kept['SERVICE_REDIS_PASSWORD']} resetchannels {_SERVICE_MAY}\n"
            ),
        },
        "metadata": {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": (
                f"postgresql+psycopg2://airflow:{kept['AIRFLOW_DB_PASSWORD']}@postgres/airflow"
            ),
            "AIRFLOW__CORE__FERNET_KEY": kept["FERNET_KEY"],
            "AIRFLOW__API__SECRET_KEY": kept["API_SECRET"],
        },
        "jwt": {"AIRFLOW__API_AUTH__JWT_SECRET": kept["JWT_SECRET"]},
        "broker": {
            "AIRFLOW__CELERY__BROKER_URL": f"{broker}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"{broker}/1",
            "AIRFLOW__CELERY__FLOWER_BASIC_AUTH": f"{kept['ADMIN_USER']}:{kept['ADMIN_PASSWORD']}",
        },
        "recs": {"RECS_DATABASE_URL": recs},
        "features": {
            "FEATURES_REDIS_URL": given.get("FEATURES_REDIS_URL")
            or f"redis://features:{kept['FEATURES_REDIS_PASSWORD']}@redis:6379/2"
        },
        "service": {
            "SERVICE_REDIS_URL": given.get("SERVICE_REDIS_URL") or (service and f"{service}/3"),
            "FEATURES_REDIS_URL": given.get("FEATURES_REDIS_URL") or (service and f"{service}/2"),
            "SERVICE_API_KEY": kept["SERVICE_API_KEY"],
            **_search_index("service", kept["SERVICE_SEARCH_PASSWORD"], given),
        },
        # What container tasks hand on, each to its own job.
        "jobs": {
            "RECS_DATABASE_URL": recs,
            "SERVICE_API_KEY": kept["SERVICE_API_KEY"],
            **_object_storage(given),
            **{name: given[name] for name in ("DATASETS_TOKEN",) if given.get(name)},
            **_search_index("items", kept["ITEMS_SEARCH_PASSWORD"], given),
        },
        "logs": _task_logs(kept, given),
        "search": {"ELASTIC_PASSWORD": kept["ELASTIC_PASSWORD"]},
        "kibana": {"ELASTICSEARCH_PASSWORD": kept["KIBANA_PASSWORD"]},
        "searchers": {
            "ITEMS_SEARCH_PASSWORD": kept["ITEMS_SEARCH_PASSWORD"],
            "SERVICE_SEARCH_PASSWORD": kept["SERVICE_SEARCH_PASSWORD"],
            "LOGS_SEARCH_PASSWORD": kept["LOGS_SEARCH_PASSWORD"],
        },
        "mlflow": {
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{kept['MLFLOW_DB_PASSWORD']}@postgres/mlflow",
        },
        "commander": {
            "NODE_CONFIG": json.dumps(
                {
                    "connections": [
                        {
                            "label": label,
                            "host": "redis",
                            "port": 6379,
                            "dbIndex": database,
                            "password": kept["REDIS_PASSWORD"],
                        }
                        for label, database in (("redis", 0), ("features", 2), ("recent", 3))
                    ]
                }
            ),
            "HTTP_PASSWORD": kept["ADMIN_PASSWORD"],
        },
        "admin": {
            "ADMIN_USER": kept["ADMIN_USER"],
            "ADMIN_PASSWORD": kept["ADMIN_PASSWORD"],
            # What somebody changed in the UI is left alone, unless .env asks for this password.
            "ADMIN_PASSWORD_IS_GIVEN": "yes" if given.get("_AIRFLOW_WWW_USER_PASSWORD") else "",
        },
    }


def write_secrets(volume: Path, values: dict[str, str]) -> None:
    """Write one file a variable, readable by whoever mounts the volume. Variables of before that are no more go."""
    for file in volume.iterdir():
        if file.name not in values:
            file.unlink()
    for name, value in values.items():
        _write(volume / name, value, mode=0o444)


def adopt() -> int:
    """Give the volumes to this copy of the project, after its folder was moved."""
    file = VOLUMES / "kept" / "secrets.json"
    kept = json.loads(file.read_text()) | {"clone": clone_of_mounts(MOUNTS)}
    _write(file, json.dumps(kept), mode=0o400)
    return main()


def show_credentials() -> int:
    """Print what a person needs to log in."""
    file = VOLUMES / "kept" / "secrets.json"
    if not file.exists():
        print("shortlist: there are no secrets yet, docker compose up makes them", file=sys.stderr)
        return 1
    kept = json.loads(file.read_text())
    kibana = {}
    if "search" in _names(os.environ.get("COMPOSE_PROFILES", "")):
        address = f"http://localhost:{os.environ['KIBANA_PORT']}"
        kibana["Kibana"] = f"{address}  (user elastic, password {kept['ELASTIC_PASSWORD']})"
    for what, value in {
        "Airflow": f"http://localhost:{os.environ['PORT']}",
        "user": kept["ADMIN_USER"],
        "password": kept["ADMIN_PASSWORD"],
        "MLflow": f"http://localhost:{os.environ['MLFLOW_PORT']}",
        "page and API": os.environ["SERVICE_URL"],
        "key of the API": kept["SERVICE_API_KEY"],
        "tables": "make compose-psql",
        "recommendations": secrets_of_services(kept, given=dict(os.environ))["recs"]["RECS_DATABASE_URL"],
        "PostgreSQL": f"user postgres, password {kept['POSTGRES_PASSWORD']}",
        "Redis": f"password {kept['REDIS_PASSWORD']}",
        **kibana,
        "Fernet key": f"{kept['FERNET_KEY']}  (keep a copy: without it, encrypted connections are lost)",
    }.items():
        print(f"{what:<16} {value}")
    return 0


def _object_storage(given: dict[str, str]) -> dict[str, str]:
    """Return how jobs reach S3; the example's, where its profile is on and nothing else is set."""
    chosen = {name: given[name] for name in _S3 if given.get(name)}
    if "examples" in _names(given.get("COMPOSE_PROFILES", "")) and "AWS_ENDPOINT_URL" not in chosen:
        return chosen if "AWS_ACCESS_KEY_ID" in chosen else _EXAMPLE_S3
    return chosen


def _search_index(user: str, password: str, given: dict[str, str]) -> dict[str, str]:
    if given.get("ELASTICSEARCH_URL"):
        return {"ELASTICSEARCH_URL": given["ELASTICSEARCH_URL"]}
    if "search" in _names(given.get("COMPOSE_PROFILES", "")):
        return {"ELASTICSEARCH_URL": f"http://shortlist-{user}:{password}@elasticsearch:9200"}
    return {}


def _task_logs(kept: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """Return what lets Airflow's own provider write task logs to Elasticsearch and read them there."""
    if given.get("TASK_LOGS_TO_ELASTICSEARCH", "").lower() not in ("true", "1", "yes"):
        return {}
    place = _search_index("logs", kept["LOGS_SEARCH_PASSWORD"], given)
    if not place:
        raise SetupError(
            "TASK_LOGS_TO_ELASTICSEARCH in .env needs an Elasticsearch: add search to COMPOSE_PROFILES, or set"
            " ELASTICSEARCH_URL"
        )
    return {
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__ELASTICSEARCH__HOST": place["ELASTICSEARCH_URL"],
        "AIRFLOW__ELASTICSEARCH__WRITE_TO_ES": "True",
        "AIRFLOW__ELASTICSEARCH__JSON_FORMAT": "True",
        "AIRFLOW__ELASTICSEARCH__TARGET_INDEX": "airflow-logs",
        "AIRFLOW__ELASTICSEARCH__INDEX_PATTERNS": "airflow-logs*",
    }


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _check_strength(kept: dict[str, str]) -> None:
    if len(kept["JWT_SECRET"]) < 64:
        raise SetupError("JWT_SECRET in .env must have at least 64 characters, or be left empty to be made up")
    try:
        length = len(base64.urlsafe_b64decode(kept["FERNET_KEY"]))
    except ValueError:
        length = 0
    if length != 32:
        raise SetupError("FERNET_KEY in .env must be 32 bytes in URL-safe base64, or be left empty to be made up")
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        if not kept[name].isascii() or not kept[name].replace("-", "").replace("_", "").isalnum():
            raise SetupError(f"{name} in .env must be of letters, digits, - and _ only: it becomes part of URLs")


def _check_key(key: str) -> None:
    if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
        raise SetupError(
            "SERVICE_API_KEY in .env must have at least 16 characters, all of them printable ASCII without spaces: it"
            " travels in an HTTP header. Left empty, it is made up"
        )


def _can_write(folder: Path, uid: int) -> bool:
    """Whether that user can make a file there: tried in a child process that is that user."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    try:
        os.setgroups([])
        os.setgid(0)
        os.setuid(uid)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        os._exit(1)
    os._exit(0)


def _write(file: Path, content: str, *, mode: int) -> None:
    """Replace a file as a whole: a service that starts at this moment reads the old or the new one."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        stream.write(content)
    temporary.chmod(mode)
    temporary.rename(file)


if __name__ == "__main__":
    sys.exit({"": main, "adopt": adopt, "credentials": show_credentials}[sys.argv[1] if sys.argv[1:] else ""]())
