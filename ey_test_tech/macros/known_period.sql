{#
    From when until when a version counts. Before the first one of a `key` history knows nothing,
    and the first version is the nearest to it.
#}
{% macro known_period(key) %}
if(
    row_number() over (partition by {{ key }} order by valid_from) = 1,
    timestamp '0001-01-01',
    valid_from
) as known_from,
coalesce(valid_to, timestamp '9999-12-31') as known_to
{%- endmacro %}
