{{ config(partition_by={'field': 'published_date', 'data_type': 'date'}) }}
{%- set window = rebuild_window('published_date') %}

with

deliveries as (

    select
        published_date,
        coalesce(date(event_at), published_date) as event_date,
        count(*) as deliveries,
        countif(rejected_reason is not null) as rejected
    from {{ ref('base_cart_events') }}
    where {{ in_window('published_date', window) }}
    group by published_date, event_date

),

events as (

    select
        published_date,
        date(event_at) as event_date,
        count(*) as events,
        countif(snapshot_size is not null) as snapshot_events,
        countif(event_type = 'created' and snapshot_size is null) as created,
        countif(event_type = 'modified') as modified,
        countif(event_type = 'deleted') as deleted,
        sum(timestamp_diff(published_at, event_at, millisecond)) as lag_milliseconds,
        max(timestamp_diff(published_at, event_at, millisecond)) as max_lag_milliseconds
    from {{ ref('stg_cart_events') }}
    where {{ in_window('published_date', window) }}
    group by published_date, event_date

)

select
    deliveries.published_date,
    deliveries.event_date,
    deliveries.deliveries,
    deliveries.rejected,
    coalesce(events.events, 0) as events,
    deliveries.deliveries - deliveries.rejected - coalesce(events.events, 0) as duplicates,
    coalesce(events.snapshot_events, 0) as snapshot_events,
    coalesce(events.created, 0) as created,
    coalesce(events.modified, 0) as modified,
    coalesce(events.deleted, 0) as deleted,
    coalesce(events.lag_milliseconds, 0) as lag_milliseconds,
    events.max_lag_milliseconds
from deliveries
left join events
    on deliveries.published_date = events.published_date
    and deliveries.event_date = events.event_date
