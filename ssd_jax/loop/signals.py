"""End a run in order when the system or the user asks it to."""

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_CODE = 75
"""What `ssd-jax train` exits with after an interruption (sysexits' EX_TEMPFAIL): the same command again goes on."""


class Interruption:
    """Within its context SIGTERM and SIGINT only set `requested`; the same signal a second time acts as usual.

    Python gives signals to the main thread alone: in another one this does nothing.
    """

    def __init__(self) -> None:
        """Start with nothing requested."""
        self.requested: str | None = None  # the signal's name
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "Interruption":
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        signal.signal(number, self._before[signal.Signals(number)])
