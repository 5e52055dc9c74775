"""The stack's secrets as files, made once: python -m infra.secrets FOLDER

Every file is readable by its owner only. What is there is kept, so running this again changes nothing.
"""

import json
import secrets
import sys
from pathlib import Path


def write(folder: Path, postgres: str = "postgres:5432") -> None:
    """Makes every secret that is not there yet; `postgres` is where MLflow finds its table of users."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)

    def kept(name: str, value: str) -> str:
        path = folder / name
        if not path.is_file():
            path.touch(mode=0o600)
            path.write_text(value, encoding="utf-8")
        return path.read_text(encoding="utf-8")

    kept("PGPASSWORD", secrets.token_urlsafe(24))
    kept("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_urlsafe(32))
    prefect = kept("PREFECT_SERVER_API_AUTH_STRING", f"adaptory:{secrets.token_urlsafe(24)}")
    kept("PREFECT_API_AUTH_STRING", prefect)
    kept("MLFLOW_TRACKING_USERNAME", kept("MLFLOW_AUTH_ADMIN_USERNAME", "adaptory"))
    kept("MLFLOW_TRACKING_PASSWORD", kept("MLFLOW_AUTH_ADMIN_PASSWORD", secrets.token_urlsafe(24)))
    key = kept("AWS_ACCESS_KEY_ID", secrets.token_hex(10).upper())
    secret = kept("AWS_SECRET_ACCESS_KEY", secrets.token_urlsafe(30))
    identity = {
        "name": "adaptory",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    kept("s3.json", json.dumps({"identities": [identity]}))
    users = f"postgresql+psycopg2://adaptory@{postgres}/mlflow_auth"
    (folder / "mlflow-auth.ini").touch(mode=0o600)
    (folder / "mlflow-auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {users}\nauth_cache_ttl_seconds = 60\n", encoding="utf-8"
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
