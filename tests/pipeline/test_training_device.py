"""Where networks run: a GPU when there is one."""

from __future__ import annotations

import pytest
import torch

from latent_actions.evaluation import evaluate
from latent_actions.extract_run import best_device as of_extraction
from manifests.errors import ConfigError
from pipeline.training.device import best_device, choose_device


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == "cuda"
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu").type == "cpu"


def test_without_a_gpu_asking_for_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_device() == "cpu"
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"loop\.device is cuda, but no GPU is visible") as caught:
        choose_device("cuda")
    assert caught.value.hint == "Use loop.device=cpu."


def test_evaluation_and_extraction_ask_the_same_question() -> None:
    assert vars(evaluate)["best_device"] is of_extraction is best_device
