-- Days on which a table of silver and what it is made of do not have the same rows, and no next run
-- makes them: run dbt build --full-refresh. A day of which one has fewer may have had rows since it
-- was built, and is rebuilt by the next run while Pub/Sub can still deliver; so what is wrong is a
-- day with too many, or with as many others, or an old one with too few. A row without publish_time
-- is on no day that is ever read. It reads the names and days of all rows, and nothing else.
{%- set bronze = source('bronze', 'carts_events_raw') %}
{%- set oldest_rebuilt = days_before(today(), 2 * var('deliverable_days', 35)) %}
-- adds up to the same for the same rows in any order, and to no more than an integer holds
{%- set names = "sum(mod(farm_fingerprint(coalesce(message_id, '')), 1000000007))" %}
with

bronze_days as (

    select
        date(publish_time) as day,
        count(*) as found,
        {{ names }} as names
    from {{ bronze }}
    where publish_time >= timestamp '0001-01-01'
    group by day
    union all
    select
        cast(null as date) as day,
        count(*) as found,
        0 as names
    from {{ bronze }}
    where publish_time is null
    having found > 0

),

base_days as (

    select
        published_date as day,
        count(*) as found,
        {{ names }} as names
    from {{ ref('base_cart_events') }}
    group by day

),

history_days as (

    select
        published_date as day,
        sum(deliveries) as found,
        null as names
    from {{ ref('int_cart_history') }}
    where event_type = 'day'
    group by day

),

counted_days as (

    select
        published_date as day,
        sum(deliveries) as found,
        null as names
    from {{ ref('stg_cart_days') }}
    group by day

),

compared as (
    {%- for model, there, read in [
        ('base_cart_events', 'bronze_days', 'base_days'),
        ('int_cart_history', 'base_days', 'history_days'),
        ('stg_cart_days', 'base_days', 'counted_days'),
    ] %}
    {{ 'union all' if not loop.first }}
    select
        '{{ model }}' as model,
        coalesce({{ there }}.day, {{ read }}.day) as day,
        coalesce({{ there }}.found, 0) as rows_there,
        coalesce({{ read }}.found, 0) as rows_read,
        {{ there }}.names != {{ read }}.names as are_others
    from {{ there }}
    full outer join {{ read }}
        on {{ there }}.day = {{ read }}.day
    {%- endfor %}

)

select *
from compared
where
    rows_read > rows_there
    or (rows_read = rows_there and are_others)
    or (rows_read < rows_there and day < date '{{ oldest_rebuilt }}')
    or day is null
