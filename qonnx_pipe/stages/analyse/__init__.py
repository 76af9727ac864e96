"""Analyse: why a model loses accuracy in 8 bits, seen: outliers, quantizers left out one at a time, ranges chosen."""
