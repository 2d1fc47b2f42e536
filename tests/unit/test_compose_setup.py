"""The first service of the stack: secrets that stay, and clear words about bad surroundings."""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from compose import setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.redis_server import RedisServer

CLONE = "/home/me/shortlist"
PROJECT = Path(__file__).resolve().parents[2]


def test_what_env_leaves_empty_is_made_up_once(tmp_path: Path) -> None:
    first = setup.keep_secrets(tmp_path, clone=CLONE, given={"FERNET_KEY": "", "REDIS_PASSWORD": "chosen-by-me"})

    assert setup.keep_secrets(tmp_path, clone=CLONE, given={}) == first
    assert first["REDIS_PASSWORD"] == "chosen-by-me"
    assert len(base64.urlsafe_b64decode(first["FERNET_KEY"])) == 32
    assert len(first["JWT_SECRET"]) >= 64
    assert len({value for name, value in first.items() if name.endswith("_PASSWORD")}) == 13
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o400


def test_a_stack_that_is_older_than_a_password_gets_it_at_the_next_start(tmp_path: Path) -> None:
    first = setup.keep_secrets(tmp_path, clone=CLONE, given={})
    later = (
        "FEATURES_REDIS_PASSWORD", "SERVICE_REDIS_PASSWORD", "SERVICE_API_KEY", "ELASTIC_PASSWORD", "KIBANA_PASSWORD",
        "ITEMS_SEARCH_PASSWORD", "SERVICE_SEARCH_PASSWORD", "LOGS_SEARCH_PASSWORD",
    )  # fmt: skip
    older = {name: value for name, value in first.items() if name not in later}
    (tmp_path / "secrets.json").unlink()
    (tmp_path / "secrets.json").write_text(json.dumps(older))

    renewed = setup.keep_secrets(tmp_path, clone=CLONE, given={})

    assert {name: renewed[name] for name in older} == older
    assert all(len(renewed[name]) == 32 for name in later)
    assert setup.keep_secrets(tmp_path, clone=CLONE, given={}) == renewed


def test_sparks_workers_learn_the_password_of_the_features_and_no_other(tmp_path: Path) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given={})
    of_services = setup.secrets_of_services(kept, given={})

    url = of_services["features"]["FEATURES_REDIS_URL"]
    assert url == f"redis://features:{kept['FEATURES_REDIS_PASSWORD']}@redis:6379/2"
    assert kept["REDIS_PASSWORD"] not in url
    assert f"user features on >{kept['FEATURES_REDIS_PASSWORD']} " in of_services["redis"]["redis.conf"]


def test_the_service_learns_a_password_of_its_own_and_its_key(tmp_path: Path) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given={})

    assert setup.secrets_of_services(kept, given={})["service"] == {
        "SERVICE_REDIS_URL": f"redis://service:{kept['SERVICE_REDIS_PASSWORD']}@redis:6379/3",
        "FEATURES_REDIS_URL": f"redis://service:{kept['SERVICE_REDIS_PASSWORD']}@redis:6379/2",
        "SERVICE_API_KEY": kept["SERVICE_API_KEY"],
    }
    light = setup.secrets_of_services(kept, given={"WITHOUT_REDIS": "yes"})
    assert light["service"] == {
        "SERVICE_REDIS_URL": "",
        "FEATURES_REDIS_URL": "",
        "SERVICE_API_KEY": kept["SERVICE_API_KEY"],
    }


def test_in_redis_the_service_reaches_recent_events_and_may_take_users_out_of_the_features(redis: RedisServer) -> None:
    redis.admin.set("features:served", "v1")
    redis.admin.hset("features:v1:user:ann", "items", "7")
    service = Redis.from_url(redis.service_url, decode_responses=True)
    with service.pipeline(transaction=True) as both:
        both.lpush("recent:ann", "a", "b", "c")
        both.ltrim("recent:ann", 0, 1)
        both.expire("recent:ann", 60)
        assert both.execute() == [3, True, True]
    assert service.lrange("recent:ann", 0, -1) == ["c", "b"]
    assert service.delete("recent:ann") == 1

    features = Redis.from_url(redis.service_url.removesuffix("/3") + "/2", decode_responses=True)
    assert features.get("features:served") == "v1"
    assert list(features.scan_iter("features:*:user:ann")) == ["features:v1:user:ann"]
    assert features.unlink("features:v1:user:ann") == 1
    for forbidden in (
        lambda: features.hset("features:v1:user:ann", "items", "8"),
        lambda: features.set("features:served", "v2"),
        lambda: service.get("celery-task-meta-1"),
        lambda: service.lpush("celery", "a task"),
        lambda: service.flushdb(),
        lambda: service.config_get("requirepass"),
        lambda: service.acl_list(),
    ):
        with pytest.raises(NoPermissionError):
            forbidden()


