"""Finds the files of models that a user starts from or packs, and puts their weights into a model."""
