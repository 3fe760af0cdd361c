"""The preset `lenet`: the recipe of the article this project started from, repaired.

Score .99275 on the 28,000 unseen rows of `rehearsal-full`, out-of-fold .99052, beside the .9912 that the article
gives for one network, in 11 minutes 45 seconds, all of the command included, beside other work (one run, seed 0,
5 x 33,600 training rows, 2 AMD EPYC cores, TensorFlow 2.21).

    kaggle-digits --competition rehearsal-full train --preset lenet
"""

from kaggle_digits.models import lenet
from kaggle_digits.recipes import Recipe, Settings

RECIPE = Recipe(
    name="lenet",
    folds=5,
    settings=Settings(epochs=20, batch_size=128, learning_rate=1e-3, schedule="constant", dropout=0.3),
    network=lambda settings: lenet(settings.dropout),
)
