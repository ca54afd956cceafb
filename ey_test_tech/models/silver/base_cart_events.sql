{{ config(partition_by={'field': 'published_date', 'data_type': 'date'}, cluster_by=['event_id']) }}
{%- set bronze = source('bronze', 'carts_events_raw') %}
{%- set window = rebuild_window(
    bronze, 'publish_time', 'published_date', 'timestamp', row_key="coalesce(message_id, '')"
) %}
{%- if window.has_lost_rows %}
    {% do exceptions.raise_compiler_error(
        'Rows have left bronze, and what they told of the carts cannot be taken back from what '
        ~ 'is made of ' ~ this ~ ': put them back (BigQuery keeps what a table was for seven days), '
        ~ 'or forget them with dbt build --full-refresh'
    ) %}
{%- endif %}
{%- set first_copies = days_of_first_copies(bronze, window) %}
-- days {{ window.start }} to {{ window.end }}

with

deliveries as (

    select
        message_id,
        publish_time,
        data,
        json_query(data, '$.data.after') as cart
    from {{ bronze }}
    where {{ in_window('publish_time', window, 'timestamp') }}

),

typed as (

    select
        json_value(data, '$.id') as event_id,
        safe_cast(json_value(data, '$.data.cart_id') as int64) as cart_id,
        case json_value(data, '$.type')
            when 'com.fakestoreapi.cart_created' then 'created'
            when 'com.fakestoreapi.cart_modified' then 'modified'
            when 'com.fakestoreapi.cart_deleted' then 'deleted'
        end as event_type,
        safe_cast(json_value(data, '$.time') as timestamp) as event_at,
        json_value(data, '$.generation') as generation,
        safe_cast(json_value(data, '$.sequence') as int64) as sequence,
        safe_cast(json_value(data, '$.data.snapshot.size') as int64) as snapshot_size,
        safe_cast(json_value(cart, '$.userId') as int64) as user_id,
        safe_cast(json_value(cart, '$.date') as timestamp) as cart_at,
        json_query(cart, '$.products') as products,
        json_query(data, '$.data.before.products') as products_before,
        cart,
        message_id,
        publish_time as published_at,
        date(publish_time) as published_date,
        -- the last moment that a date may name
        timestamp_add(publish_time, interval 3653 day) as latest_at
    from deliveries

),

lines as (

    select
        typed.message_id,
        typed.published_at,
        countif(
            safe_cast(json_value(line, '$.productId') as int64) is null
            or safe_cast(json_value(line, '$.quantity') as int64) is null
        ) as untyped_lines,
        countif(
            safe_cast(json_value(line, '$.quantity') as int64) not between 1 and 1000000
        ) as wild_lines
    from typed
    cross join unnest(json_query_array(typed.products)) as line
    group by typed.message_id, typed.published_at

),

judged as (

    select
        typed.* except (cart, latest_at),
        case
            when typed.event_id is null then 'no event id'
            when typed.cart_id is null then 'no integer cart_id'
            when typed.event_type is null then 'unknown type'
            when typed.event_at is null then 'time is no timestamp'
            when typed.event_at not between timestamp '1970-01-01' and typed.latest_at
                then 'time is before 1970 or more than ten years ahead'
            when typed.generation is null then 'no generation'
            when typed.sequence is null then 'sequence is no integer'
            when typed.event_type = 'deleted' then null
            when json_type(typed.cart) is distinct from 'object' then 'no cart after the change'
            when typed.user_id is null and json_value(typed.cart, '$.userId') is not null
                then 'userId is no integer'
            when typed.cart_at is null and json_value(typed.cart, '$.date') is not null
                then 'date is no timestamp'
            when typed.cart_at not between timestamp '1970-01-01' and typed.latest_at
                then 'date is before 1970 or more than ten years ahead'
            when json_type(typed.products) is distinct from 'array' then 'products is no list'
            when lines.untyped_lines > 0 then 'a line without integer productId and quantity'
            when lines.wild_lines > 0 then 'a quantity is outside 1 to 1000000'
        end as rejected_reason
    from typed
    left join lines
        on typed.message_id = lines.message_id
        and typed.published_at = lines.published_at

),
{% if first_copies %}
known_events as (

    select event_id
    from {{ this }}
    where
        {{ in_window('published_date', first_copies) }}
        and is_counted

),
{% endif %}
counted as (

    -- an event counts at its first delivery
    select
        *,
        rejected_reason is null
        {%- if first_copies %}
        and event_id not in (select event_id from known_events)
        {%- endif %}
        and row_number() over (
            partition by event_id, rejected_reason is null order by published_at, message_id
        ) = 1 as is_counted
    from judged

)

select * from counted
