#!/bin/sh -e
# The conformance run of this shop, which must not run meanwhile. It needs amwal-sandbox (see sandbox/README.md), or the
# sandbox of a clone.
cd "$(dirname "$0")"
command -v amwal-sandbox >/dev/null || : "${SANDBOX:=../../.venv/bin/python -m sandbox}"
export PYTHONPATH="${PYTHONPATH:-$PWD/../..}" PUBLIC_URL="${PUBLIC_URL:-http://127.0.0.1:8000}"
export DATABASE="${DATABASE:-$PWD/conformance.db}"
export PATH="$PATH:$PWD/../../.venv/bin"
rm -f "$DATABASE"
count="sqlite3 -cmd '.timeout 5000' $DATABASE 'SELECT count(*) FROM"
exec ${SANDBOX:-amwal-sandbox} conformance --callback-url "$PUBLIC_URL/amwal/callback" --fresh --late 0 \
  --start "python -m flask --app small_shop run --port ${PUBLIC_URL##*:}" \
  --place ./place --cancel ./cancel --retry ./retry \
  --payments "$count payments'" --deliveries "$count deliveries'" --paid-text 'Paid. Thank you' "$@"
