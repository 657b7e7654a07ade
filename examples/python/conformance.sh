#!/bin/sh -e
# The conformance run of this shop. SANDBOX='python -m sandbox' uses the sandbox of a clone.
cd "$(dirname "$0")"
export PYTHONPATH="${PYTHONPATH:-../..}" PUBLIC_URL="${PUBLIC_URL:-http://127.0.0.1:8000}"
export DATABASE="${DATABASE:-$(mktemp -d)/shop.db}"
count="sqlite3 $DATABASE 'SELECT count(*) FROM"
exec ${SANDBOX:-amwal-sandbox} conformance --callback-url "$PUBLIC_URL/amwal/callback" --fresh --late 0 \
  --start "python -m flask --app small_shop run --port ${PUBLIC_URL##*:}" --place ./place --cancel ./cancel \
  --payments "$count payments'" --deliveries "$count deliveries'" --paid-text 'Paid. Thank you' "$@"
