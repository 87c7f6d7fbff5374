"""Learning from neighbours: clips of two bodies whose motion looks alike are drawn together."""
