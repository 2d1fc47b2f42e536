from __future__ import annotations

import configparser
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from embedded import home
from shortlist.errors import SetupError


def make_environment(folder: Path) -> dict[str, str]:
    return home.environment(folder, java_home=Path("/jdk"), database_url="postgresql://u:p@h/recs", api_port=8090)


def test_variables_of_another_airflow_or_spark_do_not_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://somewhere/else")
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "other")
    monkeypatch.setenv("AIRFLOW_CONFIG", "/etc/airflow.cfg")
    monkeypatch.setenv("SPARK_HOME", "/opt/spark")
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master yarn")
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "7")
    found = make_environment(tmp_path)
    assert found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/airflow.db"
    assert not {"AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW_CONFIG", "SPARK_HOME", "PYSPARK_SUBMIT_ARGS"} & found.keys()
    assert found["TELEGRAM_CHAT_ID"] == "7"


def test_another_port_reaches_the_server_and_the_tasks(tmp_path: Path) -> None:
    found = make_environment(tmp_path)
    assert found["AIRFLOW__API__PORT"] == "8090"
    assert found["AIRFLOW__API__BASE_URL"] == "http://localhost:8090"
    assert found["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://localhost:8090/execution/"


def test_secrets_are_long_private_and_made_once(tmp_path: Path) -> None:
    home.prepare(tmp_path)
    config = configparser.ConfigParser()
    config.read(tmp_path / "airflow.cfg")
    assert len(config["api_auth"]["jwt_secret"].encode()) >= 64
    assert {section: set(config[section]) for section in config.sections()} == {
        "core": {"fernet_key"},
        "api": {"secret_key"},
        "api_auth": {"jwt_secret"},
    }
    password = home.admin_password(tmp_path)
    assert len(password) >= 16
    for name in ("airflow.cfg", "simple_auth_manager_passwords.json.generated"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    before = (tmp_path / "airflow.cfg").read_text()
    home.prepare(tmp_path)
    assert (tmp_path / "airflow.cfg").read_text() == before
    assert home.admin_password(tmp_path) == password


def test_scratch_files_of_a_spark_that_was_killed_go_after_a_day(tmp_path: Path) -> None:
    home.prepare(tmp_path)
    scratch = tmp_path / "spark" / "scratch"
    for name in ("old", "new"):
        (scratch / name).mkdir()
    os.utime(scratch / "old", (0, 0))
    home.prepare(tmp_path)
    assert [path.name for path in scratch.iterdir()] == ["new"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"file/home.* cannot be written"):
        home.prepare(tmp_path / "file" / "home")


def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "MINIMUM_DISK_BYTES", 2**60)
    with pytest.raises(SetupError, match=r"GiB are free .* at least 1073741824 GiB are needed"):
        home.prepare(tmp_path)


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"Port {port} cannot be used .*make ui PORT="):
            home.check_port(port, "ui")
    home.check_port(port, "ui")


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(SetupError, match="Port 99999 cannot be used"):
        home.check_port(99999, "serve")


def test_a_second_command_in_the_same_home_is_told_who_works_there(tmp_path: Path) -> None:
    with home.exclusive(tmp_path, "ui"), pytest.raises(SetupError, match="`make ui` is still at work"):
        home.exclusive(tmp_path, "demo").__enter__()
    with home.exclusive(tmp_path, "demo"):
        pass


def test_stop_interrupts_the_command_at_work_and_waits_for_its_end(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from embedded import home\n"
        "with home.exclusive(Path(sys.argv[1]), 'demo'):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=home.PROJECT,
        env=make_environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        home.stop(tmp_path)
        assert worker.communicate()[0] == "interrupted\n"


def test_stop_without_a_home_does_nothing(tmp_path: Path) -> None:
    home.stop(tmp_path / "never")
    assert not (tmp_path / "never").exists()
