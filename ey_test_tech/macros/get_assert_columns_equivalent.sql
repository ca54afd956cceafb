{#
    dbt compares a model's columns with its contract by a query of its own. For a table BigQuery
    does so itself, by the column list of CREATE TABLE, and would only bill the query again;
    bqemulator gets no such list (local_target.sql), and a view has none.
#}
{% macro bigquery__get_assert_columns_equivalent(sql) %}
    {%- if target.name == 'local' or config.get('materialized') == 'view' -%}
    {{ assert_columns_equivalent(sql) }}
    {%- endif -%}
{% endmacro %}
