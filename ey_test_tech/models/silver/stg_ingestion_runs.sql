{{ config(materialized='view') }}

with

runs as (

    select * from {{ source('bronze', 'ingestion_runs') }}

)

-- a run that failed and was resumed has two rows: what counts is that it was loaded
select
    run_id,
    entity,
    records,
    quarantined,
    `bytes` as object_bytes,
    started_at,
    finished_at,
    status,
    replayed_run_id
from runs
qualify
    row_number() over (
        partition by run_id, entity
        order by status = 'loaded' desc, finished_at desc, job_id
    ) = 1
