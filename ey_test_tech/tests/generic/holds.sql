{# Rows for which `expression` is not true; an unknown (null) counts as not true. #}
{% test holds(model, expression, column_name=none) %}
    select *
    from {{ model }}
    where not coalesce({{ expression }}, false)
{% endtest %}
