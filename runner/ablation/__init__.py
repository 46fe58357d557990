"""Ablations: which runs to make, and what may be concluded from them.

designs -> plan (frozen, sweep.yaml) -> sweeper (the runs) -> verdicts, by statistics. It stands
above the run, which never knows that it is part of an ablation.
"""
