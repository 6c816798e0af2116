"""What lets a killed or stopped cell go on where it was: its training state, its answers so far, orderly stops."""
