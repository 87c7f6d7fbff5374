"""Weights in and out: the published layout, the key report, files that hold code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from latent_actions.config import base
from latent_actions.exchange import export_weights, import_weights, infer_config
from latent_actions.model import LatentActionModel
from latent_actions.weights import PREFIX, read_state
from manifests.errors import ConfigError, EgodojoError, UsageError
from tests.latent_actions.helpers import SMALL, small_model

Cli = Callable[..., SimpleNamespace]


def checkpoint(path: Path, **more: object) -> LatentActionModel:
    model = small_model()
    state = {PREFIX + key: value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, **more}, path)
    return model


def test_import_then_export_gives_the_same_bits(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "lam.ckpt")
    made = import_weights(tmp_path / "lam.ckpt", tmp_path / "model", name="lam-test")
    assert made.model_id == model.model_id
    assert LatentActionModel.from_pretrained(tmp_path / "model").model_id == model.model_id
    export_weights(tmp_path / "model", tmp_path / "again.ckpt")
    before = torch.load(tmp_path / "lam.ckpt", weights_only=True)["state_dict"]
    after = torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"]
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_half_precision_stays_half_in_the_folder(tmp_path: Path) -> None:
    state = {PREFIX + key: value.half() for key, value in small_model().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "half.ckpt")
    made = import_weights(tmp_path / "half.ckpt", tmp_path / "model")
    assert read_state(tmp_path / "model")["fc.weight"].dtype == torch.float16
    assert LatentActionModel.from_pretrained(tmp_path / "model").model_id == made.model_id


def test_the_shape_is_read_from_the_weights() -> None:
    config = infer_config(small_model().state_dict(), name="x", where="here")
    same = {"width", "latent_dim", "patch_size", "num_heads", "num_encoder_blocks"}
    assert {key: getattr(config, key) for key in same} == {k: getattr(SMALL, k) for k in same}
    assert config.num_decoder_blocks == SMALL.num_decoder_blocks
    with torch.device("meta"):
        state = LatentActionModel(base().model).state_dict()
    assert infer_config(state, name="lam-base", where="here") == base().model


def test_encoder_only_leaves_the_decoder_out(tmp_path: Path) -> None:
    checkpoint(tmp_path / "lam.ckpt")
    whole = import_weights(tmp_path / "lam.ckpt", tmp_path / "whole")
    part = import_weights(tmp_path / "lam.ckpt", tmp_path / "part", encoder_only=True)
    assert part.model_id == whole.model_id
    assert part.num_parameters < whole.num_parameters
    LatentActionModel.from_pretrained(tmp_path / "part", encoder_only=True)
    with pytest.raises(ConfigError, match=r"\d+ missing \(action_up"):
        LatentActionModel.from_pretrained(tmp_path / "part")
    export_weights(tmp_path / "part", tmp_path / "part.safetensors")
    assert import_weights(
        tmp_path / "part.safetensors", tmp_path / "again", encoder_only=True
    ).encoder_only


def test_a_trainers_book_keeping_is_ignored_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "lightning_fabric.utilities.data"
    module: Any = ModuleType(name)
    attribute_dict = type("AttributeDict", (dict,), {"__module__": name})
    module.AttributeDict = attribute_dict
    for depth in range(1, 4):
        part = ".".join(name.split(".")[:depth])
        monkeypatch.setitem(sys.modules, part, module if part == name else ModuleType(part))
    kept = {"hyper_parameters": attribute_dict(beta=1e-6), "args": argparse.Namespace(steps=3)}
    model = checkpoint(tmp_path / "lam.ckpt", **kept)
    monkeypatch.undo()
    assert name not in sys.modules
    assert import_weights(tmp_path / "lam.ckpt", tmp_path / "m", name="lam-test").model_id == (
        model.model_id
    )
    assert name not in sys.modules


class Malicious:
    """Runs a command when it is unpickled the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_named_and_does_not_run(tmp_path: Path) -> None:
    checkpoint(tmp_path / "bad.ckpt", hook=Malicious(tmp_path / "ran"))
    with pytest.raises(EgodojoError, match=r"holds more than plain tensors \(posix.system\)"):
        import_weights(tmp_path / "bad.ckpt", tmp_path / "model")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_with_other_keys_is_reported(tmp_path: Path) -> None:
    model = small_model()
    state = {PREFIX + key: value for key, value in model.state_dict().items()}
    state[PREFIX + "encoder.more"] = torch.zeros(2)
    del state[PREFIX + "decoder.out.bias"]
    torch.save({"state_dict": state}, tmp_path / "odd.ckpt")
    with pytest.raises(ConfigError, match=r"1 missing \(decoder.out.bias\); 1 unknown \(encoder"):
        import_weights(tmp_path / "odd.ckpt", tmp_path / "model")
    torch.save({"state_dict": {"net.weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"no latent action model: .*fc\.weight is"):
        import_weights(tmp_path / "other.ckpt", tmp_path / "model")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    checkpoint(tmp_path / "lam.ckpt")
    import_weights(tmp_path / "lam.ckpt", tmp_path / "model")
    with pytest.raises(UsageError, match="exists already"):
        import_weights(tmp_path / "lam.ckpt", tmp_path / "model")
    with pytest.raises(UsageError, match="exists already"):
        export_weights(tmp_path / "model", tmp_path / "lam.ckpt")
    with pytest.raises(UsageError, match="must end in"):
        export_weights(tmp_path / "model", tmp_path / "lam.bin")


def test_the_commands(tmp_path: Path, cli: Cli) -> None:
    model = checkpoint(tmp_path / "lam.ckpt")
    done = cli("latents", "import", tmp_path / "lam.ckpt", "--out", tmp_path / "m", "--json")
    assert done.exit_code == 0, done.stderr
    assert f'"num_tensors": {len(model.state_dict())}' in done.stdout
    done = cli("latents", "export", tmp_path / "m", "--out", tmp_path / "x.ckpt")
    assert done.exit_code == 0, done.stderr
    assert "tensors" in done.stdout
    done = cli("latents", "import", tmp_path / "none.ckpt", "--out", tmp_path / "n")
    assert done.exit_code == 1
    assert "does not exist" in done.stderr
