"""Are the latents right? Retrieval across bodies, probes to true actions, statistics, pictures."""
