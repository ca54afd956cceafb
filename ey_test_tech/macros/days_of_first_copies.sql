{#
    The days {start, end} before `window` in which the first copy of an event may lie of which
    another copy lies in `window`; none where there is no such day.

    A copy says when its event happened, and no copy was published before that. Only where an event
    claims a time after its own publishing, by a clock that was wrong, must every day be looked at.
#}
{% macro days_of_first_copies(bronze, window) %}
    {% if not has_earlier_rows() %}
        {{ return(none) }}
    {% endif %}
    {% set event_at = "safe_cast(json_value(data, '$.time') as timestamp)" %}
    {% set first_day %}
select
    min(
        if(
            {{ event_at }} > timestamp_add(publish_time, interval 1 day),
            date '0001-01-01',
            date(timestamp_sub({{ event_at }}, interval 1 day))
        )
    ) as day
from {{ bronze }}
where
    {{ in_window('publish_time', window, 'timestamp') }}
    and {{ event_at }} >= timestamp '1970-01-02'
    {% endset %}
    {% set start = run_query(first_day)[0][0] | string %}
    {% if start == 'None' or start >= window.start %}
        {{ return(none) }}
    {% endif %}
    {{ return({'start': start, 'end': days_before(window.start, 1)}) }}
{% endmacro %}
