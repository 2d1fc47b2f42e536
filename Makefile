# Every command of the project. Each one first makes or updates .venv by itself.
.DEFAULT_GOAL := help
.PHONY: help setup demo ui serve stop psql validate drift tune models rollback test check format bench lock clean compose-demo compose-psql compose-models compose-rollback credentials reload test-compose
RUN := PYTHONPATH=plugins .venv/bin/python -m embedded
ONCE := docker compose run --rm --no-deps --quiet-pull
BACK = $(if $(VIEW),--view "$(VIEW)") $(if $(MODEL),--model "$(MODEL)")
# Set on many machines; without compiled files every start would take seconds longer.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON=/path/to/python3 chooses the Python (3.11 to 3.13) that the first command sets up."

setup: ## Install the locked packages into .venv (every command does so when needed)
	@PYTHON="$(PYTHON)" sh embedded/setup.sh

demo: setup ## Run all DAGs and show recommendations. DATA=path for your own files, CONFIG=file.toml
	@$(RUN) demo $(if $(DATA),--data "$(DATA)") $(if $(CONFIG),--config "$(CONFIG)")

ui: setup ## Start the Airflow UI on the same tables and DAGs. PORT=8080
	@$(RUN) ui $(if $(PORT),--port "$(PORT)")

serve: setup ## Start the service with its page on the tables. PORT=8000, CONFIG=file.toml
	@$(RUN) serve $(if $(PORT),--port "$(PORT)") $(if $(CONFIG),--config "$(CONFIG)")

stop: ## Stop what `make ui`, `make serve` or an interrupted command left running
	@if [ -x .venv/bin/python ]; then $(RUN) stop; fi

psql: setup ## Open a shell on the tables
	@$(RUN) psql

validate: setup ## Check a file against the settings without writing anything. FILE=path, CONFIG=file.toml
	@$(RUN) validate "$(FILE)" $(if $(CONFIG),--config "$(CONFIG)")

drift: setup ## Take in the files of data/streaming/, compare them with the model's data, retrain if needed. CONFIG=file.toml
	@$(RUN) drift $(if $(CONFIG),--config "$(CONFIG)")

tune: setup ## Search better settings on the data of the last run; the next call goes on. MINUTES=30, TRIALS=100, CONFIG=file.toml
	@$(RUN) tune $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(TRIALS),--trials "$(TRIALS)") $(if $(CONFIG),--config "$(CONFIG)")

models: setup ## List the model versions, who is champion, since when and why
	@$(RUN) models

rollback: setup ## Go back: VIEW=personal_recs serves its previous generation, MODEL=ranker its previous champion
	@$(RUN) rollback $(BACK)

test: check ## Run the checks and all tests
	@.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore=tests/compose --cov --cov-report=term

check: setup ## Lint, formatting and types
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy .

format: setup ## Format the code
	@.venv/bin/ruff format

bench: setup ## Measure the demo five times: seconds, memory, quality, into benchmarks/results/
	@PYTHONPATH=plugins .venv/bin/python -m benchmarks.first_light online-retail

compose-demo: ## With containers: run the whole chain through Airflow's API and show what is served
	@$(ONCE) airflow-init python /opt/shortlist/demo.py

credentials: ## With containers: show addresses, users and passwords
	@$(ONCE) setup python /opt/shortlist/setup.py credentials

reload: ## With containers: let changed step code take effect
	@docker compose restart $$(docker compose ps --services | grep -E '^(airflow-(dag-processor|triggerer|worker|worker-containers|scheduler)|spark-.*|recs-api)$$')

compose-psql: ## With containers: open a shell on the tables
	@docker compose exec --user postgres postgres psql recs

compose-models: ## With containers: list the model versions, who is champion, since when and why
	@$(ONCE) airflow-cli python /opt/shortlist/models.py list

compose-rollback: ## With containers: go back to the previous generation, VIEW=..., or champion, MODEL=...
	@$(ONCE) airflow-cli python /opt/shortlist/models.py rollback $(BACK)

QUICK := $(addprefix tests/compose/test_,stack.py docker_proxy.py containers.py)
test-compose: setup ## Boot the real stack and test the chain and container tasks on it. ALL=1: crashes, changes and the light stack, too
	@.venv/bin/python -m pytest --durations=15 $(if $(ALL),tests/compose,$(QUICK))

LOCK := .bootstrap/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate
LOCK_LIKE := $(LOCK) --python-version 3.13 --constraint requirements.lock
lock: setup ## Resolve requirements-*.txt anew: for all commands, and for each image
	@$(LOCK) --upgrade --python-version 3.11 --output-file requirements.lock requirements-airflow.txt requirements-service.txt requirements-jobs.txt requirements-dev.txt
	@$(LOCK_LIKE) --output-file requirements-airflow.lock requirements-airflow.txt
	@$(LOCK_LIKE) --output-file requirements-jobs.lock requirements-jobs.txt
	@$(LOCK_LIKE) --output-file requirements-docker-proxy.lock requirements-docker-proxy.txt
	@$(LOCK_LIKE) --output-file requirements-examples.lock requirements-examples.txt
	@$(LOCK_LIKE) --overrides requirements-service-without.txt --output-file requirements-service.lock requirements-service.txt
	@$(LOCK) --python-version 3.11 --constraint requirements.lock --output-file deployment/requirements.lock deployment/requirements.txt
	@$(LOCK) --upgrade --python-version 3.13 --output-file requirements-mlflow.lock requirements-mlflow.txt

clean: stop ## Remove what commands made: packages, tables, models, data, reports; your own files stay
	@rm -rf .venv .bootstrap .airflow data/processed data/service data/summary.json models logs reports
	@rm -rf $(dir $(wildcard postgres_data/*/_export.json))
