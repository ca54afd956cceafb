with

runs as (

    select * from {{ ref('stg_ingestion_runs') }}

),

loaded as (

    select
        entity,
        max(finished_at) as loaded_at
    from runs
    where status = 'loaded'
    group by entity

),

latest as (

    select *
    from runs
    qualify row_number() over (partition by entity order by started_at desc, run_id) = 1

)

select
    latest.entity,
    latest.run_id,
    latest.status,
    latest.records,
    latest.quarantined,
    latest.object_bytes,
    latest.started_at,
    latest.finished_at,
    loaded.loaded_at
from latest
left join loaded on latest.entity = loaded.entity
