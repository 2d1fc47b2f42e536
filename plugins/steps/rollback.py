"""The way back, as a command: one table or one model."""

from __future__ import annotations

from shortlist.errors import PublishError
from shortlist.settings import load_settings
from steps import hand_over, models


def roll_back(*, view: str, model: str) -> str:
    """Serve the generation before of a view, or make the champion before of a model the champion again.

    The settings file is read for a model only: tables go back even when it is broken.

    Args:
        view: Such as `personal_recs`, or "".
        model: `recommender`, `ranker`, or "".

    Returns:
        What was done, one sentence for people.

    Raises:
        PublishError: Unless it is exactly one of them, and there is something to go back to.
        ModelVersionError: If there is no earlier champion.
    """
    if bool(view) == bool(model):
        raise PublishError(
            f"roll back which? Either a table, VIEW=personal_recs, or a model, MODEL={' or '.join(models.MODELS)}"
        )
    if view:
        result = hand_over.roll_back(view=view)
        return (
            f"{result['dataset']} shows generation {result['to']} of the week {result['week']} again"
            f" (run {result['run_key']}) instead of generation {result['from']}."
        )
    champion = models.roll_back_model(settings=load_settings(), model=model)
    return f"{champion.version} is the champion {model} again: {champion.reason}. The tables that are served stay."
