"""Measure how many letters and symbols from fonts, and how many digits, `predict` calls "probably not a digit".

Letters and symbols are drawn from the font files that are given, and converted like any picture. The digits are
the test rows of the competition, on which no network was trained. For example:

    python scripts/measure_outliers.py --root DIR --competition rehearsal-full --run fast FONT.ttf ...
"""

from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import load_test
from kaggle_digits.prediction.pictures import find_digit
from kaggle_digits.prediction.predict import Classifier
from kaggle_digits.runs.directory import find_run
from kaggle_digits.workspace import Workspace

CHARACTERS = {
    # Without I, O, l, o and z, which are 1, 0 and 2 for everybody.
    "letters": "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxy",
    "symbols": "?!&@#$%+=*<>^~{}[]()/\\-_€£§¶",
    "digits of the fonts": "0123456789",
}
SIZE = 120
BATCH = 1_000


@click.command()
@click.argument("fonts", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--root", type=click.Path(path_type=Path), default=Path())
@click.option("--competition", default="rehearsal-full")
@click.option("--run")
def main(fonts: tuple[str, ...], root: Path, competition: str, run: str | None) -> None:
    """Print a rate for each kind of characters, and for the test rows."""
    workspace = Workspace.at(root, competition)
    source = find_run(workspace, run)
    classify = Classifier(source)
    images: dict[str, list[UInt8]] = {}
    for name, characters in CHARACTERS.items():
        found = (find_digit(draw(each, font)) for font in fonts for each in characters)
        images[name] = [image for image in found if image is not None]
    images["test rows"] = list(load_test(workspace.data).images)
    for name, some in images.items():
        batches = [some[start : start + BATCH] for start in range(0, len(some), BATCH)]
        unlike = [p.is_unlike_digits for batch in batches for p in classify([(None, image) for image in batch])]
        print(f"{source.name}: {np.mean(unlike):.2%} of {len(unlike):,} {name}")


def draw(character: str, font: str) -> UInt8:
    """Return a picture of a character, grey values [h, w]."""
    face = ImageFont.truetype(font, SIZE)
    left, top, right, bottom = face.getbbox(character)
    picture = Image.new("L", (2 * SIZE, 2 * SIZE), 255)
    centred = (SIZE - (left + right) / 2, SIZE - (top + bottom) / 2)
    ImageDraw.Draw(picture).text(centred, character, font=face)
    return np.asarray(picture)


if __name__ == "__main__":
    main()
