"""The end of the stack: `down` keeps everything, `down --volumes` forgets it, and a mix of both is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.compose.stack import Stack


def test_down_and_up_keep_everything(stack: Stack) -> None:
    before = stack.sql("SELECT dataset, generation_id, rows FROM served ORDER BY 1"), stack.secrets()
    stack.compose("down")
    stack.up()

    assert (stack.sql("SELECT dataset, generation_id, rows FROM served ORDER BY 1"), stack.secrets()) == before
    assert before[0]


def test_secrets_that_do_not_fit_an_old_database_are_told_by_airflow_init(stack: Stack) -> None:
    """The secrets are lost while the tables are kept."""
    stack.compose("down")
    volumes = stack.command(
        "docker", "volume", "ls", "--quiet", "--filter", f"name={stack.name}_secrets"
    ).stdout.split()
    stack.command("docker", "volume", "rm", *volumes)
    stack.compose("up", "--detach", "airflow-init")
    code = stack.command("docker", "wait", f"{stack.name}-airflow-init-1", timeout=120).stdout.strip()

    assert code == "1"
    log = stack.compose("logs", "--no-color", "airflow-init").stdout
    assert "PostgreSQL refuses the password of the database airflow" in log
    assert "Traceback" not in log
    stack.compose("down", "--volumes")
    assert stack.command("docker", "volume", "ls", "--quiet", "--filter", f"name={stack.name}_").stdout == ""


def test_airflow_init_alone_prepares_and_ends_well(stack: Stack) -> None:
    """As people know it from Airflow's own compose file."""
    told = stack.compose("up", "airflow-init").stdout

    assert "exited with code 0" in told
    tables = stack.compose(
        "exec", "-T", "--user", "postgres", "postgres",
        "psql", "airflow", "--tuples-only", "--command", "SELECT count(*) FROM ab_user",
    ).stdout  # fmt: skip
    assert tables.strip() == "1"
