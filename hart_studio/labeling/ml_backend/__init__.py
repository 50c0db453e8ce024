"""ML backend for Label Studio: server, tasks and images."""
