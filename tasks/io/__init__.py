"""Reading of data files and pictures, shared by the tasks; names of this package are no task names."""
