{{ config(materialized='table') }}

{{ versions_of('users', 'user_id', ['city']) }}
