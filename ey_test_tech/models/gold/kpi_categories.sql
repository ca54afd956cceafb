with

items as (

    select * from {{ ref('fact_cart_items') }}

),

products as (

    select * from {{ ref('dim_products') }}

)

-- the category that the product had when the cart last changed
select
    products.category,
    count(distinct items.cart_id) as carts,
    count(*) as cart_lines,
    sum(items.quantity) as units,
    coalesce(sum(items.line_total), 0) as value
from items
inner join products
    on items.product_key = products.product_key
group by products.category
