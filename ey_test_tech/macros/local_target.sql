{#
    Three of dbt-bigquery's macros for the target `local` only, because bqemulator does not know
    column definitions in CREATE TABLE ... AS, dbt's schema changes, and grants. BigQuery gets
    dbt-bigquery's own.
#}
{% macro bigquery__get_table_columns_and_constraints() %}
    {%- if target.name != 'local' -%}
    {{ default__get_table_columns_and_constraints() }}
    {%- endif -%}
{% endmacro %}

{% macro bigquery__alter_relation_add_remove_columns(relation, add_columns, remove_columns) %}
    {% if target.name != 'local' %}
        {% do adapter.alter_table_add_remove_columns(relation, add_columns, remove_columns) %}
    {% else %}
        {% for column in add_columns or [] %}
            {% set definition = column.name ~ ' ' ~ column.data_type %}
            {% do run_query('alter table ' ~ relation ~ ' add column ' ~ definition) %}
        {% endfor %}
        {% for column in remove_columns or [] %}
            {% do run_query('alter table ' ~ relation ~ ' drop column ' ~ column.name) %}
        {% endfor %}
    {% endif %}
{% endmacro %}

{% macro bigquery__apply_grants(relation, grant_config, should_revoke=True) %}
    {% if target.name != 'local' %}
        {{ default__apply_grants(relation, grant_config, should_revoke) }}
    {% endif %}
{% endmacro %}
