"""Execution providers behind one protocol, one file each."""
