"""Both phases of one training, and what makes it fast and safe from kills."""
