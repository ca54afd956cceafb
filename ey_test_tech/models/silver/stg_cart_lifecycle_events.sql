{{ config(materialized='view') }}

select
    event_id,
    cart_id,
    event_type,
    event_at,
    generation,
    sequence,
    snapshot_size,
    published_date
from {{ ref('int_cart_history') }}
where event_type in ('created', 'deleted')
