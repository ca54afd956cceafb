{# The ISO date `days` before an ISO date; the calendar's first day stays. #}
{% macro days_before(day, days) %}
    {% if day == '0001-01-01' %}
        {{ return(day) }}
    {% endif %}
    {% set date = modules.datetime.date.fromisoformat(day) %}
    {{ return((date - modules.datetime.timedelta(days=days)).isoformat()) }}
{% endmacro %}
