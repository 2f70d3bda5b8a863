"""Black-box evaluation: how a model fares on images that others' attacks wrote to disk."""

from featdenoise.blackbox.labels import read_labels as read_labels
from featdenoise.blackbox.score import BlackboxScoring as BlackboxScoring
from featdenoise.blackbox.score import score_blackbox as score_blackbox
