"""How good a network is: evaluation sets, accuracy with its uncertainty, sensitivity, the report."""
