"""Launchers, which run the jobs of a sweep: local processes, SLURM or Ray."""
