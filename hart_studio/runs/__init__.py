"""A run on disk: its settings, its files, who writes them, who reads them, who starts and stops the job."""
