{{ config(materialized='view') }}

{{ records_of('products', 'product_id') }}
