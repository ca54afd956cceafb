with

carts as (

    select * from {{ ref('fact_carts') }}

)

select
    date_day,
    count(*) as carts,
    sum(cart_lines) as cart_lines,
    sum(units) as units,
    sum(value) as value,
    sum(lines_without_price) as lines_without_price
from carts
group by date_day
