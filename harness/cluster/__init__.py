"""`run --executor ray`: each cell of a matrix is a task of a Ray cluster, and its record comes back to the driver.

The driver (`matrix`) checks everything as any run does, hands out the cells and writes the records. On a node the task
(`node`) starts a fresh process (`child`) for one cell in a folder of its own, and sends what it left there (`parcel`).
"""
