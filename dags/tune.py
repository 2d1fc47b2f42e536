"""
# Search better settings

Tries settings of ALS, candidates and ranker with Optuna on the target window of the last `spark_etl`, within a budget
of minutes, beginning with those in use. The test window is never read. Every trial stands in `models/tuning/`; another
run on the same data goes on where the last one ended. What is better, also on users with no part in the choice, is
proposed in a file beside the settings in use or, where nobody may write there, in the folder of the study.

Started by hand; the form asks for the minutes and for the number of trials.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag

from dag_support.assets import PROPOSAL
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import spark_task
from shortlist.settings import load_settings, settings_file
from steps.tune import tune_recommender

SETTINGS = load_settings()


@dag(
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=24),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["train", "tune"],
    render_template_as_native_obj=True,
    params={
        "minutes": Param(SETTINGS.tune.minutes, type="number", exclusiveMinimum=0, maximum=600),
        "trials": Param(
            SETTINGS.tune.trials, type="integer", minimum=1, description="At most, with those of earlier runs"
        ),
    },
)
def tune() -> None:
    spark_task(
        tune_recommender,
        execution_timeout=timedelta(hours=12),
        outlets=[PROPOSAL],
        on_success_callback=NOTIFY_SUCCESS,
    )(
        settings=SETTINGS,
        settings_path=settings_file(),
        minutes="{{ params.minutes }}",
        trials="{{ params.trials }}",
    )


tune()
