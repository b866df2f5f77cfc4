"""The seven expressions of FER2013, in the order of the data set's own label numbers.

Source: Goodfellow et al., "Challenges in Representation Learning: A report on three
machine learning contests" (2013). Folder names sorted by alphabet give another order;
whoever maps labels by name maps them through this tuple.
"""

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

NUM_EMOTIONS = len(EMOTIONS)
