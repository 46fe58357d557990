"""Doing the runs of a plan: sweeper, frozen plan, launcher, live display."""
