{{ config(cluster_by=['cart_id']) }}

with

items as (

    select * from {{ ref('stg_cart_items') }}

),

products as (

    select
        product_key,
        product_id,
        price,
        {{ known_period('product_id') | trim | indent(8) }}
    from {{ ref('dim_products') }}
    where product_id is not null

),

users as (

    select
        user_key,
        user_id,
        {{ known_period('user_id') | trim | indent(8) }}
    from {{ ref('dim_users') }}
    where user_id is not null

)

select
    concat(cast(items.cart_id as string), '-', cast(items.line_number as string)) as cart_item_key,
    items.cart_id,
    items.line_number,
    items.user_id,
    coalesce(users.user_key, 'unknown') as user_key,
    items.product_id,
    coalesce(products.product_key, 'unknown') as product_key,
    coalesce(items.cart_date, date '1900-01-01') as date_day,
    items.quantity,
    products.price as unit_price,
    cast(items.quantity * products.price as numeric) as line_total,
    items.changed_at as cart_changed_at
from items
left join products
    on items.product_id = products.product_id
    and items.changed_at >= products.known_from
    and items.changed_at < products.known_to
left join users
    on items.user_id = users.user_id
    and items.changed_at >= users.known_from
    and items.changed_at < users.known_to
