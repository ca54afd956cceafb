{#
    The query of rebuild_window: one row on the days of `window` on which the two sides differ, by
    the number of rows of each `row_key`.
#}
{% macro differing_days(
    input, input_column, built_column, window, type, row_key, rows_read, built_rows
) %}
with

input_rows as (

    select
        cast({{ input_column }} as date) as day,
        {{ row_key }} as row_key,
        count(*) as found
    from {{ input }}
    where {{ in_window(input_column, window, type) }}
    group by day, row_key

),

built_rows as (

    select
        {{ built_column }} as day,
        {{ row_key }} as row_key,
        sum({{ rows_read }}) as found
    from {{ this }}
    where
        {{ in_window(built_column, window) }}
        and {{ built_rows }}
    group by day, row_key

)

select
    min(
        if(
            coalesce(input_rows.found, 0) != coalesce(built_rows.found, 0),
            coalesce(input_rows.day, built_rows.day),
            null
        )
    ) as first_day,
    max(coalesce(input_rows.day, built_rows.day)) as last_day,
    max(built_rows.day) as newest_built,
    countif(coalesce(input_rows.found, 0) < built_rows.found) > 0 as has_lost_rows
from input_rows
full outer join built_rows
    on input_rows.day = built_rows.day
    and input_rows.row_key = built_rows.row_key
{% endmacro %}
