"""Models that write `scores/<name>` later, on stored clips: what they are, how they are found."""
