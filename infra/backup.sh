#!/bin/sh
# backup.sh FOLDER: the three databases, each as it was at one moment, with their digests.
# Asks PGHOST, PGPORT and PGPASSWORD; for containers see infra/README.md. The bucket is kept by its own means: it holds the ledger and
# the releases, from which `adaptory reconcile` makes the registry in MLflow again.
set -eu
out=$1
mkdir -p "$out"
for database in prefect mlflow mlflow_auth; do
  pg_dump --username=adaptory --format=custom --file="$out/$database.part" "$database"
  mv "$out/$database.part" "$out/$database.dump"
done
cd "$out"
sha256sum prefect.dump mlflow.dump mlflow_auth.dump > SHA256SUMS
echo "kept in $out: $(du -sh . | cut -f1)"
