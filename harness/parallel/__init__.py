"""Several processes: those that train one cell together, and those that share the cells of a matrix."""
