{{ config(materialized='table') }}

with

history as (

    select * from {{ ref('int_cart_history') }}

),

latest_events as (

    select *
    from history
    where is_newest

),

held as (

    -- a snapshot whose record of the cart cannot be read does not say that the cart is gone
    select distinct
        cart_id,
        generation
    from history
    where
        event_type = 'rejected'
        and cart_id is not null

),

complete_generations as (

    select *
    from {{ ref('stg_cart_generations') }}
    where is_complete

),

superseded as (

    -- a complete newer snapshot that does not hold the cart: it was deleted unseen
    select
        latest_events.cart_id,
        min(complete_generations.snapshot_at) as superseded_at
    from latest_events
    inner join complete_generations
        on latest_events.generation < complete_generations.generation
    left join held
        on latest_events.cart_id = held.cart_id
        and complete_generations.generation = held.generation
    where held.cart_id is null
    group by latest_events.cart_id

)

select
    latest_events.cart_id,
    latest_events.user_id,
    latest_events.cart_at,
    latest_events.products,
    latest_events.event_id,
    latest_events.event_type,
    latest_events.generation,
    latest_events.sequence,
    latest_events.event_at as changed_at,
    superseded.cart_id is not null as is_superseded,
    latest_events.event_type = 'deleted' or superseded.cart_id is not null as is_deleted,
    if(
        latest_events.event_type = 'deleted',
        latest_events.event_at,
        superseded.superseded_at
    ) as deleted_at
from latest_events
left join superseded
    on latest_events.cart_id = superseded.cart_id
