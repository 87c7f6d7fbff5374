"""The `captions` scorer: asks a vision model behind an OpenAI-compatible endpoint for labels.

Off unless it is asked for by name with an endpoint and a model. What is asked is bounded (clips,
tokens, requests at once), what was answered is cached by the digest of the pictures.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from manifests.config import digest
from manifests.errors import ConfigError, EgodojoError, SampleError
from manifests.storage import write_atomic

from .base import ClipView, Frames, Resources, Row
from .endpoint import Endpoint, PassingError
from .labels import PROMPT, SCHEMA, read_labels

ASSUMED_TOKENS_PER_FRAME = 1000
MAX_TOKENS_PER_ANSWER = 10_000_000
"""A server that says it took more lies."""
NUM_SILENT_IN_A_ROW = 8
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    """Settings of the captions scorer."""

    endpoint: str
    """Base URL, for instance http://localhost:8000/v1 (vLLM)."""
    model: str
    """Name the server knows the model by."""
    api_key_env: str | None = None
    """Environment variable that holds the key; no key is sent unless one is named."""
    num_frames: int = 8
    """Pictures per clip, in the middle of equal parts."""
    max_side_px: int = 640
    """Larger pictures are scaled down to this."""
    max_clips: int = 1000
    """Budget: no more clips in one command."""
    max_tokens: int | None = None
    """Budget: no new request once the answers of this command are counted to so many tokens."""
    max_answer_tokens: int = 400
    """Longest answer."""
    concurrency: int = 4
    """Requests at once."""
    timeout_s: float = 120.0
    """For one request as a whole."""
    attempts: int = 4
    """Requests for one clip: an answer that is no answer is asked for again."""
    backoff_s: float = 1.0
    """Wait before the second attempt; doubles each time."""
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    """What the server is asked to guarantee; the answer is checked in any case."""
    prompt: str = PROMPT
    cache: str | None = None
    """Folder of answers; default ~/.cache/egodojo/captions; `none` keeps none."""

    def __post_init__(self) -> None:
        """Check ranges and the URL."""
        whole = (self.num_frames, self.max_side_px, self.max_clips, self.max_answer_tokens)
        if min(*whole, self.concurrency, self.attempts) < 1:
            raise ConfigError("every count of the captions scorer must be at least 1.")
        if self.timeout_s <= 0 or self.backoff_s < 0:
            raise ConfigError("timeout_s must be positive and backoff_s not negative.")
        endpoint_of(self, api_key=None)


class CaptionScorer:
    """Labels of a clip: task, scene, objects, skill."""

    name = "captions"
    columns = {  # noqa: RUF012  (a protocol member, never changed)
        "task": "string",
        "scene": "string",
        "objects": "list<string>",
        "skill": "string",
    }
    Config = CaptionConfig
    max_workers = 1
    """One worker asks for all, so that the limits hold for the command as a whole."""

    def __init__(self, config: CaptionConfig) -> None:
        """Ask nothing yet."""
        self.config = config
        self.max_clips = config.max_clips
        self.digest = digest({"scorer": self.name, **_asked(config)})
        self._folder = _cache_folder(config.cache)
        self._lock = threading.Lock()
        self._notes = _Notes()
        self._num_tokens = self._largest_tokens = self._num_in_flight = 0
        self._num_silent = 0
        self._stopped = threading.Event()
        self._endpoint: Endpoint | None = None

    def load(self, resources: Resources) -> None:
        """Find the key.

        Raises:
            ConfigError: The environment variable is not set.
        """
        name = self.config.api_key_env
        key = os.environ.get(name, "").strip() if name else None
        if name and not key:
            raise ConfigError(
                f"The environment variable {name}, which holds the key, is not set.",
                hint="Set it where the command (or its Ray node) runs.",
            )
        self._endpoint = endpoint_of(self.config, api_key=key)

    def score(self, clip: ClipView) -> Row:
        """The labels of one clip.

        Raises:
            SampleError: Damaged, no usable answer, or the budget is spent.
        """
        answer = self._labels(clip)
        if answer is None:
            raise SampleError("the token budget is spent", reason="budget")
        return answer

    def score_clips(self, clips: Sequence[ClipView]) -> Iterator[tuple[str, Row | SampleError]]:
        """Labels of many clips, several requests at once; a clip beyond the budget is left out."""
        self._stopped.clear()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            asked: list[tuple[ClipView, Future[Row | None]]] = []
            try:
                asked = [(clip, pool.submit(self._labels, clip)) for clip in clips]
                for clip, future in asked:
                    try:
                        answer = future.result()
                    except SampleError as error:
                        yield clip.facts.clip_id, error
                        continue
                    if answer is not None:
                        yield clip.facts.clip_id, answer
            finally:
                self._stopped.set()  # after an error nobody waits for back-offs
                pool.shutdown(wait=False, cancel_futures=True)

    def take_notes(self) -> dict[str, float]:
        """Requests, tokens and cached answers since the last call."""
        with self._lock:
            notes, self._notes = self._notes, _Notes()
        return notes.to_dict()

    def _labels(self, clip: ClipView) -> Row | None:
        """Labels from the cache or the endpoint; None when the budget does not allow asking."""
        frames = clip.spread(self.config.num_frames)
        cached = None if self._folder is None else self._folder / f"{self._key(frames)}.json"
        if cached is not None and (found := _read_cached(cached)) is not None:
            with self._lock:
                self._notes.num_cached += 1
            return found
        if not self._reserve():
            return None
        try:
            labels: Row = self._ask(frames)
        finally:
            with self._lock:
                self._num_in_flight -= 1
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cached, json.dumps(labels).encode(), token=uuid.uuid4().hex)
        return labels

    def _ask(self, frames: Frames) -> Row:
        assert self._endpoint is not None, "load() comes first"

        def check(answer: dict[str, Any]) -> Row:
            self._count(answer, len(frames))
            return _labels_of(answer)

        try:
            labels: Row = self._endpoint.ask(
                request_body(self.config, frames),
                check=check,
                may_ask=self._may_ask_again,
                sleep=self._stopped.wait,
            )
        except SampleError as error:
            self._note_silence(error)
            raise
        except EgodojoError:
            self._stopped.set()  # what cannot work is asked by no other thread either
            raise
        with self._lock:
            self._num_silent = 0
        return labels

    def _key(self, frames: Frames) -> str:
        """Digest of the pictures and of all that is asked about them."""
        found = hashlib.sha256(f"{self.digest} {frames.shape}".encode())
        found.update(frames.tobytes())
        return found.hexdigest()

    def _reserve(self) -> bool:
        with self._lock:
            if self._stopped.is_set() or not self._may_spend():
                return False
            self._num_in_flight += 1
            return True

    def _may_ask_again(self) -> bool:
        with self._lock:
            limit = self.config.max_tokens
            has_budget = limit is None or self._num_tokens + self._largest_tokens <= limit
        return has_budget and not self._stopped.is_set()

    def _may_spend(self) -> bool:
        """Whether one more request fits, if all in flight turn out as dear as the dearest."""
        limit = self.config.max_tokens
        expected = (self._num_in_flight + 1) * self._largest_tokens
        return limit is None or self._num_tokens + max(1, expected) <= limit

    def _count(self, answer: dict[str, Any], num_frames: int) -> None:
        """Add an answer's tokens; one that does not say, or lies, is charged a high estimate."""
        usage = answer.get("usage")
        said = usage.get("total_tokens") if isinstance(usage, dict) else None
        spent = num_frames * ASSUMED_TOKENS_PER_FRAME + self.config.max_answer_tokens
        if isinstance(said, int) and said is not True and 0 < said <= MAX_TOKENS_PER_ANSWER:
            spent = said
        with self._lock:
            self._num_tokens += spent
            self._largest_tokens = max(self._largest_tokens, spent)
            self._notes.num_answers += 1
            self._notes.num_tokens += spent

    def _note_silence(self, error: SampleError) -> None:
        """Stop asking an endpoint that has answered nothing for several clips in a row."""
        with self._lock:
            self._num_silent += 1
            is_silent = self._num_silent >= NUM_SILENT_IN_A_ROW
        if is_silent:
            self._stopped.set()
            raise EgodojoError(
                f"{self.config.endpoint} gave no usable answer for {NUM_SILENT_IN_A_ROW} clips in "
                f"a row; the last: {error.message}",
                hint="Look at the server; answers that came are cached, rerun to go on.",
            ) from error


