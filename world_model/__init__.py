"""World models: video tokenizer, action-conditioned diffusion transformer, training, rollouts."""
