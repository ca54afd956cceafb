-- every table on the carts' value adds up to the same total, and has each of its keys once
with

totals as (

    select
        'fact_cart_items' as name,
        coalesce(sum(quantity), 0) as units,
        coalesce(sum(line_total), 0) as value,
        0 as repeated_keys
    from {{ ref('fact_cart_items') }}
    {%- for table, key in {
        'fact_carts': 'cart_id',
        'kpi_days': 'date_day',
        'kpi_products': 'product_id',
        'kpi_categories': 'category',
        'kpi_users': 'coalesce(user_id, -1)',
    }.items() %}
    union all
    select
        '{{ table }}' as name,
        coalesce(sum(units), 0) as units,
        coalesce(sum(value), 0) as value,
        count(*) - count(distinct {{ key }}) as repeated_keys
    from {{ ref(table) }}
    {%- endfor %}

),

compared as (

    select
        *,
        min(units) over () = max(units) over () and min(value) over () = max(value) over () as agree
    from totals

)

select *
from compared
where
    not agree
    or repeated_keys > 0
