-- every KPI table that splits the carts' value adds up to the same total
with

totals as (

    select 'fact_cart_items' as name, sum(quantity) as units, sum(line_total) as value
    from {{ ref('fact_cart_items') }}
    {%- for kpi in ['kpi_days', 'kpi_products', 'kpi_categories', 'kpi_users'] %}
    union all
    select '{{ kpi }}' as name, sum(units) as units, sum(value) as value
    from {{ ref(kpi) }}
    {%- endfor %}

)

select
    count(distinct coalesce(units, 0)) as different_units,
    count(distinct coalesce(value, 0)) as different_values
from totals
having count(distinct coalesce(units, 0)) > 1 or count(distinct coalesce(value, 0)) > 1
