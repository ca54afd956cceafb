with

used as (

    -- the carts' own days, and those on which things happened
    select date(cart_at) as day
    from {{ ref('stg_carts') }}
    where not is_deleted
    union distinct
    select event_date as day from {{ ref('stg_cart_days') }}
    union distinct
    select published_date as day from {{ ref('stg_cart_days') }}

),

span as (

    select
        least(coalesce(min(day), date '2020-01-01'), date '2020-01-01') as first_day,
        greatest(coalesce(max(day), current_date()), date '{{ today()[:4] }}-12-31') as last_day
    from used

),

days as (

    select cast(day as date) as date_day
    from span
    cross join unnest(generate_date_array(first_day, last_day)) as day
    -- the unknown day stands here only once a cart needs it, so that min() stays a real day
    union distinct
    select date '1900-01-01' as date_day
    from used
    where day is null

)

select
    date_day,
    extract(year from date_day) as year,
    extract(quarter from date_day) as quarter,
    extract(month from date_day) as month,
    extract(day from date_day) as day_of_month,
    extract(isoyear from date_day) as iso_year,
    extract(isoweek from date_day) as iso_week,
    -- Monday is 1
    mod(extract(dayofweek from date_day) + 5, 7) + 1 as iso_day_of_week,
    format_date('%Y-%m', date_day) as year_month,
    format_date('%G-W%V', date_day) as iso_year_week,
    format_date('%B', date_day) as month_name,
    format_date('%A', date_day) as day_name,
    cast(date_trunc(date_day, week(monday)) as date) as week_start, -- noqa: LT01
    cast(date_trunc(date_day, month) as date) as month_start,
    cast(date_trunc(date_day, quarter) as date) as quarter_start,
    extract(dayofweek from date_day) in (1, 7) as is_weekend,
    date_day = date '1900-01-01' as is_unknown
from days
