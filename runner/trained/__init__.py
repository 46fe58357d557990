"""Trained models, as runs leave them: rebuilt from their files, with their classes and images.

`model = load_run(FOLDER)`; then `model.predict(["cat.jpg"])` gives the probabilities [1, K] of
`model.classes`.
"""

from runner.trained.model import TrainedModel as TrainedModel
from runner.trained.model import load_run as load_run
