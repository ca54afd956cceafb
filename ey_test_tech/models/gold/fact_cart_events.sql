{{ config(materialized='view') }}
{%- set event_columns = [
    'event_id', 'cart_id', 'user_id', 'event_type', 'snapshot_size', 'event_at', 'generation',
    'sequence', 'published_date',
] | join(',\n        events.') %}

with

events as (

    select * from {{ ref('stg_cart_events') }}

),

lines as (

    -- each event once without a line: a cart may be empty
    select
        events.{{ event_columns }},
        false as is_after,
        cast(null as string) as product,
        cast(null as string) as quantity
    from events
    union all
    select
        events.{{ event_columns }},
        true as is_after,
        json_value(line, '$.productId') as product,
        json_value(line, '$.quantity') as quantity
    from events
    cross join unnest(json_query_array(events.products)) as line
    union all
    select
        events.{{ event_columns }},
        false as is_after,
        json_value(line, '$.productId') as product,
        json_value(line, '$.quantity') as quantity
    from events
    cross join unnest(json_query_array(events.products_before)) as line

),

typed as (

    select
        * except (product, quantity),
        safe_cast(product as int64) as product_id,
        if(
            safe_cast(quantity as int64) between 1 and 1000000, safe_cast(quantity as int64), 0
        ) as quantity
    from lines

),

products as (

    select
        product_id,
        price,
        {{ known_period('product_id') | trim | indent(8) }}
    from {{ ref('dim_products') }}
    where product_id is not null

),

priced as (

    -- both sides at the prices of the event's moment: the difference is the cart's doing
    select
        typed.*,
        cast(typed.quantity * coalesce(products.price, 0) as numeric) as value
    from typed
    left join products
        on typed.product_id = products.product_id
        and typed.event_at >= products.known_from
        and typed.event_at < products.known_to

)

select
    event_id,
    cart_id,
    user_id,
    event_type,
    snapshot_size is not null as is_snapshot,
    event_at,
    date(event_at) as date_day,
    generation,
    sequence,
    sum(if(is_after, 0, quantity)) as units_before,
    sum(if(is_after, quantity, 0)) as units_after,
    sum(if(is_after, 0, value)) as value_before,
    sum(if(is_after, value, 0)) as value_after,
    published_date
from priced
group by
    event_id,
    cart_id,
    user_id,
    event_type,
    snapshot_size,
    event_at,
    generation,
    sequence,
    published_date
