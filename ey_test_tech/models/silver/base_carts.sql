{{ config(materialized='view') }}
{%- set time_form = '([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?' %}
{%- set zone_form = '[Zz]|[+-](0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00' %}
{%- set date_form = '^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ]' ~ time_form ~ '(' ~ zone_form ~ ')?)?$' %}

with

records as (

    select * from {{ source('bronze', 'carts_raw') }}
    where _ingested_at >= timestamp '1970-01-01'

),

typed as (

    select
        record,
        safe_cast(json_value(record, '$.id') as int64) as cart_id,
        safe_cast(json_value(record, '$.userId') as int64) as user_id,
        -- BigQuery reads more than the poller: 2020-3-2, or a zone by its name
        if(
            regexp_contains(json_value(record, '$.date'), '{{ date_form }}'),
            safe_cast(json_value(record, '$.date') as timestamp),
            null
        ) as cart_at,
        json_query(record, '$.products') as products,
        _run_id as run_id,
        _ingested_at as ingested_at,
        -- as the poller has it
        timestamp_add(_ingested_at, interval 3650 day) as latest_at
    from records

),

counted as (

    select
        *,
        (
            select
                countif(
                    safe_cast(to_json_string(json_query(line, '$.productId')) as int64) is null
                    or safe_cast(to_json_string(json_query(line, '$.quantity')) as int64) is null
                )
            from unnest(json_query_array(products)) as line
        ) as untyped_lines,
        (
            select
                countif(
                    safe_cast(json_value(line, '$.quantity') as int64) not between 1 and 1000000
                )
            from unnest(json_query_array(products)) as line
        ) as wild_lines
    from typed

)

-- what the poller sets aside and base_cart_events rejects: no event could make such a cart
select
    * except (record, latest_at, untyped_lines, wild_lines),
    case
        when cart_id is null then 'no integer id'
        when user_id is null and json_value(record, '$.userId') is not null
            then 'userId is no integer'
        when cart_at is null and json_value(record, '$.date') is not null
            then 'date is no timestamp'
        when cart_at not between timestamp '1970-01-01' and latest_at
            then 'date is before 1970 or more than ten years ahead'
        when json_type(products) is distinct from 'array' then 'products is no list'
        when untyped_lines > 0 then 'a line without integer productId and quantity'
        when wild_lines > 0 then 'a quantity is outside 1 to 1000000'
    end as rejected_reason
from counted
