"""Reading golden network fixtures: their configuration as ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from world_model.config import ModelConfig
from world_model.model import WorldModel
from world_model.rope import RopeConfig


def model_config(config: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        width=config["model_channels"],
        num_blocks=config["num_blocks"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        modulation_rank=config["adaln_lora_dim"],
        latent_channels=config.get("in_channels", 16),
        action_width=config["action_dim"],
        actions_per_latent=config.get("num_action_per_latent_frame", 4),
        action_hidden=config.get("hidden_dim_in_action_embedder"),
        text_features=config["crossattn_proj_in_channels"],
        context_width=config["crossattn_emb_channels"],
        timestep_scale=config["timestep_scale"],
        max_frames=config.get("max_frames", 128),
        rope=RopeConfig(
            height_ratio=config["rope_h_extrapolation_ratio"],
            width_ratio=config["rope_w_extrapolation_ratio"],
            time_ratio=config["rope_t_extrapolation_ratio"],
            fps_modulation=config["rope_enable_fps_modulation"],
            base_fps=config.get("base_fps", 24),
        ),
    )


def golden_model(info: dict[str, Any], state: dict[str, Tensor]) -> WorldModel:
    model = WorldModel(model_config(info["config"]))
    model.load_weights(state)
    return model.eval()


def assert_near(name: str, ours: Tensor, theirs: Tensor, tolerance: dict[str, float]) -> None:
    limits = {"atol": tolerance.get("atol", 0.0), "rtol": tolerance.get("rtol", 0.0)}
    torch.testing.assert_close(ours, theirs, **limits, msg=lambda text: f"{name}: {text}")
