#!/bin/sh
# Makes .venv from requirements.lock: nothing but a Python 3.11-3.13 is needed. Instant when nothing changed.
set -eu
UV_VERSION=0.13.8
MINIMUM_DISK_KIB=3145728

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

fits() {
    "$1" -c 'import sqlite3, ssl, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON does not fit ($("$PYTHON" --version 2>&1 || true)): Shortlist needs Python" \
            "3.11, 3.12 or 3.13 with sqlite3 and ssl."
        python=$PYTHON
        return
    fi
    found=
    for python in python3 python3.13 python3.12 python3.11; do
        fits "$python" && return
        version=$("$python" --version 2>/dev/null) && found="$found $python is $version;"
    done
    fail "Shortlist needs Python 3.11, 3.12 or 3.13 with sqlite3 and ssl. Found:${found:- no Python 3 at all.}" \
        "Install one (Debian: apt-get install python3 python3-venv) or name one: make demo PYTHON=/path/to/python3"
}

up_to_date() {
    cmp -s requirements.lock .venv/.lock && fits .venv/bin/python &&
        { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ]; }
}

version_of() {
    "$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null || echo none
}

bootstrap_uv() {
    [ -x .bootstrap/bin/uv ] && [ "$(.bootstrap/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ] && return
    echo "Fetching uv $UV_VERSION, which installs the packages ..."
    rm -rf .bootstrap
    reason=$("$python" -m venv .bootstrap 2>&1) || {
        rm -rf .bootstrap
        fail "$reason

$python cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv, then run the command again."
    }
    .bootstrap/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" || {
        rm -rf .bootstrap
        fail "uv could not be fetched (the reason is above). The package index must be reachable, also by PIP_INDEX_URL."
    }
}

cd "$(dirname "$0")/.."
[ -x .bootstrap/bin/uv ] && up_to_date && exit 0
[ -w . ] || fail "$(pwd) cannot be written: run the command as the owner of the folder, or clone to a folder of yours."
free=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ "$free" -ge "$MINIMUM_DISK_KIB" ] ||
    fail "Only $((free / 1024)) MiB are free on the disk of $(pwd): the packages and the demo need 3 GiB."
find_python
bootstrap_uv
up_to_date && exit 0
uv=.bootstrap/bin/uv
# Without a home of its own, uv has no place for its cache.
if [ -z "${UV_CACHE_DIR:-}${XDG_CACHE_HOME:-}" ] && ! { [ -n "${HOME:-}" ] && mkdir -p "$HOME/.cache/uv" 2>/dev/null; }; then
    export UV_CACHE_DIR=.bootstrap/cache
fi
if ! fits .venv/bin/python || [ "$(version_of .venv/bin/python)" != "$(version_of "$python")" ]; then
    "$uv" venv --quiet --clear --python "$(command -v "$python")" .venv
fi
rm -f .venv/.lock
"$uv" pip sync --python .venv/bin/python --require-hashes requirements.lock ||
    fail "The packages could not be installed (the reason is above). The package index must be reachable, also by" \
        "UV_INDEX_URL."
cp requirements.lock .venv/.lock