@pytest.mark.parametrize("name", ["FERNET_KEY", "JWT_SECRET", "POSTGRES_PASSWORD", "REDIS_PASSWORD"])
def test_another_key_or_password_than_the_volumes_were_made_with_is_refused(tmp_path: Path, name: str) -> None:
    setup.keep_secrets(tmp_path, clone=CLONE, given={})

    with pytest.raises(setup.SetupError, match=f"{name} in .env is not the one that this stack was made with") as told:
        setup.keep_secrets(tmp_path, clone=CLONE, given={name: "another"})
    assert "another" not in str(told.value)


def test_the_key_of_the_service_may_change_and_is_kept(tmp_path: Path) -> None:
    first = setup.keep_secrets(tmp_path, clone=CLONE, given={})["SERVICE_API_KEY"]
    assert setup.keep_secrets(tmp_path, clone=CLONE, given={"SERVICE_API_KEY": ""})["SERVICE_API_KEY"] == first

    chosen = "chosen-by-me-today"
    assert setup.keep_secrets(tmp_path, clone=CLONE, given={"SERVICE_API_KEY": chosen})["SERVICE_API_KEY"] == chosen
    assert setup.keep_secrets(tmp_path, clone=CLONE, given={})["SERVICE_API_KEY"] == chosen


def test_the_administrators_password_may_change(tmp_path: Path) -> None:
    setup.keep_secrets(tmp_path, clone=CLONE, given={})
    given = {"_AIRFLOW_WWW_USER_PASSWORD": "mine"}

    changed = setup.keep_secrets(tmp_path, clone=CLONE, given=given)

    assert setup.secrets_of_services(changed, given=given)["admin"] == {
        "ADMIN_USER": "admin",
        "ADMIN_PASSWORD": "mine",
        "ADMIN_PASSWORD_IS_GIVEN": "yes",
    }
    assert setup.secrets_of_services(changed, given={})["admin"]["ADMIN_PASSWORD_IS_GIVEN"] == ""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FERNET_KEY", "short", "FERNET_KEY in .env must be 32 bytes in URL-safe base64"),
        ("JWT_SECRET", "short", "JWT_SECRET in .env must have at least 64 characters"),
        ("SERVICE_API_KEY", "short", "SERVICE_API_KEY in .env must have at least 16 characters"),
        ("SERVICE_API_KEY", "schlüssel-aus-zeichen", "all of them printable ASCII without spaces"),
        ("POSTGRES_PASSWORD", "p@ss:word/", "POSTGRES_PASSWORD in .env must be of letters, digits"),
    ],
)
def test_unusable_secrets_are_refused_before_anything_is_made(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    with pytest.raises(setup.SetupError, match=message):
        setup.keep_secrets(tmp_path, clone=CLONE, given={name: value})
    assert not (tmp_path / "secrets.json").exists()


def test_the_volumes_of_another_clone_are_left_alone(tmp_path: Path) -> None:
    setup.keep_secrets(tmp_path, clone=CLONE, given={})

    with pytest.raises(setup.SetupError, match=r"another copy of the project, in /home/me/shortlist \(this one is in"):
        setup.keep_secrets(tmp_path, clone="/home/you/shortlist", given={})


def test_the_clone_is_read_from_what_is_mounted_as_data(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "900 880 8:1 /home/me/shortlist/logs /opt/airflow/logs rw - ext4 /dev/sda1 rw\n"
        "901 880 8:1 /home/me/shortlist/data /opt/airflow/data rw - ext4 /dev/sda1 rw\n"
    )

    assert setup.clone_of_mounts(mounts) == CLONE


def test_too_little_memory_is_named_with_both_figures(tmp_path: Path) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemFree: 1 kB\nMemTotal:        2097152 kB\n")

    setup.check_memory(memory, needed_gib=2)
    with pytest.raises(setup.SetupError, match="has 2.0 GiB of memory and these services need 7: .*light.yaml"):
        setup.check_memory(memory, needed_gib=7)


def test_a_missing_user_id_is_told_and_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.airflow_uid("") == 50000
    assert 'echo "AIRFLOW_UID=$(id -u)" >> .env' in capsys.readouterr().out
    assert setup.airflow_uid("1000") == 1000


@pytest.mark.parametrize("value", ["0", "me", "-1", "1.5"])
def test_a_user_id_that_is_none_or_roots_is_refused(value: str) -> None:
    with pytest.raises(setup.SetupError, match=f"AIRFLOW_UID={value} must be the number of a user other than root"):
        setup.airflow_uid(value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become the containers' user")
def test_folders_become_writable_for_the_containers_user_and_keep_their_owner(passable: Path) -> None:
    folder = passable / "data"
    (folder / "processed").mkdir(parents=True)
    os.chown(folder, 1234, 1234)
    folder.chmod(0o750)

    setup.make_writable(folder, 50000)

    assert [(part.stat().st_uid, part.stat().st_gid) for part in (folder, folder / "processed")] == [(1234, 0), (0, 0)]
    assert not list(folder.glob(".writable*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become the containers' user")
def test_a_folder_that_stays_unwritable_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")

    with pytest.raises(setup.SetupError, match=r"logs/ cannot be written by user 50000.*sudo chown -R 50000:0 logs"):
        setup.make_writable(tmp_path / "logs", 50000)


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every user may pass, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="shortlist-tests-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_no_service_gets_the_file_that_holds_all(tmp_path: Path) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given={})

    given = {
        "RECS_DATABASE_URL": "postgresql://me:pw@db/recs",
        "FEATURES_REDIS_URL": "redis://me:pw@cache/3",
        "SERVICE_REDIS_URL": "redis://me:pw@cache/4",
    }
    volumes = setup.secrets_of_services(kept, given=given)

    assert set(volumes) == {
        "admin", "broker", "commander", "features", "jobs", "jwt", "kibana", "logs", "metadata", "mlflow", "postgres",
        "recs", "redis", "search", "searchers", "service",
    }  # fmt: skip
    assert volumes["recs"] == {"RECS_DATABASE_URL": "postgresql://me:pw@db/recs"}
    assert volumes["features"] == {"FEATURES_REDIS_URL": "redis://me:pw@cache/3"}
    assert volumes["service"]["SERVICE_REDIS_URL"] == "redis://me:pw@cache/4"
    assert [name for name, values in volumes.items() if kept["JWT_SECRET"] in "".join(values.values())] == ["jwt"]


def test_jobs_get_the_tables_the_key_of_the_service_and_nothing_of_airflow(tmp_path: Path) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given={})

    assert setup.secrets_of_services(kept, given={"COMPOSE_PROFILES": "containers"})["jobs"] == {
        "RECS_DATABASE_URL": f"postgresql://recs:{kept['RECS_DB_PASSWORD']}@postgres:5432/recs",
        "SERVICE_API_KEY": kept["SERVICE_API_KEY"],
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"COMPOSE_PROFILES": "containers,examples"},
            {
                "AWS_ENDPOINT_URL": "http://example-s3:5000",
                "AWS_ACCESS_KEY_ID": "shortlist-example-key",
                "AWS_SECRET_ACCESS_KEY": "shortlist-example-secret",
            },
        ),
        (
            {"COMPOSE_PROFILES": "examples", "AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "my-own"},
            {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "my-own"},
        ),
        (
            {"COMPOSE_PROFILES": "examples", "AWS_ENDPOINT_URL": "http://s3.example.com"},
            {"AWS_ENDPOINT_URL": "http://s3.example.com"},
        ),
    ],
)
def test_the_examples_object_storage_gives_way_to_ones_own(
    tmp_path: Path, given: dict[str, str], expected: dict[str, str]
) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given=given)

    jobs = setup.secrets_of_services(kept, given=given)["jobs"]

    assert {name: value for name, value in jobs.items() if name.startswith("AWS_")} == expected


