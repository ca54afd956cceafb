{# The day on which this dbt began, UTC, as an ISO date. #}
{% macro today() %}
    {{ return(run_started_at.strftime('%Y-%m-%d')) }}
{% endmacro %}
