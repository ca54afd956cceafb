{#
    The records of an entity's complete batch runs: one row per record and run. With a `window` of
    {start, end}, of the runs of those days only, read from bronze by literals.
#}
{% macro records_of(entity, key, window=none) %}
with

records as (

    select *
    from {{ ref('base_' ~ entity) }}
    where
        {%- if window %}
        {{ in_window('ingested_at', window, 'timestamp') }}
        and
        {%- endif %}
        rejected_reason is null

),

complete_runs as (

    select *
    from {{ ref('stg_entity_runs') }}
    where
        {%- if window %}
        {{ in_window('ingested_date', window) }}
        and
        {%- endif %}
        entity = '{{ entity }}'
        and is_complete

)

select
    records.* except (ingested_at, rejected_reason),
    complete_runs.observed_at,
    complete_runs.ingested_date
from records
inner join complete_runs
    on records.run_id = complete_runs.run_id
qualify
    row_number() over (
        partition by records.run_id, records.{{ key }}
        order by records.ingested_at, to_json_string(records)
    ) = 1
{%- endmacro %}
