"""The loop, the run folder and what is kept of a run. Knows terms, time and files; no method."""
