-- Changes of a cart that cannot be the whole truth, by the number that each has within its
-- generation: one is missing before it (published a day ago at least, so nothing is on its way), or
-- its number, or a later one, was given before, by a state that has been put back since.
-- Repaired by what is missing (a dead letter to replay, rows that have left bronze), or else by
-- near_realtime_ingestion_2.py --once --new-snapshot, which numbers from 1 again.
{%- set start = days_before(today(), var('deliverable_days', 35)) %}
with

newest_snapshots as (

    select max(generation) as generation
    from {{ ref('stg_cart_generations') }}
    where is_complete

),

events as (

    -- what cannot be read is there all the same
    select
        cart_id,
        generation,
        sequence,
        event_id,
        event_at,
        published_at,
        published_date,
        lag(sequence) over (
            partition by cart_id, generation order by sequence
        ) as sequence_before
    from {{ ref('base_cart_events') }}
    where
        published_date >= date '{{ start }}'
        and sequence is not null

),

newest_events as (

    select *
    from {{ ref('int_cart_history') }}
    where is_newest

)

select
    events.cart_id,
    events.generation,
    events.sequence,
    events.event_id,
    events.sequence_before
from events
inner join newest_snapshots
    on events.generation >= newest_snapshots.generation
left join newest_events
    on events.cart_id = newest_events.cart_id
    and events.generation = newest_events.generation
where
    (
        events.sequence > events.sequence_before + 1
        and events.published_at < timestamp_sub(current_timestamp(), interval 1 day)
    )
    or (
        events.event_id != newest_events.event_id
        and events.sequence <= newest_events.sequence
        and events.event_at > newest_events.event_at
        and events.published_date > newest_events.published_date
    )
