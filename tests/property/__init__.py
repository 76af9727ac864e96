"""Laws, checked with hypothesis."""
