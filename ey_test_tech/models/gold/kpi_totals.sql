with

items as (

    select * from {{ ref('fact_cart_items') }}

),

totals as (

    select
        count(distinct cart_id) as carts,
        count(*) as cart_lines,
        coalesce(sum(quantity), 0) as units,
        coalesce(sum(line_total), 0) as value,
        min(if(date_day = date '1900-01-01', null, date_day)) as first_cart_date,
        max(if(date_day = date '1900-01-01', null, date_day)) as last_cart_date
    from items

)

select
    carts,
    cart_lines,
    units,
    value,
    round(cast(value / nullif(carts, 0) as numeric), 2) as average_cart_value,
    first_cart_date,
    last_cart_date
from totals
