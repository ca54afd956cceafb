with

runs as (

    select
        date(started_at) as day,
        count(*) as runs,
        countif(status != 'loaded') as failed_runs,
        sum(if(status = 'loaded', records, 0)) as records,
        sum(quarantined) as quarantined
    from {{ ref('stg_ingestion_runs') }}
    group by day

),

entity_runs as (

    select
        ingested_date as day,
        countif(not is_complete) as incomplete_runs,
        countif(has_far_fewer) as doubted_runs,
        sum(rejected_records) as rejected_records
    from {{ ref('int_believed_runs') }}
    group by day

),

events as (

    select
        published_date as day,
        sum(deliveries) as deliveries,
        sum(events) as events,
        sum(duplicates) as duplicates,
        sum(rejected) as rejected_events,
        sum(lag_milliseconds) as lag_milliseconds,
        max(max_lag_milliseconds) as max_lag_milliseconds
    from {{ ref('stg_cart_days') }}
    group by day

),

snapshots as (

    select
        first_published_date as day,
        count(*) as incomplete_snapshots,
        sum(snapshot_size - carts_arrived) as missing_snapshot_carts
    from {{ ref('stg_cart_generations') }}
    where
        not is_complete
        and not is_superseded
    group by day

),

verified as (

    select
        date(observed_at) as day,
        max(if(is_verified, observed_at, null)) as verified_through,
        sum(drifting) as drifting_carts
    from {{ ref('cart_verification') }}
    group by day

),

days as (

    select day from runs
    union distinct
    select day from events

)

select
    days.day,
    coalesce(runs.runs, 0) as runs,
    coalesce(runs.failed_runs, 0) as failed_runs,
    coalesce(entity_runs.incomplete_runs, 0) as incomplete_runs,
    coalesce(entity_runs.doubted_runs, 0) as doubted_runs,
    coalesce(runs.records, 0) as records,
    coalesce(runs.quarantined, 0) as quarantined,
    coalesce(entity_runs.rejected_records, 0) as rejected_records,
    coalesce(events.deliveries, 0) as deliveries,
    coalesce(events.events, 0) as events,
    coalesce(events.duplicates, 0) as duplicates,
    coalesce(events.rejected_events, 0) as rejected_events,
    coalesce(snapshots.incomplete_snapshots, 0) as incomplete_snapshots,
    coalesce(snapshots.missing_snapshot_carts, 0) as missing_snapshot_carts,
    verified.verified_through,
    coalesce(verified.drifting_carts, 0) as drifting_carts,
    round(cast(events.lag_milliseconds / nullif(events.events, 0) / 1000 as numeric), 3)
        as average_lag_seconds,
    round(cast(events.max_lag_milliseconds / 1000 as numeric), 3) as max_lag_seconds
from days
left join runs on days.day = runs.day
left join entity_runs on days.day = entity_runs.day
left join events on days.day = events.day
left join snapshots on days.day = snapshots.day
left join verified on days.day = verified.day
