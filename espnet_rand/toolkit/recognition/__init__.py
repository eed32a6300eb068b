"""Speech recognition with ESPnet's models: words with times."""

from espnet_rand.toolkit.recognition.inference import TASKS, build, get_parser
from espnet_rand.toolkit.recognition.recognizer import Recognizer
from espnet_rand.toolkit.recognition.words import Heard, Word, join_text

__all__ = ["TASKS", "Heard", "Recognizer", "Word", "build", "get_parser", "join_text"]
