"""Who runs the jobs of a sweep: processes of this machine, SLURM, a Ray cluster."""
