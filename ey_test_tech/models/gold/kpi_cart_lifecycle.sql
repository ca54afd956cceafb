with

events as (

    select
        event_date as day,
        sum(snapshot_events) as snapshot_carts,
        sum(created) as created_carts,
        sum(modified) as modifications,
        sum(deleted) as deleted_carts
    from {{ ref('stg_cart_days') }}
    group by day

),

superseded as (

    select
        date(deleted_at) as day,
        count(*) as superseded_carts
    from {{ ref('stg_carts') }}
    where is_superseded and event_type != 'deleted'
    group by day

),

turns as (

    select
        *,
        lag(event_type) over (
            partition by cart_id order by generation, sequence, event_id
        ) as event_type_before
    from {{ ref('stg_cart_lifecycle_events') }}

),

lives as (

    -- a snapshot's created event begins no life where the cart was known to exist; where it
    -- does begin one, the cart is older than its event, and the life's length is not known
    select
        *,
        last_value(
            if(
                event_type = 'created'
                and (snapshot_size is null or coalesce(event_type_before, 'deleted') = 'deleted'),
                struct(event_at as created_at, snapshot_size is not null as is_older),
                null
            )
            ignore nulls
        ) over (
            partition by cart_id order by generation, sequence, event_id
            rows between unbounded preceding and current row
        ) as birth
    from turns

),

lengths as (

    select
        date(event_at) as day,
        count(*) as whole_lives,
        avg(timestamp_diff(event_at, birth.created_at, second)) as average_seconds
    from lives
    where
        event_type = 'deleted'
        and not birth.is_older
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
    round(cast(lengths.average_seconds / 3600 as numeric), 2) as average_life_hours
from days
left join events on days.day = events.day
left join superseded on days.day = superseded.day
left join lengths on days.day = lengths.day
