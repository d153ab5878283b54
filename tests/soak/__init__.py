"""Load and faults over time: what a server loses, leaks and costs. ``python -m tests.soak``."""
