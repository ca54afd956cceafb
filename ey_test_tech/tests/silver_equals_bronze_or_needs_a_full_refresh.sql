-- Days on which silver's base table and bronze do not have equally many rows, and no next run
-- makes them: run dbt build --full-refresh. A day of which silver has fewer may have had rows
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

silver_days as (

    select
        published_date as day,
        count(*) as found
    from {{ ref('base_cart_events') }}
    group by day

)

select
    coalesce(bronze_days.day, silver_days.day) as day,
    coalesce(bronze_days.found, 0) as in_bronze,
    coalesce(silver_days.found, 0) as in_silver
from bronze_days
full outer join silver_days
    on bronze_days.day = silver_days.day
where
    coalesce(silver_days.found, 0) > coalesce(bronze_days.found, 0)
    or (
        coalesce(silver_days.found, 0) < coalesce(bronze_days.found, 0)
        and coalesce(bronze_days.day, silver_days.day) < date '{{ oldest_rebuilt }}'
    )
