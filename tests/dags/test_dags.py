"""What every DAG must be, and the exact shape of each. A DagBag of a wrong folder is empty, hence exact sets."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from steps import (
    containers,
    drift,
    etl,
    evaluate,
    export,
    features,
    feedback,
    forgetting,
    futures,
    hand_over,
    ranked_data,
    report,
    streaming,
    train,
    tune,
    tuning_window,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DAGS = Path(__file__).resolve().parents[2] / "dags"

LOAD_EDGES = [
    ["audit", "publish"],
    ["load_file", "audit"],
    ["load_file", "publish"],
    ["load_reference", "load_file"],
]
EDGES = {
    "catalogue_refresh": [
        ["elastic_task", "fastapi_task"],
        ["scraping_task", "elastic_task"],
        ["scraping_task", "fastapi_task"],
        ["scraping_task", "mlflow_task"],
        ["scraping_task", "postgres_task"],
    ],
    "drift_detection_retrain_pipeline": [
        ["check_retrain", "merge_streaming_data"],
        ["check_retrain", "skip_retrain"],
        ["detect_drift", "check_retrain"],
        ["find_current_model", "check_retrain"],
        ["find_current_model", "detect_drift"],
        ["find_latest_model", "export_recommendations"],
        ["find_latest_model", "test_recommender"],
        ["merge_streaming_data", "train_recommender"],
        ["process_streaming_data", "check_retrain"],
        ["process_streaming_data", "detect_drift"],
        ["process_streaming_data", "find_current_model"],
        ["test_recommender", "export_recommendations"],
        ["train_recommender", "find_latest_model"],
    ],
    "etl_train_test_pipeline": [
        ["find_latest_model", "export_recommendations"],
        ["find_latest_model", "spark_test_recommender"],
        ["spark_etl", "create_futures"],
        ["spark_etl", "spark_train_recommender"],
        ["spark_test_recommender", "export_recommendations"],
        ["spark_train_recommender", "find_latest_model"],
    ],
    "export_feedback": [],
    "feature_engineering": [
        ["check_redis", "process_and_save_features"],
        ["process_and_save_features", "end"],
        ["start", "check_redis"],
    ],
    "forget_users": [],
    "interactions_transform": [
        ["check_dag_active", "run_transform"],
        ["check_run_docker_output", "load_processed"],
        ["check_run_docker_output", "load_viz"],
        ["load_processed", "trigger_model_dag"],
        ["load_viz", "trigger_model_dag"],
        ["run_transform", "check_run_docker_output"],
    ],
    "load_default_recs": LOAD_EDGES,
    "load_online_recs": LOAD_EDGES,
    "load_candidates_train": LOAD_EDGES,
    "load_candidates_inference": LOAD_EDGES,
    "load_candidates_ranked": [
        ["audit", "publish"],
        ["check_gate", "rank_candidates"],
        ["evaluate_ranker", "check_gate"],
        ["rank_candidates", "audit"],
        ["rank_candidates", "publish"],
        ["train_ranker", "check_gate"],
        ["train_ranker", "evaluate_ranker"],
        ["train_ranker", "publish"],
        ["train_ranker", "rank_candidates"],
        ["wait_for_candidates", "train_ranker"],
    ],
    "model_trigger_dag": [
        ["check_dag_active", "run_model_trigger"],
        ["check_mismatch", "end_dag"],
        ["check_mismatch", "start_model_training"],
        ["run_model_trigger", "check_mismatch"],
    ],
    "tune": [],
}
SCHEDULES = {
    "catalogue_refresh": "@daily",
    "interactions_transform": "@hourly",
    "model_trigger_dag": None,
    "drift_detection_retrain_pipeline": "@daily",
    "etl_train_test_pipeline": None,
    "export_feedback": "45 23 * * *",
    "feature_engineering": None,
    "forget_users": "30 22 * * *",
    "load_default_recs": "5 21 * * 6",
    "load_online_recs": "5 21 * * 6",
    "load_candidates_train": "10 21 * * 6",
    "load_candidates_inference": "10 21 * * 6",
    "load_candidates_ranked": "15 21 * * 6",
    "tune": None,
}
TAGS = {
    "catalogue_refresh": ["catalogue", "containers"],
    "interactions_transform": ["containers", "etl"],
    "model_trigger_dag": ["containers", "train"],
    "drift_detection_retrain_pipeline": ["drift", "train"],
    "etl_train_test_pipeline": ["etl", "train"],
    "export_feedback": ["drift", "service"],
    "feature_engineering": ["features"],
    "forget_users": ["privacy", "service"],
    "load_default_recs": ["load", "weekly"],
    "load_online_recs": ["load", "weekly"],
    "load_candidates_train": ["load", "weekly"],
    "load_candidates_inference": ["load", "weekly"],
    "load_candidates_ranked": ["rank", "weekly"],
    "tune": ["train", "tune"],
}
OUTLETS = {
    ("catalogue_refresh", "scraping_task"): "shortlist://files/catalogue",
    ("catalogue_refresh", "postgres_task"): "shortlist://served/items",
    ("interactions_transform", "load_processed"): "shortlist://datasets/processed",
    ("interactions_transform", "load_viz"): "shortlist://datasets/viz",
    ("drift_detection_retrain_pipeline", "merge_streaming_data"): "shortlist://files/interactions",
    ("drift_detection_retrain_pipeline", "train_recommender"): "shortlist://models/recommender",
    ("drift_detection_retrain_pipeline", "export_recommendations"): "shortlist://files/hand_over",
    ("etl_train_test_pipeline", "spark_etl"): "shortlist://files/interactions",
    ("etl_train_test_pipeline", "create_futures"): "shortlist://files/futures",
    ("etl_train_test_pipeline", "spark_train_recommender"): "shortlist://models/recommender",
    ("etl_train_test_pipeline", "export_recommendations"): "shortlist://files/hand_over",
    ("export_feedback", "export_feedback"): "shortlist://files/feedback",
    ("feature_engineering", "process_and_save_features"): "shortlist://served/features",
    ("load_candidates_ranked", "train_ranker"): "shortlist://models/ranker",
    ("load_default_recs", "publish"): "shortlist://served/default_recs",
    ("load_online_recs", "publish"): "shortlist://served/online_recs",
    ("load_candidates_train", "publish"): "shortlist://served/candidates_train",
    ("load_candidates_inference", "publish"): "shortlist://served/candidates_inference",
    ("load_candidates_ranked", "publish"): "shortlist://served/personal_recs",
    ("tune", "tune_recommender"): "shortlist://settings/proposal",
}
SPARK_TASKS = {
    ("etl_train_test_pipeline", task_id)
    for task_id in ("spark_etl", "spark_train_recommender", "spark_test_recommender", "export_recommendations")
} | {
    ("drift_detection_retrain_pipeline", task_id)
    for task_id in (
        "process_streaming_data", "detect_drift", "merge_streaming_data", "train_recommender", "test_recommender",
        "export_recommendations",
    )
} | {("feature_engineering", "process_and_save_features"), ("tune", "tune_recommender")}  # fmt: skip
# The last that does something: `end` of feature_engineering never runs, the scheduler only ticks it off.
LAST_TASK = {
    "catalogue_refresh": "fastapi_task",
    "interactions_transform": "trigger_model_dag",
    "model_trigger_dag": "start_model_training",
    "export_feedback": "export_feedback",
    "feature_engineering": "process_and_save_features",
    "forget_users": "forget_users",
    "etl_train_test_pipeline": "export_recommendations",
    "drift_detection_retrain_pipeline": "export_recommendations",
    "tune": "tune_recommender",
}
LAST_TASKS = {(dag_id, LAST_TASK.get(dag_id, "publish")) for dag_id in EDGES}
# A search may be given a whole night.
EXECUTION_HOURS = {("tune", "tune_recommender"): 12}
# A second run must be able to begin, so that it can be skipped while the first is active; else it would wait.
ACTIVE_RUNS = {"interactions_transform": 2, "model_trigger_dag": 2}
# They need containers, which not every machine has.
SWITCHED_OFF = {"catalogue_refresh", "interactions_transform", "model_trigger_dag"}
JOBS = {
    ("catalogue_refresh", "scraping_task"): ("scrape", "jobs"),
    ("catalogue_refresh", "postgres_task"): ("postgres", "stores"),
    ("catalogue_refresh", "elastic_task"): ("elastic", "stores"),
    ("catalogue_refresh", "fastapi_task"): ("fastapi", "stores"),
    ("catalogue_refresh", "mlflow_task"): ("mlflow", "stores"),
    ("interactions_transform", "run_transform"): ("transform", "jobs"),
    ("interactions_transform", "load_processed"): ("load-processed", "jobs"),
    ("interactions_transform", "load_viz"): ("load-viz", "jobs"),
    ("model_trigger_dag", "run_model_trigger"): ("model-trigger", "jobs"),
}

each_dag = pytest.mark.parametrize("dag_id", sorted(EDGES))


def tasks_of(bag: Any) -> dict[tuple[str, str], Any]:
    return {(dag_id, task_id): task for dag_id, dag in bag["dags"].items() for task_id, task in dag["tasks"].items()}


def test_every_dag_file_parses(bag: Any) -> None:
    assert bag["import_errors"] == {}


def test_the_dags_are_exactly_these_one_file_each(bag: Any) -> None:
    assert {dag_id: Path(dag["file"]).name for dag_id, dag in bag["dags"].items()} == {
        dag_id: f"{dag_id}.py" for dag_id in EDGES
    }
    assert sorted(path.stem for path in DAGS.glob("*.py")) == sorted(EDGES)


@each_dag
def test_the_edges_are_exactly_these(bag: Any, dag_id: str) -> None:
    assert bag["dags"][dag_id]["edges"] == EDGES[dag_id]


@each_dag
def test_schedule_and_tags_are_those_people_know(bag: Any, dag_id: str) -> None:
    assert bag["dags"][dag_id]["schedule"] == SCHEDULES[dag_id]
    assert bag["dags"][dag_id]["tags"] == TAGS[dag_id]


@each_dag
def test_a_dag_explains_itself_and_never_piles_up(bag: Any, dag_id: str) -> None:
    dag = bag["dags"][dag_id]

    assert dag["doc"].strip().startswith("# ")
    assert dag["catchup"] is False
    assert dag["max_active_runs"] == ACTIVE_RUNS.get(dag_id, 1)
    assert 3600 <= dag["dagrun_timeout"] <= 24 * 3600
    assert dag["on_failure"] == ["TelegramNotifier"]


@each_dag
def test_a_dag_file_only_wires(dag_id: str) -> None:
    source = (DAGS / f"{dag_id}.py").read_text()

    assert len(source.splitlines()) < 80
    assert source.count("def ") == 1


def test_where_a_person_must_agree_the_question_comes_between_gate_and_publishing(
    run_probe: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "careful.toml").write_text("[gate]\napproval = true\napproval_hours = 5\n")

    asked = run_probe("describe_dags.py", DAGS, SHORTLIST_CONFIG=str(tmp_path / "careful.toml"))["dags"]

    edges = {dag_id: [edge for edge in dag["edges"] if "approval" in edge] for dag_id, dag in asked.items()}
    assert {dag_id: found for dag_id, found in edges.items() if found} == {
        "drift_detection_retrain_pipeline": [
            ["approval", "export_recommendations"], ["test_recommender", "approval"],
        ],
        "etl_train_test_pipeline": [
            ["approval", "export_recommendations"], ["spark_test_recommender", "approval"],
        ],
        "load_candidates_ranked": [["approval", "rank_candidates"], ["check_gate", "approval"]],
    }  # fmt: skip
    for dag_id, hours in (("etl_train_test_pipeline", 12), ("load_candidates_ranked", 18)):
        assert ["spark_test_recommender", "export_recommendations"] not in asked[dag_id]["edges"]
        assert ["check_gate", "rank_candidates"] not in asked[dag_id]["edges"]
        assert asked[dag_id]["dagrun_timeout"] == (hours + 5) * 3600
        task = asked[dag_id]["tasks"]["approval"]
        assert (task["operator"], task["retries"], task["execution_timeout"]) == ("ApprovalOperator", 0, None)
        assert task["on_failure"] == ["TelegramNotifier"]


def test_every_task_is_retried_with_backoff_limited_in_time_and_reported(bag: Any) -> None:
    for name, task in tasks_of(bag).items():
        policy = {key: task[key] for key in ("retries", "retry_delay", "backoff", "max_retry_delay")}
        assert policy == {"retries": 2, "retry_delay": 60, "backoff": 2.0, "max_retry_delay": 900}, name
        assert task["execution_timeout"] == EXECUTION_HOURS.get(name, 2) * 3600, name
        assert task["on_failure"] == task["on_retry"] == ["TelegramNotifier"], name


def test_exactly_the_last_task_of_each_dag_tells_the_success(bag: Any) -> None:
    assert {name for name, task in tasks_of(bag).items() if task["on_success"]} == LAST_TASKS


def test_every_written_thing_is_an_asset(bag: Any) -> None:
    assert {name: task["outlets"] for name, task in tasks_of(bag).items() if task["outlets"]} == {
        name: [uri] for name, uri in OUTLETS.items()
    }


def test_spark_tasks_are_exactly_these_on_the_one_connection_in_utc(bag: Any) -> None:
    spark = {name: task for name, task in tasks_of(bag).items() if task["operator"] == "@task.pyspark"}

    assert spark.keys() == SPARK_TASKS
    for task in spark.values():
        assert task["conn_id"] == "spark_default"
        assert task["config"]["spark.sql.session.timeZone"] == "UTC"


def test_the_dags_that_need_containers_are_switched_off_until_somebody_wants_them(bag: Any) -> None:
    assert {dag_id for dag_id, dag in bag["dags"].items() if dag["paused"]} == SWITCHED_OFF
    for dag_id in SWITCHED_OFF:
        assert "Needs the profile `containers`" in " ".join(bag["dags"][dag_id]["doc"].split())


def test_container_tasks_are_exactly_these_jobs_on_the_one_queue_and_in_the_pool(bag: Any) -> None:
    tasks = {name: task for name, task in tasks_of(bag).items() if task["operator"] == "JobOperator"}

    assert {name: (task["command"][3], task["network"]) for name, task in tasks.items()} == {
        name: (job, f"shortlist_{network}") for name, (job, network) in JOBS.items()
    }
    for task in tasks.values():
        assert task["image"] == "shortlist-jobs"
        assert (task["queue"], task["pool"]) == ("containers", "containers")
        assert task["command"] == [
            "python", "-m", "jobs", task["command"][3], "--run-key", "{{ dag_run.dag_id }}/{{ run_id }}",
        ]  # fmt: skip
    elsewhere = [task for name, task in tasks_of(bag).items() if name not in JOBS]
    assert {(task["queue"], task["pool"]) for task in elsewhere} == {("default", "default_pool")}


def test_each_job_is_told_only_the_secrets_that_it_needs(bag: Any) -> None:
    s3 = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    assert {name: task["secrets"] for name, task in tasks_of(bag).items() if task["secrets"]} == {
        ("catalogue_refresh", "postgres_task"): ["RECS_DATABASE_URL"],
        ("catalogue_refresh", "elastic_task"): ["ELASTICSEARCH_URL"],
        ("catalogue_refresh", "fastapi_task"): ["SERVICE_API_KEY"],
        ("catalogue_refresh", "mlflow_task"): ["MLFLOW_TRACKING_URI"],
        ("interactions_transform", "run_transform"): s3,
        ("interactions_transform", "load_processed"): [*s3, "DATASETS_TOKEN"],
        ("interactions_transform", "load_viz"): [*s3, "DATASETS_TOKEN"],
        ("model_trigger_dag", "run_model_trigger"): [*s3, "DATASETS_TOKEN"],
    }


def test_what_waits_for_another_dag_holds_no_slot_starts_one_run_only_and_outlasts_it(bag: Any) -> None:
    waiting = {name: task for name, task in tasks_of(bag).items() if task["operator"] == "TriggerDagRunOperator"}

    assert {name: task["triggers"]["trigger_dag_id"] for name, task in waiting.items()} == {
        ("interactions_transform", "trigger_model_dag"): "model_trigger_dag",
        ("model_trigger_dag", "start_model_training"): "etl_train_test_pipeline",
    }
    for (dag_id, _), task in waiting.items():
        other = bag["dags"][task["triggers"].pop("trigger_dag_id")]
        assert bag["dags"][dag_id]["dagrun_timeout"] >= other["dagrun_timeout"] + 4 * 3600
        assert task["triggers"] == {
            "trigger_run_id": "{{ dag.dag_id }}__{{ run_id }}",  # the same for a further attempt, which starts it anew
            "reset_dag_run": True,
            "logical_date": None,
            "wait_for_completion": True,
            "deferrable": True,
            "fail_when_dag_is_paused": True,
        }


def test_a_dictionary_is_one_xcom_but_for_the_two_kinds_of_drift(bag: Any) -> None:
    several = {name for name, task in tasks_of(bag).items() if task["multiple_outputs"]}
    assert several == {("drift_detection_retrain_pipeline", "detect_drift")}


def test_the_sensor_gives_its_slot_back_and_ends_some_day(bag: Any) -> None:
    sensor = tasks_of(bag)["load_candidates_ranked", "wait_for_candidates"]

    assert sensor["operator"] == "@task.sensor"
    assert sensor["mode"] == "reschedule"
    assert sensor["timeout"] == 12 * 3600
    assert bag["dags"]["load_candidates_ranked"]["dagrun_timeout"] > sensor["timeout"]


def test_the_form_of_the_pipeline_asks_for_the_input(bag: Any) -> None:
    dag = bag["dags"]["etl_train_test_pipeline"]

    assert dag["params"] == {"input_path": "sample_data/online_retail.parquet", "dataset_commit": None}
    assert dag["tasks"]["spark_etl"]["arguments"]["input_path"] == "{{ params.input_path }}"
    trained = dag["tasks"]["spark_train_recommender"]["arguments"]
    assert trained["dataset_commit"] == "{{ params.dataset_commit or '' }}"


def test_the_form_of_the_features_asks_for_input_and_redis(bag: Any) -> None:
    dag = bag["dags"]["feature_engineering"]

    assert dag["params"] == {"input_path": "sample_data/online_retail.parquet", "save_to_db": False}
    assert {name: schema["type"] for name, schema in dag["param_schemas"].items()} == {
        "input_path": "string",
        "save_to_db": "boolean",
    }
    arguments = dag["tasks"]["process_and_save_features"]["arguments"]
    assert arguments["input_path"] == "{{ params.input_path | tojson }}"
    for task_id in ("check_redis", "process_and_save_features"):
        assert dag["tasks"][task_id]["arguments"]["save_to_db"] == "{{ params.save_to_db }}"
    assert dag["native"]  # else "False" would be a text, and true


def test_each_attempt_to_write_features_has_a_version_of_its_own(bag: Any) -> None:
    version = bag["dags"]["feature_engineering"]["tasks"]["process_and_save_features"]["arguments"]["version"]

    assert "dag_run.run_after" in version
    assert "ti.try_number" in version


def test_the_form_of_the_search_asks_for_its_budget_in_numbers(bag: Any) -> None:
    dag = bag["dags"]["tune"]

    assert dag["params"] == {"minutes": 30.0, "trials": 100}
    assert dag["native"] is True
    arguments = dag["tasks"]["tune_recommender"]["arguments"]
    assert (arguments["minutes"], arguments["trials"]) == ("{{ params.minutes }}", "{{ params.trials }}")
    assert arguments["settings_path"].endswith("config/pipeline.toml")


def test_no_argument_stands_on_a_logical_date(bag: Any) -> None:
    # A run started from the UI or by REST may have none.
    for name, task in tasks_of(bag).items():
        for value in task["arguments"].values():
            assert not any(word in value for word in ("{{ ds", "{{ ts", "logical_date", "data_interval")), name


def test_a_dag_serializes_alike_in_every_process(bag: Any) -> None:
    # A memory address in it would make a new DAG version at each parse.
    for dag in bag["dags"].values():
        assert " at 0x" not in dag["serialized"]


def test_parsing_loads_nothing_heavy(bag: Any) -> None:
    # Airflow's own DockerOperator brings it; our files load it where they need it.
    assert bag["heavy"] == ["requests"]


def test_airflow_takes_one_module_of_ours_for_a_plugin_and_no_package(bag: Any) -> None:
    # Without .airflowignore it executes every file under plugins/ and registers it by its bare name.
    assert bag["bare_modules"] == ["shortlist_pages"]


def test_the_page_is_in_the_menu_of_airflow(bag: Any, run_probe: Callable[..., Any]) -> None:
    view = {"name": "Recommendations", "href": "http://localhost:8000", "destination": "nav"}
    assert bag["external_views"] == [view | {"url_route": "recommendations"}]

    moved = run_probe("describe_dags.py", DAGS, SERVICE_URL="https://recs.example/")
    assert [found["href"] for found in moved["external_views"]] == ["https://recs.example"]


def test_the_tasks_that_work_on_a_version_or_a_batch_link_to_its_report(bag: Any) -> None:
    # As the API server sees them: it reads what the worker left in the XCom.
    assert {name: task["links"] for name, task in tasks_of(bag).items() if "Report" in task["links"]} == {
        (dag_id, task_id): {"Report": "_link_ReportLink"}
        for dag_id, task_ids in {
            "drift_detection_retrain_pipeline": (
                "detect_drift", "check_retrain", "test_recommender", "export_recommendations",
            ),
            "etl_train_test_pipeline": ("spark_test_recommender", "export_recommendations"),
            "load_candidates_ranked": ("evaluate_ranker", "check_gate", "rank_candidates", "publish"),
        }.items()
        for task_id in task_ids
    }  # fmt: skip


def test_the_steps_that_write_a_report_are_told_what_the_tasks_before_took(bag: Any) -> None:
    told = {name for name, task in tasks_of(bag).items() if "xcom_pull" in task["arguments"].get("timings", "")}
    assert told == {
        ("drift_detection_retrain_pipeline", "test_recommender"),
        ("drift_detection_retrain_pipeline", "export_recommendations"),
        ("etl_train_test_pipeline", "spark_test_recommender"),
        ("etl_train_test_pipeline", "export_recommendations"),
        ("load_candidates_ranked", "evaluate_ranker"),
        ("load_candidates_ranked", "publish"),
    }


STEPS = [
    containers,
    drift,
    etl,
    evaluate,
    export,
    features,
    feedback,
    forgetting,
    futures,
    hand_over,
    ranked_data,
    report,
    streaming,
    train,
    tune,
    tuning_window,
]


@pytest.mark.parametrize("module", STEPS)
def test_no_step_has_a_parameter_that_airflow_would_fill(module: Any) -> None:
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

    for name, step in inspect.getmembers(module, inspect.isfunction):
        if step.__module__ == module.__name__ and not name.startswith("_"):
            assert not KNOWN_CONTEXT_KEYS & inspect.signature(step).parameters.keys(), name
