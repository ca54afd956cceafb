with

carts as (

    select * from {{ ref('fact_carts') }}

),

totals as (

    select
        count(*) as carts,
        coalesce(sum(cart_lines), 0) as cart_lines,
        coalesce(sum(units), 0) as units,
        coalesce(sum(value), 0) as value,
        min(if(date_day = date '1900-01-01', null, date_day)) as first_cart_date,
        max(if(date_day = date '1900-01-01', null, date_day)) as last_cart_date
    from carts

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
