{#
    The days that this run reads and writes again, {start, end} as ISO dates.

    It begins look_back_days before the newest day that the model holds, so that a gap of any
    length between two runs heals by itself, and ends today. It is found before the model's
    SQL is written, because BigQuery prunes partitions by literals and not by subqueries. The
    newest day is looked for in the last 35 partitions first, so that this look-up does not
    grow with the years either.
#}
{% macro rebuild_window(date_column) %}
    {% set today = run_started_at.strftime('%Y-%m-%d') %}
    {% if not has_earlier_rows() %}
        {{ return({'start': '0001-01-01', 'end': today}) }}
    {% endif %}
    {% set newest_day = 'select max(' ~ date_column ~ ') from ' ~ this %}
    {% set recent = days_before(today, 35) %}
    {% set is_recent = date_column ~ " >= date '" ~ recent ~ "'" %}
    {% set newest = run_query(newest_day ~ ' where ' ~ is_recent)[0][0]
        or run_query(newest_day ~ ' where not ' ~ is_recent)[0][0] %}
    {% if not newest %}
        {{ return({'start': '0001-01-01', 'end': today}) }}
    {% endif %}
    {{ return({
        'start': days_before(newest | string, var('look_back_days')),
        'end': [today, newest | string] | max,
    }) }}
{% endmacro %}
