"""Display components: a static template, and a script that builds nodes from data with text as text."""
