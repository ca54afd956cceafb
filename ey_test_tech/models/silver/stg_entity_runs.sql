{{ config(partition_by={'field': 'ingested_date', 'data_type': 'date'}) }}
{%- set window = window_of_new_runs(['products', 'users', 'carts']) %}
-- days {{ window.start }} to {{ window.end }}

with

runs as (

    select *
    from {{ ref('stg_ingestion_runs') }}
    where
        status = 'loaded'
        and {{ in_window('started_at', window, 'timestamp') }}
        and entity in ('products', 'users', 'carts')

),

records as (

    select 'products' as entity, run_id, rejected_reason
    from {{ ref('base_products') }}
    where {{ in_window('ingested_at', window, 'timestamp') }}
    union all
    select 'users' as entity, run_id, rejected_reason
    from {{ ref('base_users') }}
    where {{ in_window('ingested_at', window, 'timestamp') }}
    union all
    select 'carts' as entity, run_id, rejected_reason
    from {{ ref('base_carts') }}
    where {{ in_window('ingested_at', window, 'timestamp') }}

),

counted as (

    select
        entity,
        run_id,
        count(*) as loaded_records,
        countif(rejected_reason is not null) as rejected_records
    from records
    group by entity, run_id

),

joined as (

    select
        runs.entity,
        runs.run_id,
        runs.started_at as observed_at,
        date(runs.started_at) as ingested_date,
        coalesce(counted.loaded_records, 0) as loaded_records,
        coalesce(counted.rejected_records, 0) as rejected_records,
        runs.records as announced_records,
        runs.quarantined as quarantined_records,
        runs.replayed_run_id is not null as is_replay
    from runs
    left join counted
        on runs.run_id = counted.run_id
        and runs.entity = counted.entity

)

select
    *,
    loaded_records >= announced_records as is_complete,
    -- only a run that lost nothing on the way can say that a record is gone
    loaded_records >= announced_records
    and not is_replay
    and quarantined_records = 0
    and rejected_records = 0 as shows_absence
from joined