def test_with_the_search_index_jobs_and_service_get_users_of_their_own(tmp_path: Path) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given={})

    volumes = setup.secrets_of_services(kept, given={"COMPOSE_PROFILES": "search"})

    places = {name: values["ELASTICSEARCH_URL"] for name, values in volumes.items() if "ELASTICSEARCH_URL" in values}
    assert places == {
        "jobs": f"http://shortlist-items:{kept['ITEMS_SEARCH_PASSWORD']}@elasticsearch:9200",
        "service": f"http://shortlist-service:{kept['SERVICE_SEARCH_PASSWORD']}@elasticsearch:9200",
    }
    own = {"COMPOSE_PROFILES": "search", "ELASTICSEARCH_URL": "https://me:pw@search.example.com"}
    assert setup.secrets_of_services(kept, given=own)["jobs"]["ELASTICSEARCH_URL"] == own["ELASTICSEARCH_URL"]
    holders = [name for name, values in volumes.items() if kept["ELASTIC_PASSWORD"] in "".join(values.values())]
    assert holders == ["search"]


def test_task_logs_go_to_elasticsearch_when_asked_for_and_only_where_there_is_one(tmp_path: Path) -> None:
    kept = setup.keep_secrets(tmp_path, clone=CLONE, given={})
    asked = {"TASK_LOGS_TO_ELASTICSEARCH": "true"}

    assert setup.secrets_of_services(kept, given={"COMPOSE_PROFILES": "search"})["logs"] == {}
    logs = setup.secrets_of_services(kept, given={**asked, "COMPOSE_PROFILES": "search"})["logs"]
    host = f"http://shortlist-logs:{kept['LOGS_SEARCH_PASSWORD']}@elasticsearch:9200"
    assert (logs["AIRFLOW__LOGGING__REMOTE_LOGGING"], logs["AIRFLOW__ELASTICSEARCH__HOST"]) == ("True", host)
    with pytest.raises(setup.SetupError, match="needs an Elasticsearch: add search to COMPOSE_PROFILES"):
        setup.secrets_of_services(kept, given=asked)


