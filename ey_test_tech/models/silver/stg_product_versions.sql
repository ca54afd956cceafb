{{ config(materialized='table') }}

{{ versions_of('products', 'product_id', ['title', 'category', 'price']) }}
