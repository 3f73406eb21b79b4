"""Words to whoever watches a run, which never fail it: a closed pipe or an old encoding costs words, not the run."""

import sys
from contextlib import suppress
from typing import Any, TextIO


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line to `file` (default: stdout as it is now)."""
    stream = unfailing(file)
    stream.write(f"{text}\n")
    stream.flush()


def unfailing(file: TextIO | None = None) -> Any:
    """Return `file` (default: stdout as it is now) as a stream that writes what can be written and raises nothing."""
    return _Unfailing(sys.stdout if file is None else file)


class _Unfailing:
    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # a terminal or a log file of another encoding
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError, AttributeError):  # a closed pipe, a closed file, no stdout at all
            pass
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
