-- Days on which a table of silver and what it is made of do not have equally many rows, and no next
-- run makes them: run dbt build --full-refresh. A day of which one has fewer may have had rows
-- since it was built, and is rebuilt by the next run while Pub/Sub can still deliver; so what is
-- wrong is a day with too many, or an old one with too few. It reads one column of each table.
{%- set bronze = source('bronze', 'carts_events_raw') %}
{%- set oldest_rebuilt = days_before(today(), 2 * var('deliverable_days', 35)) %}
with

bronze_days as (

    select
        date(publish_time) as day,
        count(*) as found
    from {{ bronze }}
    where publish_time >= timestamp '1970-01-01'
    group by day

),

base_days as (

    select
        published_date as day,
        count(*) as found
    from {{ ref('base_cart_events') }}
    group by day

),

history_days as (

    select
        published_date as day,
        sum(deliveries) as found
    from {{ ref('int_cart_history') }}
    where event_type = 'day'
    group by day

),

counted_days as (

    select
        published_date as day,
        sum(deliveries) as found
    from {{ ref('stg_cart_days') }}
    group by day

),

compared as (

    select
        'base_cart_events' as model,
        coalesce(bronze_days.day, base_days.day) as day,
        coalesce(bronze_days.found, 0) as rows_there,
        coalesce(base_days.found, 0) as rows_read
    from bronze_days
    full outer join base_days
        on bronze_days.day = base_days.day
    union all
    select
        'int_cart_history' as model,
        coalesce(base_days.day, history_days.day) as day,
        coalesce(base_days.found, 0) as rows_there,
        coalesce(history_days.found, 0) as rows_read
    from base_days
    full outer join history_days
        on base_days.day = history_days.day
    union all
    select
        'stg_cart_days' as model,
        coalesce(base_days.day, counted_days.day) as day,
        coalesce(base_days.found, 0) as rows_there,
        coalesce(counted_days.found, 0) as rows_read
    from base_days
    full outer join counted_days
        on base_days.day = counted_days.day

)

select *
from compared
where
    rows_read > rows_there
    or (rows_read < rows_there and day < date '{{ oldest_rebuilt }}')
