"""The array cycle by cycle."""
