-- built last: it must not speak for figures that a build which failed has left as they were
-- depends_on: {{ ref('fact_carts') }}, {{ ref('fact_cart_items') }}, {{ ref('kpi_totals') }}
-- depends_on: {{ ref('kpi_days') }}, {{ ref('kpi_categories') }}, {{ ref('kpi_products') }}
-- depends_on: {{ ref('kpi_users') }}, {{ ref('kpi_cart_lifecycle') }}, {{ ref('dim_dates') }}
with

drift as (

    select * from {{ ref('cart_drift') }}

)

select
    observed_at,
    count(*) as carts,
    countif(difference = 'agrees') as agreeing,
    countif(difference = 'missing' and unsettled_reason is null) as missing,
    countif(difference = 'extra' and unsettled_reason is null) as extra,
    countif(difference = 'different' and unsettled_reason is null) as different,
    countif(unsettled_reason is not null) as unsettled,
    countif(is_drift) as drifting,
    -- a doubt about the snapshot, or a held deletion, is no agreement
    countif(
        difference != 'agrees'
        and unsettled_reason is distinct from 'a later poll saw the change'
    ) = 0 as is_verified
from drift
group by observed_at
