{{ config(materialized='table') }}
{%- set window = {'start': days_before(today(), 7), 'end': '9999-12-30'} %}

with

all_runs as (

    select
        *,
        max(observed_at) over () as newest_at
    from {{ ref('int_believed_runs') }}
    where
        {{ in_window('ingested_date', window) }}
        and entity = 'carts'
        and is_complete
        and not is_replay

),

runs as (

    -- the newest, and the newest of an hour before: polls lie in between
    select *
    from all_runs
    qualify
        observed_at = newest_at
        or observed_at = max(
            if(observed_at <= timestamp_sub(newest_at, interval 1 hour), observed_at, null)
        ) over ()

),

records as (

    {{ records_of('carts', 'cart_id', window) | indent(4) }}

),

gold_carts as (

    select
        *,
        greatest(changed_at, coalesce(deleted_at, changed_at)) as settled_at
    from {{ ref('stg_carts') }}

),

sides as (

    select
        true as is_shop,
        records.run_id,
        records.cart_id,
        records.user_id,
        records.cart_at,
        records.products,
        false as is_deleted,
        cast(null as timestamp) as settled_at
    from records
    inner join runs
        on records.run_id = runs.run_id
    union all
    select
        false as is_shop,
        runs.run_id,
        gold_carts.cart_id,
        gold_carts.user_id,
        gold_carts.cart_at,
        gold_carts.products,
        gold_carts.is_deleted,
        gold_carts.settled_at
    from gold_carts
    cross join runs

),

lines as (

    -- the order of the lines does not count
    select
        sides.is_shop,
        sides.run_id,
        sides.cart_id,
        string_agg(
            concat(json_value(line, '$.productId'), ' × ', json_value(line, '$.quantity')),
            ', '
            order by concat(json_value(line, '$.productId'), ' × ', json_value(line, '$.quantity'))
        ) as lines
    from sides
    cross join unnest(json_query_array(sides.products)) as line
    group by sides.is_shop, sides.run_id, sides.cart_id

),

told as (

    select
        sides.is_shop,
        sides.run_id,
        sides.cart_id,
        sides.settled_at,
        if(
            sides.is_deleted,
            null,
            to_json_string(struct(sides.user_id, sides.cart_at, coalesce(lines.lines, '') as lines))
        ) as cart
    from sides
    left join lines
        on sides.is_shop = lines.is_shop
        and sides.run_id = lines.run_id
        and sides.cart_id = lines.cart_id

),

compared as (

    select
        run_id,
        cart_id,
        max(if(is_shop, cart, null)) as in_shop,
        max(if(is_shop, null, cart)) as in_gold,
        max(settled_at) as settled_at
    from told
    group by run_id, cart_id

),

judged as (

    select
        runs.observed_at,
        runs.shows_absence,
        runs.newest_at,
        compared.*,
        case
            when compared.in_gold is null then 'missing'
            when compared.in_shop is null then 'extra'
            when compared.in_shop != compared.in_gold then 'different'
            else 'agrees'
        end as difference,
        -- a deletion is held for three polls: not from one of these snapshots to the other
        sum(
            if(
                compared.in_shop is null
                and compared.settled_at <= runs.observed_at
                and runs.quarantined_records + runs.rejected_records = 0,
                1,
                0
            )
        ) over (partition by compared.cart_id) > 1 as is_gone_twice,
        sum(if(compared.in_shop is null, 1, 0)) over (partition by compared.run_id) as extra_carts,
        sum(if(compared.in_gold is not null, 1, 0)) over (
            partition by compared.run_id
        ) as gold_carts
    from compared
    inner join runs
        on compared.run_id = runs.run_id
    where compared.in_shop is not null or compared.in_gold is not null

),

explained as (

    select
        * except (shows_absence, is_gone_twice, extra_carts, gold_carts, settled_at),
        case
            when difference = 'agrees' then null
            when settled_at > observed_at then 'a later poll saw the change'
            when is_gone_twice then null
            when difference = 'extra' and not shows_absence then 'the snapshot may lack the cart'
            when difference = 'extra' and extra_carts > 2 and extra_carts * 10 > gold_carts * 3
                then 'so many deletions may be held'
        end as unsettled_reason
    from judged

)

select
    observed_at,
    run_id,
    cart_id,
    difference,
    in_shop,
    in_gold,
    unsettled_reason,
    observed_at = newest_at as is_newest,
    difference != 'agrees'
    and unsettled_reason is null
    and sum(if(difference != 'agrees' and unsettled_reason is null, 1, 0)) over (
        partition by cart_id
    ) > 1 as is_drift
from explained
