{# An ISO date moved by days, as an ISO date. #}
{% macro shift_date(day, days) %}
    {% set moved = modules.datetime.date.fromisoformat(day) + modules.datetime.timedelta(days=days) %}
    {{ return(moved.isoformat()) }}
{% endmacro %}
