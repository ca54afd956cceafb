{{ config(materialized='view') }}

select * except (rejected_reason, is_counted)
from {{ ref('base_cart_events') }}
where is_counted
