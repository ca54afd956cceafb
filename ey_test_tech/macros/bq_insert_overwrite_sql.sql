{#
    Replaces dbt-bigquery's macro of this name. The days that a run replaces are found once, when
    the model's SQL is written (rebuild_window), and stand as literals in its first line; they are
    read from there, so that what is deleted is what was read, whatever another dbt writes to the
    table in between. One transaction replaces those days whole or not at all and touches no other
    partition; without a temporary table, whose name two runs would share. dbt's own MERGE on a
    false condition would do the same in BigQuery, but bqemulator compares every row with every
    row for it.
#}
{% macro bq_insert_overwrite_sql(
    tmp_relation, target_relation, sql, unique_key, partition_by, partitions, dest_columns,
    tmp_relation_exists, copy_partitions
) %}
    {%- set days = modules.re.search('-- days ([0-9-]+) to ([0-9-]+)', sql) -%}
    {%- set window = {'start': days.group(1), 'end': days.group(2)} -%}
    {%- set columns = dest_columns | map(attribute='name') | list -%}
    {%- if (columns | sort) != (model.columns | sort) -%}
        {% do exceptions.raise_compiler_error(
            target_relation ~ ' has other columns than the model: run dbt build --full-refresh'
        ) %}
    {%- endif -%}
    begin transaction;
    delete from {{ target_relation }}
    where {{ in_window(partition_by.field, window) }};
    insert into {{ target_relation }} ({{ get_quoted_csv(columns) }})
    select {{ get_quoted_csv(columns) }}
    from ({{ sql }});
    commit transaction;
{% endmacro %}
