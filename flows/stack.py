"""The services of `docker/compose.yaml` as processes of this machine, without a container engine.

supervisord runs them as `docker/supervisord.conf` says, and starts again what dies. All that they
keep lies in one folder, with a file `env`: their addresses and passwords.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fer_pipeline.errors import FlowError
from flows.process import end_supervised, start_supervised
from flows.server import answers, keep_loopback_from_proxies
from flows.slots import take_lock

READY_WITHIN_S = 600.0
"""Seconds for all servers to answer. At the first start they make their databases."""

S3_PORTS = 10
"""How many ports docker/s3.sh takes, from its first on."""

_ENV = "env"
_STOPS_WITHIN_S = 60.0
_PASSWORDS = ("POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_PORTS = ("PREFECT_PORT", "MLFLOW_PORT", "POSTGRES_PORT", "S3_PORT")


def run_stack(
    folder: Path, state: Path, workers: int, command: Sequence[str], say: Callable[[str], None]
) -> int:
    """Start the services, and keep them up while a command runs, or until they are told to stop.

    Where they are up already, the command runs with those.

    Args:
        folder: of the project, a git repository.
        state: the folder of all that the services keep.
        workers: how many, each in a clone of its own.
        command: what to run, in `folder`; if empty, SIGINT or SIGTERM end the services.
        say: called with where they are, once they are up.

    Returns:
        The exit status of the command.

    Raises:
        FlowError: a service does not start, or they are up already and there is no command.
    """
    folder, state = folder.resolve(), state.resolve()
    keep_loopback_from_proxies()
    (state / "logs").mkdir(parents=True, exist_ok=True)
    lock = take_lock(state / "lock", str(os.getpid()))
    if lock is None:
        if not command:
            raise FlowError(f"the stack in {state} is up already; to use it: {_sourcing(state)}")
        return _run(command, folder, _read_env(state))
    _make_clones(folder, state, workers)
    env = _write_env(folder, state, workers)
    services = _start(folder, state, env, lock.fileno())
    try:
        _wait_until_ready(services, state, env)
        _deploy(folder, env)
        say(_summary(state, env))
        return _run(command, folder, env) if command else _wait(services, state)
    finally:
        _stop(services, state)


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody uses.

    They are below the range that the system gives to clients, so that a restart finds them free.
    """
    while True:
        first = random.SystemRandom().randrange(12_000, 32_000 - count)
        if _are_free(first, count):
            return first


def _are_free(first: int, count: int) -> bool:
    with contextlib.ExitStack() as opened:
        try:
            for port in range(first, first + count):
                opened.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            return False
    return True


def _make_clones(folder: Path, state: Path, workers: int) -> None:
    for number in range(1, workers + 1):
        clone = state / f"worker-{number}"
        if not (clone / ".dvc").exists():
            shutil.rmtree(clone, ignore_errors=True)  # begun by a start that was killed
            command = ["git", "clone", "--quiet", str(folder), str(clone)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not (clone / ".dvc").exists():
                raise FlowError(
                    f"{folder} has no commit of the project that a worker could clone: commit it "
                    f"({done.stderr.strip() or 'there is none'})"
                )


def _write_env(folder: Path, state: Path, workers: int) -> dict[str, str]:
    """The settings of all processes: those of the last start, on other ports if these are taken."""
    kept = _read_env(state)
    count = len(_PORTS) - 1 + S3_PORTS
    first = int(kept.get(_PORTS[0], 0))
    if not first or not _are_free(first, count):
        first = free_ports(count)
    port = {name: first + n for n, name in enumerate(_PORTS)}
    env = {name: kept.get(name) or secrets.token_hex(16) for name in _PASSWORDS}
    env |= {name: str(number) for name, number in port.items()}
    env |= {
        "FER_STACK": str(state),
        "FER_WORKERS": str(workers),
        # Each worker takes one stage at a time: they share the slots of the machine.
        "FER_TRAIN_SLOTS": str(max(1, workers)),
        "FER_CHECKPOINTS": "s3://dvc/checkpoints",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port['S3_PORT']}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port['MLFLOW_PORT']}",
        "PREFECT_API_URL": f"http://127.0.0.1:{port['PREFECT_PORT']}/api",
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_SYSTEM_CONFIG_DIR": str(folder / "docker" / "dvc"),
    }
    partial = state / f"{_ENV}.partial"
    partial.touch(mode=0o600)
    partial.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in env.items()))
    partial.replace(state / _ENV)
    return env


