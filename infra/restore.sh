#!/bin/sh
# restore.sh FOLDER: the three databases as backup.sh kept them; each is replaced in one transaction, or left as it is.
# Stop Prefect and MLflow first. Asks PGHOST, PGPORT and PGPASSWORD.
set -eu
cd "$1"
sha256sum --check --quiet SHA256SUMS
for database in prefect mlflow mlflow_auth; do
  pg_restore --username=adaptory --dbname="$database" --clean --if-exists --no-owner --single-transaction "$database.dump"
done
echo "restored from $1"
