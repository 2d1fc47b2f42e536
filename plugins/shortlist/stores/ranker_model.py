"""How MLflow loads a logged ranker. This file and what it imports travel with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shortlist.recommender import ranking

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from catboost import CatBoost
    from numpy.typing import NDArray


class RankerModel:
    """Scores candidates exactly as the pipeline does: a rank that is missing counts as the last one."""

    def __init__(self, model: CatBoost) -> None:
        self._model = model

    def predict(self, candidates: pd.DataFrame) -> NDArray[np.float64]:
        """Score candidates, larger is better.

        Args:
            candidates: One row a candidate, with the features of the signature; other columns are ignored.
        """
        import numpy as np

        names = tuple(self._model.feature_names_)
        return ranking.predict(self._model, candidates[list(names)].to_numpy(np.float32), names)


def _load_pyfunc(path: str) -> RankerModel:
    from catboost import CatBoost

    return RankerModel(CatBoost().load_model(path))
