"""Why a run may stop early: each reason has one message and one exit status of the command."""

import signal
from types import FrameType, TracebackType
from typing import Any

COLLAPSED_STATUS = 3
NOT_FINITE_STATUS = 4
SIGNAL_STATUS = 128  # plus the number of the signal, as shells report it: SIGINT 130, SIGTERM 143


class RunStopped(Exception):  # noqa: N818 - an interruption is not an error
    """A run ended early, in good order: its folder can be inspected, and resumed where the message says so.

    Attributes:
        exit_status: what the command returns.
    """

    def __init__(self, message: str, *, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class StopSignals:
    """Turns the first SIGINT (Ctrl-C) or SIGTERM (Slurm, torchrun) into a flag that the loop reads between steps.

    The second one acts as it did before, so that a run that hangs can still be ended. A context manager: the previous
    handlers are back when it ends.

    Attributes:
        received: number of the signal, None before one came.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.getsignal(number)
            signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            if handler is not None:  # None: installed outside Python, which cannot be restored from here
                signal.signal(number, handler)
