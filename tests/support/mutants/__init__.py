"""Servers that are wrong on purpose: ours with one fault each, to prove that the suite sees it."""
