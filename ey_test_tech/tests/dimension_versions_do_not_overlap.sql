-- at every instant a product or a user has one version, and now exactly one current one
with

versions as (

    select 'product' as entity, product_id as id, valid_from, valid_to, is_current
    from {{ ref('dim_products') }}
    union all
    select 'user' as entity, user_id as id, valid_from, valid_to, is_current
    from {{ ref('dim_users') }}

),

followed as (

    select
        *,
        lead(valid_from) over (partition by entity, id order by valid_from) as next_from,
        sum(if(is_current, 1, 0)) over (partition by entity, id) as current_versions
    from versions

)

select *
from followed
where
    current_versions != 1
    or valid_to is distinct from next_from
