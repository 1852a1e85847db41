"""Plan, launch, watch and report sweeps: grids of runs."""
