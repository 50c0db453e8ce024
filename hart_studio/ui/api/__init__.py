"""Functions that scripts of the page and programs call: typed requests in, JSON out."""
