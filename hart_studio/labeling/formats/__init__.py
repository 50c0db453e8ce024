"""Label formats of other tools. Each module has a ``load`` and a ``save`` function."""
