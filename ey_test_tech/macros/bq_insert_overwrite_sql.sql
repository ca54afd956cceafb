{#
    Replaces dbt-bigquery's macro of this name. dbt reads `config(partitions=...)` when it parses
    the project, before the run can know which days it rebuilds; and without `partitions` it
    would find them by a script over a temporary table. Here they are the literals of
    rebuild_window: the MERGE deletes and inserts those partitions and touches no other.
#}
{% macro bq_insert_overwrite_sql(
    tmp_relation, target_relation, sql, unique_key, partition_by, partitions, dest_columns,
    tmp_relation_exists, copy_partitions
) %}
    {%- set window = rebuild_window(partition_by.field) -%}
    {%- set predicate = in_window('DBT_INTERNAL_DEST.' ~ partition_by.field, window) -%}
    {%- set source_sql = 'select * from ' ~ tmp_relation if tmp_relation_exists else sql -%}
    {{ get_insert_overwrite_merge_sql(
        target_relation, '(' ~ source_sql ~ ')', dest_columns, [predicate],
        include_sql_header=not tmp_relation_exists
    ) }}
{% endmacro %}
