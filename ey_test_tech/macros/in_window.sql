{# A partition filter of literals: `column` is a DATE, or a TIMESTAMP where `type` says so. #}
{% macro in_window(column, window, type='date') -%}
    {%- if type == 'timestamp' -%}
    {{ column }} >= timestamp '{{ window.start }}'
    and {{ column }} < timestamp '{{ days_before(window.end, -1) }}'
    {%- else -%}
    {{ column }} between date '{{ window.start }}' and date '{{ window.end }}'
    {%- endif -%}
{%- endmacro %}
