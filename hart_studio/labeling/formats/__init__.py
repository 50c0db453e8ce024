"""Label formats, listed in ``table``. A format has ``load_NAME`` and, unless it is read-only, ``save_NAME``."""
