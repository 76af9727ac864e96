"""One suite that every entry of a registry passes."""
