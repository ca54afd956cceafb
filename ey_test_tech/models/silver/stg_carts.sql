{{ config(materialized='table') }}
{%- set window = rebuild_window('read_until') %}

with

new_events as (

    select
        cart_id,
        user_id,
        cart_at,
        products,
        event_id,
        event_type,
        event_at,
        generation,
        sequence,
        published_date
    from {{ ref('stg_cart_events') }}
    where {{ in_window('published_date', window) }}

),

known_and_new as (

    select * from new_events
    {% if has_earlier_rows() %}
    union all
    select
        cart_id,
        user_id,
        cart_at,
        products,
        event_id,
        event_type,
        changed_at,
        generation,
        sequence,
        published_date
    from {{ this }}
    {% endif %}

),

latest_events as (

    -- never by arrival: a late event of an older state must not win
    select *
    from known_and_new
    qualify
        row_number() over (
            partition by cart_id
            order by generation desc, sequence desc, event_at desc, event_id
        ) = 1

),

complete_generations as (

    select *
    from {{ ref('stg_cart_generations') }}
    where is_complete

),

superseded as (

    -- a complete newer snapshot that does not hold the cart: it was deleted unseen
    select
        latest_events.cart_id,
        min(complete_generations.snapshot_at) as superseded_at
    from latest_events
    inner join complete_generations
        on latest_events.generation < complete_generations.generation
    group by latest_events.cart_id

)

select
    latest_events.* except (event_at),
    latest_events.event_at as changed_at,
    superseded.cart_id is not null as is_superseded,
    latest_events.event_type = 'deleted' or superseded.cart_id is not null as is_deleted,
    if(
        latest_events.event_type = 'deleted',
        latest_events.event_at,
        superseded.superseded_at
    ) as deleted_at,
    coalesce(
        (select max(published_date) from new_events),
        date '{{ window.start }}'
    ) as read_until
from latest_events
left join superseded
    on latest_events.cart_id = superseded.cart_id
