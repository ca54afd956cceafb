-- the star joins add no row to the carts' lines and lose none
with

lines as (

    select count(*) as lines, coalesce(sum(quantity), 0) as units
    from {{ ref('stg_cart_items') }}

),

facts as (

    select count(*) as lines, coalesce(sum(quantity), 0) as units
    from {{ ref('fact_cart_items') }}

)

select *
from lines
inner join facts
    on lines.lines != facts.lines or lines.units != facts.units
