#!/bin/sh
# What a container's entry point does: tables and a first user, then the server. A rented instance reads a copy, which is there already.
set -eu
cd "$BUNDLE"
if [ -w "$DATA_DB" ]; then
    python3 manage.py migrate --noinput
    # It fails where the user is there since an earlier start.
    python3 manage.py createsuperuser --noinput --username admin --email admin@city-a.example || true
fi
exec python3 -m waitress --listen="$HOST:$PORT" --threads=4 desk.wsgi:application
