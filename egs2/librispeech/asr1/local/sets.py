"""LibriSpeech's parts, and the data directories that the recipe makes of them."""

TRAIN_SETS = {
    "train_960": ("train-clean-100", "train-clean-360", "train-other-500"),
    "train_clean_100": ("train-clean-100",),
}
#: the sets for validation, and the sets that are scored
OTHER_SETS = {
    "dev": ("dev-clean", "dev-other"),
    "dev_clean": ("dev-clean",),
    "dev_other": ("dev-other",),
    "test_clean": ("test-clean",),
    "test_other": ("test-other",),
}


def chosen_sets(train_set: str) -> dict:
    """The data directories to make: name -> parts."""
    return {train_set: TRAIN_SETS[train_set], **OTHER_SETS}


def parts_of(train_set: str) -> list:
    """The parts that a training set needs, each once."""
    return list(dict.fromkeys(part for parts in chosen_sets(train_set).values() for part in parts))
