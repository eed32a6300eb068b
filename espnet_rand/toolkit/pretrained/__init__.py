"""Models that a user starts from or packs: where their files are, and how their weights fit."""
