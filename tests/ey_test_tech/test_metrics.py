"""The semantic layer: `dbt parse` accepts it, and its expressions are columns of gold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.googlesql import GoogleSql

if TYPE_CHECKING:
    from tests.support.dbt_fixtures import History

pytest_plugins = ["tests.support.dbt_fixtures"]
pytestmark = pytest.mark.timeout(1200)

FUNCTIONS = {"sum": "sum({})", "count": "count({})", "count_distinct": "count(distinct {})"}


def test_the_time_spine_is_the_date_dimension(history: History) -> None:
    spines = {
        name.split(".")[-1]: model["time_spine"]["standard_granularity_column"]
        for name, model in history.manifest["nodes"].items()
        if model.get("time_spine")
    }
    assert spines == {"dim_dates": "date_day"}


def test_every_expression_is_one_of_its_table(history: History) -> None:
    """`dbt parse` reads names only: a column that is not there would fail at the analyst's."""
    manifest = history.manifest
    analyser = GoogleSql()
    for node in manifest["nodes"].values():
        if node["resource_type"] == "model":
            columns = [(c["name"], c["data_type"] or "STRING") for c in node["columns"].values()]
            analyser.add_table(f"p.d.{node['name']}", columns)
    asked = 0
    for semantic_model in manifest["semantic_models"].values():
        table = f"`p`.`d`.`{semantic_model['node_relation']['alias']}`"
        plain = [
            part["expr"] or part["name"]
            for part in semantic_model["entities"] + semantic_model["dimensions"]
        ]
        measures = [
            FUNCTIONS[measure["agg"]].format(measure["expr"] or measure["name"])
            for measure in semantic_model["measures"]
        ]
        for expression in plain + measures:
            analyser.analyse(f"select {expression} from {table}")
            asked += 1
    assert asked > 20


def test_every_measure_is_used_by_a_metric(history: History) -> None:
    semantic_models = history.manifest["semantic_models"].values()
    measures = {measure["name"] for model in semantic_models for measure in model["measures"]}
    simple = {
        metric["type_params"]["measure"]["name"]
        for metric in history.manifest["metrics"].values()
        if metric["type"] == "simple"
    }
    assert measures == simple


def test_the_average_cart_value_is_a_ratio_of_sums(history: History) -> None:
    metric = history.manifest["metrics"]["metric.ey_test_tech.average_cart_value"]
    assert metric["type"] == "ratio"
    assert metric["type_params"]["numerator"]["name"] == "cart_value"
    assert metric["type_params"]["denominator"]["name"] == "carts"