@dataclass(slots=True, kw_only=True)
class _Notes:
    num_answers: int = 0
    num_tokens: int = 0
    num_cached: int = 0

    def to_dict(self) -> dict[str, float]:
        return {
            "num_answers": self.num_answers,
            "num_tokens": self.num_tokens,
            "num_cached": self.num_cached,
        }


def endpoint_of(config: CaptionConfig, *, api_key: str | None) -> Endpoint:
    """The endpoint that settings describe."""
    return Endpoint(
        url=config.endpoint,
        api_key=api_key,
        timeout_s=config.timeout_s,
        attempts=config.attempts,
        backoff_s=config.backoff_s,
    )


def request_body(config: CaptionConfig, frames: Frames) -> dict[str, Any]:
    """The chat completion request for the pictures of one clip."""
    pictures = [
        {"type": "image_url", "image_url": {"url": jpeg_uri(frame, config.max_side_px)}}
        for frame in frames
    ]
    body: dict[str, Any] = {
        "model": config.model,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": config.prompt}, *pictures]}
        ],
        "temperature": 0,
        "max_tokens": config.max_answer_tokens,
    }
    if config.response_format == "json_schema":
        named = {"name": "labels", "strict": True, "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif config.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def jpeg_uri(frame: Frames, max_side_px: int) -> str:
    """A picture (H, W, 3) as a data URI."""
    picture = Image.fromarray(frame)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _labels_of(answer: dict[str, Any]) -> Row:
    """The labels in a chat completion; one that is not as agreed is asked for again."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        start = json.dumps(answer)[:200]
        raise PassingError(f"the answer has no choices[0].message.content: {start}") from error
    if not isinstance(text, str):
        raise PassingError(f"the answer's content is {text!r}, not text")
    if choice.get("finish_reason") == "length":
        raise PassingError("the answer was cut off at max_answer_tokens")
    try:
        return read_labels(text)
    except ValueError as error:
        raise PassingError(f"the answer breaks the schema: {error}") from error


def _asked(config: CaptionConfig) -> dict[str, Any]:
    """What an answer depends on; the address of the server and the limits are no part of it."""
    names = ("model", "num_frames", "max_side_px", "max_answer_tokens", "response_format", "prompt")
    return {**{name: getattr(config, name) for name in names}, "schema": SCHEMA}


def _cache_folder(cache: str | None) -> Path | None:
    if cache == "none":
        return None
    if cache is not None:
        return Path(cache).expanduser().resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "egodojo" / "captions"


def _read_cached(path: Path) -> dict[str, Any] | None:
    """Labels of an earlier answer; a damaged file counts as none."""
    try:
        return read_labels(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
