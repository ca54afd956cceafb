{{ config(cluster_by=['product_id']) }}

with

versions as (

    select * from {{ ref('stg_product_versions') }}

),

ranged as (

    select
        product_id,
        coalesce(title, 'unknown') as title,
        coalesce(category, 'unknown') as category,
        price,
        is_listed,
        changed_at as valid_from,
        lead(changed_at) over (partition by product_id order by changed_at, run_id) as valid_to
    from versions

)

select
    concat(cast(product_id as string), '@', cast(unix_micros(valid_from) as string)) as product_key,
    product_id,
    title,
    category,
    price,
    is_listed,
    valid_from,
    valid_to,
    valid_to is null as is_current
from ranged
union all
select
    'unknown' as product_key,
    cast(null as int64) as product_id,
    'unknown' as title,
    'unknown' as category,
    cast(null as numeric) as price,
    false as is_listed,
    timestamp '1970-01-01' as valid_from,
    cast(null as timestamp) as valid_to,
    true as is_current
