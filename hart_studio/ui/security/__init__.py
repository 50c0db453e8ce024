"""Login, permissions, middleware and checks of requests."""
