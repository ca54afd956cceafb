{{ config(materialized='view') }}

select *
from {{ ref('int_user_history') }}
where user_id is not null
