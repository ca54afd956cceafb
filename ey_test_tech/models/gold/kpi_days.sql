with

items as (

    select * from {{ ref('fact_cart_items') }}

)

select
    date_day,
    count(distinct cart_id) as carts,
    count(*) as cart_lines,
    sum(quantity) as units,
    coalesce(sum(line_total), 0) as value,
    countif(unit_price is null) as lines_without_price
from items
group by date_day
