{{ config(materialized='view') }}

with

records as (

    select * from {{ source('bronze', 'carts_raw') }}
    where _ingested_at >= timestamp '1970-01-01'

),

typed as (

    select
        safe_cast(json_value(record, '$.id') as int64) as cart_id,
        safe_cast(json_value(record, '$.userId') as int64) as user_id,
        safe_cast(json_value(record, '$.date') as timestamp) as cart_at,
        json_query(record, '$.products') as products,
        _run_id as run_id,
        _ingested_at as ingested_at
    from records

)

select
    *,
    case when cart_id is null then 'no integer id' end as rejected_reason
from typed
