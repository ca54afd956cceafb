{{ config(materialized='table') }}
{%- set window = rebuild_window('read_until') %}

with

new_events as (

    select
        event_id,
        cart_id,
        event_type,
        event_at,
        generation,
        sequence,
        snapshot_size,
        published_date
    from {{ ref('stg_cart_events') }}
    where {{ in_window('published_date', window) }}

),

known_and_new as (

    select *
    from new_events
    where event_type in ('created', 'deleted')
    {% if has_earlier_rows() %}
    union all
    select * except (read_until)
    from {{ this }}
    where published_date < date '{{ window.start }}'
    {% endif %}

)

select
    *,
    coalesce(
        (select max(published_date) from new_events),
        date '{{ window.start }}'
    ) as read_until
from known_and_new
