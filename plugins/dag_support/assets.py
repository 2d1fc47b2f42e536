"""What the DAGs write, as Airflow assets: a DAG of one's own can be scheduled on any of them."""

from __future__ import annotations

from typing import Final

from airflow.sdk import Asset

INTERACTIONS: Final = Asset(name="interactions", uri="shortlist://files/interactions")
FUTURES: Final = Asset(name="futures", uri="shortlist://files/futures")
MODEL_VERSION: Final = Asset(name="model_version", uri="shortlist://models/recommender")
RANKER_VERSION: Final = Asset(name="ranker_version", uri="shortlist://models/ranker")
HAND_OVER: Final = Asset(name="hand_over", uri="shortlist://files/hand_over")
FEATURES: Final = Asset(name="features", uri="shortlist://served/features")
FEEDBACK: Final = Asset(name="feedback", uri="shortlist://files/feedback")
CATALOGUE: Final = Asset(name="catalogue", uri="shortlist://files/catalogue")
DATASET: Final = Asset(name="dataset", uri="shortlist://datasets/processed")
VIZ: Final = Asset(name="viz", uri="shortlist://datasets/viz")
PROPOSAL: Final = Asset(name="proposal", uri="shortlist://settings/proposal")


def served(dataset: str) -> Asset:
    """Return the asset of a table that readers see, such as `default_recs`."""
    return Asset(name=dataset, uri=f"shortlist://served/{dataset}")
