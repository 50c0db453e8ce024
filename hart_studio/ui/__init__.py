"""The pages: Gradio components, tabs and the service that they call. Only this package and ``app.py`` know Gradio."""
