"""tinymath: the bundled model organism, whose skill at word problems is latent by construction."""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "model"
