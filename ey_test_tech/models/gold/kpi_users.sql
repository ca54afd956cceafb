with

carts as (

    select * from {{ ref('fact_carts') }}

),

totals as (

    select
        user_id,
        count(*) as carts,
        sum(units) as units,
        sum(value) as value,
        min(if(date_day = date '1900-01-01', null, date_day)) as first_cart_date,
        max(if(date_day = date '1900-01-01', null, date_day)) as last_cart_date
    from carts
    group by user_id

),

users as (

    select *
    from {{ ref('dim_users') }}
    where
        is_current
        and user_id is not null

)

select
    coalesce(users.user_id, totals.user_id) as user_id,
    coalesce(users.city, 'unknown') as city,
    coalesce(users.is_listed, false) as is_listed,
    coalesce(totals.carts, 0) as carts,
    coalesce(totals.units, 0) as units,
    coalesce(totals.value, 0) as value,
    round(cast(totals.value / totals.carts as numeric), 2) as average_cart_value,
    totals.first_cart_date,
    totals.last_cart_date
from users
full outer join totals
    on users.user_id = totals.user_id
