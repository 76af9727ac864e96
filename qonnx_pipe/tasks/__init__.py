"""Tasks: what a model output means and how it is scored, one file each."""
