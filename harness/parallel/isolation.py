"""A call in a process of its own: its memory is its own, and what kills it leaves the caller alive."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

R = TypeVar("R")
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class ProcessEndedError(RuntimeError):
    """The process ended before it gave a result; the message says how."""


def apart(call: Callable[..., R], *arguments: Any) -> R:
    """`call(*arguments)` in a fresh process, which has imported what this one would but run nothing.

    Call, arguments and result travel as pickles. Ctrl-C and SIGTERM are passed on, and the other's result is waited
    for; if this process is killed, the other is asked to leave too (on Linux).

    Raises:
        ProcessEndedError: the process was killed, or raised, which is the cause where a pickle can hold it.
        KeyboardInterrupt: it was asked to leave and left without a result.
    """
    # A server that has imported torch, and never run a thread of it, forks in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.run"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, call, arguments))
    try:
        _start(process)
    except (ConnectionError, EOFError) as error:
        raise ProcessEndedError(f"it could not be started ({error})") from None
    sender.close()
    try:
        return cast(R, _result(receiver, process))
    except EOFError:
        process.join()
        raise ProcessEndedError(ending(process.exitcode)) from None
    finally:
        process.join()


def _start(process: BaseProcess) -> None:
    """Start the server and the process; Ctrl-C comes after that, as either would end with a traceback."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the server inherits
    try:
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        process.terminate()
        process.join()
        raise KeyboardInterrupt


def _serve(sender: Connection, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    leave_with_the_parent()
    try:
        sender.send((True, call(*arguments)))
    except Exception as error:  # noqa: BLE001 - it is raised again where the call was made
        sender.send((False, (f"{type(error).__name__}: {error}", _portable(error))))


def _portable(error: Exception) -> Exception | None:
    """The error, if it is itself again after a trip through a pickle."""
    with contextlib.suppress(Exception):
        if type(again := pickle.loads(pickle.dumps(error))) is type(error):
            return again
    return None


def leave_with_the_parent() -> None:
    """Ctrl-C reaches the caller alone, which passes it on; on Linux the caller's end asks this one to leave."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    # The server that forked this process ends with the caller.
    end_with_the_parent()


def end_with_the_parent() -> None:
    """On Linux be sent SIGTERM when whoever started this process ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _result(receiver: Connection, process: BaseProcess) -> Any:
    asked = False
    while True:
        try:
            done, result = receiver.recv()
        except KeyboardInterrupt:
            asked = True
            process.terminate()
            continue
        except EOFError:
            if asked:  # too early for a record of its own
                raise KeyboardInterrupt from None
            raise
        if done:
            return result
        said, cause = result
        raise ProcessEndedError(f"it raised {said}") from cause


def ending(exitcode: int | None) -> str:
    """How a process ended, for a sentence."""
    if exitcode is None or exitcode >= 0:
        return f"it ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    memory = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"it was ended by {name}{memory}"
