{{ config(materialized='table') }}

{{ history_of('users', 'user_id', ['city']) }}
