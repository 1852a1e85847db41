"""Figures of runs, evaluations and sweeps."""
