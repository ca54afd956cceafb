{{ config(materialized='view') }}

{{ records_of('users', 'user_id') }}
