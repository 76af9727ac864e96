"""The command line on real models."""
