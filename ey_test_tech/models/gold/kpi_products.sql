with

items as (

    select * from {{ ref('fact_cart_items') }}

),

totals as (

    select
        product_id,
        count(distinct cart_id) as carts,
        count(*) as cart_lines,
        sum(quantity) as units,
        coalesce(sum(line_total), 0) as value
    from items
    group by product_id

),

products as (

    select *
    from {{ ref('dim_products') }}
    where
        is_current
        and product_id is not null

)

select
    coalesce(products.product_id, totals.product_id) as product_id,
    coalesce(products.title, 'unknown') as title,
    coalesce(products.category, 'unknown') as category,
    products.price as list_price,
    coalesce(products.is_listed, false) as is_listed,
    coalesce(totals.carts, 0) as carts,
    coalesce(totals.cart_lines, 0) as cart_lines,
    coalesce(totals.units, 0) as units,
    coalesce(totals.value, 0) as value
from products
full outer join totals
    on products.product_id = totals.product_id
