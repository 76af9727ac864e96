"""Charts: what every drawing and every page shares: marks, rows, wording, style; numbers in, markup out."""
