"""What measures speed; each file opens with the command that repeats it."""
