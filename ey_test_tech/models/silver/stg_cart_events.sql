{{ config(partition_by={'field': 'published_date', 'data_type': 'date'}, cluster_by=['cart_id']) }}
{%- set window = rebuild_window('published_date') %}
{%- set first_known_day = days_before(window.start, var('duplicate_days')) %}

with

deliveries as (

    select *
    from {{ ref('base_cart_events') }}
    where
        {{ in_window('published_date', window) }}
        and rejected_reason is null

),
{% if has_earlier_rows() %}
known_events as (

    -- a duplicate may come long after the partition of its first copy was last written
    select event_id
    from {{ this }}
    where
        published_date >= date '{{ first_known_day }}'
        and published_date < date '{{ window.start }}'

),
{% endif %}
first_deliveries as (

    select * except (rejected_reason)
    from deliveries
    {%- if has_earlier_rows() %}
    where event_id not in (select event_id from known_events)
    {%- endif %}
    qualify row_number() over (partition by event_id order by published_at, message_id) = 1

)

select * from first_deliveries
