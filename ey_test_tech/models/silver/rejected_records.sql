{{ config(materialized='view') }}

select
    'carts_events_raw' as source_table,
    message_id as row_id,
    event_id as record_id,
    rejected_reason,
    published_at as arrived_at,
    published_date as arrived_date
from {{ ref('base_cart_events') }}
where rejected_reason is not null
union all
select
    'products_raw' as source_table,
    run_id as row_id,
    cast(product_id as string) as record_id,
    rejected_reason,
    ingested_at as arrived_at,
    date(ingested_at) as arrived_date
from {{ ref('base_products') }}
where rejected_reason is not null
union all
select
    'users_raw' as source_table,
    run_id as row_id,
    cast(user_id as string) as record_id,
    rejected_reason,
    ingested_at as arrived_at,
    date(ingested_at) as arrived_date
from {{ ref('base_users') }}
where rejected_reason is not null
union all
select
    'carts_raw' as source_table,
    run_id as row_id,
    cast(cart_id as string) as record_id,
    rejected_reason,
    ingested_at as arrived_at,
    date(ingested_at) as arrived_date
from {{ ref('base_carts') }}
where rejected_reason is not null
