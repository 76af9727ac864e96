"""Decisions under costs: which form a site gets, for what each form takes and gives."""
