"""The mini backbone: its shipped weights, and the seeded command that made them."""
