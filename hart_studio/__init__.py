"""HART Studio: grounded reasoning that checks its own boxes.

A model points at the key region of a high-resolution image, the region is cut from the ORIGINAL
pixels, the image is withheld, and the answer comes from the crop alone (arXiv 2602.23615).

Read in this order: ``records`` -> ``prompts`` -> ``pipeline.closed_loop``.
"""

__version__ = "0.1.0"
