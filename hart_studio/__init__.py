"""HART Studio: grounded visual question answering that verifies its own boxes.

A model points at the key region of a high-resolution image. The region is cropped from the ORIGINAL pixels, the image
is withheld, and the model answers from the crop alone (arXiv 2602.23615).

Read in this order: ``records`` -> ``prompts`` -> ``pipeline.closed_loop``.
"""

__version__ = "0.1.0"
