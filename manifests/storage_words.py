"""What a storage that fails says, in one sentence: what, which URL, what to do."""

from __future__ import annotations

import os
import re

from .errors import StorageError


class AbsentError(StorageError, FileNotFoundError):
    """There is no such object."""


def split(uri: str) -> tuple[str, str]:
    """`s3://bucket` and the key below it."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key.strip("/")


def in_words(what: str, uri: str, error: Exception) -> StorageError:
    """One sentence for a failure of obstore or delta-rs: what, which URL, and what to do."""
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
        return AbsentError(f"Cannot {what} {uri}: there is no such object.")
    text, root = str(error), split(uri)[0]
    for pattern, why, hint in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            hint = hint.format(root=root, endpoint=_endpoint())
            return StorageError(f"Cannot {what} {uri}: {why.format(root=root)}.", hint=hint)
    return StorageError(f"Cannot {what} {uri}: {first_cause(error)}.", hint=_AGAIN)


_AGAIN = "Rerun the command when the storage answers again: it goes on."
_KEYS = (
    "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (GOOGLE_*, AZURE_* likewise), "
    "and that they may read and write {root}."
)
_CAUSES = (
    ("NoSuchBucket|ContainerNotFound", "there is no bucket {root}", "Make the bucket first."),
    (
        "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|401 Unauthorized",
        "the storage does not accept these credentials",
        _KEYS,
    ),
    ("AccessDenied|403 Forbidden|permission", "these credentials may not do that", _KEYS),
    (
        "169\\.254\\.169\\.254|credential",
        "no credentials were found",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SKIP_SIGNATURE=true for a public "
        "bucket).",
    ),
    ("dns error|failed to lookup|NXDOMAIN", "no such host", "Check {endpoint} and the network."),
    (
        "BadScheme|URL scheme is not allowed",
        "plain http is not allowed",
        "Set AWS_ALLOW_HTTP=true if {endpoint} is meant to be http.",
    ),
    (
        "ConnectionRefused|connection refused|tcp connect error",
        "nothing answers",
        "Check {endpoint}.",
    ),
    ("timed out|TimedOut|kind: Timeout", "the storage did not answer in time", _AGAIN),
    ("\\b5\\d\\d [A-Z]", "the storage keeps answering with errors", _AGAIN),
)


def _endpoint() -> str:
    address = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    return f"AWS_ENDPOINT_URL={address}" if address else "the name of bucket and region"


def first_cause(error: Exception) -> str:
    """The first line of a long error, without the colours and arrows of delta-rs."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", str(error)).replace("↳", " ")
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    text = " ".join(" ".join(lines[:3]).split())
    return text.split(" Debug source:")[0].rstrip(".")[:300] or type(error).__name__
