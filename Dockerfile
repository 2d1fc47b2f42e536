# The one image of Airflow and Spark, so that the Python and Spark versions of driver and workers cannot differ.
FROM apache/airflow:3.3.2-python3.13 AS airflow

USER root
# OpenBLAS is for Spark's own linear algebra; NumPy brings its own. git and ssh fetch DAGs from Git, where that is switched
# on. Volumes get their rights from the folders here.
RUN apt-get update \
    && apt-get install -y --no-install-recommends default-jre-headless git libopenblas0-pthread openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o airflow -g 0 -m 775 /opt/airflow/bundles /opt/airflow/jobs-data
ENV JAVA_HOME=/usr/lib/jvm/default-java \
    PYTHONPATH=/opt/airflow/plugins \
    SPARK_CONF_DIR=/opt/airflow/config/spark

USER airflow
COPY requirements-airflow.lock /
# Exactly what was locked and tested: what the base image has beyond it is removed, and with it the Connect client,
# whose files would overwrite those of the full pyspark package.
RUN --mount=type=cache,target=/home/airflow/.cache,uid=50000,gid=0 \
    umask 0002 \
    && uv pip sync --compile-bytecode --require-hashes /requirements-airflow.lock
COPY compose /opt/shortlist
ENTRYPOINT ["/usr/bin/dumb-init", "--", "/opt/shortlist/with-secrets", "/entrypoint"]


FROM python:3.13-slim AS mlflow

RUN apt-get update \
    && apt-get install -y --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --no-create-home mlflow \
    && install -d -o mlflow -g 0 -m 775 /mlflow
COPY requirements-mlflow.lock /
RUN --mount=type=cache,target=/root/.cache pip install --require-hashes --requirement /requirements-mlflow.lock
COPY compose/with-secrets /opt/shortlist/with-secrets
USER mlflow
WORKDIR /mlflow
ENTRYPOINT ["/opt/shortlist/with-secrets"]
CMD ["mlflow", "server"]


FROM python:3.13-slim AS service

RUN apt-get update \
    && apt-get install -y --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --no-create-home service
COPY requirements-service.lock /
# The lock is complete; without --no-deps, pip would miss what requirements-service-without.txt leaves out. The tests that
# pandas, SciPy and others bring along are a tenth of the image.
RUN --mount=type=cache,target=/root/.cache \
    pip install --no-deps --require-hashes --requirement /requirements-service.lock \
    && find /usr/local/lib/python3.13/site-packages/ -depth -type d -name tests -exec rm -rf {} +
COPY compose/with-secrets /opt/shortlist/with-secrets
USER service
ENV PYTHONPATH=/opt/airflow/plugins
# The project is mounted where the containers of Airflow have it: paths in settings mean the same in both.
WORKDIR /opt/airflow
ENTRYPOINT ["/opt/shortlist/with-secrets"]
CMD ["python", "-m", "service"]


FROM python:3.13-slim AS jobs

# Git keeps the versions of the data sets.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --no-create-home jobs \
    # A new volume takes its owner and mode from here.
    && install -d -o jobs -g 0 -m 775 /opt/airflow/jobs-data
COPY requirements-jobs.lock /
RUN --mount=type=cache,target=/root/.cache pip install --require-hashes --requirement /requirements-jobs.lock
USER 50000:0
ENV PYTHONPATH=/opt/airflow/plugins \
    PYTHONUNBUFFERED=1
# The code is mounted: a changed step needs no new image.
WORKDIR /opt/airflow
CMD ["python", "-m", "jobs", "--help"]


FROM python:3.13-slim AS examples

RUN useradd --uid 50000 --gid 0 --no-create-home examples
COPY requirements-examples.lock /
RUN --mount=type=cache,target=/root/.cache pip install --require-hashes --requirement /requirements-examples.lock
USER 50000:0
CMD ["moto_server", "--host", "0.0.0.0", "--port", "5000"]


FROM debian:trixie-slim AS redis-commander

RUN apt-get update \
    && apt-get install -y --no-install-recommends bash ca-certificates curl nodejs npm \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --create-home commander
WORKDIR /opt/redis-commander
COPY compose/redis-commander/package.json compose/redis-commander/package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund
COPY compose/with-secrets /opt/shortlist/with-secrets
USER commander
ENTRYPOINT ["/opt/shortlist/with-secrets"]
CMD ["node_modules/.bin/redis-commander", "--nosave", "--no-log-data"]


# Holds the engine's socket, so nothing is in it beyond Python and one package, and nothing in it can be written.
FROM python:3.13-slim AS docker-proxy

COPY requirements-docker-proxy.lock /
RUN pip install --no-cache-dir --require-hashes --requirement /requirements-docker-proxy.lock
COPY docker_proxy /opt/shortlist/docker_proxy
RUN python -m compileall -q /opt/shortlist && chmod -R a-w /opt/shortlist
ENV PYTHONPATH=/opt/shortlist \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DOCKER_PROXY_HOST=0.0.0.0
WORKDIR /
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:2375/_ping', timeout=4)"]
CMD ["python", "-m", "docker_proxy"]
