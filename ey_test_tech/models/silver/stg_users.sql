{{ config(
    partition_by={'field': 'ingested_date', 'data_type': 'date'},
    cluster_by=['user_id']
) }}
{%- set window = rebuild_window('ingested_date') %}

with

records as (

    select *
    from {{ ref('base_users') }}
    where
        {{ in_window('ingested_at', window, 'timestamp') }}
        and rejected_reason is null

),

complete_runs as (

    select *
    from {{ ref('stg_entity_runs') }}
    where
        {{ in_window('ingested_date', window) }}
        and entity = 'users'
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
        partition by records.run_id, records.user_id
        order by records.ingested_at, to_json_string(records)
    ) = 1
