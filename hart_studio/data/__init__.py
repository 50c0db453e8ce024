"""Questions from files: every source gives samples and counted bad rows; splits keep the parts of a training apart."""
