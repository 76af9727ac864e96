"""Lowerings: how an encoding becomes nodes of the graph, one file each."""
