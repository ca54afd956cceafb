{#
    Replaces dbt-bigquery's macro of this name. dbt reads `config(partitions=...)` when it parses
    the project, before the run can know which days it rebuilds; without `partitions` it would
    find them by a script. Here they are the literals of rebuild_window, replaced whole or not at
    all by one transaction; no other partition is touched. dbt's MERGE on a false condition would
    do the same in BigQuery, but bqemulator compares every row with every row for it.
#}
{% macro bq_insert_overwrite_sql(
    tmp_relation, target_relation, sql, unique_key, partition_by, partitions, dest_columns,
    tmp_relation_exists, copy_partitions
) %}
    {%- set columns = get_quoted_csv(dest_columns | map(attribute='name')) -%}
    begin transaction;
    delete from {{ target_relation }}
    where {{ in_window(partition_by.field, rebuild_window(partition_by.field)) }};
    insert into {{ target_relation }} ({{ columns }})
    select {{ columns }}
    from {{ tmp_relation if tmp_relation_exists else '(' ~ sql ~ ')' }};
    commit transaction;
{% endmacro %}
