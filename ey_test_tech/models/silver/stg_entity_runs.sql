{{ config(partition_by={'field': 'ingested_date', 'data_type': 'date'}) }}
{%- set window = rebuild_window('ingested_date') %}

with

records as (

    select 'products' as entity, run_id, ingested_at, rejected_reason
    from {{ ref('base_products') }}
    where {{ in_window('ingested_at', window, 'timestamp') }}
    union all
    select 'users' as entity, run_id, ingested_at, rejected_reason
    from {{ ref('base_users') }}
    where {{ in_window('ingested_at', window, 'timestamp') }}

),

counted as (

    select
        entity,
        run_id,
        min(ingested_at) as observed_at,
        count(*) as loaded_records,
        countif(rejected_reason is not null) as rejected_records
    from records
    group by entity, run_id

),

runs as (

    select *
    from {{ ref('stg_ingestion_runs') }}
    where status = 'loaded'

)

select
    counted.entity,
    counted.run_id,
    counted.observed_at,
    date(counted.observed_at) as ingested_date,
    counted.loaded_records,
    counted.rejected_records,
    runs.records as announced_records,
    coalesce(counted.loaded_records >= runs.records, false) as is_complete,
    -- only a run that lost nothing on the way can say that a record is gone
    coalesce(
        counted.loaded_records >= runs.records
        and runs.quarantined = 0
        and counted.rejected_records = 0,
        false
    ) as shows_absence
from counted
left join runs
    on counted.run_id = runs.run_id
    and counted.entity = runs.entity
