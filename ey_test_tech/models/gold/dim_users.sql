{{ config(cluster_by=['user_id']) }}

with

versions as (

    select * from {{ ref('stg_user_versions') }}

),

ranged as (

    select
        user_id,
        coalesce(city, 'unknown') as city,
        is_listed,
        changed_at as valid_from,
        lead(changed_at) over (partition by user_id order by changed_at, run_id) as valid_to
    from versions

)

select
    concat(cast(user_id as string), '@', cast(unix_micros(valid_from) as string)) as user_key,
    user_id,
    city,
    is_listed,
    valid_from,
    valid_to,
    valid_to is null as is_current
from ranged
union all
select
    'unknown' as user_key,
    cast(null as int64) as user_id,
    'unknown' as city,
    false as is_listed,
    timestamp '1970-01-01' as valid_from,
    cast(null as timestamp) as valid_to,
    true as is_current
