"""The services of compose.yaml as processes on loopback: python -m infra.stack up | down | status

The commands, variables and secrets are compose's own; only addresses and folders are others. State is in
`.adaptory/stack/`: what was started (`down` stops exactly these), logs, and `env`, which points a shell at the stack.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra import secrets
from infra.ports import free_ports

ROOT = Path(__file__).parent.parent
_PATIENCE = 180.0  # seconds a service may take to be ready
_GRACE = 60.0  # seconds it may take to end


@dataclass
class Stack:
    """The processes of one stack, by their own handles: a process id and when it started."""

    home: Path
    checkout: Path = ROOT
    address: str = "127.0.0.1"  # where the servers listen
    overrides: dict[str, dict[str, str]] = field(default_factory=dict)  # more variables, by service
    inside: dict[str, list[str]] = field(default_factory=dict)  # a command to start a service with, e.g. in a network of its own

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self.home.mkdir(parents=True, exist_ok=True)
        self.values = self._values()
        secrets.write(self.home / "secrets", self.values["POSTGRES"])
        text = (ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8")
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(interpolate(text, self.values))["services"]

    def up(self, names: list[str] | None = None) -> None:
        """Starts the services (default: all) in the order of their needs, each when those before it are ready."""
        if "postgres" in (names or self.services):
            self._make_database()
        for name in names or list(self.services):
            self.start(name)

    def start(self, name: str) -> None:
        """Starts one service and returns when it is ready; one that runs is left alone."""
        if name in self._running():
            return
        service = self.services[name]
        log = (self.home / "logs" / f"{name}.log").open("ab")
        process = subprocess.Popen(
            self.inside.get(name, []) + self.command(name), env=self.environment(name), cwd=self.checkout, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        if service.get("restart") == "on-failure":  # does its work and ends
            if code := process.wait(_PATIENCE):
                raise SystemExit(f"{name} ended with code {code}; its log: {log.name}")
            return
        self._note(name, process.pid)
        self._wait(name, process)

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends one service, and what it left running; kills it when it takes too long."""
        pid = self._running().get(name)
        if pid is None:
            return
        told = signal.SIGINT if how == signal.SIGTERM and name == "postgres" else how  # "fast": does not wait for clients
        if how == signal.SIGKILL:
            os.killpg(pid, how)
        else:
            os.kill(pid, told)
        until = time.monotonic() + _GRACE
        while _alive(pid) and time.monotonic() < until:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # PostgreSQL would take a process that nobody waited for as running
            os.waitpid(pid, 0)
        self._note(name, None)

    def down(self) -> list[str]:
        """Ends everything that `up` started, the last first; returns the names."""
        running = list(self._running())
        for name in reversed(running):
            self.stop(name)
        return running

    def client(self) -> dict[str, str]:
        """The variables that point a shell, a retrain or a pull at this stack."""
        made = self._variables("deploy") | self._secrets("deploy")
        return {name: value for name, value in made.items() if name not in ("ADAPTORY_HOME", "PREFECT_HOME")}

    def command(self, name: str) -> list[str]:
        """Compose's command, with the programs of this machine."""
        service = self.services[name]
        first, *rest = [self._here(name, word) for word in (*service.get("entrypoint", ()), *service["command"])]
        if name == "postgres":
            binary = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))), Path("postgres"))
            own = ["-D", str(self._database), "-k", str(self._database)]
            return [*_as_postgres(), str(binary), *rest, *own]
        if first == "with-secrets":
            return [str(ROOT / "infra" / "docker" / "with-secrets"), *rest]
        return [_program(first), *rest]

    def environment(self, name: str) -> dict[str, str]:
        """Compose's variables on top of a bare environment: what this shell has set is not for the stack."""
        folder = self.home / name / "secrets"
        folder.mkdir(parents=True, exist_ok=True)
        for secret in self.services[name].get("secrets", ()):
            if not (folder / secret).is_symlink():
                (folder / secret).symlink_to(self.home / "secrets" / secret)
        kept = {key: value for key, value in os.environ.items() if key in ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return kept | self._variables(name) | {"PATH": path, "SECRETS": str(folder)} | self.overrides.get(name, {})

    def _variables(self, name: str) -> dict[str, str]:
        """Compose's variables: the folders in them are this service's own."""
        return {key: self._here(name, str(value)) for key, value in self.services[name].get("environment", {}).items()}

    def _here(self, name: str, text: str) -> str:
        """The folders of a container as folders of this service."""
        own = self.home / name
        for inside, here in {"/state": own, "/data": own, "/run/secrets": own / "secrets", "/app": self.checkout}.items():
            text = re.sub(rf"(?<![\w/]){inside}(?=/|$)", str(here), text)
        return text

    def _secrets(self, name: str) -> dict[str, str]:
        files = (self.home / "secrets" / secret for secret in self.services[name]["secrets"])
        return {file.name: file.read_text(encoding="utf-8") for file in files}

    def _values(self) -> dict[str, str]:
        """Addresses and ports, the same at every start: the usual ones where they are free."""
        kept = self.home / "addresses.json"
        if kept.is_file():
            made: dict[str, str] = json.loads(kept.read_text(encoding="utf-8"))
            return made
        wanted = {
            "POSTGRES_PORT": 5432, "PREFECT_PORT": 4200, "MLFLOW_PORT": 5000, "CPU_WORKER_PORT": 8080, "GPU_WORKER_PORT": 8081,
            "S3_PORT": 8333, "S3_MASTER": 9333, "S3_VOLUME": 8082, "S3_FILER": 8888,
        }  # fmt: skip
        ports = {name: str(port) for name, port in free_ports(wanted)}
        (self.home / "logs").mkdir(exist_ok=True)
        made = ports | {name: f"{self.address}:{ports[f'{name}_PORT']}" for name in ("POSTGRES", "PREFECT", "MLFLOW", "S3")}
        made |= {"LISTEN": self.address, "LISTEN_IP": self.address, "S3_HOST": self.address}
        made |= {"PREFECT_ORIGIN": f"http://{made['PREFECT']}", "PREFECT_UI_API_URL": f"http://{made['PREFECT']}/api"}
        kept.write_text(json.dumps(made, indent=1), encoding="utf-8")
        return made

    @property
    def _database(self) -> Path:
        """Where PostgreSQL keeps its files. It refuses to run as root: then it has a user, and a folder that user can reach."""
        if os.geteuid() != 0:
            return self.home / "postgres-data"
        return Path("/var/tmp") / f"adaptory-{zlib.crc32(str(self.home).encode())}"

    def _make_database(self) -> None:
        """What the image's entry point does on its first start: the cluster, the password and the databases."""
        if (self._database / "PG_VERSION").is_file():
            return
        password = (self.home / "secrets" / "PGPASSWORD").read_text(encoding="utf-8")
        self._database.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self._database, "postgres")
        bin_folder = Path(self.command("postgres")[len(_as_postgres())]).parent
        script = f"""
            set -eu; umask 077; cd {self._database}; word=$(mktemp)
            printf %s "$PASSWORD" > "$word"
            {bin_folder}/initdb --pgdata=. --username=adaptory --pwfile="$word" --auth=scram-sha-256 --no-sync >/dev/null
            rm "$word"
            echo 'host all all all scram-sha-256' >> pg_hba.conf
            printf '%s' "$DATABASES" | grep -v '^--' | tr '\\n' ' ' | tr ';' '\\n' | while read -r statement; do
              [ -z "$statement" ] || echo "$statement" | {bin_folder}/postgres --single -D . postgres >/dev/null 2>&1
            done
        """
        databases = (ROOT / "infra" / "postgres" / "databases.sql").read_text(encoding="utf-8")
        environment = {"PASSWORD": password, "DATABASES": databases, "PATH": os.environ["PATH"]}
        subprocess.run([*_as_postgres(), "sh", "-c", script], env=environment, check=True)

    def _wait(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if process.poll() is not None:
                log = (self.home / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise SystemExit(f"{name} ended with code {process.returncode}:\n{log[-3000:]}")
            if self._is_ready(name):
                return
            time.sleep(0.1)
        raise SystemExit(f"{name} was not ready within {_PATIENCE:g} s; its log: {self.home / 'logs' / name}.log")

    def _is_ready(self, name: str) -> bool:
        url = self.services[name].get("x-ready")
        if url is None:
            return _listens(self.values["POSTGRES"])
        if name not in self.inside:
            return _answers(url)
        script = f"import sys; from infra.stack import _answers; sys.exit(not _answers({url!r}))"
        command = [*self.inside[name], sys.executable, "-c", script]
        return subprocess.run(command, cwd=ROOT, env=self.environment(name), check=False).returncode == 0

    @property
    def _notes(self) -> Path:
        return self.home / "running.json"

    def _running(self) -> dict[str, int]:
        """The process of every service that runs, in the order of their start; one that took over its number is not it."""
        if not self._notes.is_file():
            return {}
        noted = json.loads(self._notes.read_text(encoding="utf-8"))
        return {name: pid for name, (pid, started) in noted.items() if _started(pid) == started}

    def _note(self, name: str, pid: int | None) -> None:
        noted = {other: [one, _started(one)] for other, one in self._running().items() if other != name}
        if pid is not None:
            noted[name] = [pid, _started(pid)]
        fresh = self._notes.with_suffix(".tmp")
        fresh.write_text(json.dumps(noted, indent=1), encoding="utf-8")
        fresh.replace(self._notes)


def interpolate(text: str, values: dict[str, str]) -> str:
    """Compose's ${NAME:-default}."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1], found[2]), text)


def _as_postgres() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def _program(name: str) -> str:
    own = Path(sys.executable).parent / name
    return str(own) if own.is_file() else name


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _listens(address: str) -> bool:
    host, port = address.split(":")
    done = subprocess.run(["pg_isready", "-q", "-h", host, "-p", port], check=False)
    return done.returncode == 0


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if it is gone (or only its parent has not noticed)."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if told[0] == "Z" else told[19]


def _alive(pid: int) -> bool:
    return _started(pid) is not None


def main(word: str) -> None:
    stack = Stack(ROOT / ".adaptory" / "stack")
    if word == "down":
        print(f"stopped: {', '.join(stack.down()) or 'nothing ran'}")
        return
    began = time.monotonic()
    for name in stack.services:
        print(f"{name:<11}", end="", flush=True)
        stack.up([name])
        print(f"ready after {time.monotonic() - began:5.1f} s")
    file = stack.home / "env"
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in stack.client().items()), encoding="utf-8")
    user, password = stack.client()["PREFECT_API_AUTH_STRING"].split(":")
    print(f"\nPrefect   http://{stack.values['PREFECT']}   user {user}, password {password}")
    print(f"MLflow    http://{stack.values['MLFLOW']}   user adaptory, password {stack.client()['MLFLOW_TRACKING_PASSWORD']}")
    print(f"S3        http://{stack.values['S3']}")
    print(f"\nTo work with it: source {file.relative_to(ROOT)}\nTo stop it: make down")


if __name__ == "__main__":
    main(sys.argv[1])
