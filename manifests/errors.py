"""Every error a user can cause, with the exit code it ends the command with.

Codes: 0 done, 1 failed, 2 bad usage or configuration, 3 finished over the failure budget,
130 interrupted, 143 ended by SIGTERM, 129 by SIGHUP. Anything that is not an `EgodojoError` is our
own mistake and keeps its traceback.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_OVER_BUDGET = 3
EXIT_INTERRUPTED = 130


class EgodojoError(Exception):
    """A failure with a cause the user can act on.

    Args:
        message: One sentence: what failed, where, with the value that was seen.
        hint: The next step, a sentence or a command; printed on a line of its own.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Keep keyword-only fields when an error crosses a process."""
        return _rebuild, (type(self), dict(self.__dict__), self.args)


def _rebuild(cls: type[EgodojoError], state: dict[str, object], args: tuple[object, ...]) -> object:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class UsageError(EgodojoError):
    """The command was called with arguments that cannot work."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration file or a `--set` has an unknown key, a wrong type or an impossible value."""


class OverBudgetError(EgodojoError):
    """The run finished, but more inputs failed than its failure budget allows."""

    exit_code = EXIT_OVER_BUDGET


class DatasetError(EgodojoError):
    """A dataset folder is missing, damaged, of another format, or refuses what was asked."""


class LockedError(DatasetError):
    """Another command is writing this dataset."""


class StorageError(DatasetError):
    """Bytes could not be read or written."""


class SampleError(EgodojoError):
    """One bad input; only runners catch it, and they record it.

    Args:
        message: One sentence for the record.
        reason: Short snake_case code, for instance `checksum`; the value counted in tables.
        hint: The next step.
    """

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class VideoError(SampleError):
    """A file that cannot be opened or decoded as video."""
