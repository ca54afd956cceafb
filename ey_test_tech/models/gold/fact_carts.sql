{{ config(cluster_by=['cart_id']) }}

with

carts as (

    select *
    from {{ ref('stg_carts') }}
    where not is_deleted

),

lines as (

    select
        cart_id,
        count(*) as cart_lines,
        sum(quantity) as units,
        sum(line_total) as value,
        countif(unit_price is null) as lines_without_price
    from {{ ref('fact_cart_items') }}
    group by cart_id

)

select
    carts.cart_id,
    carts.user_id,
    coalesce(date(carts.cart_at), date '1900-01-01') as date_day,
    coalesce(lines.cart_lines, 0) as cart_lines,
    coalesce(lines.units, 0) as units,
    coalesce(lines.value, 0) as value,
    coalesce(lines.lines_without_price, 0) as lines_without_price,
    carts.changed_at as cart_changed_at
from carts
left join lines
    on carts.cart_id = lines.cart_id
