"""Graph passes, one file each; `ORDER` says in which order they run, and why."""
