"""The service `airflow-init`: Airflow's own tables, the first user and a pool. Says clearly what keeps it from that."""

from __future__ import annotations

import os
import sys

import psycopg2


def main() -> int:
    """Prepare the metadata database.

    Returns:
        The exit code.
    """
    for name, url in (
        ("airflow", os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")),
        ("recs", os.environ["RECS_DATABASE_URL"]),
    ):
        if problem := database_problem(name, url):
            return _fail(problem)

    from airflow.utils import db

    db.initdb()
    if unreadable := unreadable_secrets():
        return _fail(
            f"{unreadable} connections or variables were encrypted with another Fernet key: put the old FERNET_KEY"
            " into .env, or start anew with  docker compose down --volumes, which forgets all tables"
        )
    ensure_pool(os.environ.get("CONTAINERS_AT_ONCE", ""))
    ensure_user(
        os.environ["ADMIN_USER"], os.environ["ADMIN_PASSWORD"], reset=bool(os.environ["ADMIN_PASSWORD_IS_GIVEN"])
    )
    return 0


def database_problem(name: str, url: str) -> str | None:
    """Return what is wrong with a database, or `None`. The message holds no password."""
    try:
        psycopg2.connect(url, connect_timeout=10).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            return (
                f"PostgreSQL refuses the password of the database {name}: its volume is older than the secrets of this"
                " stack. Put back the volumes they were made with, or start anew with  docker compose down --volumes,"
                " which forgets all tables"
            )
        return f"the database {name} cannot be used: {str(error).strip()}"
    return None


def unreadable_secrets() -> int:
    """Return how many encrypted values in the metadata cannot be decrypted with the present key."""
    from airflow.models.crypto import get_fernet
    from airflow.utils.session import create_session
    from cryptography.fernet import InvalidToken
    from sqlalchemy import text

    fernet, unreadable = get_fernet(), 0
    with create_session() as session:
        for (value,) in session.execute(
            text(
                "SELECT password FROM connection WHERE is_encrypted AND password IS NOT NULL"
                " UNION ALL SELECT val FROM variable WHERE is_encrypted AND val IS NOT NULL"
            )
        ):
            try:
                fernet.decrypt(value.encode())
            except InvalidToken:
                unreadable += 1
    return unreadable


def ensure_pool(slots: str) -> None:
    """Make sure that there is the pool that bounds how many containers run at once.

    Args:
        slots: How many; empty: as somebody set it in the UI, or 2 on the first start.
    """
    from airflow.models.pool import Pool

    if slots or Pool.get_pool("containers") is None:
        Pool.create_or_update_pool(
            "containers",
            slots=int(slots or 2),
            description="Containers that tasks may run at once",
            include_deferred=False,
        )


def ensure_user(name: str, password: str, *, reset: bool) -> None:
    """Create the administrator, or give one that is there this password if `reset` asks for it."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded
    from werkzeug.security import check_password_hash

    @providers_configuration_loaded
    def ensure() -> None:
        with get_application_builder() as builder:
            security = builder.sm
            user = security.find_user(name)
            if user is None:
                role = security.find_role("Admin")
                security.add_user(name, "Shortlist", "Admin", f"{name}@localhost", role, password)
            elif reset and not check_password_hash(user.password, password):
                security.reset_password(user.id, password)

    ensure()


def _fail(problem: str) -> int:
    print(f"shortlist: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
