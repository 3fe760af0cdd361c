"""The preset `lenet`: the recipe of the article this project started from, repaired."""

from kaggle_digits.models import lenet
from kaggle_digits.recipes import Recipe, Settings

RECIPE = Recipe(
    name="lenet",
    folds=5,
    settings=Settings(epochs=20, batch_size=128, learning_rate=1e-3, schedule="constant", dropout=0.3),
    network=lambda settings: lenet(settings.dropout),
)
