{#
    dbt compares a model's columns with its contract by a query of its own, which BigQuery would
    bill, each time. So only the target `local` asks it, and so every test: what it compares
    does not depend on the data, and BigQuery holds a table to the contract by its column list.
#}
{% macro bigquery__get_assert_columns_equivalent(sql) %}
    {%- if target.name == 'local' -%}
    {{ assert_columns_equivalent(sql) }}
    {%- endif -%}
{% endmacro %}
