"""Low-bit arithmetic simulated in float: the student's layers and where they stand on the graph."""
