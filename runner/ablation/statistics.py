"""The statistics of few seeds: one number a seed, over the last axis of every array."""
