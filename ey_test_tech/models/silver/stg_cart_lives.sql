{{ config(materialized='view') }}

with

complete_generations as (

    select *
    from {{ ref('stg_cart_generations') }}
    where is_complete

),

turns as (

    select
        *,
        lead(generation) over (
            partition by cart_id order by generation, sequence, event_id
        ) as next_generation,
        lead(snapshot_size) over (
            partition by cart_id order by generation, sequence, event_id
        ) as next_snapshot_size
    from {{ ref('stg_cart_lifecycle_events') }}

),

held as (

    -- a snapshot whose record of the cart cannot be read does not say that the cart is gone
    select distinct
        cart_id,
        generation
    from {{ ref('int_cart_history') }}
    where
        event_type = 'rejected'
        and cart_id is not null

),

vanished as (

    -- the first complete snapshot after the cart's creation that does not hold the cart
    select
        turns.event_id,
        min(complete_generations.snapshot_at) as superseded_at
    from turns
    inner join complete_generations
        on turns.generation < complete_generations.generation
    left join held
        on turns.cart_id = held.cart_id
        and complete_generations.generation = held.generation
    where
        turns.event_type = 'created'
        and held.cart_id is null
        and (
            turns.next_generation is null
            or complete_generations.generation < turns.next_generation
            or (
                complete_generations.generation = turns.next_generation
                and turns.next_snapshot_size is null
            )
        )
    group by turns.event_id

),

ended as (

    select
        turns.*,
        if(turns.event_type = 'deleted', turns.event_at, null) as deleted_at,
        vanished.superseded_at,
        lag(turns.event_type = 'deleted' or vanished.event_id is not null) over (
            partition by turns.cart_id
            order by turns.generation, turns.sequence, turns.event_id
        ) as follows_an_end
    from turns
    left join vanished
        on turns.event_id = vanished.event_id

),

numbered as (

    -- a snapshot's created event begins no life where the cart was known to exist
    select
        *,
        sum(
            if(
                event_type = 'created'
                and (coalesce(follows_an_end, true) or snapshot_size is null),
                1,
                0
            )
        ) over (
            partition by cart_id
            order by generation, sequence, event_id
            rows between unbounded preceding and current row
        ) as life_number,
        row_number() over (
            partition by cart_id order by generation, sequence, event_id
        ) as turn_number
    from ended

),

lives as (

    select
        cart_id,
        life_number,
        min(if(event_type = 'created', event_at, null)) as first_seen_at,
        max(deleted_at) as deleted_at,
        max(superseded_at) as superseded_at
    from numbered
    group by cart_id, life_number

),

births as (

    select *
    from numbered
    where event_type = 'created'
    qualify row_number() over (partition by cart_id, life_number order by turn_number) = 1

)

select
    lives.cart_id,
    lives.life_number,
    lives.first_seen_at,
    -- a cart that a snapshot found first is older than that
    births.snapshot_size is null and births.event_id is not null as is_birth_seen,
    lives.deleted_at,
    lives.superseded_at
from lives
left join births
    on lives.cart_id = births.cart_id
    and lives.life_number = births.life_number
