"""Runs feature_engineering with `dag.test()`, once for the log and once for Redis; writes what came of it as JSON."""

import copy
import json
import os
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.db import initdb
from airflow.utils.session import create_session

initdb()
dag = DagBag().dags["feature_engineering"]
# Without Redis, the task that may ask for it is enough: the others only take longer.
shown = dag.partial_subset("check_redis", include_upstream=True)
source = os.environ["PROBE_INPUT"]
runs = []
for part, save_to_db in ((shown, False), (dag, True)):
    run = part.test(logical_date=None, run_conf={"input_path": source, "save_to_db": save_to_db})
    with create_session() as session:
        query = XComModel.get_many(run_id=run.run_id, task_ids="process_and_save_features", key="return_value")
        returned = session.scalars(query).first()
        result = XComModel.deserialize_value(returned) if returned else None
    states = {ti.task_id: ti.state for ti in run.get_task_instances() if ti.state} | {"run": run.state}
    runs.append({"states": states, "result": result, "run_after": run.run_after.strftime("%Y%m%dT%H%M%S")})

good = {"save_to_db": True, "input_path": "data/raw"}
bad = ({"save_to_db": "perhaps"}, {"save_to_db": None}, {"input_path": ""}, {"input_path": 7})
refused = []
for conf in (good, *bad):
    params = copy.deepcopy(dag.params)
    try:
        params.update(conf)
        params.validate()
    except ParamValidationError:
        refused.append(conf)

Path(os.environ["PROBE_RESULT"]).write_text(json.dumps({"runs": runs, "refused": refused}))
