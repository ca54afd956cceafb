{# An ISO date moved by days, as an ISO date; the calendar's first day stays. #}
{% macro shift_date(day, days) %}
    {% if day == '0001-01-01' and days < 0 %}
        {{ return(day) }}
    {% endif %}
    {% set date = modules.datetime.date.fromisoformat(day) %}
    {{ return((date + modules.datetime.timedelta(days=days)).isoformat()) }}
{% endmacro %}
