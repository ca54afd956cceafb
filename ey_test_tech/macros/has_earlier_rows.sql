{# Whether this run adds to what earlier runs have built: the table exists, and no full refresh. #}
{% macro has_earlier_rows() %}
    {{ return(execute and load_relation(this) is not none and not should_full_refresh()) }}
{% endmacro %}
