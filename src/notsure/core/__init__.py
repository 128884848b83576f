"""What every part stands on: targets, checks, randomness, errors, files."""
