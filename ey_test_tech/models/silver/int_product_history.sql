{{ config(materialized='table') }}

{{ history_of('products', 'product_id', ['title', 'category', 'price']) }}
