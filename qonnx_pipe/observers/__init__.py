"""Range estimators: statistics → [low, high], pure numpy, one file each."""
