"""The only helpers that know Airflow."""
