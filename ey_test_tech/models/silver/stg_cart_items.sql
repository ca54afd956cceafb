{{ config(materialized='view') }}

with

carts as (

    select *
    from {{ ref('stg_carts') }}
    where not is_deleted

)

select
    carts.cart_id,
    line_offset + 1 as line_number,
    carts.user_id,
    safe_cast(json_value(line, '$.productId') as int64) as product_id,
    safe_cast(json_value(line, '$.quantity') as int64) as quantity,
    date(carts.cart_at) as cart_date,
    carts.changed_at
from carts
cross join unnest(json_query_array(carts.products)) as line with offset as line_offset
