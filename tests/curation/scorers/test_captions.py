"""The captions scorer against a server that is slow, fails and lies."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clip_views import clip_view
from PIL import Image
from vision_server import GOOD, Answer, VisionServer, broken_off, dripping, hung_up, raw, say

from curation.scorers.base import ClipView, Resources
from curation.scorers.captions import CaptionConfig, CaptionScorer
from curation.scorers.labels import read_labels
from manifests.dataset import Dataset
from manifests.errors import ConfigError, EgodojoError, SampleError

Cli = Callable[..., SimpleNamespace]
LABELS = {"task": "fold a towel", "scene": "kitchen", "objects": ["towel"], "skill": "fold"}


@pytest.fixture
def server() -> Iterator[VisionServer]:
    import threading

    found = VisionServer()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


class Colours:
    """Frames of one colour per clip: equal clip ids are equal clips."""

    def frames(self, shard: str, clip_id: str, indices: Any) -> Any:
        colour = sum(clip_id.encode()) % 256
        return np.full((len(list(indices)), 48, 64, 3), colour, np.uint8)


def clip(clip_id: str) -> ClipView:
    return clip_view(Colours(), clip_id)


def scorer(server: VisionServer, **changes: Any) -> CaptionScorer:
    settings: dict[str, Any] = {
        "endpoint": server.url,
        "model": "toy",
        "cache": "none",
        "backoff_s": 0.01,
        "num_frames": 2,
        "concurrency": 1,
        **changes,
    }
    made = CaptionScorer(CaptionConfig(**settings))
    made.load(Resources(num_cpus=1, num_gpus=0))
    return made


def test_what_is_asked_and_what_comes_back(server: VisionServer) -> None:
    assert scorer(server, num_frames=3, max_side_px=32).score(clip("a")) == LABELS
    assert server.paths == {"/v1/chat/completions": 1}
    (body,) = server.bodies
    assert body["model"] == "toy"
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["schema"]["required"] == list(LABELS)
    text, *pictures = body["messages"][0]["content"]
    assert "JSON object" in text["text"]
    assert len(pictures) == 3
    uri = pictures[0]["image_url"]["url"]
    assert uri.startswith("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (picture.format, picture.size) == ("JPEG", (32, 24))
    assert "Authorization" not in server.headers[0]


PASSING = {
    "500": raw(b"oops", 500),
    "429": raw(b"slow down", 429, Retry_After="0.02"),
    "503 with a date": raw(b"later", 503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
    "hung up": hung_up,
    "broken off": broken_off,
    "not JSON": raw(b"<html>"),
    "half of JSON": raw(b'{"choices": [{"message": {"content": "{'),
    "100,000 brackets": raw(b"[" * 100_000),
    "100,000 brackets as text": say("[" * 100_000),
    "a list": raw(b"[1]"),
    "no choices": raw(b'{"error": "but status 200"}'),
    "choices of another kind": raw(b'{"choices": {"0": 1}}'),
    "no content": say(None),
    "prose": say("The person folds a towel."),
    "a key too few": say({k: v for k, v in GOOD.items() if k != "skill"}),
    "a key too many": say({**GOOD, "mood": "calm"}),
    "a text for a list": say({**GOOD, "objects": "towel"}),
    "a number for a text": say({**GOOD, "task": 7}),
    "an empty label": say({**GOOD, "scene": " . "}),
    "an endless label": say({**GOOD, "task": "x" * 500}),
    "30 objects": say({**GOOD, "objects": [str(n) for n in range(30)]}),
    "half a surrogate": say('{"task": "\\ud800", "scene": "a", "objects": [], "skill": "b"}'),
    "cut off": say(GOOD, finish="length"),
    "2 MB": raw(b" " * (2 << 20)),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
def test_bad_answers_are_asked_for_again(server: VisionServer, answer: Answer) -> None:
    server.script = [answer, answer]
    assert scorer(server).score(clip("a")) == LABELS
    assert len(server.bodies) == 3


@pytest.mark.parametrize("answer", [PASSING["500"], PASSING["prose"]], ids=["500", "prose"])
def test_a_clip_that_never_gets_an_answer_is_a_problem(
    server: VisionServer, answer: Answer
) -> None:
    server.always = answer
    with pytest.raises(SampleError, match="no usable answer: ") as caught:
        scorer(server, attempts=3).score(clip("a"))
    assert caught.value.reason == "no_answer"
    assert len(server.bodies) == 3


def test_waits_grow_and_the_servers_wish_counts(server: VisionServer) -> None:
    server.script = [raw(b"", 500), raw(b"", 500), raw(b"", 429, Retry_After="0.5")]
    scorer(server, backoff_s=0.05).score(clip("a"))
    waits = np.diff(server.times)
    assert waits[0] >= 0.025
    assert waits[1] >= 0.05
    assert waits[2] >= 0.5


@pytest.mark.parametrize("slow", ["silent", "dripping"])
def test_a_slow_server_costs_a_time_limit(server: VisionServer, slow: str) -> None:
    if slow == "silent":
        server.delay_s = 0.6
    else:
        server.always = dripping
    with pytest.raises(SampleError, match=r"no answer within 0\.2 s"):
        scorer(server, timeout_s=0.2, attempts=1).score(clip("a"))


def test_nobody_there(server: VisionServer) -> None:
    made = scorer(server, endpoint="http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(SampleError, match="ConnectionRefusedError"):
        made.score(clip("a"))


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_no_clip_can_get_past_stops_at_once(server: VisionServer, status: int) -> None:
    server.always = raw(b"no such model", status, Location="http://example.com")
    with pytest.raises(EgodojoError, match="refuses every request: HTTP"):
        list(scorer(server).score_clips([clip("a"), clip("b")]))
    assert len(server.bodies) <= 2


def test_a_refused_request_is_not_repeated(server: VisionServer) -> None:
    server.script = [raw(b"too many pictures", 400)]
    found = dict(scorer(server).score_clips([clip("a"), clip("b")]))
    assert isinstance(found["a"], SampleError)
    assert "too many pictures" in found["a"].message
    assert found["b"] == LABELS
    assert len(server.bodies) == 2


def test_an_endpoint_that_answers_nothing_is_given_up(server: VisionServer) -> None:
    server.always = raw(b"", 500)
    made = scorer(server, attempts=1, concurrency=2)
    with pytest.raises(EgodojoError, match="no usable answer for 8 clips in a row"):
        list(made.score_clips([clip(str(n)) for n in range(100)]))
    assert len(server.bodies) in (8, 9), "the other thread may have begun one more"


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_at_once_than_allowed(server: VisionServer, limit: int) -> None:
    server.delay_s = 0.05
    made = scorer(server, concurrency=limit)
    assert len(list(made.score_clips([clip(str(n)) for n in range(9)]))) == 9
    assert server.num_most == limit


def test_the_token_budget_leaves_clips_for_later(server: VisionServer) -> None:
    made = scorer(server, max_tokens=350)
    found = dict(made.score_clips([clip(str(n)) for n in range(10)]))
    assert len(found) == len(server.bodies) == 3
    assert made.take_notes() == {"num_answers": 3, "num_tokens": 300, "num_cached": 0}


@pytest.mark.parametrize(
    "usage",
    [{"total_tokens": -5}, {"total_tokens": "few"}, {"total_tokens": 10**400}, [1], {"x": 1}],
)
def test_a_server_that_lies_about_tokens_is_charged_an_estimate(
    server: VisionServer, usage: object
) -> None:
    server.always = say(GOOD, usage=usage)
    made = scorer(server, max_tokens=5000)  # 2 pictures and 400 tokens: 2400 a clip
    assert len(list(made.score_clips([clip(str(n)) for n in range(9)]))) == 2


def test_answers_are_cached_by_the_pictures(server: VisionServer, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    assert scorer(server, cache=folder).score(clip("ab")) == LABELS
    other_server_settings = scorer(server, cache=folder, endpoint=f"{server.url}/", attempts=2)
    assert other_server_settings.score(clip("ba")) == LABELS  # other id, the same pictures
    assert len(server.bodies) == 1
    assert scorer(server, cache=folder, model="other").score(clip("ab")) == LABELS
    assert len(server.bodies) == 2
    for file in (tmp_path / "cache").iterdir():
        file.write_text("{}")
    scorer(server, cache=folder).score(clip("ab"))
    assert len(server.bodies) == 3, "a damaged entry counts as none"


def test_the_key_is_sent_only_when_named(
    server: VisionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret\n")
    scorer(server, api_key_env="MY_KEY").score(clip("a"))
    assert server.headers[0]["Authorization"] == "Bearer secret"
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY, which holds the key, is not set"):
        scorer(server, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret\nX-Other: 1")
    with pytest.raises(ConfigError, match="signs that no HTTP header takes") as caught:
        scorer(server, api_key_env="MY_KEY")
    assert "secret" not in caught.value.message


def test_the_urls_query_goes_along(server: VisionServer) -> None:
    scorer(server, endpoint=f"{server.url}/?api-version=3").score(clip("a"))
    assert server.paths == {"/v1/chat/completions?api-version=3": 1}


def test_thoughts_and_fences_are_taken_off() -> None:
    assert read_labels(f"<think>hm</think>\n```json\n{json.dumps(GOOD)}\n```") == LABELS


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("endpoint=localhost:8000", "must be a URL such as"),
        ("endpoint=http://localhost:80a/v1", "must be a URL such as"),
        ("endpoint=http://[::1/v1", "must be a URL such as"),
        ("attempts=0", "every count of the captions scorer must be at least 1"),
        ("timeout_s=0", "timeout_s must be positive"),
        ("response_format=xml", "must be one of json_schema"),
    ],
)
def test_settings_that_cannot_work(dataset: Path, cli: Cli, setting: str, words: str) -> None:
    sets = ("--set", "endpoint=http://x", "--set", "model=m", "--set", setting)
    done = cli("score", dataset, "--scorer", "captions", *sets)
    assert done.exit_code == 2
    assert words in done.stderr


def test_off_unless_an_endpoint_is_named(dataset: Path, cli: Cli) -> None:
    done = cli("score", dataset, "--scorer", "captions")
    assert done.exit_code == 2
    assert "the required key 'endpoint' is missing" in done.stderr


def test_the_command_fills_captions_and_stats_count_them(
    dataset: Path, cli: Cli, server: VisionServer
) -> None:
    server.script = [raw(b"", 500), say({**GOOD, "scene": "Garage", "objects": ["box", "towel"]})]
    sets = [f"endpoint={server.url}", "model=toy", "cache=none", "backoff_s=0.01", "concurrency=1"]
    options = [word for setting in sets for word in ("--set", setting)]
    ask = ("score", dataset, "--scorer", "captions", "--inline", "--json", *options)
    first = json.loads(cli(*ask, "--set", "max_clips=2").stdout)
    assert (first["num_scored"], first["num_left"]) == (2, first["num_clips"] - 2)
    assert first["notes"]["num_tokens"] == 200
    rest = json.loads(cli(*ask).stdout)
    assert (rest["num_present"], rest["num_left"]) == (2, 0)
    found = json.loads(cli("manifest", "stats", dataset, "--json").stdout)["labels"]
    assert found["num_clips"] == first["num_clips"]
    assert (found["num_scenes"], found["num_tasks"], found["num_objects"]) == (2, 1, 2)
    assert found["num_skills"] == 1
    assert found["num_trajectories"] == 3, "one per video: the task does not change"
    assert "trajectories" in cli("manifest", "stats", dataset).stdout
    scenes = Dataset.open(dataset).sql("SELECT DISTINCT captions.scene AS s FROM kept ORDER BY s")
    assert scenes.column("s").to_pylist() == ["garage", "kitchen"]
