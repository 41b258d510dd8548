"""See where fastai vision models look: soft attention, heatmaps and interpretation

Modules:

- `fastattn.all`: Everything for notebooks: `from fastai.vision.all import *`, and then `from fastattn.all import *`."""

__version__ = "0.1.0"
