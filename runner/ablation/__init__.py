"""Ablations: which runs to make, and what may be concluded from them. Neither torch nor Hydra.

designs -> plan (frozen as sweep.yaml) -> the runs -> table -> estimates (statistics, decide) and
outcomes -> verdicts. A run never knows that it is part of an ablation.
"""
