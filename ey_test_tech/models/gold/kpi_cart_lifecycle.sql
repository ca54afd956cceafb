with

events as (

    select
        event_date as day,
        sum(snapshot_events) as snapshot_carts,
        sum(created) as created_carts,
        sum(modified) as modifications,
        sum(deleted) as deleted_carts
    from {{ ref('stg_cart_days') }}
    where events > 0
    group by day

),

lives as (

    select * from {{ ref('stg_cart_lives') }}

),

superseded as (

    select
        date(superseded_at) as day,
        count(*) as superseded_carts
    from lives
    where superseded_at is not null
    group by day

),

lengths as (

    select
        date(deleted_at) as day,
        count(*) as whole_lives,
        -- of an hour, in whole numbers, so that nothing is rounded twice
        div(
            (sum(timestamp_diff(deleted_at, first_seen_at, microsecond)) + 18000000 * count(*)),
            (36000000 * count(*))
        ) as hundredths
    from lives
    where
        is_birth_seen
        and deleted_at is not null
    group by day

),

days as (

    select day from events
    union distinct
    select day from superseded

)

select
    days.day,
    coalesce(events.snapshot_carts, 0) as snapshot_carts,
    coalesce(events.created_carts, 0) as created_carts,
    coalesce(events.modifications, 0) as modifications,
    coalesce(events.deleted_carts, 0) as deleted_carts,
    coalesce(superseded.superseded_carts, 0) as superseded_carts,
    coalesce(lengths.whole_lives, 0) as whole_lives,
    cast(lengths.hundredths as numeric) / 100 as average_life_hours
from days
left join events on days.day = events.day
left join superseded on days.day = superseded.day
left join lengths on days.day = lengths.day
