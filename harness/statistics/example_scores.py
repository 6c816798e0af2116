"""Scores example by example: written beside each prediction, read again where methods are compared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.record import MetricValue, Record
from harness.statistics.significance import bootstrap_interval
from harness.store import Store, StoreError
from tasks import ExampleScore, Prediction

# No score is larger; the tests would overflow.
_LARGEST = 1e12
FEWEST_GROUPS = 50
"""With fewer pictures the bootstrap's intervals are too narrow, and it calls more than 5 % of ties different."""
Scores = Callable[[Record], Mapping[str, ExampleScore]]
"""What a record's predictions scored, by id of the example; empty where they hold no scores."""


def no_scores(record: Record) -> Mapping[str, ExampleScore]:
    """Of records without a store to read from."""
    return {}


def rows(predictions: Sequence[Prediction], scores: Mapping[str, ExampleScore]) -> list[dict[str, Any]]:
    """What is written of each prediction: its own fields, and where there is a score `score` and `group`."""
    return [dataclasses.asdict(prediction) | _columns(scores.get(prediction.id)) for prediction in predictions]


def with_interval(score: MetricValue, scores: Mapping[str, ExampleScore]) -> MetricValue:
    """The primary score with its 95 % interval over pictures, where it has none of its own and they are enough."""
    groups = [part.group for part in scores.values()]
    if score.value is None or score.ci95 is not None or len(set(groups)) < FEWEST_GROUPS:
        return score
    return score.model_copy(update={"ci95": bootstrap_interval([part.value for part in scores.values()], groups)})


def reader(store: Store) -> Scores:
    """Reads from the predictions beside each record of `store`; nothing is kept, as that may be millions of scores."""
    return functools.partial(_read, store)


def _columns(score: ExampleScore | None) -> dict[str, Any]:
    return {} if score is None else {"score": score.value, "group": score.group}


def _read(store: Store, record: Record) -> dict[str, ExampleScore]:
    if record.predictions is None:
        return {}
    lines = [line for line in store.rows(record, record.predictions) if "score" in line]
    try:
        return _scores(
            [line["id"] for line in lines], [line["group"] for line in lines], [float(line["score"]) for line in lines]
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        path = store.folder(record) / record.predictions.file
        raise StoreError(f"{path}: not what a run writes ({error!r}); run the cell again with --fresh") from None


def _scores(ids: list[Any], groups: list[Any], values: list[float]) -> dict[str, ExampleScore]:
    if not {*map(type, ids), *map(type, groups)} <= {str}:
        raise ValueError("an id or a group is no text")
    if not (np.abs(values) <= _LARGEST).all():
        raise ValueError("a score is no number of a usual size")
    # As ExampleScore(group, value) for each, which takes several times as long.
    scores = map(functools.partial(tuple.__new__, ExampleScore), zip(groups, values, strict=True))
    found = dict(zip(ids, scores, strict=True))
    if len(found) < len(ids):
        raise ValueError("an id comes twice")
    return found
