{{ config(materialized='view') }}

select *
from {{ ref('int_product_history') }}
where product_id is not null
