"""The only package that knows both methods and tasks: plans cells, trains, measures, records and compares."""
