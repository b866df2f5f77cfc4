#!/bin/sh
# PostgreSQL in a folder of its own, with databases for MLflow and Prefect that the user `fer` owns.
#
#   POSTGRES_PASSWORD=… postgres.sh FOLDER PORT ADDRESS [OPTION OF postgres]...
#
# It ends with the process that started it.
set -eu
folder=$1 port=$2 address=$3
shift 3
initdb=$(command -v initdb || find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
if [ -z "$initdb" ]; then
  echo "error: PostgreSQL is not installed: its 'initdb' is neither on PATH nor in /usr/lib/postgresql" >&2
  exit 1
fi
bin=$(dirname "$(realpath "$initdb")")
mkdir -p "$folder"
run=
if command -v setpriv >/dev/null; then run='setpriv --pdeathsig INT'; fi # macOS has none
if [ "$(id -u)" = 0 ]; then                                              # whom PostgreSQL refuses
  chown postgres:postgres "$folder"
  run='setpriv --reuid=postgres --regid=postgres --clear-groups --pdeathsig INT'
  if ! $run test -x "$folder"; then
    echo "error: PostgreSQL runs as the user postgres here, who may not enter $folder" >&2
    exit 1
  fi
fi
cd "$folder"
if [ ! -e data ]; then
  rm -rf begun # by a start that was killed
  $run "$bin/initdb" -D begun -U fer -E UTF8 --locale=C --no-sync
  echo 'host all fer all scram-sha-256' >begun/pg_hba.conf
  quoted=$(printf %s "$POSTGRES_PASSWORD" | sed "s/'/''/g")
  printf '%s;\n' "ALTER USER fer PASSWORD '$quoted'" 'CREATE DATABASE mlflow' 'CREATE DATABASE prefect' |
    $run "$bin/postgres" --single -D begun postgres
  mv begun data
fi
exec $run "$bin/postgres" -D data -p "$port" -h "$address" -k '' "$@"
