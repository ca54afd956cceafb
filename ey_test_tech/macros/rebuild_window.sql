{#
    The days {start, end}, as ISO dates, that this run reads and replaces: from the first day on
    which `input` has other rows than this model has read, to the last. To the last, because a row
    that comes late may make those after it duplicates. Nothing differs: today.

    Of the input the partition column is read, a DATE, or a TIMESTAMP where `type` says so, and
    `row_key`, which tells its rows apart; without one they are only counted. This model says by
    its own rows what it has read: the sum of `rows_read` by `built_column`.

    Pub/Sub delivers a message for deliverable_days at most, so the days compared begin so long
    before the newest day that the model holds. That day is looked for in twice this time first;
    where it is older, all days are compared. Everything is found before the model's SQL is
    written, because BigQuery prunes partitions by literals and not by subqueries.
#}
{% macro rebuild_window(
    input, input_column, built_column, type='date', row_key="''", rows_read='1', built_rows='true'
) %}
    {% if not has_earlier_rows() %}
        {{ return({'start': '0001-01-01', 'end': '9999-12-30'}) }}
    {% endif %}
    {% set recently = days_before(today(), var('deliverable_days')) %}
    {% set lately = days_before(recently, var('deliverable_days')) %}
    {% set found = namespace(days={}) %}
    {% for start in [lately, '0001-01-01'] %}
        {% if (found.days['newest_built'] or '') | string < recently %}
            {% set found.days = run_query(
                differing_days(
                    input, input_column, built_column,
                    {'start': start, 'end': '9999-12-30'}, type, row_key, rows_read, built_rows
                )
            )[0] %}
        {% endif %}
    {% endfor %}
    {{ return({
        'start': (found.days['first_day'] or today()) | string,
        'end': [today(), (found.days['last_day'] or today()) | string] | max,
        'has_lost_rows': found.days['has_lost_rows'] or false,
    }) }}
{% endmacro %}
