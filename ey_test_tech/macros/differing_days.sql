{# The query of rebuild_window: one row on the days of `window` on which the two sides differ. #}
{% macro differing_days(
    input, input_column, built_column, window, type, rows_read, built_rows
) %}
with

input_days as (

    select
        cast({{ input_column }} as date) as day,
        count(*) as found
    from {{ input }}
    where {{ in_window(input_column, window, type) }}
    group by day

),

built_days as (

    select
        {{ built_column }} as day,
        sum({{ rows_read }}) as found
    from {{ this }}
    where
        {{ in_window(built_column, window) }}
        and {{ built_rows }}
    group by day

)

select
    min(
        if(
            coalesce(input_days.found, 0) != coalesce(built_days.found, 0),
            coalesce(input_days.day, built_days.day),
            null
        )
    ) as first_day,
    max(coalesce(input_days.day, built_days.day)) as last_day,
    max(built_days.day) as newest_built,
    countif(coalesce(input_days.found, 0) < built_days.found) > 0 as has_lost_rows
from input_days
full outer join built_days
    on input_days.day = built_days.day
{% endmacro %}
