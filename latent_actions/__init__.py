"""Latent actions: learned from video alone, stored per frame pair, searched across bodies."""
