{{ config(materialized='table') }}
{%- set event_columns = [
    'event_id', 'cart_id', 'event_type', 'event_at', 'generation', 'sequence', 'snapshot_size',
    'user_id', 'cart_at', 'products', 'published_date',
] | join(',\n        ') %}
{%- set base = ref('base_cart_events') %}
{%- do refuse_input_built_anew(base) %}
{%- set window = rebuild_window(
    base, 'published_date', 'published_date', rows_read='deliveries', built_rows="event_type = 'day'"
) %}
-- days {{ window.start }} to {{ window.end }}

with

deliveries as (

    select * from {{ base }}
    where {{ in_window('published_date', window) }}

),

events as (

    select
        {{ event_columns }}
    from deliveries
    where is_counted
    {%- if has_earlier_rows() %}
    union all
    select
        {{ event_columns }}
    from {{ this }}
    where
        published_date < date '{{ window.start }}'
        and event_type in ('created', 'modified', 'deleted')
    {%- endif %}

),

numbered as (

    -- by what an event says, never by arrival: a late event of an older state must not win
    select
        *,
        row_number() over (
            partition by cart_id
            order by generation desc, sequence desc, event_at desc, event_id
        ) as age
    from events

),

kept as (

    -- only the newest event of a cart needs its lines
    select
        event_id,
        cart_id,
        event_type,
        event_at,
        generation,
        sequence,
        snapshot_size,
        user_id,
        cart_at,
        if(age = 1, products, null) as products,
        age = 1 as is_newest,
        published_date,
        cast(null as int64) as deliveries
    from numbered
    where
        age = 1
        or event_type in ('created', 'deleted')

),

unreadable as (

    select distinct
        coalesce(event_id, message_id) as event_id,
        cart_id,
        generation,
        snapshot_size,
        published_date
    from deliveries
    where
        rejected_reason is not null
        and snapshot_size is not null
        and generation is not null

),

days as (

    select
        published_date,
        generation,
        max(if(rejected_reason is null, event_at, null)) as event_at,
        count(*) as deliveries
    from deliveries
    group by published_date, generation

)

select * from kept
union all
select
    event_id,
    cart_id,
    'rejected' as event_type,
    cast(null as timestamp) as event_at,
    generation,
    cast(null as int64) as sequence,
    snapshot_size,
    cast(null as int64) as user_id,
    cast(null as timestamp) as cart_at,
    null as products,
    false as is_newest,
    published_date,
    cast(null as int64) as deliveries
from unreadable
union all
select
    cast(null as string) as event_id,
    cast(null as int64) as cart_id,
    'day' as event_type,
    event_at,
    generation,
    cast(null as int64) as sequence,
    cast(null as int64) as snapshot_size,
    cast(null as int64) as user_id,
    cast(null as timestamp) as cart_at,
    null as products,
    false as is_newest,
    published_date,
    deliveries
from days
{%- if has_earlier_rows() %}
union all
select *
from {{ this }}
where
    published_date < date '{{ window.start }}'
    and event_type in ('rejected', 'day')
{%- endif %}
