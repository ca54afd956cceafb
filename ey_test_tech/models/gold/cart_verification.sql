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
