"""The sides of the curation benchmark, each a process of its own that says when work starts."""
