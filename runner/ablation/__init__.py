"""Ablations: which runs to make, and what may be concluded from them. Neither torch nor Hydra.

designs -> plan (frozen as sweep.yaml) -> the runs -> table -> estimates (statistics, sharing,
decide) and outcomes -> verdicts. A run never knows that it is part of an ablation. Scores that were
made elsewhere come in by `scores`, which makes a plan and a table of them.
"""
