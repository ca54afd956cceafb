{{ config(materialized='view') }}

with

history as (

    select * from {{ ref('int_cart_history') }}

),

snapshots as (

    -- what was rejected of a snapshot has arrived too
    select *
    from history
    where
        event_type in ('created', 'rejected')
        and snapshot_size is not null

),

counted as (

    select
        generation,
        max(snapshot_size) as snapshot_size,
        count(distinct coalesce(cast(cart_id as string), event_id)) as carts_arrived,
        count(distinct if(event_type = 'rejected', event_id, null)) as carts_rejected,
        min(published_date) as first_published_date,
        coalesce(min(event_at), timestamp(min(published_date))) as snapshot_at
    from snapshots
    group by generation

),

last_events as (

    select
        generation,
        max(event_at) as last_event_at
    from history
    where event_type = 'day'
    group by generation

),

ranked as (

    select
        counted.*,
        last_events.last_event_at,
        counted.carts_arrived >= counted.snapshot_size as is_complete,
        max(if(counted.carts_arrived >= counted.snapshot_size, counted.generation, null)) over ()
            as newest_complete
    from counted
    left join last_events
        on counted.generation = last_events.generation

)

select
    * except (newest_complete),
    coalesce(newest_complete > generation, false) as is_superseded,
    -- two machines do not have the same second
    coalesce(
        newest_complete > generation
        and last_event_at > timestamp_add(
            max(if(generation = newest_complete, snapshot_at, null)) over (),
            interval 10 second
        ),
        false
    ) as goes_on_superseded
from ranked
