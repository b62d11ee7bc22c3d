"""Images made out of nothing but a network: statistics to match, generators, distillation."""
