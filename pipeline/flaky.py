"""Sources that answer badly for a moment: which errors may pass, and trying again with patience.

A disk or a network that fails is no fact about a video. Such a read is tried again; when it still
fails the work stays pending, so that no file is called damaged for what its storage did.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from manifests.errors import StorageError

log = logging.getLogger(__name__)
T = TypeVar("T")

WAITS_S = (1.0, 4.0, 15.0)
TRANSIENT = frozenset({
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO,
})  # fmt: skip
"""Error numbers by which storage, rather than a file, says that something is wrong."""


class SourceError(StorageError):
    """An input could not be read for a reason that lies in its storage."""


def check_source(path: Path | str, error: BaseException) -> None:
    """Raise when an error is the storage's fault; come back when it is the file's.

    Raises:
        SourceError: Names the file.
    """
    if isinstance(error, SourceError) or getattr(error, "errno", None) not in TRANSIENT:
        return
    words = getattr(error, "strerror", None) or str(error)
    name = str(path).removeprefix("file:")  # what FFmpeg puts before local paths
    raise SourceError(
        f"{name} could not be read: {words}.",
        hint="Mend the storage, or take the file away, then rerun the same command.",
    ) from error


def patiently(call: Callable[[], T], waits_s: Sequence[float] | None = None) -> T:
    """Call a function that reads a source; after a `SourceError` wait and call it again.

    Args:
        call: May be called once more than there are waits.
        waits_s: Seconds before each further call; default `WAITS_S`.

    Raises:
        SourceError: Of the last call.
    """
    for wait_s in WAITS_S if waits_s is None else waits_s:
        try:
            return call()
        except SourceError as error:
            log.warning("%s Trying again in %.0f s.", error.message, wait_s)
            time.sleep(wait_s)
    return call()
