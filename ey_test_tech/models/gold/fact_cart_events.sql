{{ config(materialized='view') }}

with

events as (

    select * from {{ ref('stg_cart_events') }}

),

lines as (

    select
        events.event_id,
        events.event_at,
        true as is_after,
        line
    from events
    cross join unnest(json_query_array(events.products)) as line
    union all
    select
        events.event_id,
        events.event_at,
        false as is_after,
        line
    from events
    cross join unnest(json_query_array(events.products_before)) as line

),

typed as (

    select
        event_id,
        event_at,
        is_after,
        safe_cast(json_value(line, '$.productId') as int64) as product_id,
        safe_cast(json_value(line, '$.quantity') as int64) as quantity
    from lines

),

products as (

    select
        product_id,
        price,
        if(
            row_number() over (partition by product_id order by valid_from) = 1,
            timestamp '0001-01-01',
            valid_from
        ) as known_from,
        coalesce(valid_to, timestamp '9999-12-31') as known_to
    from {{ ref('dim_products') }}
    where product_id is not null

),

valued as (

    -- both sides at the prices of the event's moment: the difference is the cart's doing
    select
        typed.event_id,
        sum(if(typed.is_after, 0, typed.quantity)) as units_before,
        sum(if(typed.is_after, typed.quantity, 0)) as units_after,
        sum(if(typed.is_after, 0, typed.quantity * products.price)) as value_before,
        sum(if(typed.is_after, typed.quantity * products.price, 0)) as value_after
    from typed
    left join products
        on typed.product_id = products.product_id
        and typed.event_at >= products.known_from
        and typed.event_at < products.known_to
    where typed.quantity between 1 and 1000000
    group by typed.event_id

)

select
    events.event_id,
    events.cart_id,
    events.user_id,
    events.event_type,
    events.snapshot_size is not null as is_snapshot,
    events.event_at,
    date(events.event_at) as date_day,
    events.generation,
    events.sequence,
    coalesce(valued.units_before, 0) as units_before,
    coalesce(valued.units_after, 0) as units_after,
    coalesce(cast(valued.value_before as numeric), 0) as value_before,
    coalesce(cast(valued.value_after as numeric), 0) as value_after,
    events.published_date
from events
left join valued
    on events.event_id = valued.event_id
