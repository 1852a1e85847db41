"""Files, locks, formatting and other helpers; may be imported from anywhere."""
