#!/bin/sh
# Usage: PYTHON=… stage/install.sh VENV REQUIREMENTS
# Creates a virtual environment and installs pinned packages into it, with uv if available, otherwise with pip.
set -eu
venv=$1
requirements=$2

say_how() {
    found=$(python3 --version 2>/dev/null || python --version 2>/dev/null || echo "no Python at all")
    echo "Dukkan needs Python 3.11 or newer, but found $found." >&2
    echo "Install it from https://www.python.org/downloads/ or your system's packages, then run this again." >&2
    echo "If it is installed under another name, set PYTHON: make demo PYTHON=/path/to/python3.12" >&2
    exit 1
}

if command -v uv >/dev/null 2>&1; then
    "$venv/bin/python" -c '' 2>/dev/null || uv venv --clear -q ${PYTHON:+--python "$PYTHON"} "$venv" || say_how
    echo "Installing $requirements with uv …"
    uv pip install -q --python "$venv/bin/python" --require-hashes -r "$requirements"
else
    [ -n "${PYTHON:-}" ] || say_how
    # An incomplete environment (no ensurepip, interrupted creation) has python without pip and is created again.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$venv" || {
        echo "On Debian or Ubuntu, install the package python3-venv." >&2
        exit 1
    }
    echo "Installing $requirements …"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r "$requirements"
fi
