"""Tables, curves and one self-contained page made from results files, and from nothing else."""
