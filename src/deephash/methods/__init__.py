"""Methods: the assembly, and what each paper alone brought."""
