"""One file per published data set: its row to a sample."""
