"""The preset `fast`: a small strided network with augmentation."""

from kaggle_digits.models import strided_cnn
from kaggle_digits.recipes import Recipe, Settings

RECIPE = Recipe(
    name="fast",
    folds=5,
    settings=Settings(
        epochs=6,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=0.01,
        label_smoothing=0.05,
        dropout=0.2,
        rotation=11.5,
        scale=0.12,
        shear=0.15,
        shift=2.5,
    ),
    network=lambda settings: strided_cnn((32, 48, 64, 96, 128, 160), settings.dropout),
)
