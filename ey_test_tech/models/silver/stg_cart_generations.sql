{{ config(materialized='view') }}

with

snapshots as (

    select *
    from {{ ref('stg_cart_lifecycle_events') }}
    where snapshot_size is not null

)

select
    generation,
    max(snapshot_size) as snapshot_size,
    count(distinct cart_id) as carts_arrived,
    count(distinct cart_id) >= max(snapshot_size) as is_complete,
    min(event_at) as snapshot_at
from snapshots
group by generation
