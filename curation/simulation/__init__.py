"""Simulated bodies doing known motions: MuJoCo physics, ray-traced pictures, truth beside them."""
