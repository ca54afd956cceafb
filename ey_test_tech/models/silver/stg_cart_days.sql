{{ config(partition_by={'field': 'published_date', 'data_type': 'date'}) }}
{%- set base = ref('base_cart_events') %}
{%- do refuse_input_built_anew(base) %}
{%- set window = rebuild_window(
    base, 'published_date', 'published_date', rows_read='deliveries'
) %}
-- days {{ window.start }} to {{ window.end }}

with

deliveries as (

    select *
    from {{ base }}
    where {{ in_window('published_date', window) }}

),

days as (

    select
        published_date,
        -- a nonsense time is no day of anything
        if(rejected_reason is null, date(event_at), published_date) as event_date,
        count(*) as deliveries,
        countif(rejected_reason is not null) as rejected,
        countif(is_counted) as events,
        countif(is_counted and snapshot_size is not null) as snapshot_events,
        countif(is_counted and event_type = 'created' and snapshot_size is null) as created,
        countif(is_counted and event_type = 'modified') as modified,
        countif(is_counted and event_type = 'deleted') as deleted,
        sum(
            if(is_counted, timestamp_diff(published_at, event_at, millisecond), 0)
        ) as lag_milliseconds,
        max(
            if(is_counted, timestamp_diff(published_at, event_at, millisecond), null)
        ) as max_lag_milliseconds
    from deliveries
    group by published_date, event_date

)

select
    *,
    deliveries - rejected - events as duplicates
from days
