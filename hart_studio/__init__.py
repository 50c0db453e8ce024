"""HART Studio: grounded visual question answering that verifies its own boxes.

A model points at the key region of a high-resolution image. The region is cropped from the ORIGINAL pixels, the image
is withheld, and the model answers from the crop alone (arXiv 2602.23615).

Read in this order: ``records`` -> ``prompts`` -> ``pipeline.closed_loop``.
"""

import logging
import sys

# On some CPUs bitsandbytes fetches a kernel from the Hub through this package when it is imported, and runs it.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # documented way to make an import fail
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns that the import failed

__version__ = "0.1.0"
