# Every command of the project. Each one first makes or updates .venv by itself.
.DEFAULT_GOAL := help
.PHONY: help setup demo ui stop psql validate rollback test check format bench lock clean
RUN := PYTHONPATH=plugins .venv/bin/python -m embedded
# Set on many machines; without compiled files every start would take seconds longer.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON=/path/to/python3 chooses the Python (3.11 to 3.13) that the first command sets up."

setup: ## Install the locked packages into .venv (every command does so when needed)
	@PYTHON="$(PYTHON)" sh embedded/setup.sh

demo: setup ## Run all DAGs and show recommendations. DATA=path for your own files, CONFIG=file.toml
	@$(RUN) demo $(if $(DATA),--data "$(DATA)") $(if $(CONFIG),--config "$(CONFIG)")

ui: setup ## Start the Airflow UI on the same tables and DAGs. PORT=8080
	@$(RUN) ui $(if $(PORT),--port "$(PORT)")

stop: ## Stop what `make ui` or an interrupted command left running
	@if [ -x .venv/bin/python ]; then $(RUN) stop; fi

psql: setup ## Open a shell on the tables
	@$(RUN) psql

validate: setup ## Check a file against the settings without writing anything. FILE=path, CONFIG=file.toml
	@$(RUN) validate "$(FILE)" $(if $(CONFIG),--config "$(CONFIG)")

rollback: setup ## Serve the previous generation of a view again. VIEW=personal_recs
	@$(RUN) rollback "$(VIEW)"

test: check ## Run the checks and all tests
	@.venv/bin/python -m pytest --cov --cov-report=term

check: setup ## Lint, formatting and types
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy .

format: setup ## Format the code
	@.venv/bin/ruff format

bench: setup ## Measure the demo five times: seconds, memory, quality, into benchmarks/results/
	@PYTHONPATH=plugins .venv/bin/python -m benchmarks.first_light online-retail

lock: setup ## Resolve requirements-*.txt anew into requirements.lock
	@.bootstrap/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--upgrade --output-file requirements.lock requirements-airflow.txt requirements-dev.txt

clean: stop ## Remove what commands made: packages, tables, models, data, reports; your own files stay
	@rm -rf .venv .bootstrap .airflow data/processed data/summary.json models logs reports
	@rm -rf $(dir $(wildcard postgres_data/*/_export.json))
