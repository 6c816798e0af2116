"""What a run costs, read while it runs: time, memory, energy, FLOPs, parameters; a module for each kind of reading."""
