{{ config(materialized='view') }}

with

snapshots as (

    -- what was rejected of a snapshot has arrived too
    select *
    from {{ ref('int_cart_history') }}
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

)

select
    *,
    carts_arrived >= snapshot_size as is_complete,
    coalesce(
        max(if(carts_arrived >= snapshot_size, generation, null)) over () > generation,
        false
    ) as is_superseded
from counted
