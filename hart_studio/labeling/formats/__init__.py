"""One file per format: a ``load`` and a ``save`` that belong together."""
