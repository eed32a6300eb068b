"""A packed model as a folder that ESPnet's users load by its name, checked, and uploaded to the Hugging Face hub."""

from espnet_rand.publishing.steps import Publication, publish

__all__ = ["Publication", "publish"]
