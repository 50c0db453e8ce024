.PHONY: setup fmt check test test-all app smoke reference screenshots

setup:  ## install everything that development needs
	pip install -r requirements-dev.txt

fmt:  ## format and fix what can be fixed
	ruff check --fix . && ruff format .
	npm ci --silent && npx prettier --write assets/js assets/css

# Gradio writes a .pyi beside each module with a component, at times a broken one when processes
# import it at once; mypy would read these files in place of the sources.
check:  ## what the style gate runs
	find hart_studio tests -name "*.pyi" -delete
	ruff check . && ruff format --check . && mypy
	npm ci --silent && npx prettier --check assets/js assets/css && python -m tests.script_types

test:  ## default tests
	pytest

test-all:  ## every test but the slow ones
	pip install -r requirements-readers.txt && pytest --all

smoke:  ## fast tests only: no model, no browser
	pytest -m "not integration and not browser"

reference:  ## write docs/reference from the sources
	python -m tests.documents.reference

app:  ## start the page on http://127.0.0.1:7860
	python app.py

screenshots:  ## take docs/images anew from the running app (minutes)
	python -m tests.browser.screenshots
