"""Vision-language models behind one small interface: chat requests in, completions out."""
