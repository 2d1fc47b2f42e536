#!/usr/bin/env bash
# On the first start of PostgreSQL: a role and a database of its own for each user of it.
set -euo pipefail
for name in airflow recs mlflow; do
    file=/run/secrets/postgres/${name^^}_DB_PASSWORD
    psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$name" --set password="$(<"$file")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
