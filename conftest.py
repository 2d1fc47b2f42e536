"""Keeps every test away from the developer's own Airflow home, settings and chat, before anything is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

OWN = (
    "AIRFLOW_",
    "SHORTLIST_CONFIG",
    "SHORTLIST_INPUT",
    "SHORTLIST_PROJECT",
    "SHORTLIST_TASK_RETRIES",
    "DATA_ROOT",
    "ELASTICSEARCH_",
    "JOBS_DATA",
    "TELEGRAM_",
    "MLFLOW_",
    "SERVICE_",
)

for name in [name for name in os.environ if name.startswith(OWN)]:
    del os.environ[name]

# Importing Airflow writes a configuration file there.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="shortlist-airflow-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
