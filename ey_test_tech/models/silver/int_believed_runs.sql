{{ config(materialized='view') }}

with

runs as (

    select * from {{ ref('stg_entity_runs') }}

),

sizes as (

    select
        entity,
        run_id,
        announced_records + quarantined_records as records,
        lag(announced_records + quarantined_records) over (
            partition by entity order by observed_at, run_id
        ) as records_before
    from runs
    where
        is_complete
        and not is_replay

),

compared as (

    -- more than 30 % and more than 2 fewer, as the carts' gate has it
    select
        entity,
        run_id,
        records_before - records > 2
        and (records_before - records) * 10 > records_before * 3 as has_far_fewer
    from sizes

)

select
    runs.* except (shows_absence),
    coalesce(compared.has_far_fewer, false) as has_far_fewer,
    runs.shows_absence and not coalesce(compared.has_far_fewer, false) as shows_absence
from runs
left join compared
    on runs.entity = compared.entity
    and runs.run_id = compared.run_id
