"""A process of its own that owns the engines until it is told to stop, for whoever wants them without the product."""

import os
import signal
import time

from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.host import EngineError
from saas_api.cli.dev.processes import GaveUp, Supervisor

STOP_SECONDS = 60
_OK = b"ok"


def hold(engines: Engines) -> int:
    """Start the engines in a process that outlives this one.

    returns: that process's id, once both engines answer
    raises: EngineError
    """
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _be_the_holder(engines, telling)
    os.close(telling)
    with os.fdopen(told, "rb") as pipe:
        said = pipe.read()
    if said != _OK:
        os.waitpid(pid, 0)
        raise EngineError(said.decode() or "the process that was to hold the engines ended")
    return pid


def let_go(engines: Engines) -> int | None:
    """Stop the process that owns the engines, and them with it.

    returns: its id; None when there was none
    raises: EngineError when it does not end
    """
    pid = engines.owner()
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise EngineError(f"process {pid} belongs to another user, who has to stop it") from None
    except ProcessLookupError:
        return None
    deadline = time.monotonic() + STOP_SECONDS
    while engines.owner() == pid:
        if time.monotonic() > deadline:
            raise EngineError(f"process {pid} does not end within {STOP_SECONDS} s; look at {engines.home / 'log'}")
        time.sleep(0.05)
    return pid


def _be_the_holder(engines: Engines, telling: int) -> None:
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        engines.start()
        supervisor = Supervisor(engines.run, [*engines.running], [])
        supervisor.start()
        os.write(telling, _OK)
        os.close(telling)
        try:
            supervisor.watch()
        finally:
            supervisor.stop()
            engines.stop()
        status = 0
    except (EngineError, GaveUp) as error:
        os.write(telling, str(error).encode())
    finally:
        os._exit(status)
