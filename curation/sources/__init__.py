"""Published folder layouts as sources: which of their videos to take, and what belongs to each.

A layout is known by its own marker files. Its actions, episode bounds and texts enter the work
like the files that may lie beside any video.
"""
