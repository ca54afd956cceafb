{{ config(materialized='view') }}

with

records as (

    select * from {{ source('bronze', 'users_raw') }}
    where _ingested_at >= timestamp '1970-01-01'

),

typed as (

    select
        safe_cast(json_value(record, '$.id') as int64) as user_id,
        nullif(trim(json_value(record, '$.username')), '') as username,
        nullif(lower(trim(json_value(record, '$.email'))), '') as email,
        nullif(trim(json_value(record, '$.name.firstname')), '') as first_name,
        nullif(trim(json_value(record, '$.name.lastname')), '') as last_name,
        nullif(trim(json_value(record, '$.phone')), '') as phone,
        nullif(trim(json_value(record, '$.address.street')), '') as street,
        -- the source writes San Antonio and san Antonio
        nullif(initcap(trim(json_value(record, '$.address.city'))), '') as city,
        nullif(trim(json_value(record, '$.address.zipcode')), '') as zipcode,
        safe_cast(json_value(record, '$.address.geolocation.lat') as numeric) as latitude,
        safe_cast(json_value(record, '$.address.geolocation.long') as numeric) as longitude,
        _run_id as run_id,
        _ingested_at as ingested_at
    from records

)

select
    *,
    case when user_id is null then 'no integer id' end as rejected_reason
from typed