def test_half_a_key_of_object_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(setup.SetupError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in .env, set both or none"):
        setup.keep_secrets(tmp_path, clone=CLONE, given={"AWS_ACCESS_KEY_ID": "mine"})


def test_a_variable_that_is_no_more_leaves_the_volume(tmp_path: Path) -> None:
    setup.write_secrets(tmp_path, {"KEPT": "1", "AWS_ENDPOINT_URL": "http://example-s3:5000"})
    setup.write_secrets(tmp_path, {"KEPT": "2"})

    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"KEPT": "2"}


def test_profiles_that_no_service_has_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.profiles_of("containers, exmples,", light=False) == ["containers", "exmples"]
    assert "COMPOSE_PROFILES in .env has exmples, which no service here knows" in capsys.readouterr().out
    assert setup.profiles_of("", light=True) == []


def test_every_profile_is_known_to_setup() -> None:
    used = set()
    for name in ("docker-compose.yaml", "docker-compose.light.yaml"):
        text = (PROJECT / name).read_text()
        used |= {word.strip() for line in re.findall(r"profiles: \[(.*)\]", text) for word in line.split(",")}

    assert setup.profiles_of(",".join(sorted(used)), light=False) == sorted(used)
    assert used == set(setup._MEMORY_OF_PROFILES) - {"*"}


def test_container_tasks_in_the_light_stack_are_refused() -> None:
    with pytest.raises(setup.SetupError, match=r"the light stack runs no container tasks: .* COMPOSE_PROFILES in .env"):
        setup.profiles_of("examples,containers", light=True)


def test_before_the_first_start_there_is_nothing_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "VOLUMES", tmp_path)

    assert setup.show_credentials() == 1
    assert "there are no secrets yet, docker compose up makes them" in capsys.readouterr().err
