{{ config(materialized='view') }}

with

records as (

    select * from {{ source('bronze', 'products_raw') }}
    where _ingested_at >= timestamp '1970-01-01'

),

typed as (

    select
        safe_cast(json_value(record, '$.id') as int64) as product_id,
        nullif(trim(json_value(record, '$.title')), '') as title,
        nullif(trim(json_value(record, '$.category')), '') as category,
        nullif(trim(json_value(record, '$.description')), '') as description,
        nullif(trim(json_value(record, '$.image')), '') as image_url,
        safe_cast(json_value(record, '$.price') as numeric) as price,
        safe_cast(json_value(record, '$.rating.rate') as numeric) as rating,
        safe_cast(json_value(record, '$.rating.count') as int64) as ratings,
        _run_id as run_id,
        _ingested_at as ingested_at
    from records

)

select
    *,
    case
        when product_id is null then 'no integer id'
        when price is null then 'price is no number'
        when price < 0 then 'price is negative'
        when price > 1000000000 then 'price is over a billion'
    end as rejected_reason
from typed