def _read_env(state: Path) -> dict[str, str]:
    if not (state / _ENV).exists():
        return {}
    words = shlex.split((state / _ENV).read_text())
    return dict(word.split("=", 1) for word in words)


def _start(folder: Path, state: Path, env: Mapping[str, str], lock: int) -> subprocess.Popen[str]:
    for left in (_pid_file(state), _log(state, "supervisord")):
        left.unlink(missing_ok=True)
    command = ["supervisord", "--configuration", str(folder / "docker" / "supervisord.conf")]
    return start_supervised(command, folder, env, stdout=subprocess.DEVNULL, locks=[lock])


def _wait_until_ready(services: subprocess.Popen[str], state: Path, env: Mapping[str, str]) -> None:
    end = time.monotonic() + READY_WITHIN_S
    waiting = [f"{env[name]}/health" for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")]
    while waiting := [address for address in waiting if not answers(address)]:
        _require_running(services, state)
        if time.monotonic() > end:
            raise FlowError(
                f"{waiting[0]} did not answer within {READY_WITHIN_S:.0f} s: see {state}/logs"
            )
        time.sleep(0.2)


def _require_running(services: subprocess.Popen[str], state: Path) -> None:
    """Raise what the log of the service says that supervisord has given up."""
    log = _log(state, "supervisord")
    text = log.read_text(errors="replace") if log.exists() else ""
    if gave_up := re.search(r"gave up: (\S+) entered FATAL", text):
        name = gave_up[1]
        last = _log(state, name).read_text(errors="replace").strip().rpartition("\n")[2]
        raise FlowError(f"{name} does not start: {last.removeprefix('error: ') or 'no reason'}")
    if services.poll() is not None:
        raise FlowError(f"supervisord ended with status {services.returncode}: see {log}")


def _deploy(folder: Path, env: Mapping[str, str]) -> None:
    pools = ["--pool", "fer", "--stage-pool", "fer-stages"]
    command = [sys.executable, "-m", "flows", "deploy", *pools]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FlowError(done.stderr.strip().removeprefix("error: "))


def _summary(state: Path, env: Mapping[str, str]) -> str:
    return "\n".join(
        (
            f"Prefect   {env['PREFECT_API_URL'].removesuffix('/api')}",
            f"MLflow    {env['MLFLOW_TRACKING_URI']}",
            f"S3        {env['AWS_ENDPOINT_URL']}, buckets dvc and mlflow",
            f"logs      {state}/logs",
            f"to use it in a shell:  {_sourcing(state)}",
        )
    )


def _sourcing(state: Path) -> str:
    return f"set -a; . {shlex.quote(str(state / _ENV))}; set +a"


def _run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **env})
    try:
        return process.wait()
    except KeyboardInterrupt:  # which the terminal has sent to it as well
        return process.wait()
    finally:
        process.terminate()
        process.wait()


def _wait(services: subprocess.Popen[str], state: Path) -> int:
    with contextlib.suppress(KeyboardInterrupt):
        services.wait()
        _require_running(services, state)
    return 0


def _stop(services: subprocess.Popen[str], state: Path) -> None:
    """Have supervisord end the services in order; it ends with this process in any case."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        os.kill(int(_pid_file(state).read_text()), signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        services.wait(_STOPS_WITHIN_S)
    end_supervised(services)


def _pid_file(state: Path) -> Path:
    return state / "supervisord.pid"


def _log(state: Path, name: str) -> Path:
    return state / "logs" / f"{name}.log"
