"""What scores say: their intervals, and which methods differ on the same examples."""
