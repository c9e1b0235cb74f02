"""Export and engine building."""
