"""Vision-language models behind one interface: chat requests in, completions out."""
